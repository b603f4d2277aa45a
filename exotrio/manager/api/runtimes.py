"""Routes of the native API about workers: who there is, and what operators ask of one."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio.manager.api.json import path_name, reply
from exotrio.manager.api.native import NAMESPACE
from exotrio.manager.api.v0 import Endpoint, routes_of
from exotrio.manager.engine.workers import Worker
from exotrio.manager.queries.workers import list_workers
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.service import Service

WORKER = f"{NAMESPACE}/worker/{{worker_id:path}}"
"""Any text names a worker, slashes too."""


def worker_routes(service: Service) -> list[Route]:
    """Return the routes."""
    workers = _Workers(service)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", f"{NAMESPACE}/workers", workers.show),
        ("POST", f"{WORKER}/drain", workers.drain),
        ("GET", f"{WORKER}/tasks", workers.show_tasks),
        ("POST", f"{WORKER}/tasks", workers.ask_tasks),
    ]
    return routes_of(table)


class _Workers:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request) -> Response:
        namespace = path_name(request, "namespace")
        # Here: queries run in threads, where the registry may change under them.
        now, workers = self._service.monotonic(), self._service.workers
        return reply(
            await self._service.store.look(
                list_workers, namespace, workers.of(namespace, now), workers.anonymous(namespace), now
            )
        )

    async def drain(self, request: Request) -> Response:
        return self._ask(self._worker(request), "drain")

    async def ask_tasks(self, request: Request) -> Response:
        """Ask a worker for its task tree, which comes with its next heartbeat."""
        worker = self._worker(request)
        if not worker.last.shows_tasks:
            worker_id = worker.last.worker_id
            raise Refused(409, f"worker {worker_id!r} shows no tasks; start it with --health-tasks")
        return self._ask(worker, "tasks")

    async def show_tasks(self, request: Request) -> Response:
        """Show the task tree that a worker sent last; none before it answered for the first time."""
        worker = self._worker(request)
        return reply(
            {
                "worker_id": worker.last.worker_id,
                "asked": "tasks" in worker.commands,
                "tasks": worker.tasks,
                "age_ms": None if worker.tasks_at is None else self._service.monotonic() - worker.tasks_at,
            }
        )

    def _worker(self, request: Request) -> Worker:
        namespace, worker_id = path_name(request, "namespace"), request.path_params["worker_id"]
        worker = self._service.workers.find(namespace, worker_id)
        if worker is None:
            raise not_found(f"no worker {worker_id!r} was heard of in namespace {namespace!r}")
        return worker

    def _ask(self, worker: Worker, command: str) -> Response:
        worker_id = worker.last.worker_id
        self._service.workers.ask(worker.namespace, worker_id, command)
        return reply({"worker_id": worker_id, "command": command})
