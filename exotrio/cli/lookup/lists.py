"""Lists of runs and states, read page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypedDict, TypeVar, Unpack

from exotrio.cli.lookup.resources import is_v0_only, no_graph
from exotrio.cli.terminal.output import print_message
from exotrio.client import RunStatus, RunSummary, StateManager, StateStatus, StateSummary
from exotrio.errors import NotFound, RequestRefused

T = TypeVar("T")

PAGE = 1_000
MAX_SEARCHED = 20_000
"""Runs of a v0 server that are searched: it gives nothing but all of them, page by page."""


class StateFilter(TypedDict, total=False):
    """Which states, as ``StateManager.states`` takes it."""

    run: str | None
    graph: str | None
    node: str | None
    identifier: str | None
    status: Sequence[StateStatus]


async def list_states(
    manager: StateManager, limit: int, **wanted: Unpack[StateFilter]
) -> tuple[list[StateSummary], bool]:
    """Return the newest states that match, and whether there may be more.

    Raises:
        RequestRefused: the server speaks only v0, and no run was named.
        ManagerError: as its other subclasses say.
    """

    async def fetch(size: int, before: str | None) -> tuple[list[StateSummary], str | None]:
        page = await manager.states(limit=size, before=before, **wanted)
        return page.states, page.next

    return await _pages(fetch, limit)


async def list_runs(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int
) -> tuple[list[RunSummary], bool]:
    """Return the newest runs that match, and whether there are more.

    Raises:
        NotFound: there is no such graph; the error says which there are.
        ManagerError: as its other subclasses say.
    """

    async def fetch(size: int, before: str | None) -> tuple[list[RunSummary], str | None]:
        page = await manager.find_runs(graph=graph, status=status, limit=size, before=before)
        return page.runs, page.next

    try:
        try:
            return await _pages(fetch, limit)
        except RequestRefused as refusal:
            if not is_v0_only(refusal):
                raise
        if graph is not None:
            await manager.get_graph(graph)
        return await _search(manager, graph, status, limit)
    except NotFound as error:
        if graph is None:
            raise
        raise await no_graph(manager, graph, error) from error


async def _pages(
    fetch: Callable[[int, str | None], Awaitable[tuple[list[T], str | None]]], limit: int
) -> tuple[list[T], bool]:
    """Return the entries of as many pages as it takes, and whether there are more.

    Args:
        fetch: Takes the size of a page and the cursor of the one before; returns entries and cursor.
    """
    found: list[T] = []
    before: str | None = None
    while True:
        # A page may be short, or empty, and not be the last: the server limits how far it searches for one.
        entries, before = await fetch(min(PAGE, limit - len(found)), before)
        found += entries
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
