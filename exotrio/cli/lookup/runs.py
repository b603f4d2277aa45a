"""Finding runs by graph and status, at our state manager and at any other."""

from __future__ import annotations

from exotrio._wire.native import NativeRunSummary
from exotrio._wire.vocabulary import RunStatus
from exotrio.cli.lookup.resources import is_v0_only, no_graph
from exotrio.cli.terminal.output import note
from exotrio.client._state_manager import StateManager
from exotrio.errors import NotFound, RequestRefused

PAGE = 1_000
MOST_LOOKED_AT = 20_000
"""Runs of a v0 server that are searched: it gives nothing but all of them, page by page."""


async def list_runs(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int
) -> tuple[list[NativeRunSummary], bool]:
    """Return the newest runs that match, and whether there are more.

    Raises:
        NotFound: there is no such graph; the error says which there are.
        ManagerError: as its other subclasses say.
    """
    try:
        return await _found(manager, graph, status, limit)
    except NotFound as error:
        if graph is None:
            raise
        raise await no_graph(manager, graph, error) from error
    except RequestRefused as refusal:
        if not is_v0_only(refusal):
            raise
    if graph is not None:
        try:
            await manager.get_graph(graph)
        except NotFound as error:
            raise await no_graph(manager, graph, error) from error
    return await _searched(manager, graph, status, limit)


async def _found(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int
) -> tuple[list[NativeRunSummary], bool]:
    runs: list[NativeRunSummary] = []
    before: str | None = None
    while True:
        page = await manager.find_runs(
            graph=graph, status=status, limit=min(PAGE, limit - len(runs)), before=before
        )
        runs += page.runs
        before = page.next
        if before is None or len(runs) >= limit:
            return runs, before is not None


async def _searched(
    manager: StateManager, graph: str | None, status: RunStatus | None, limit: int
) -> tuple[list[NativeRunSummary], bool]:
    runs: list[NativeRunSummary] = []
    looked_at = 0
    while looked_at < MOST_LOOKED_AT:
        reply = await manager.runs(looked_at // PAGE + 1, PAGE)
        for run in reply.runs:
            looked_at += 1
            if graph in (None, run.graph_name) and status in (None, run.status):
                if len(runs) == limit:
                    return runs, True
                runs.append(NativeRunSummary.model_validate(run.model_dump()))
        if not reply.runs or looked_at >= reply.total:
            return runs, False
    note(f"only the newest {looked_at} runs were searched: this state manager speaks only v0")
    return runs, True
