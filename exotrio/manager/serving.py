"""A state manager inside a process that others may look at: embedded, and on a port with its dashboard."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from exotrio._httpd import open_listeners, serve_http, urls
from exotrio._util.settings import Settings, read_settings
from exotrio.errors import PortBusy
from exotrio.manager.api.app import create_app, loopback_names
from exotrio.manager.engine.leases import Terms, cut_short
from exotrio.manager.security.access import local
from exotrio.manager.security.api_key import Key, choose_key
from exotrio.manager.service import Service, beside, open_service
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.sqlite.database import MEMORY

if TYPE_CHECKING:
    import httpx

    from exotrio.manager.web import Dashboard

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """An embedded state manager that is served too.

    Attributes:
        transport: For ``Runtime``, ``StateManager`` or ``httpx.AsyncClient``. It needs no key.
        url: Where it listens.
        key: What the API on the port asks for.
    """

    transport: httpx.AsyncBaseTransport
    url: str
    key: Key = field(repr=False)
    _service: Service = field(repr=False)
    _dashboard: Dashboard = field(repr=False)

    def sign_in_link(self, to: str = "/") -> str:
        """Return an address that signs one browser in to the dashboard, once, within ten minutes.

        Args:
            to: Path of the page that it leads to. Defaults to the first one.
        """
        return self._dashboard.sign_in_link(self.url, to)

    async def forget(self, namespace: str, worker_id: str) -> None:
        """Take back at once what a worker held. Call it only when its process has ended.

        Raises:
            DatabaseError: it cannot be written.
        """
        service = self._service
        service.workers.forget(namespace, worker_id)
        await service.store.write(cut_short, namespace, worker_id, service.monotonic())


@asynccontextmanager
async def embedded_and_served(
    db: str | Path,
    *,
    ports: Sequence[int] = (0,),
    terms: Terms | None = None,
    schedules: bool = True,
    settings: Settings | None = None,
    clock: Clock = wall_clock,
) -> AsyncIterator[Served]:
    """Run a state manager inside this process and serve it, with its dashboard, on 127.0.0.1.

    Args:
        db: As for ``embedded``.
        ports: The first of them that is free is taken; 0, the default, lets the kernel choose.
        terms: How long claims through the port hold. Defaults to ``Terms()``.
        schedules: As for ``embedded``.
        settings: Defaults to what the environment says.
        clock: Gives the time in Unix milliseconds. Defaults to the wall clock.

    Raises:
        ConfigurationError: the port cannot be used, or the key.
        PortBusy: other processes listen on all of them.
        DatabaseBusy: another process owns the file.
        DatabaseError: the file cannot be used.

    Cancellation:
        At the end of the block connections are cut; then as ``embedded``.
    """
    import httpx

    from exotrio.manager.web import Dashboard

    settings = settings or read_settings()
    async with open_service(db, clock=clock, terms=terms, schedules=schedules, settings=settings) as service:
        key = _key(db, settings)
        dashboard = Dashboard(service, key=key.text)
        app = create_app(service, key=key.text, allowed_hosts=loopback_names(HOST), dashboard=dashboard)
        listeners = await _listen(ports)
        (url,) = urls(listeners)
        inside = httpx.ASGITransport(local(app), raise_app_exceptions=False)
        async with beside(partial(serve_http, app, listeners, stopping=trio.Event())):
            yield Served(inside, url, key, service, dashboard)


async def _listen(ports: Sequence[int]) -> list[trio.SocketListener]:
    *earlier, last = ports
    for port in earlier:
        try:
            return await open_listeners(HOST, port)
        except PortBusy:
            continue
    return await open_listeners(HOST, last)


def _key(db: str | Path, settings: Settings) -> Key:
    file = None if str(db) == MEMORY else Path(db).resolve()
    if file is None and settings.state_manager_secret is None and settings.api_key is None:
        # Nobody who is not told a sign-in link needs to come in, and nothing outlives the process.
        return Key(secrets.token_urlsafe(32), "nowhere: it is made up")
    return choose_key(key=None, key_file=None, settings=settings, host=HOST, db=file)
