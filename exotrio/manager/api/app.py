"""The ASGI application of a state manager: routes behind the guard of ``Access``, with CORS and metrics."""

from __future__ import annotations

from collections.abc import Collection

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.manager.api.bodies import Bodies
from exotrio.manager.api.inspection import inspection_routes
from exotrio.manager.api.json import EXCEPTION_HANDLERS
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.native import native_routes
from exotrio.manager.api.openapi import OPEN, description_routes
from exotrio.manager.api.operations import METRICS, PROBES, operation_routes, sign_in_routes
from exotrio.manager.api.v0 import v0_routes
from exotrio.manager.security.access import Access, SelfAuthenticatedApp
from exotrio.manager.service import Service

BUSIEST = ("/claim", "/outcomes", "/states/enqueue", "/executed")
"""Ends of the routes that runtimes call for every batch or state."""


def create_app(
    service: Service,
    *,
    key: str,
    allowed_hosts: Collection[str] | None = None,
    max_body: int = 16 * 1024 * 1024,
    native: bool = True,
    cors_origins: Collection[str] = (),
    metrics: ManagerMetrics | None = None,
    open_metrics: bool = False,
    dashboard: SelfAuthenticatedApp | None = None,
) -> ASGIApp:
    """Return the ASGI application of a state manager.

    Args:
        service: From ``open_service``.
        key: The API key every request must carry, except probes (``/health``, ``/livez``, ``/readyz``) and
            the description of the API (``/docs``, ``/openapi.json``).
        allowed_hosts: Host header values (without port) to accept. Defaults to any.
        max_body: Most bytes of a request body. Defaults to 16 MiB.
        native: Serve the native API beside v0. Defaults to True.
        cors_origins: Origins whose pages may call the API. Defaults to none.
        metrics: Served at ``/metrics``. Defaults to none.
        open_metrics: Serve them without the key. Defaults to False.
        dashboard: From ``exotrio.manager.web``. Defaults to none.
    """
    routes = v0_routes(service) + operation_routes(service.store, metrics)
    if native:
        routes += native_routes(service) + inspection_routes(service)
        routes += [] if dashboard is None else sign_in_routes(dashboard)
    routes += description_routes(service, routes)
    # Starlette tries one route after the other: as the last one, that was 17 us of an empty claim's 122.
    routes.sort(key=lambda route: not route.path.endswith(BUSIEST))
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    # Both slash forms are routes of their own; a redirect would lose the body of a PUT.
    app.router.redirect_slashes = False
    app.state.bodies = Bodies(service, max_body)
    open_paths = PROBES | OPEN | {METRICS} if open_metrics else PROBES | OPEN
    guarded = Access(
        app,
        store=service.store,
        key=key,
        allowed_hosts=allowed_hosts,
        open_paths=open_paths,
        dashboard=dashboard,
    )
    api: ASGIApp = guarded
    if cors_origins:
        # Outside of the guard: a browser sends its preflight without a key. Starlette adds simple headers.
        api = CORSMiddleware(
            guarded,
            allow_origins=list(cors_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
            allow_headers=[KEY_HEADER, "Authorization", "X-Requested-With", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER],
        )
    if metrics is not None:
        api = metrics.timed(api, routes)
    if dashboard is None:
        return api
    is_page = dashboard.serves

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        # Pages of other origins may call the API, with a key. They must not read the dashboard, to which a
        # browser sends its cookie. And its streams, which last for hours, are not API requests.
        await (guarded if is_page(scope["path"]) else api)(scope, receive, send)

    return either
