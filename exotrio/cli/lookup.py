"""Finds what a command names: graphs, nodes, runs, states and runtimes, and lists of them.

Errors suggest similar names. A run can be named by its id, by its key, or by the first 6 or more characters
of its id; a runtime by its name, its id, the last part of its id (12 unique digits), or the first 6 or more
characters of one of these two. A prefix must not fit several ids. Ids of states all begin alike, since our
server numbers them consecutively, so a state can be named by the last digits of its id. At a server that
speaks only v0, keys, runtimes and last digits cannot be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from exotrio._util.words import closest, listed, readable_errors, suggestion
from exotrio._wire.graphs import GraphReply
from exotrio._wire.vocabulary import is_run_id, is_state_id
from exotrio.cli.terminal.output import print_message
from exotrio.client import (
    ChangePage,
    Run,
    RunPage,
    RunStatus,
    RunSummary,
    RuntimeInfo,
    StateManager,
    StatePage,
)
from exotrio.errors import InvalidResponse, KeyRefused, NotFound, RequestRefused
from exotrio.graph import RetryPolicyModel, StoreConfigModel

T = TypeVar("T")
P = TypeVar("P", StatePage, RunPage, ChangePage)

Kind = Literal["graph", "node", "limit"]

MIN_PREFIX = 6
PAGE = 1_000
"""Entries of a page; a prefix of an id is searched among so many of the newest runs."""
MAX_SEARCHED = 20_000
"""Runs of a v0 server that are searched with a filter: the server itself lists all of them, page by page."""
STOPPED = "stopped"
_NUMBER = 16
"""Digits at the end of a state's id that count; those before them identify the database."""
_LAST_DIGITS = re.compile(rf"[0-9a-fA-F]{{1,{_NUMBER}}}")


def is_v0_only(refusal: RequestRefused) -> bool:
    """Whether the client, not the state manager, refused a call, since the state manager speaks only v0."""
    return refusal.status is None


async def if_native(call: Awaitable[T]) -> T | None:
    """Return the answer to a call; None if the state manager speaks only v0 and lacks the call."""
    try:
        return await call
    except RequestRefused as refusal:
        if not is_v0_only(refusal):
            raise
        return None


# Graphs and nodes.


async def about(manager: StateManager, kind: Kind, name: str, call: Awaitable[T]) -> T:
    """Return the answer to a call; if what it is about does not exist, the error lists the others."""
    try:
        return await call
    except NotFound as error:
        raise await not_found(manager, kind, name, error) from error


async def not_found(manager: StateManager, kind: Kind, name: str, error: NotFound) -> NotFound:
    """Return the error for a graph or a limit that does not exist, or a node that is not registered."""
    lists: dict[Kind, Callable[[], Awaitable[Sequence[Any]]]] = {
        "graph": manager.graphs,
        "node": manager.nodes,
        "limit": manager.limits,
    }
    names = sorted(entry.name for entry in await lists[kind]())
    what = f"there is no {kind} {name!r}{suggestion(name, names)}"
    fix = f"the namespace has: {listed(names)}"
    if not names and kind != "limit":
        fix += f"; nodes are registered in these namespaces: {listed(await manager.namespaces())}"
    return NotFound(what, where=error.where, fix=fix)


async def find_graph(manager: StateManager, name: str) -> GraphReply:
    """Return a graph; if it does not exist, the error lists the others."""
    graph = read_graph(name, await about(manager, "graph", name, manager.get_graph(name)))
    defaults = (RetryPolicyModel(), StoreConfigModel())
    if not graph.triggers and (graph.retry_policy, graph.store_config) == defaults:
        # The stock state manager returns defaults here, whatever is stored; its list of graphs is correct.
        for stored in await manager.graphs():
            if stored.name == name.strip():
                return GraphReply.model_validate(stored.model_dump())
    return graph


def read_graph(name: str, reply: Mapping[str, Any]) -> GraphReply:
    """Return what a state manager answered about a graph."""
    try:
        return GraphReply.model_validate(reply)
    except ValidationError as error:
        problems = "; ".join(readable_errors(error))
        raise InvalidResponse(f"the state manager's graph {name!r} cannot be read: {problems}") from error


async def require_identifier(
    manager: StateManager, identifier: str, run: str | None, graph: str | None
) -> None:
    """Refuse a node identifier that the run, or the graph, does not have."""
    if run is not None:
        owner, known = "the run", [node.identifier for node in (await manager.status(run)).nodes]
    elif graph is not None:
        owner = f"graph {graph!r}"
        known = [node.identifier for node in (await find_graph(manager, graph)).nodes]
    else:
        return
    if identifier not in known:
        what = f"{owner} has no place {identifier!r}{suggestion(identifier, known)}"
        raise NotFound(what, fix=f"it has: {listed(known)}")


# Runs and states.


async def find_run(manager: StateManager, name: str) -> Run:
    """Return a run by its id, its key, or a prefix of its id; NotFound also if there are several."""
    try:
        return await manager.status(name)
    except NotFound as error:
        page = await if_native(manager.find_runs(key=name))
        with_key = [] if page is None else page.runs
        if len(with_key) == 1:
            return await manager.status(with_key[0].run_id)
        if with_key:
            runs = listed(f"{run.run_id} of graph {run.graph_name}" for run in with_key)
            raise NotFound(f"{len(with_key)} runs have the key {name!r}", fix=f"they are: {runs}") from error
        similar = await _similar_runs(manager, name)
        if len(similar) != 1 or not similar[0].startswith(name.lower()):
            raise _no_run(name, similar, error) from error
    return await manager.status(similar[0])


async def find_run_id(manager: StateManager, name: str) -> str:
    """Return the id of a run as ``find_run``; a whole id also if the key may not read the run."""
    try:
        return (await find_run(manager, name)).run_id
    except KeyRefused as refusal:
        if refusal.status != HTTPStatus.FORBIDDEN:
            raise
        if is_run_id(name):
            return name  # whether there is such a run is said by the request that changes it
        what = f"run {name!r} is not looked up with this key, give its whole id: {refusal.what}"
        raise KeyRefused(what, where=refusal.where, fix=refusal.fix, status=refusal.status) from refusal


async def _similar_runs(manager: StateManager, name: str) -> list[str]:
    """Return the ids of recent runs with this prefix, or the one that differs by a typing error."""
    if len(name) < MIN_PREFIX:
        return []
    recent = [run.run_id for run in (await manager.runs(1, PAGE)).runs]
    if matching := [run_id for run_id in recent if run_id.startswith(name.lower())]:
        return matching
    similar = closest(name, recent, cutoff=0.9)
    return [] if similar is None else [similar]


def _no_run(name: str, similar: list[str], error: NotFound) -> NotFound:
    what = f"there is no run {name!r}"
    if len(similar) == 1:
        return NotFound(f"{what}; did you mean {similar[0]}?", where=error.where)
    if similar:
        return NotFound(f"{len(similar)} runs begin with {name!r}", fix=f"they are: {listed(similar)}")
    hint = "see `runs ls` for what there is"
    if is_state_id(name):
        hint = "an id of 24 digits is a state's: see `states show`"
    elif len(name) < MIN_PREFIX:
        hint = f"give the whole id, or at least its first {MIN_PREFIX} characters; {hint}"
    return NotFound(what, where=error.where, fix=hint)


async def whole_state_id(manager: StateManager, name: str) -> str:
    """Return the id of the state whose last digits, without the zeros before them, are ``name``.

    A name that is not of this form is returned as it is.
    """
    page = await if_native(manager.states(limit=1)) if _LAST_DIGITS.fullmatch(name) else None
    if page is None or not page.states:
        return name
    return page.states[0].id[:-_NUMBER] + name.lower().zfill(_NUMBER)


async def about_state(name: str, call: Awaitable[T]) -> T:
    """Return the answer to a call about a state; if it does not exist, the error says where to search."""
    try:
        return await call
    except NotFound as error:
        hint = "see `states ls` for what there is"
        if _LAST_DIGITS.fullmatch(name):
            hint = f"give all digits after the zeros within its id, as in pages; {hint}"
        elif "-" in name:
            hint = "an id with dashes is a run's: see `runs show`"
        raise NotFound(f"there is no state {name!r}", where=error.where, fix=hint) from error


async def list_pages(
    call: Callable[..., Awaitable[P]], entries_of: Callable[[P], list[T]], limit: int
) -> tuple[list[T], bool]:
    """Return the newest ``limit`` entries, from as many pages as needed, and whether there may be more.

    ``call`` is a call of the client that returns pages, with its filter, such as ``StateManager.states``.
    """
    entries: list[T] = []
    before: str | None = None
    while True:
        # A page may be short, or empty, without being the last: the server limits its search for each page.
        page = await call(limit=min(PAGE, limit - len(entries)), before=before)
        entries += entries_of(page)
        before = page.next
        if before is None or len(entries) >= limit:
            return entries, before is not None


async def list_runs(
    manager: StateManager,
    graph: str | None,
    status: RunStatus | None,
    limit: int,
    key: str | None = None,
    parent: str | None = None,
) -> tuple[list[RunSummary], bool]:
    """Return the newest runs that match, and whether there are more; NotFound if there is no such graph.

    ``parent`` is the id of the run that started them.
    """

    async def search() -> tuple[list[RunSummary], bool]:
        call = partial(manager.find_runs, graph=graph, status=status, key=key, parent=parent)
        try:
            # An older server of ours does not know the parameter, and returns all runs.
            return await list_pages(
                call, lambda page: [run for run in page.runs if parent in (None, run.parent_run_id)], limit
            )
        except RequestRefused as refusal:
            if key is not None or parent is not None or not is_v0_only(refusal):
                raise
        if graph is not None:
            await manager.get_graph(graph)
        return await _search_v0(manager, graph, status, limit)

    return await (search() if graph is None else about(manager, "graph", graph, search()))


async def _search_v0(
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


def find_runtimes(runtimes: Sequence[RuntimeInfo], name: str) -> list[RuntimeInfo]:
    """Return all live runtimes of the Runtime with this name, or the one that ``find_runtime`` finds."""
    return _named(runtimes, name) or [find_runtime(runtimes, name)]


def find_runtime(runtimes: Sequence[RuntimeInfo], name: str) -> RuntimeInfo:
    """Return the one runtime with this name, id or prefix; NotFound if there is none, or several."""
    matching = _named(runtimes, name)
    if not matching and len(name) >= MIN_PREFIX:
        matching = [
            each
            for each in runtimes
            if any(part.startswith(name) for part in (each.worker_id, _last_part(each)))
        ]
    if not matching:
        names = sorted({each.runtime for each in runtimes if each.live and each.runtime})
        near = suggestion(name, [*names, *(each.worker_id for each in runtimes)])
        fix = f"there are: {listed(names)}; see `runtimes ls` for their ids"
        raise NotFound(f"there is no runtime {name!r}{near}", fix=fix)
    if len(matching) > 1:
        ids = listed(map(_last_part, matching))
        raise NotFound(f"{len(matching)} runtimes match {name!r}", fix=f"name one of them: {ids}")
    return matching[0]


def _last_part(runtime: RuntimeInfo) -> str:
    return runtime.worker_id.rpartition(":")[2]


def _named(runtimes: Sequence[RuntimeInfo], name: str) -> list[RuntimeInfo]:
    by_id = [each for each in runtimes if name in (each.worker_id, _last_part(each))]
    return by_id or [each for each in runtimes if each.live and each.runtime == name]
