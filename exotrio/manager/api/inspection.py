"""Native routes for people: overview, checkup, export, runtimes, pausing, changes, limits."""

from __future__ import annotations

from starlette.responses import Response

from exotrio._util.times import timestamp
from exotrio._wire.audit import AUDIT_PATH, AuditQuery, ChangePage, ChangesQuery
from exotrio._wire.checkup import Checkup
from exotrio._wire.limits import DeletionOfLimit, LimitChange, LimitDetail, LimitList, RemovedLimit
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
from exotrio.manager.api.routing import ADMIN, GRAPHS, NS, READ, Endpoints, delete, get, post, put
from exotrio.manager.engine import limits, pausing
from exotrio.manager.engine.stops import DrainSource
from exotrio.manager.engine.workers import ask_to_drain
from exotrio.manager.queries.audit import list_audit, list_changes
from exotrio.manager.queries.checkup import show_checkup
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.queries.load import waiting
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.queries.runtimes import find_runtime, list_runtimes, list_stops
from exotrio.manager.rules.access import Caller

WORKER = NS + "/worker/{worker_id:path}"
"""The id of a runtime may be any text, also with slashes."""


class Inspection(Endpoints):
    @get(NS + "/overview", "Show what happens in a namespace", READ, Overview)
    async def overview(self, namespace: str, query: OverviewQuery) -> object:
        return await self._store.read_with_deadline(show_overview, namespace, query.runs)

    @get(NS + "/depth", "Count the states of each node that wait", READ, QueueDepth)
    async def depth(self, namespace: str, query: DepthQuery) -> object:
        return {"nodes": await self._store.read_with_deadline(waiting, namespace, query.limit)}

    @get(NS + "/checkup", "Show the condition of the state manager", READ, Checkup)
    async def checkup(self, caller: Caller, namespace: str) -> object:
        terms, store = self._service.terms, self._store
        parameters = namespace, terms, store.describe, caller, store.unwritable
        return await store.read_with_deadline(show_checkup, *parameters)

    @get(NS + "/run/{run_id}/export", "Show a run as one page", READ, "text/html")
    async def export(self, namespace: str, run_id: str, query: ExportQuery) -> Response:
        # Here: an embedded state manager does not load templates.
        from exotrio.manager.web.export import export_headers, export_run

        cipher = self._service.cipher
        page = await self._store.read_with_deadline(
            export_run, namespace, run_id, cipher, values=query.values
        )
        return Response(page, headers=export_headers(run_id))

    @get(NS + "/workers", "List runtimes", READ, RuntimeList)
    async def workers(self, namespace: str) -> object:
        return await self._store.read_with_deadline(list_runtimes, namespace)

    @get(NS + "/stops", "List how runtimes ended", READ, StopList)
    async def stops(self, namespace: str, query: StopsQuery) -> object:
        return await self._store.read_with_deadline(list_stops, namespace, query.within_ms)

    @post(WORKER + "/drain", "Ask a runtime to drain", GRAPHS, CommandReply)
    async def drain(self, caller: Caller, namespace: str, worker_id: str) -> object:
        await self._store.write_as(caller, ask_to_drain, namespace, worker_id, DrainSource.API)
        return {"worker_id": worker_id, "command": "drain"}

    @post(WORKER + "/tasks", "Ask a runtime for its tasks", GRAPHS, CommandReply)
    async def ask_tasks(self, namespace: str, worker_id: str) -> object:
        await self._service.ask_for_tasks(namespace, worker_id)
        return {"worker_id": worker_id, "command": "tasks"}

    @get(WORKER + "/tasks", "Show the tasks of a runtime", READ, TasksReply)
    async def show_tasks(self, namespace: str, worker_id: str) -> object:
        """Show the task tree that a runtime sent last; None before the first one."""
        runtime = await self._store.read_with_deadline(find_runtime, namespace, worker_id)
        return {
            "worker_id": runtime.worker_id,
            "asked": runtime.tasks_requested,
            "tasks": runtime.tasks,
            "age_ms": runtime.tasks_ms,
        }

    @post(NS + "/node/{node}/pause", "Pause a node", GRAPHS, PauseReply)
    async def pause_node(self, caller: Caller, namespace: str, node: str) -> object:
        since = await self._store.write_as(caller, pausing.pause_node, namespace, node)
        return {"paused_at": timestamp(since)}

    @post(NS + "/node/{node}/resume", "Resume a node", GRAPHS, PauseReply)
    async def resume_node(self, caller: Caller, namespace: str, node: str) -> object:
        await self._store.write_as(caller, pausing.resume_node, namespace, node)
        return {"paused_at": None}

    @post(NS + "/graph/{graph}/pause", "Pause the schedule of a graph", GRAPHS, PauseReply)
    async def pause_schedule(self, caller: Caller, namespace: str, graph: str) -> object:
        since = await self._store.write_as(caller, pausing.pause_schedule, namespace, graph)
        return {"paused_at": timestamp(since)}

    @post(NS + "/graph/{graph}/resume", "Resume the schedule of a graph", GRAPHS, PauseReply)
    async def resume_schedule(self, caller: Caller, namespace: str, graph: str) -> object:
        await self._store.write_as(caller, pausing.resume_schedule, namespace, graph)
        return {"paused_at": None}

    @get(AUDIT_PATH, "List who changed what, from where", ADMIN, ChangePage)
    async def audit(self, query: AuditQuery) -> object:
        return await self._store.read_with_deadline(list_audit, query)

    @get(NS + "/changes", "List who changed what in a namespace", READ, ChangePage)
    async def changes(self, namespace: str, query: ChangesQuery) -> object:
        return await self._store.read_with_deadline(list_changes, namespace, query)

    @get(NS + "/limits", "List limits", READ, LimitList)
    async def limits(self, namespace: str) -> object:
        return LimitList(limits=await self._store.read_with_deadline(list_limits, namespace))

    @get(NS + "/limit/{limit}", "Show a limit: what holds it, and what waits", READ, LimitDetail)
    async def limit(self, namespace: str, limit: str) -> object:
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @put(NS + "/limit/{limit}", "Make or change a limit", GRAPHS, LimitDetail)
    async def set_limit(self, caller: Caller, namespace: str, limit: str, body: LimitChange) -> object:
        await self._store.write_as(caller, limits.set_limit, namespace, limit, body)
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @delete(NS + "/limit/{limit}", "Delete a limit", GRAPHS, RemovedLimit)
    async def remove_limit(
        self, caller: Caller, namespace: str, limit: str, query: DeletionOfLimit
    ) -> object:
        graphs = await self._store.write_as(caller, limits.remove_limit, namespace, limit, force=query.force)
        return RemovedLimit(name=limit, graphs=graphs)
