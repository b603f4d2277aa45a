"""Native routes for people: overview, checkup and export; the runtimes, and what is asked of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._util.times import timestamp
from exotrio._wire.overview import ExportQuery, OverviewQuery
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.json import path_name, read_query, reply
from exotrio.manager.api.routing import namespace_routes
from exotrio.manager.engine import pausing
from exotrio.manager.engine.workers import ask
from exotrio.manager.queries.checkup import show_checkup
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.queries.workers import Worker, find_worker, list_workers
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.service import Service

WORKER = "/worker/{worker_id:path}"
"""The id of a runtime may be any text, also with slashes."""


def inspection_routes(service: Service) -> list[Route]:
    """Return the routes."""
    inspection = _Inspection(service)
    return namespace_routes(
        NATIVE_ROOT,
        [
            ("GET", "/overview", inspection.overview),
            ("GET", "/checkup", inspection.checkup),
            ("GET", "/run/{run_id}/export", inspection.export),
            ("GET", "/workers", inspection.workers),
            ("POST", f"{WORKER}/drain", inspection.drain),
            ("GET", f"{WORKER}/tasks", inspection.show_tasks),
            ("POST", f"{WORKER}/tasks", inspection.ask_tasks),
            ("POST", "/node/{node}/pause", inspection.pause_node),
            ("POST", "/node/{node}/resume", inspection.resume_node),
            ("POST", "/graph/{graph}/pause", inspection.pause_schedule),
            ("POST", "/graph/{graph}/resume", inspection.resume_schedule),
        ],
    )


class _Inspection:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.store

    async def overview(self, request: Request, namespace: str) -> Response:
        query = read_query(request, OverviewQuery)
        now = self._service.monotonic()
        return reply(await self._store.look(show_overview, namespace, now, query.runs))

    async def checkup(self, request: Request, namespace: str) -> Response:
        now, terms = self._service.monotonic(), self._service.terms
        return reply(await self._store.look(show_checkup, namespace, terms, now, self._store.describe))

    async def export(self, request: Request, namespace: str) -> Response:
        # Here: whoever embeds a state manager does not wait for templates to be loaded.
        from exotrio.manager.web.export import report

        values = read_query(request, ExportQuery).values
        run_id = request.path_params["run_id"]
        page = await self._store.look(report.export, namespace, run_id, self._service.cipher, values=values)
        return Response(page, headers=report.headers(run_id))

    async def workers(self, request: Request, namespace: str) -> Response:
        return reply(await self._store.look(list_workers, namespace, self._service.monotonic()))

    async def drain(self, request: Request, namespace: str) -> Response:
        worker_id = request.path_params["worker_id"]
        return await self._ask(namespace, worker_id, "drain")

    async def ask_tasks(self, request: Request, namespace: str) -> Response:
        """Ask a runtime for its task tree, which comes with its next heartbeat."""
        worker = await self._worker(request, namespace)
        if not worker.last.shows_tasks:
            raise Refused(409, f"runtime {worker.worker_id!r} shows no tasks; start it with --health-tasks")
        return await self._ask(namespace, worker.worker_id, "tasks")

    async def show_tasks(self, request: Request, namespace: str) -> Response:
        """Show the task tree that a runtime sent last; None before the first one."""
        worker = await self._worker(request, namespace)
        return reply(
            {
                "worker_id": worker.worker_id,
                "asked": worker.tasks_asked,
                "tasks": worker.tasks,
                "age_ms": worker.tasks_ms,
            }
        )

    async def pause_node(self, request: Request, namespace: str) -> Response:
        """Pause a node: nothing more of it is claimed."""
        return self._paused(await self._store.write(pausing.pause_node, namespace, _name(request, "node")))

    async def resume_node(self, request: Request, namespace: str) -> Response:
        """Resume a node."""
        await self._store.write(pausing.resume_node, namespace, _name(request, "node"))
        return self._paused(None)

    async def pause_schedule(self, request: Request, namespace: str) -> Response:
        """Pause the schedule of a graph: nothing is triggered by it."""
        graph = _name(request, "graph")
        return self._paused(await self._store.write(pausing.pause_schedule, namespace, graph))

    async def resume_schedule(self, request: Request, namespace: str) -> Response:
        """Resume the schedule of a graph."""
        await self._store.write(pausing.resume_schedule, namespace, _name(request, "graph"))
        return self._paused(None)

    def _paused(self, paused_at: int | None) -> Response:
        return reply({"paused_at": None if paused_at is None else timestamp(paused_at)})

    async def _worker(self, request: Request, namespace: str) -> Worker:
        worker_id, now = request.path_params["worker_id"], self._service.monotonic()
        worker = await self._store.look(find_worker, namespace, worker_id, now)
        if worker is None:
            raise _unknown(namespace, worker_id)
        return worker

    async def _ask(self, namespace: str, worker_id: str, command: str) -> Response:
        if not await self._store.write(ask, namespace, worker_id, command):
            raise _unknown(namespace, worker_id)
        return reply({"worker_id": worker_id, "command": command})


def _name(request: Request, what: str) -> str:
    """Return the name of a node or a graph, trimmed, as it is stored."""
    return path_name(request, what).strip()


def _unknown(namespace: str, worker_id: str) -> Refused:
    return not_found(f"no runtime {worker_id!r} was heard of in namespace {namespace!r}")
