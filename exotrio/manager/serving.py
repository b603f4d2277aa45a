"""Running a state manager: inside a process, on a port, or both."""

from __future__ import annotations

import logging
import math
import secrets
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from starlette.types import ASGIApp

from exotrio._httpd import ConnectionLimiter, Limits, loopback_names, open_listeners, serve_http, urls
from exotrio._shared.database_files import announce_url
from exotrio._shared.settings import Settings, read_settings
from exotrio._util.database_url import is_database_url, is_loopback, parse_database_url
from exotrio._wire.vocabulary import to_ms
from exotrio.errors import ConfigurationError, PortBusy
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.operations import operation_routes
from exotrio.manager.api.routing import Api
from exotrio.manager.app import create_api, create_app
from exotrio.manager.background import in_background
from exotrio.manager.database import choose_database, place_of_keys
from exotrio.manager.engine import workers
from exotrio.manager.engine.leases import Terms
from exotrio.manager.rules.findings import database_url_findings, python_findings
from exotrio.manager.security.access import CheckedHost, KeyRequired
from exotrio.manager.security.api_key import Key, choose_key
from exotrio.manager.service import Service, open_service
from exotrio.manager.store.clock import Clock, wall_clock

if TYPE_CHECKING:
    import httpx

    from exotrio.manager.web import Dashboard

HOST = "127.0.0.1"
"""Where an embedded state manager is served."""

logger = logging.getLogger("exotrio.manager")


@asynccontextmanager
async def embedded(
    db: str | Path | None = None,
    *,
    keep: float | None = None,
    schedules: bool = True,
    grace: float = 5.0,
    lease_ttl: float = 30.0,
    clock: Clock = wall_clock,
) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """Run a state manager inside this process, for as long as the block lasts.

    Open it around the runtime (``Runtime(..., transport=transport)``), so that a runtime that is
    cancelled can still report into it.

    Args:
        db: Database file, made with its folder if missing; ``":memory:"``; or the URL of a PostgreSQL,
            ``postgresql://...``, on which other state managers may work too. Defaults to
            ``EXOTRIO_DATABASE_URL``, then ``.exotrio/state.db``.
        keep: Seconds after which finished runs are deleted. Defaults to None: never.
        schedules: Trigger graphs by their cron expressions. Defaults to True.
        grace: Seconds that the last writes get when the block ends. Defaults to 5.
        lease_ttl: Seconds a claim holds without a heartbeat if it was made through another state manager on
            the same PostgreSQL, all of which need the same number. Defaults to 30.
        clock: Gives the time in Unix milliseconds. Defaults to the wall clock. A database in
            memory uses no thread, so it works under Trio's virtual clock.

    Returns:
        A transport for ``Runtime``, ``StateManager`` or ``httpx.AsyncClient``. It needs no key.

    Raises:
        ConfigurationError: a number is out of range, ``db`` is another kind of URL, or its PostgreSQL is on
            another machine and ``SECRETS_ENCRYPTION_KEY`` is not set.
        DatabaseBusy: another process owns the file.
        DatabaseError: the database cannot be used.

    Cancellation:
        Inside the block nothing is different. At its end the last writes are committed, shielded
        for at most ``grace`` seconds.
    """
    from exotrio.manager.inside import InsideTransport  # here, since `serve` needs no client

    _require_seconds(keep=keep, grace=grace, lease_ttl=lease_ttl)
    terms = Terms(lease_ttl_ms=to_ms(lease_ttl))
    keep_ms = None if keep is None else to_ms(keep)
    db = choose_database(db, read_settings())
    async with open_service(
        db, clock=clock, terms=terms, keep_ms=keep_ms, schedules=schedules, grace=grace
    ) as service:
        yield InsideTransport(create_api(service))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An embedded state manager that is also served on a port.

    ``transport`` needs no key; the API on the port requires ``key``.
    """

    transport: httpx.AsyncBaseTransport
    url: str
    key: Key = field(repr=False)
    _service: Service = field(repr=False)
    _dashboard: Dashboard = field(repr=False)

    async def sign_in_link(self, to: str = "/") -> str:
        """Return an address that signs one browser in to a page, once, within ten minutes."""
        return await self._dashboard.sign_in_link(self.url, to)

    async def forget(self, namespace: str, worker_id: str) -> None:
        """Release at once all states that a runtime held. Call it only when its process has ended."""
        service = self._service
        await service.store.write(workers.forget, namespace, worker_id, service.monotonic())


@asynccontextmanager
async def embedded_and_served(
    db: str | Path | None,
    *,
    ports: Sequence[int] = (0,),
    terms: Terms | None = None,
    schedules: bool = True,
    settings: Settings | None = None,
) -> AsyncIterator[Served]:
    """Run a state manager inside this process and serve it, with its dashboard, on 127.0.0.1.

    The first of ``ports`` that is free is taken; 0 lets the kernel choose. ``terms`` is how long claims
    through the port hold. Other arguments, errors and cancellation are as in ``embedded``.

    Raises:
        ConfigurationError: the port cannot be used, or the key.
        PortBusy: other processes listen on all of them.
    """
    from exotrio.manager.inside import InsideTransport  # here, as above
    from exotrio.manager.web import Dashboard  # here, since only who serves the dashboard loads templates

    settings = settings or read_settings()
    db = choose_database(db, settings)
    async with open_service(db, terms=terms, schedules=schedules, settings=settings) as service:
        key = _key(db, settings)
        dashboard = Dashboard(service, key=key.text)
        app = create_app(service, key=key.text, allowed_hosts=loopback_names(HOST), dashboard=dashboard)
        listeners = await _listen(ports)
        (url,) = urls(listeners)
        inside = InsideTransport(create_api(service, dashboard=dashboard))
        async with in_background(partial(serve_http, app, listeners, stopping=trio.Event())):
            _announce(service, url)
            yield Served(transport=inside, url=url, key=key, _service=service, _dashboard=dashboard)


async def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    db: str | Path | None = None,
    key: str | None = None,
    key_file: Path | None = None,
    allowed_hosts: Collection[str] = (),
    limits: Limits | None = None,
    grace: float = 5.0,
    lease_ttl: float = 30.0,
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
    """Run a state manager on a port until ``stopping`` is set. Reports the bound URLs when started.

    Args:
        host: Address to bind. Defaults to 127.0.0.1, which only this machine reaches.
        port: 0 lets the kernel choose. Defaults to 8000.
        db: Database file, ``":memory:"``, or the URL of a PostgreSQL, ``postgresql://...``. Defaults to
            ``EXOTRIO_DATABASE_URL``, then ``.exotrio/state.db``.
        key: The API key. Prefer ``key_file``: arguments are visible to other users.
        key_file: File that holds the key. Without either, ``STATE_MANAGER_SECRET``, then
            ``EXOSPHERE_API_KEY``, then on loopback a generated key kept next to the database (of a PostgreSQL
            on this machine: in ``.exotrio``).
        allowed_hosts: Host header values to accept. On loopback they are added to the loopback
            names; elsewhere an empty collection accepts any.
        limits: What one client may use. Defaults to ``Limits()``.
        grace: Seconds that requests in flight get once ``stopping`` is set, and after them the last writes.
            Defaults to 5.
        lease_ttl: Seconds a native claim holds without a heartbeat; half as long if the connection of the
            heartbeats was closed. Defaults to 30.
        poison_limit: A state is ERRORED once this many runtimes in a row were lost while they ran it.
            Defaults to 5.
        claim_timeout: Seconds a v0 claim holds; its holder cannot renew it, so this must be longer
            than any node runs. Defaults to None: without a limit.
        keep: Seconds after which finished runs are deleted with all that belongs to them. The file does not
            shrink; its free space is used again. Defaults to None: never.
        native: Serve the native API next to v0. Defaults to True.
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
        Connections are closed; the last writes are committed, shielded for at most ``grace`` seconds.
    """
    settings = read_settings()
    db = choose_database(db, settings)
    _require_seconds(lease_ttl=lease_ttl, claim_timeout=claim_timeout, grace=grace, keep=keep)
    if port and port == metrics_port:
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
        db,
        clock=clock,
        terms=terms,
        keep_ms=keep_ms,
        max_inputs=limits.max_body,
        grace=grace,
        host=host,
        settings=settings,
    ) as service:
        chosen = choose_key(key=key, key_file=key_file, settings=settings, host=host, db=place_of_keys(db))
        hosts = {*loopback_names(host), *allowed_hosts} if is_loopback(host) else allowed_hosts or None
        limiter = ConnectionLimiter(limits.max_connections)
        origins = [origin.strip() for origin in (settings.cors_origins or "").split(",") if origin.strip()]
        # Here: an embedded state manager without a port does not load templates.
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
                    in_background(partial(serve_http, scraped, ports, stopping=stopping))
                )
                logger.info("metrics are served on %s", " ".join(urls(ports)))
            _announce(service, bound[0])
            # Other state managers on its database name it by its id in their logs.
            who = f" as state manager {service.manager}" if service.store.is_shared else ""
            logger.info(
                "serving %s%s, with the key from %s, on %s",
                *(service.database, who, chosen.source, " ".join(bound)),
            )
            of_url = database_url_findings(parse_database_url(str(db))) if is_database_url(db) else []
            for finding in (*python_findings(sys.version_info[:3]), *of_url):
                logger.warning("%s; %s", finding.what, finding.fix)
            # From here on the kernel queues connections, so callers may connect at once.
            task_status.started(bound)
            await serve_http(app, listeners, limits=limits, grace=grace, limiter=limiter, stopping=stopping)


def _announce(service: Service, url: str) -> None:
    """Let commands in the same folder find this state manager, which has their database open."""
    if service.store.path is not None:
        # Not every system can connect to the wildcard address.
        reached = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        announce_url(service.store.path, reached)


async def _listen(ports: Sequence[int]) -> list[trio.SocketListener]:
    *earlier, last = ports
    for port in earlier:
        with suppress(PortBusy):
            return await open_listeners(HOST, port)
    return await open_listeners(HOST, last)


def _key(db: str | Path, settings: Settings) -> Key:
    file = place_of_keys(db)
    if file is None and settings.state_manager_secret is None and settings.api_key is None:
        # A database in memory ends with the process, and a sign-in link is enough to open its dashboard.
        return Key(secrets.token_urlsafe(32), "nowhere: it is random")
    return choose_key(key=None, key_file=None, settings=settings, host=HOST, db=file)


def _metrics_app(service: Service, metrics: ManagerMetrics, *, key: str, host: str) -> ASGIApp:
    table = operation_routes(service.store, metrics, open_metrics=True)
    # Off loopback any Host is accepted: scrapers and probes address a pod by its IP address.
    hosts = loopback_names(host) if is_loopback(host) else None
    keyed = KeyRequired(Api(table), key=key, keys=service.keys, open_paths=[route.path for route in table])
    return CheckedHost(keyed, hosts)


def _require_seconds(**durations: float | None) -> None:
    problems = [
        f"{name} is {value:g}: it must be a finite number of seconds above zero"
        for name, value in durations.items()
        if value is not None and not (0 < value < math.inf)
    ]
    if problems:
        raise ConfigurationError("the state manager cannot be run like this", problems)
