"""Native routes for people: overview, checkup and export; runtimes and commands to them; pausing."""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import Response

from exotrio._util.times import timestamp
from exotrio._wire.checkup import Checkup
from exotrio._wire.operations import PauseReply
from exotrio._wire.overview import (
    CommandReply,
    DepthQuery,
    ExportQuery,
    Overview,
    OverviewQuery,
    QueueDepth,
    RuntimeList,
    TasksReply,
)
from exotrio._wire.stops import StopList, StopsQuery
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.engine import pausing
from exotrio.manager.engine.stops import DrainSource
from exotrio.manager.engine.workers import ask_to_drain
from exotrio.manager.queries.checkup import show_checkup
from exotrio.manager.queries.load import waiting
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.queries.runtimes import find_runtime, list_runtimes, list_stops
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.service import Service
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction

NS = NATIVE_ROOT + "/namespace/{namespace}"
WORKER = NS + "/worker/{worker_id:path}"
"""The id of a runtime may be any text, also with slashes."""


class Inspection:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store

    @ApiRoute("GET", NS + "/overview", "Show what happens in a namespace", Overview, needs=Permission.READ)
    async def overview(self, namespace: str, query: OverviewQuery) -> object:
        now = self._service.monotonic()
        return await self._store.read_with_deadline(show_overview, namespace, now, query.runs)

    @ApiRoute(
        "GET", NS + "/depth", "Count the states of each node that wait", QueueDepth, needs=Permission.READ
    )
    async def depth(self, namespace: str, query: DepthQuery) -> object:
        return {"nodes": await self._store.read_with_deadline(waiting, namespace, query.limit)}

    @ApiRoute(
        "GET", NS + "/checkup", "Show the condition of the state manager", Checkup, needs=Permission.READ
    )
    async def checkup(self, namespace: str) -> object:
        now, terms = self._service.monotonic(), self._service.terms
        return await self._store.read_with_deadline(show_checkup, namespace, terms, now, self._store.describe)

    @ApiRoute(
        "GET", NS + "/run/{run_id}/export", "Show a run as one page", "text/html", needs=Permission.READ
    )
    async def export(self, namespace: str, run_id: str, query: ExportQuery) -> Response:
        # Here: an embedded state manager does not load templates.
        from exotrio.manager.web.export import export_headers, export_run

        cipher = self._service.cipher
        page = await self._store.read_with_deadline(
            export_run, namespace, run_id, cipher, values=query.values
        )
        return Response(page, headers=export_headers(run_id))

    @ApiRoute("GET", NS + "/workers", "List runtimes", RuntimeList, needs=Permission.READ)
    async def workers(self, namespace: str) -> object:
        now = self._service.monotonic()
        return await self._store.read_with_deadline(list_runtimes, namespace, now)

    @ApiRoute("GET", NS + "/stops", "List how runtimes ended", StopList, needs=Permission.READ)
    async def stops(self, namespace: str, query: StopsQuery) -> object:
        return await self._store.read_with_deadline(list_stops, namespace, query.within_ms)

    @ApiRoute("POST", WORKER + "/drain", "Ask a runtime to drain", CommandReply, needs=Permission.GRAPHS)
    async def drain(self, caller: Caller, namespace: str, worker_id: str) -> object:
        await self._store.write_as(caller, ask_to_drain, namespace, worker_id, DrainSource.API)
        return {"worker_id": worker_id, "command": "drain"}

    @ApiRoute("POST", WORKER + "/tasks", "Ask a runtime for its tasks", CommandReply, needs=Permission.GRAPHS)
    async def ask_tasks(self, namespace: str, worker_id: str) -> object:
        await self._service.ask_for_tasks(namespace, worker_id)
        return {"worker_id": worker_id, "command": "tasks"}

    @ApiRoute("GET", WORKER + "/tasks", "Show the tasks of a runtime", TasksReply, needs=Permission.READ)
    async def show_tasks(self, namespace: str, worker_id: str) -> object:
        """Show the task tree that a runtime sent last; None before the first one."""
        runtime = await self._store.read_with_deadline(
            find_runtime, namespace, worker_id, self._service.monotonic()
        )
        return {
            "worker_id": runtime.worker_id,
            "asked": runtime.tasks_requested,
            "tasks": runtime.tasks,
            "age_ms": runtime.tasks_ms,
        }

    @ApiRoute("POST", NS + "/node/{node}/pause", "Pause a node", PauseReply, needs=Permission.GRAPHS)
    async def pause_node(self, caller: Caller, namespace: str, node: str) -> object:
        return await self._paused(caller, pausing.pause_node, namespace, node)

    @ApiRoute("POST", NS + "/node/{node}/resume", "Resume a node", PauseReply, needs=Permission.GRAPHS)
    async def resume_node(self, caller: Caller, namespace: str, node: str) -> object:
        return await self._paused(caller, pausing.resume_node, namespace, node)

    @ApiRoute(
        "POST",
        NS + "/graph/{graph}/pause",
        "Pause the schedule of a graph",
        PauseReply,
        needs=Permission.GRAPHS,
    )
    async def pause_schedule(self, caller: Caller, namespace: str, graph: str) -> object:
        return await self._paused(caller, pausing.pause_schedule, namespace, graph)

    @ApiRoute(
        "POST",
        NS + "/graph/{graph}/resume",
        "Resume the schedule of a graph",
        PauseReply,
        needs=Permission.GRAPHS,
    )
    async def resume_schedule(self, caller: Caller, namespace: str, graph: str) -> object:
        return await self._paused(caller, pausing.resume_schedule, namespace, graph)

    async def _paused(
        self,
        caller: Caller,
        use_case: Callable[[Transaction, str, str], WithEffects[int | None]],
        namespace: str,
        name: str,
    ) -> object:
        paused_at = await self._store.write_as(caller, use_case, namespace, name)
        return {"paused_at": None if paused_at is None else timestamp(paused_at)}
