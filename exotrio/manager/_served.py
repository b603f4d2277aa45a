"""A state manager inside a process that others may look at: embedded, and on a port with its dashboard."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from exotrio._settings import Settings, read_settings
from exotrio.manager._access import local
from exotrio.manager._app import create_app, loopback_names
from exotrio.manager._commits import Clock
from exotrio.manager._database import MEMORY
from exotrio.manager._http import open_listeners, serve_http, urls
from exotrio.manager._keys import Key, choose_key
from exotrio.manager._service import beside, open_service
from exotrio.manager._store import wall_clock

if TYPE_CHECKING:
    import httpx

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Served:
    """An embedded state manager that is served too.

    Attributes:
        transport: For ``Runtime``, ``StateManager`` or ``httpx.AsyncClient``. It needs no key.
        url: Where it listens.
        key_source: Where the key came from that the API on the port asks for.
        sign_in_link: Returns an address that signs one browser in to the dashboard, once, within
            ten minutes.
    """

    transport: httpx.AsyncBaseTransport
    url: str
    key_source: str
    sign_in_link: Callable[[], str]


@asynccontextmanager
async def embedded_and_served(
    db: str | Path, *, port: int = 0, clock: Clock = wall_clock
) -> AsyncIterator[Served]:
    """Run a state manager inside this process and serve it, with its dashboard, on 127.0.0.1.

    Args:
        db: As for ``embedded``.
        port: 0, the default, lets the kernel choose.
        clock: Gives the time in Unix milliseconds. Defaults to the wall clock.

    Raises:
        ConfigurationError: the port cannot be used, or the key.
        PortBusy: another process listens there.
        DatabaseBusy: another process owns the file.
        DatabaseError: the file cannot be used.

    Cancellation:
        At the end of the block connections are cut; then as ``embedded``.
    """
    import httpx

    from exotrio.manager.web import Dashboard

    settings = read_settings()
    async with open_service(db, clock=clock, settings=settings) as service:
        key = _key(db, settings)
        dashboard = Dashboard(service, key=key.text)
        app = create_app(service, key=key.text, allowed_hosts=loopback_names(HOST), dashboard=dashboard)
        listeners = await open_listeners(HOST, port)
        (url,) = urls(listeners)
        inside = httpx.ASGITransport(local(app), raise_app_exceptions=False)
        async with beside(partial(serve_http, app, listeners, stopping=trio.Event())):
            yield Served(inside, url, key.source, lambda: dashboard.sign_in_link(url))


def _key(db: str | Path, settings: Settings) -> Key:
    file = None if str(db) == MEMORY else Path(db).resolve()
    if file is None and settings.state_manager_secret is None and settings.api_key is None:
        # Nobody who is not told a sign-in link needs to come in, and nothing outlives the process.
        return Key(secrets.token_urlsafe(32), "nowhere: it is made up")
    return choose_key(key=None, key_file=None, settings=settings, host=HOST, db=file)
