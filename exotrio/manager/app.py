"""The whole ASGI application of a state manager: API and dashboard, behind one check of the Host header.

The API requires the key in each request (``security.access``), the dashboard a session (``web.sign_in``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from exotrio.manager.api.app import create_api
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.security.access import CheckedHost
from exotrio.manager.service import Service

if TYPE_CHECKING:
    from exotrio.manager.web import Dashboard


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
    dashboard: Dashboard | None = None,
) -> ASGIApp:
    """Return the ASGI application of a state manager.

    Args:
        service: From ``open_service``.
        key: The API key that each request to the API must carry, except probes (``/health``, ``/livez``,
            ``/readyz``) and the description of the API (``/docs``, ``/openapi.json``).
        allowed_hosts: Host header values (without port) to accept. Defaults to any.
        max_body: Maximum bytes of a request body. Defaults to 16 MiB.
        native: Serve the native API next to v0. Defaults to True.
        cors_origins: Origins whose pages may call the API. Defaults to none.
        metrics: Served at ``/metrics``. Defaults to none.
        open_metrics: Serve them without the key. Defaults to False.
        dashboard: From ``exotrio.manager.web``. Defaults to none.
    """
    app = api = create_api(
        service,
        key=key,
        max_body=max_body,
        native=native,
        cors_origins=cors_origins,
        metrics=metrics,
        open_metrics=open_metrics,
        make_sign_in_link=None if dashboard is None else dashboard.sign_in_link,
    )
    if dashboard is not None:
        pages = dashboard

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            await (pages if pages.serves(scope["path"]) else api)(scope, receive, send)

        app = dispatch
    return CheckedHost(app, allowed_hosts)
