"""The API as an ASGI application: its routes behind the key, with CORS and metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.manager.api.backup import Backups
from exotrio.manager.api.bodies import BodyReader
from exotrio.manager.api.inspection import Inspection
from exotrio.manager.api.json import EXCEPTION_HANDLERS
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.native import Native
from exotrio.manager.api.openapi import Descriptions
from exotrio.manager.api.operations import SignInLinks, operation_routes
from exotrio.manager.api.routing import routes_of, starlette_routes
from exotrio.manager.api.v0 import V0
from exotrio.manager.security.access import KeyRequired
from exotrio.manager.service import Service

BUSIEST = ("/claim", "/outcomes", "/states/enqueue", "/executed")
"""Ends of the routes that runtimes call for every batch or state."""


def create_api(
    service: Service,
    *,
    key: str,
    max_body: int,
    native: bool,
    cors_origins: Collection[str],
    metrics: ManagerMetrics | None,
    open_metrics: bool,
    make_sign_in_link: Callable[[str], Awaitable[str]] | None,
) -> ASGIApp:
    """Return the API; arguments as of ``manager.app.create_app``, and ``Dashboard.sign_in_link``."""
    table = routes_of(V0(service)) + operation_routes(service.store, metrics, open_metrics=open_metrics)
    if native:
        table += [*routes_of(Native(service)), *routes_of(Inspection(service)), *routes_of(Backups(service))]
        table += [] if make_sign_in_link is None else routes_of(SignInLinks(make_sign_in_link))
    table += routes_of(Descriptions(service, table))
    routes = starlette_routes(table)
    # Starlette tries one route after the other: as the last one, that was 17 us of an empty claim's 122.
    routes.sort(key=lambda route: not route.path.endswith(BUSIEST))
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    # Both slash forms have routes; a redirect would lose the body of a PUT.
    app.router.redirect_slashes = False
    app.state.bodies = BodyReader(service, max_body)
    open_paths = [route.path for route in table if route.is_open]
    api: ASGIApp = KeyRequired(app, key=key, open_paths=open_paths)
    if cors_origins:
        # Outside of the check of the key: a browser sends its preflight without one. Only the API has it:
        # pages of other origins must not read the dashboard, to which a browser sends its cookie. Starlette
        # adds simple headers.
        api = CORSMiddleware(
            api,
            allow_origins=list(cors_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
            allow_headers=[KEY_HEADER, "Authorization", "X-Requested-With", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER],
        )
    return api if metrics is None else metrics.timed(api, routes)
