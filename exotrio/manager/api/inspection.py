"""Native routes that show a namespace, the state manager itself, and runs as pages of their own."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._wire.overview import ExportQuery, OverviewQuery
from exotrio.manager.api.json import path_name, read_query, reply
from exotrio.manager.api.native import NAMESPACE
from exotrio.manager.api.routing import Endpoint, routes_of
from exotrio.manager.queries.checkup import show_checkup
from exotrio.manager.queries.overview import show_overview
from exotrio.manager.service import Service


def inspection_routes(service: Service) -> list[Route]:
    """Return the routes."""
    inspection = _Inspection(service)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", f"{NAMESPACE}/overview", inspection.overview),
        ("GET", f"{NAMESPACE}/checkup", inspection.checkup),
        ("GET", f"{NAMESPACE}/run/{{run_id}}/export", inspection.export),
    ]
    return routes_of(table)


class _Inspection:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def overview(self, request: Request) -> Response:
        namespace = path_name(request, "namespace")
        query = read_query(request, OverviewQuery)
        # Here and not in the query: that runs in a thread, where the registry may change meanwhile.
        now, workers = self._service.monotonic(), self._service.workers
        shown = await self._service.store.look(
            show_overview,
            namespace,
            workers.of(namespace, now),
            workers.anonymous(namespace),
            now,
            query.runs,
        )
        return reply(shown)

    async def checkup(self, request: Request) -> Response:
        namespace = path_name(request, "namespace")
        service = self._service
        now = service.monotonic()
        shown = await service.store.look(
            show_checkup,
            namespace,
            service.terms,
            now,
            service.store.path,
            service.workers.of(namespace, now),
        )
        return reply(shown)

    async def export(self, request: Request) -> Response:
        # Here: whoever embeds a state manager does not wait for templates to be loaded.
        from exotrio.manager.web.export import report

        namespace = path_name(request, "namespace")
        values = read_query(request, ExportQuery).values
        run_id = request.path_params["run_id"]
        page = await self._service.store.look(
            report.export, namespace, run_id, self._service.cipher, values=values
        )
        return Response(page, headers=report.headers(run_id))
