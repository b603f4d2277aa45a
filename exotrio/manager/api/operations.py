"""Routes for operators: probes, metrics, and what is asked of runtimes."""

from __future__ import annotations

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from exotrio._httpd import stopping_event
from exotrio.errors import DatabaseError
from exotrio.manager.api.json import path_name, reply
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.native import NAMESPACE
from exotrio.manager.api.routing import Endpoint, routes_of
from exotrio.manager.engine.workers import Worker
from exotrio.manager.queries.workers import list_workers
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.service import Service
from exotrio.manager.store.port import Store
from exotrio.manager.store.sqlite.database import FileReplaced

PROBES = frozenset({"/health", "/livez", "/readyz"})
"""Paths without a key: probes have none, and the replies reveal nothing."""
METRICS = "/metrics"
MAX_WRITE = 2.0
CACHED = 1.0
"""Seconds for which a check of the writer counts, so that strangers cannot keep it busy."""
WORKER = f"{NAMESPACE}/worker/{{worker_id:path}}"
"""The id of a runtime may be any text, also with slashes."""


def operation_routes(store: Store, metrics: ManagerMetrics | None) -> list[Route]:
    """Return the routes of probes, and of metrics if there are any."""
    operations = _Operations(store, metrics)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/livez", operations.livez),
        ("GET", "/readyz", operations.readyz),
    ]
    if metrics is not None:
        table.append(("GET", METRICS, operations.metrics))
    return routes_of(table)


class _Operations:
    def __init__(self, store: Store, metrics: ManagerMetrics | None) -> None:
        self._store = store
        self._metrics = metrics
        self._looking = trio.Lock()
        self._looked_at = -CACHED
        self._problem = ""

    async def livez(self, request: Request) -> Response:
        # This loop serves every request: an answer shows that it runs.
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        stopping = stopping_event(request.scope)
        problem = "stopping" if stopping is not None and stopping.is_set() else await self._look()
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def metrics(self, request: Request) -> Response:
        assert self._metrics is not None, "without metrics there is no route to them"
        body, content_type = await self._metrics.render()
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    async def _look(self) -> str:
        """Return why nothing can be written; an empty text if something can."""
        async with self._looking:
            if trio.current_time() - self._looked_at >= CACHED:
                self._problem = f"a write did not end within {MAX_WRITE:g} s"
                with trio.move_on_after(MAX_WRITE):
                    try:
                        await self._store.check_writable()
                        self._problem = ""
                    except DatabaseError as error:
                        cause = error.__cause__
                        why = str(cause) if isinstance(cause, FileReplaced) else type(cause).__name__
                        self._problem = f"the database cannot be written ({why})"
                self._looked_at = trio.current_time()
            return self._problem


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
        # Here and not in the query: that runs in a thread, where the registry may change meanwhile.
        now, workers = self._service.monotonic(), self._service.workers
        return reply(
            await self._service.store.look(
                list_workers, namespace, workers.of(namespace, now), workers.anonymous(namespace), now
            )
        )

    async def drain(self, request: Request) -> Response:
        return self._ask(self._worker(request), "drain")

    async def ask_tasks(self, request: Request) -> Response:
        """Ask a runtime for its task tree, which comes with its next heartbeat."""
        worker = self._worker(request)
        if not worker.last.shows_tasks:
            worker_id = worker.last.worker_id
            raise Refused(409, f"runtime {worker_id!r} shows no tasks; start it with --health-tasks")
        return self._ask(worker, "tasks")

    async def show_tasks(self, request: Request) -> Response:
        """Show the task tree that a runtime sent last; None before the first one."""
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
            raise not_found(f"no runtime {worker_id!r} was heard of in namespace {namespace!r}")
        return worker

    def _ask(self, worker: Worker, command: str) -> Response:
        worker_id = worker.last.worker_id
        self._service.workers.ask(worker.namespace, worker_id, command)
        return reply({"worker_id": worker_id, "command": command})
