"""Putting a state manager together: routes, access, server, and the in-process transport."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from exotrio._httpd import ConnectionLimiter, Limits, open_listeners, serve_http, urls
from exotrio._util.settings import read_settings
from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER, to_ms
from exotrio.errors import ConfigurationError
from exotrio.manager.api.inspection import look_routes
from exotrio.manager.api.json import EXCEPTION_HANDLERS
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.native import native_routes
from exotrio.manager.api.operations import METRICS, PROBES, operation_routes
from exotrio.manager.api.runtimes import worker_routes
from exotrio.manager.api.v0 import v0_routes
from exotrio.manager.engine.leases import Terms
from exotrio.manager.security.access import LOOPBACK_HOSTS, Access, SelfAuthenticatedApp, local
from exotrio.manager.security.api_key import choose_key, is_loopback
from exotrio.manager.service import Service, beside, open_service
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.sqlite.database import MEMORY

if TYPE_CHECKING:
    import httpx

DEFAULT_DB = Path(".exotrio/state.db")

BUSIEST = ("/claim", "/outcomes", "/states/enqueue", "/executed")
"""What the routes end in that workers call for every batch or state."""

logger = logging.getLogger("exotrio.manager")


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
        key: The API key every request must carry, except probes (``/health``, ``/livez``, ``/readyz``).
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
        routes += native_routes(service) + look_routes(service) + worker_routes(service)
    # Starlette tries one route after the other: behind all others, that was 17 us of an empty claim's 122.
    routes.sort(key=lambda route: not route.path.endswith(BUSIEST))
    app = Starlette(routes=routes, exception_handlers=EXCEPTION_HANDLERS)
    # Both slash forms are routes of their own; a redirect would lose the body of a PUT.
    app.router.redirect_slashes = False
    app.state.max_body = max_body
    open_paths = PROBES | {METRICS} if open_metrics else PROBES
    guarded = Access(app, key=key, allowed_hosts=allowed_hosts, open_paths=open_paths, dashboard=dashboard)
    api: ASGIApp = _with_cors(guarded, cors_origins) if cors_origins else guarded
    if metrics is not None:
        api = metrics.timed(api, routes)
    if dashboard is None:
        return api
    is_page = dashboard.serves

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        # Pages of other origins may call the API, with a key; they must not read the dashboard, which a
        # browser would send its cookie to. And its streams, which last for hours, are no API requests.
        await (guarded if is_page(scope["path"]) else api)(scope, receive, send)

    return either


def _with_cors(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    # Outside of the guard: a browser sends its preflight without a key.
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_credentials=True,
        allow_methods=["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"],
        allow_headers=[
            "Accept",
            "Accept-Language",
            "Content-Language",
            "Content-Type",
            KEY_HEADER,
            "Authorization",
            "X-Requested-With",
            REQUEST_ID_HEADER,
        ],
        expose_headers=[REQUEST_ID_HEADER],
    )


def loopback_names(host: str) -> set[str]:
    """Return the Host header values under which a server on a loopback address is called."""
    # Bound to another one, 127.0.0.2 say, it is called by that.
    return {*LOOPBACK_HOSTS, f"[{host}]" if ":" in host else host}


@asynccontextmanager
async def embedded(
    db: str | Path = DEFAULT_DB,
    *,
    keep: float | None = None,
    schedules: bool = True,
    clock: Clock = wall_clock,
) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """Run a state manager inside this process, for as long as the block lasts.

    Open it around the runtime (``Runtime(..., transport=transport)``), so that a runtime that is
    cancelled can still report into it.

    Args:
        db: Database file, made with its folder if missing, or ``":memory:"``. Defaults to
            ``.exotrio/state.db``.
        keep: Seconds after which finished runs are deleted. Defaults to None: kept for ever.
        schedules: Trigger graphs by their cron expressions. Defaults to True.
        clock: Gives the time in Unix milliseconds. Defaults to the wall clock. A database in
            memory uses no thread, so it works under Trio's virtual clock.

    Returns:
        A transport for ``Runtime``, ``StateManager`` or ``httpx.AsyncClient``. It needs no key.

    Raises:
        ConfigurationError: ``keep`` is out of range.
        DatabaseBusy: another process owns the file.
        DatabaseError: the file cannot be used.

    Cancellation:
        Inside the block nothing is different. At its end the last writes are committed, shielded
        for at most ten seconds.
    """
    import httpx

    _require_seconds(keep=keep)
    keep_ms = None if keep is None else to_ms(keep)
    async with open_service(db, clock=clock, keep_ms=keep_ms, schedules=schedules) as service:
        # The key is never asked for in process; a random one would only cost time.
        app = local(create_app(service, key="in process"))
        yield httpx.ASGITransport(app, raise_app_exceptions=False)


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    db: str | Path = DEFAULT_DB,
    key: str | None = None,
    key_file: Path | None = None,
    allowed_hosts: Collection[str] = (),
    limits: Limits | None = None,
    grace: float = 5.0,
    lease_ttl: float = 60.0,
    poison_limit: int = 5,
    claim_timeout: float | None = None,
    keep: float | None = None,
    native: bool = True,
    open_metrics: bool = False,
    metrics_port: int | None = None,
    stopping: trio.Event | None = None,
    clock: Clock = wall_clock,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a state manager on a port until told to stop. Reports the bound URLs when started.

    Args:
        host: Address to bind. Defaults to 127.0.0.1, which only this machine reaches.
        port: 0 lets the kernel choose. Defaults to 8000.
        db: Database file or ``":memory:"``. Defaults to ``.exotrio/state.db``.
        key: The API key. Prefer ``key_file``: arguments are visible to other users.
        key_file: File that holds the key. Without either, ``STATE_MANAGER_SECRET``, then
            ``EXOSPHERE_API_KEY``, then on loopback a generated key kept beside the database.
        allowed_hosts: Host header values to accept. On loopback they are added to the loopback
            names; elsewhere an empty collection accepts any.
        limits: What a client may take. Defaults to ``Limits()``.
        grace: Seconds that requests in flight get once ``stopping`` is set. Defaults to 5.
        lease_ttl: Seconds a native claim holds without a heartbeat. Defaults to 60.
        poison_limit: A state is ERRORED once this many workers in a row ended while they ran it.
            Defaults to 5.
        claim_timeout: Seconds a v0 claim holds; its holder cannot renew it, so this must be longer
            than any node runs. Defaults to None: for ever.
        keep: Seconds after which finished runs are deleted with all that is theirs. The file does not
            shrink; what becomes free in it is used again. Defaults to None: kept for ever.
        native: Serve the native API beside v0. Defaults to True.
        open_metrics: Serve ``/metrics`` without the key. Defaults to False.
        metrics_port: Serve ``/metrics`` and the probes, and nothing else, on this port too, without the key.
            0 lets the kernel choose. Defaults to None.
        stopping: Set it to stop; or cancel this call.
        clock: Gives the time in Unix milliseconds. Defaults to the wall clock.

    Raises:
        ConfigurationError: a number out of range, no usable key, or the address cannot be used.
        PortBusy: another process listens there.
        DatabaseBusy: another process owns the database.
        DatabaseError: the database cannot be used.

    Cancellation:
        Connections are cut; the last writes are committed, shielded for at most ten seconds.
    """
    settings = read_settings()
    _require_seconds(lease_ttl=lease_ttl, claim_timeout=claim_timeout, grace=grace, keep=keep)
    if port and port == metrics_port:  # two sockets could not be told apart by who is let in where
        raise ConfigurationError(
            f"port {port} cannot serve both the API and the metrics without a key",
            fix="choose another --metrics-port, or 0 for any free one; or use --open-metrics instead",
        )
    terms = Terms(
        lease_ttl_ms=to_ms(lease_ttl),
        claim_timeout_ms=None if claim_timeout is None else to_ms(claim_timeout),
        poison_limit=poison_limit,
    )
    keep_ms = None if keep is None else to_ms(keep)
    limits = limits or Limits()
    async with open_service(
        db, clock=clock, terms=terms, keep_ms=keep_ms, max_inputs=limits.max_body, settings=settings
    ) as service:
        file = None if str(db) == MEMORY else _resolve(db)
        chosen = choose_key(key=key, key_file=key_file, settings=settings, host=host, db=file)
        hosts = {*loopback_names(host), *allowed_hosts} if is_loopback(host) else allowed_hosts or None
        limiter = ConnectionLimiter(limits.max_connections)
        origins = [origin.strip() for origin in (settings.cors_origins or "").split(",") if origin.strip()]
        # Here: whoever embeds a state manager without a port does not wait for templates to be loaded.
        from exotrio.manager.web import Dashboard

        metrics = ManagerMetrics(service.store, lambda: limiter.open)
        app = create_app(
            service,
            key=chosen.text,
            allowed_hosts=hosts,
            max_body=limits.max_body,
            native=native,
            cors_origins=origins,
            metrics=metrics,
            open_metrics=open_metrics,
            dashboard=Dashboard(service, key=chosen.text),
        )
        stopping = trio.Event() if stopping is None else stopping
        listeners = await open_listeners(host, port)
        bound = urls(listeners)
        async with AsyncExitStack() as stack:
            for listener in listeners:
                stack.callback(listener.socket.close)
            if metrics_port is not None:
                ports = await open_listeners(host, metrics_port)
                scraped = _metrics_app(service, metrics, key=chosen.text, host=host)
                await stack.enter_async_context(
                    beside(partial(serve_http, scraped, ports, stopping=stopping))
                )
                logger.info("metrics are served on %s", " ".join(urls(ports)))
            logger.info("serving %s, with the key from %s, on %s", db, chosen.source, " ".join(bound))
            # From here on the kernel queues connections, so callers may connect at once.
            task_status.started(bound)
            await serve_http(app, listeners, limits=limits, grace=grace, limiter=limiter, stopping=stopping)


def _metrics_app(service: Service, metrics: ManagerMetrics, *, key: str, host: str) -> ASGIApp:
    app = Starlette(routes=operation_routes(service.store, metrics), exception_handlers=EXCEPTION_HANDLERS)
    # Off loopback by any name: who scrapes and probes calls a pod by its address.
    hosts = loopback_names(host) if is_loopback(host) else None
    return Access(app, key=key, allowed_hosts=hosts, open_paths=PROBES | {METRICS})


def _require_seconds(**durations: float | None) -> None:
    problems = [
        f"{name} is {value:g}: it must be a finite number of seconds above zero"
        for name, value in durations.items()
        if value is not None and not (0 < value < math.inf)
    ]
    if problems:
        raise ConfigurationError("the state manager cannot be run like this", problems)


def _resolve(db: str | Path) -> Path:
    return Path(db).resolve()
