"""Native routes for people: overview, checkup and export; the runtimes, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._util.times import timestamp
from exotrio._wire.overview import DepthQuery, ExportQuery, OverviewQuery
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.json import read_query, reply
from exotrio.manager.api.routing import NamespaceEndpoint, namespace_routes
from exotrio.manager.engine import pausing
from exotrio.manager.engine.workers import ask
from exotrio.manager.queries.checkup import show_checkup
from exotrio.manager.queries.load import waiting
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.queries.workers import find_worker, list_workers
from exotrio.manager.service import Service
from exotrio.manager.store.port import Transaction

WORKER = "/worker/{worker_id:path}"
"""The id of a runtime may be any text, also with slashes."""


def inspection_routes(service: Service) -> list[Route]:
    inspection = _Inspection(service)
    return namespace_routes(
        NATIVE_ROOT,
        [
            ("GET", "/overview", inspection.overview),
            ("GET", "/depth", inspection.depth),
            ("GET", "/checkup", inspection.checkup),
            ("GET", "/run/{run_id}/export", inspection.export),
            ("GET", "/workers", inspection.workers),
            ("POST", f"{WORKER}/drain", inspection.drain),
            ("GET", f"{WORKER}/tasks", inspection.show_tasks),
            ("POST", f"{WORKER}/tasks", inspection.ask_tasks),
            ("POST", "/node/{node}/pause", inspection.pausing(pausing.pause_node)),
            ("POST", "/node/{node}/resume", inspection.pausing(pausing.resume_node)),
            ("POST", "/graph/{graph}/pause", inspection.pausing(pausing.pause_schedule)),
            ("POST", "/graph/{graph}/resume", inspection.pausing(pausing.resume_schedule)),
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

    async def depth(self, request: Request, namespace: str) -> Response:
        limit = read_query(request, DepthQuery).limit
        return reply({"nodes": await self._store.look(waiting, namespace, limit)})

    async def checkup(self, request: Request, namespace: str) -> Response:
        now, terms = self._service.monotonic(), self._service.terms
        return reply(await self._store.look(show_checkup, namespace, terms, now, self._store.describe))

    async def export(self, request: Request, namespace: str, run_id: str) -> Response:
        # Here: whoever embeds a state manager does not wait for templates to be loaded.
        from exotrio.manager.web import report

        values = read_query(request, ExportQuery).values
        page = await self._store.look(report.export, namespace, run_id, self._service.cipher, values=values)
        return Response(page, headers=report.headers(run_id))

    async def workers(self, request: Request, namespace: str) -> Response:
        return reply(await self._store.look(list_workers, namespace, self._service.monotonic()))

    async def drain(self, request: Request, namespace: str, worker_id: str) -> Response:
        await self._store.write(ask, namespace, worker_id, "drain")
        return reply({"worker_id": worker_id, "command": "drain"})

    async def ask_tasks(self, request: Request, namespace: str, worker_id: str) -> Response:
        await self._service.ask_for_tasks(namespace, worker_id)
        return reply({"worker_id": worker_id, "command": "tasks"})

    async def show_tasks(self, request: Request, namespace: str, worker_id: str) -> Response:
        """Show the task tree that a runtime sent last; None before the first one."""
        worker = await self._store.look(find_worker, namespace, worker_id, self._service.monotonic())
        return reply(
            {
                "worker_id": worker.worker_id,
                "asked": worker.tasks_asked,
                "tasks": worker.tasks,
                "age_ms": worker.tasks_ms,
            }
        )

    def pausing(self, use_case: Callable[[Transaction, str, str], int | None]) -> NamespaceEndpoint:
        """Return the endpoint that pauses or resumes the node or the graph which the path names."""

        async def endpoint(request: Request, namespace: str, **named: str) -> Response:
            paused_at = await self._store.write(use_case, namespace, *named.values())
            return reply({"paused_at": None if paused_at is None else timestamp(paused_at)})

        return endpoint
