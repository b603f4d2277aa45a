"""The whole ASGI application of a state manager: API and dashboard, behind one check of the Host header.

Both are apps that check by themselves which requests they serve: the API requires the key in each request
(``security.access``), the dashboard a session (``web.sign_in``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.manager.api.backup import Backups
from exotrio.manager.api.bodies import BodyReader
from exotrio.manager.api.inspection import Inspection
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.native import Native
from exotrio.manager.api.openapi import Descriptions
from exotrio.manager.api.operations import KeyRoutes, SignInLinks, operation_routes
from exotrio.manager.api.releases import Releases
from exotrio.manager.api.routing import Api, routes_of
from exotrio.manager.api.runs import Runs
from exotrio.manager.api.v0 import V0
from exotrio.manager.rules.access import Permission
from exotrio.manager.security.access import CheckedHost, KeyRequired
from exotrio.manager.service import Service

if TYPE_CHECKING:
    from exotrio.manager.web import Dashboard

MAX_BODY = 16 * 1024 * 1024


def create_api(
    service: Service,
    *,
    max_body: int = MAX_BODY,
    native: bool = True,
    metrics: ManagerMetrics | None = None,
    open_metrics: bool = False,
    dashboard: Dashboard | None = None,
) -> Api:
    """Return the API of a state manager, without a check of who calls it: arguments as in ``create_app``."""
    table = routes_of(V0(service, native=native))
    table += operation_routes(service.store, metrics, open_metrics=open_metrics)
    if native:
        each = (Native, Runs, Inspection, Backups, KeyRoutes, Releases)
        table += [route for endpoints in each for route in routes_of(endpoints(service))]
        table += [] if dashboard is None else routes_of(SignInLinks(dashboard.sign_in_link))
    table += routes_of(Descriptions(service, table, guide=dashboard is not None))
    return Api(table, BodyReader(service, max_body))


def create_app(
    service: Service,
    *,
    key: str,
    allowed_hosts: Collection[str] | None = None,
    max_body: int = MAX_BODY,
    native: bool = True,
    cors_origins: Collection[str] = (),
    metrics: ManagerMetrics | None = None,
    open_metrics: bool = False,
    dashboard: Dashboard | None = None,
) -> ASGIApp:
    """Return the ASGI application of a state manager.

    Args:
        service: From ``open_service``.
        key: The root key, which allows everything. Each request to the API must carry it or a named key,
            except probes (``/health``, ``/livez``, ``/readyz``) and the description of the API (``/docs``,
            ``/openapi.json``).
        allowed_hosts: Host header values (without port) to accept. Defaults to any.
        max_body: Maximum bytes of a request body. Defaults to 16 MiB.
        native: Serve the native API next to v0. Defaults to True.
        cors_origins: Origins whose pages may call the API. Defaults to none.
        metrics: Served at ``/metrics``. Defaults to none.
        open_metrics: Serve them without the key. Defaults to False.
        dashboard: From ``exotrio.manager.web``. Defaults to none.
    """
    inner = create_api(
        service,
        max_body=max_body,
        native=native,
        metrics=metrics,
        open_metrics=open_metrics,
        dashboard=dashboard,
    )
    open_paths = [route.path for route in inner.table if route.needs is Permission.OPEN]
    api: ASGIApp = KeyRequired(inner, key=key, keys=service.keys, open_paths=open_paths)
    if cors_origins:
        # Outside of the check of the key: a browser sends its preflight without one. Only for the API: pages
        # of other origins must not read the dashboard, to which a browser sends its cookie. Starlette adds
        # simple headers.
        api = CORSMiddleware(
            api,
            allow_origins=list(cors_origins),
            allow_credentials=True,
            allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
            allow_headers=[KEY_HEADER, "Authorization", "X-Requested-With", REQUEST_ID_HEADER],
            expose_headers=[REQUEST_ID_HEADER],
        )
    if metrics is not None:
        api = metrics.timed(api)
    if dashboard is not None:
        api = _both(api, dashboard, {route.path.split("/")[1] for route in inner.table})
    return CheckedHost(api, allowed_hosts)


def _both(api: ASGIApp, dashboard: Dashboard, api_folders: Collection[str]) -> ASGIApp:
    def is_page(scope: Scope) -> bool:
        if dashboard.serves(scope["path"]):
            return True
        # A person who mistypes an address gets a page with links, and not JSON about a missing key.
        is_browser = scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
        start, _, rest = scope["path"].partition("/")  # of the path "*" that is all of it
        return is_browser and not start and rest.partition("/")[0] not in api_folders

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await (dashboard if is_page(scope) else api)(scope, receive, send)

    return dispatch
