"""Routes of the native API for those who look: what happens in a namespace."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exotrio._wire_overview import OverviewQuery
from exotrio.manager._json_api import path_name, read_query, reply
from exotrio.manager._overview import show_overview
from exotrio.manager._routes_native import NAMESPACE
from exotrio.manager._routes_v0 import Endpoint, routes_of
from exotrio.manager._service import Service


def look_routes(service: Service) -> list[Route]:
    """Return the routes."""
    look = _Look(service)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", f"{NAMESPACE}/overview", look.overview),
    ]
    return routes_of(table)


class _Look:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def overview(self, request: Request) -> Response:
        namespace = path_name(request, "namespace")
        query = read_query(request, OverviewQuery)
        # Here: queries run in threads, where the registry may change under them.
        now, workers = self._service.monotonic(), self._service.workers
        shown = await self._service.store.read(
            show_overview,
            namespace,
            workers.of(namespace, now),
            workers.anonymous(namespace),
            now,
            query.runs,
        )
        return reply(shown)
