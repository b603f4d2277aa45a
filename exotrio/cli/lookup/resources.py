"""Finds graphs, runs, nodes and states by name or id; errors suggest what was meant.

A command that changes nothing accepts the first characters of a run's id, 6 or more. Ids of states all begin
alike, so these are given whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pydantic import ValidationError

from exotrio._util.words import listed, readable_errors
from exotrio._wire.graphs import GraphReply
from exotrio._wire.vocabulary import is_state_id
from exotrio.cli.terminal.words import closest, meant
from exotrio.client import Run, StateManager
from exotrio.errors import InvalidResponse, NotFound, RequestRefused
from exotrio.graph import RetryPolicyModel, StoreConfigModel

T = TypeVar("T")

MIN_PREFIX = 6
RECENT = 1_000
"""Newest runs that are searched for a prefix."""
_WHOLE = "to change a run, give its whole id"


def is_v0_only(refusal: RequestRefused) -> bool:
    """Whether the client refused a call that the state manager lacks, and not the state manager."""
    return refusal.status is None


async def find_graph(manager: StateManager, name: str) -> GraphReply:
    """Return a graph.

    Raises:
        NotFound: there is none; the error says which there are.
        ManagerError: as its other subclasses say.
    """
    try:
        graph = await manager.get_graph(name)
    except NotFound as error:
        raise await no_graph(manager, name, error) from error
    try:
        found = GraphReply.model_validate(graph)
    except ValidationError as error:
        problems = "; ".join(readable_errors(error))
        raise InvalidResponse(f"the state manager's graph {name!r} cannot be read: {problems}") from error
    if _has_defaults(found):
        # The stock state manager returns defaults here, whatever is stored; its list of graphs is right.
        for stored in await manager.graphs():
            if stored.name == name.strip():
                return GraphReply.model_validate(stored.model_dump())
    return found


def _has_defaults(graph: GraphReply) -> bool:
    return (graph.retry_policy, graph.store_config, graph.triggers) == (
        RetryPolicyModel(),
        StoreConfigModel(),
        [],
    )


async def no_graph(manager: StateManager, name: str, error: NotFound) -> NotFound:
    """Return the error for a graph that does not exist."""
    return _missing("graph", name, [graph.name for graph in await manager.graphs()], error)


async def find_run(manager: StateManager, given: str) -> Run:
    """Return a run by its id or a prefix of it.

    Raises:
        NotFound: there is none, or several have this prefix.
        ManagerError: as its other subclasses say.
    """
    try:
        return await manager.status(given)
    except NotFound as error:
        found = await _runs_like(manager, given)
        if len(found) != 1 or not found[0].startswith(given.lower()):
            raise _no_run(given, found, error) from error
    return await manager.status(found[0])


async def whole_run(manager: StateManager, given: str, change: Callable[[str], Awaitable[T]]) -> T:
    """Change a run by its whole id; if there is none, the error suggests one."""
    try:
        return await change(given)
    except NotFound as error:
        raise _no_run(given, await _runs_like(manager, given), error) from error


async def _runs_like(manager: StateManager, given: str) -> list[str]:
    """Return the ids of recent runs with this prefix, or the one that is a typing error away."""
    if len(given) < MIN_PREFIX:
        return []
    recent = [run.run_id for run in (await manager.runs(1, RECENT)).runs]
    found = [run_id for run_id in recent if run_id.startswith(given.lower())]
    similar = None if found else closest(given, recent, cutoff=0.9)
    return found if similar is None else [similar]


def _no_run(given: str, found: list[str], error: NotFound) -> NotFound:
    what = f"there is no run {given!r}"
    if len(found) == 1:
        hint = _WHOLE if found[0].startswith(given.lower()) else ""
        return NotFound(f"{what}; did you mean {found[0]}?", where=error.where, fix=hint)
    if found:
        return NotFound(f"{len(found)} runs begin with {given!r}", fix=f"they are: {listed(found)}")
    hint = "see `runs ls` for what there is"
    if is_state_id(given):
        hint = "an id of 24 digits is a state's: see `states show`"
    elif len(given) < MIN_PREFIX:
        hint = f"give the whole id, or at least its first {MIN_PREFIX} characters; {hint}"
    return NotFound(what, where=error.where, fix=hint)


async def no_node(manager: StateManager, name: str, error: NotFound) -> NotFound:
    """Return the error for a node that is not registered."""
    return _missing("node", name, [node.name for node in await manager.nodes()], error)


def _missing(kind: str, name: str, known: list[str], error: NotFound) -> NotFound:
    fix = f"the namespace has: {listed(sorted(known))}"
    return NotFound(f"there is no {kind} {name!r}{meant(name, sorted(known))}", where=error.where, fix=fix)


async def require_place(manager: StateManager, place: str, run: str | None, graph: str | None) -> None:
    """Refuse a node identifier that the run, or the graph, does not have."""
    if run is not None:
        known = [node.identifier for node in (await manager.status(run)).nodes]
    elif graph is not None:
        known = [node.identifier for node in (await find_graph(manager, graph)).nodes]
    else:
        return
    if place not in known:
        whose = "the run" if run is not None else f"graph {graph!r}"
        raise NotFound(f"{whose} has no place {place!r}{meant(place, known)}", fix=f"it has: {listed(known)}")


def no_state(given: str, error: NotFound) -> NotFound:
    """Return the error for a state that does not exist."""
    hint = "see `states ls` for what there is"
    if "-" in given:
        hint = "an id with dashes is a run's: see `runs show`"
    return NotFound(f"there is no state {given!r}", where=error.where, fix=hint)
