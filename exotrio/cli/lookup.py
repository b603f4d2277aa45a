"""Finds what a command is for: by name, by id or by the beginning of an id, and in lists.

Errors suggest what was meant. The first characters of the id of a run or runtime, 6 or more, stand for it if
no other begins with them, or the key of a run. Ids of states all begin alike: our server numbers them in one
row, so the last digits stand for one. The last part of a runtime's id is 12 digits, unique for each; it can
stand for the id. All but keys, runtimes and digits works through v0, too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from pydantic import ValidationError

from exotrio._util.words import closest, listed, meant, readable_errors
from exotrio._wire.graphs import GraphReply
from exotrio._wire.vocabulary import is_state_id
from exotrio.cli.terminal.output import print_message
from exotrio.client import (
    Run,
    RunPage,
    RunStatus,
    RunSummary,
    RuntimeInfo,
    StateManager,
    StatePage,
    StateSummary,
)
from exotrio.errors import InvalidResponse, NotFound, RequestRefused
from exotrio.graph import RetryPolicyModel, StoreConfigModel

T = TypeVar("T")
P = TypeVar("P", StatePage, RunPage)

MIN_PREFIX = 6
PAGE = 1_000
"""Entries of a page; also the newest runs that are searched for the beginning of an id."""
MAX_SEARCHED = 20_000
"""Runs of a v0 server that are searched: it gives nothing but all of them, page by page."""
STOPPED = "stopped"
_NUMBER = 16
"""Digits of a state's id that number it; those before say of which database it is."""
_LAST_DIGITS = re.compile(rf"[0-9a-fA-F]{{1,{_NUMBER}}}")


def is_v0_only(refusal: RequestRefused) -> bool:
    """Whether the client refused a call that the state manager lacks, and not the state manager."""
    return refusal.status is None


# Graphs and nodes.


async def of_graph(manager: StateManager, name: str, call: Awaitable[T]) -> T:
    """Await a call that is about a graph; if there is none, the error says which there are."""
    try:
        return await call
    except NotFound as error:
        raise await no_graph(manager, name, error) from error


async def find_graph(manager: StateManager, name: str) -> GraphReply:
    """Return a graph; if there is none, the error says which there are."""
    graph = await of_graph(manager, name, manager.get_graph(name))
    try:
        found = GraphReply.model_validate(graph)
    except ValidationError as error:
        problems = "; ".join(readable_errors(error))
        raise InvalidResponse(f"the state manager's graph {name!r} cannot be read: {problems}") from error
    if (found.retry_policy, found.store_config, found.triggers) == (
        RetryPolicyModel(),
        StoreConfigModel(),
        [],
    ):
        # The stock state manager returns defaults here, whatever is stored; its list of graphs is right.
        for stored in await manager.graphs():
            if stored.name == name.strip():
                return GraphReply.model_validate(stored.model_dump())
    return found


async def no_graph(manager: StateManager, name: str, error: NotFound) -> NotFound:
    """Return the error for a graph that does not exist."""
    return _missing("graph", name, [graph.name for graph in await manager.graphs()], error)


async def no_node(manager: StateManager, name: str, error: NotFound) -> NotFound:
    """Return the error for a node that is not registered."""
    return _missing("node", name, [node.name for node in await manager.nodes()], error)


def _missing(kind: str, name: str, known: list[str], error: NotFound) -> NotFound:
    fix = f"the namespace has: {listed(sorted(known))}"
    return NotFound(f"there is no {kind} {name!r}{meant(name, sorted(known))}", where=error.where, fix=fix)


async def require_place(manager: StateManager, place: str, run: str | None, graph: str | None) -> None:
    """Refuse a node identifier that the run, or the graph, does not have."""
    if run is not None:
        whose, known = "the run", [node.identifier for node in (await manager.status(run)).nodes]
    elif graph is not None:
        whose = f"graph {graph!r}"
        known = [node.identifier for node in (await find_graph(manager, graph)).nodes]
    else:
        return
    if place not in known:
        raise NotFound(f"{whose} has no place {place!r}{meant(place, known)}", fix=f"it has: {listed(known)}")


# Runs and states.


async def find_run(manager: StateManager, given: str) -> Run:
    """Return a run by its id, its key, or a prefix of its id; NotFound also if there are several."""
    try:
        return await manager.status(given)
    except NotFound as error:
        keyed = await _runs_with_key(manager, given)
        if len(keyed) == 1:
            return await manager.status(keyed[0].run_id)
        if keyed:
            which = listed(f"{run.run_id} of graph {run.graph_name}" for run in keyed)
            raise NotFound(f"{len(keyed)} runs have the key {given!r}", fix=f"they are: {which}") from error
        found = await _runs_like(manager, given)
        if len(found) != 1 or not found[0].startswith(given.lower()):
            raise _no_run(given, found, error) from error
    return await manager.status(found[0])


async def _runs_with_key(manager: StateManager, given: str) -> list[RunSummary]:
    try:
        return (await manager.find_runs(key=given)).runs
    except RequestRefused as refusal:
        if not is_v0_only(refusal):
            raise
        return []


async def _runs_like(manager: StateManager, given: str) -> list[str]:
    """Return the ids of recent runs with this prefix, or the one that is a typing error away."""
    if len(given) < MIN_PREFIX:
        return []
    recent = [run.run_id for run in (await manager.runs(1, PAGE)).runs]
    found = [run_id for run_id in recent if run_id.startswith(given.lower())]
    similar = None if found else closest(given, recent, cutoff=0.9)
    return found if similar is None else [similar]


def _no_run(given: str, found: list[str], error: NotFound) -> NotFound:
    what = f"there is no run {given!r}"
    if len(found) == 1:
        return NotFound(f"{what}; did you mean {found[0]}?", where=error.where)
    if found:
        return NotFound(f"{len(found)} runs begin with {given!r}", fix=f"they are: {listed(found)}")
    hint = "see `runs ls` for what there is"
    if is_state_id(given):
        hint = "an id of 24 digits is a state's: see `states show`"
    elif len(given) < MIN_PREFIX:
        hint = f"give the whole id, or at least its first {MIN_PREFIX} characters; {hint}"
    return NotFound(what, where=error.where, fix=hint)


async def whole_state_id(manager: StateManager, given: str) -> str:
    """Return the id of a state of which the last digits are given, without the zeros before them.

    What cannot be completed is returned as it is.
    """
    if not _LAST_DIGITS.fullmatch(given):
        return given
    try:
        newest = (await manager.states(limit=1)).states
    except RequestRefused as refusal:
        if not is_v0_only(refusal):
            raise
        return given
    return newest[0].id[:-_NUMBER] + given.lower().zfill(_NUMBER) if newest else given


async def whole_state(given: str, call: Awaitable[T]) -> T:
    """Return the answer of a call for a state; if there is none, the error says where to look."""
    try:
        return await call
    except NotFound as error:
        hint = "see `states ls` for what there is"
        if "-" in given:
            hint = "an id with dashes is a run's: see `runs show`"
        raise NotFound(f"there is no state {given!r}", where=error.where, fix=hint) from error


async def list_states(
    call: Callable[..., Awaitable[StatePage]], limit: int
) -> tuple[list[StateSummary], bool]:
    """Return the newest states of ``StateManager.states`` with a filter, and whether there may be more."""
    return await _pages(call, lambda page: page.states, limit)


async def list_runs(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int, key: str | None = None
) -> tuple[list[RunSummary], bool]:
    """Return the newest runs that match, and whether there are more; NotFound if there is no such graph."""
    call = partial(manager.find_runs, graph=graph, status=status, key=key)
    try:
        try:
            return await _pages(call, lambda page: page.runs, limit)
        except RequestRefused as refusal:
            if key is not None or not is_v0_only(refusal):
                raise
        if graph is not None:
            await manager.get_graph(graph)
        return await _search(manager, graph, status, limit)
    except NotFound as error:
        if graph is None:
            raise
        raise await no_graph(manager, graph, error) from error


async def _pages(
    call: Callable[..., Awaitable[P]], entries: Callable[[P], list[T]], limit: int
) -> tuple[list[T], bool]:
    """Return the entries of as many pages as it takes, and whether there are more."""
    found: list[T] = []
    before: str | None = None
    while True:
        # A page may be short, or empty, and not be the last: the server limits how far it searches for one.
        page = await call(limit=min(PAGE, limit - len(found)), before=before)
        found += entries(page)
        before = page.next
        if before is None or len(found) >= limit:
            return found, before is not None


async def _search(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int
) -> tuple[list[RunSummary], bool]:
    runs: list[RunSummary] = []
    searched = 0
    while searched < MAX_SEARCHED:
        reply = await manager.runs(searched // PAGE + 1, PAGE)
        for run in reply.runs:
            searched += 1
            if graph in (None, run.graph_name) and status in (None, run.status):
                if len(runs) == limit:
                    return runs, True
                runs.append(run)
        if not reply.runs or searched >= reply.total:
            return runs, False
    print_message(f"only the newest {searched:,} runs were searched: this state manager speaks only v0")
    return runs, True


# Runtimes.


def find_workers(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    """Return all live runtimes of the Runtime with this name, or the one that ``find_worker`` finds."""
    return _named(workers, given) or [find_worker(workers, given)]


def find_worker(workers: Sequence[RuntimeInfo], given: str) -> RuntimeInfo:
    """Return one runtime, also by a prefix of its id or last part; NotFound also if there are several."""
    found = _named(workers, given)
    if not found and len(given) >= MIN_PREFIX:
        found = [
            each for each in workers if any(x.startswith(given) for x in (each.worker_id, _last_part(each)))
        ]
    if not found:
        raise _no_runtime(workers, given)
    if len(found) > 1:
        raise NotFound(
            f"{len(found)} runtimes match {given!r}",
            fix=f"name one of them: {listed(map(_last_part, found))}",
        )
    return found[0]


def _last_part(worker: RuntimeInfo) -> str:
    return worker.worker_id.rpartition(":")[2]


def _named(workers: Sequence[RuntimeInfo], given: str) -> list[RuntimeInfo]:
    by_id = [worker for worker in workers if given in (worker.worker_id, _last_part(worker))]
    return by_id or [worker for worker in workers if worker.live and worker.runtime == given]


def _no_runtime(workers: Sequence[RuntimeInfo], given: str) -> NotFound:
    names = sorted({worker.runtime for worker in workers if worker.live and worker.runtime})
    near = meant(given, [*names, *(worker.worker_id for worker in workers)])
    fix = f"there are: {listed(names)}; see `runtimes ls` for their ids"
    return NotFound(f"there is no runtime {given!r}{near}", fix=fix)
