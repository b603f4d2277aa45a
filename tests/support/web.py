"""What the tests of the dashboard share: one with an empty database, and a browser that is signed in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from exotrio._shared.settings import Settings
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.engine.workers import ClaimsKept
from exotrio.manager.security.access import local
from exotrio.manager.store.clock import wall_clock
from exotrio.manager.web import Dashboard
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, open_client, place
from tests.support.manager import NO_SETTINGS

KEY = "dashboard-suite-key-5e0f"
HOST = "localhost:8000"
ORIGIN = f"http://{HOST}"
NAMESPACE = "shop"
SCRIPT = "<script>alert('x')</script>&\"`${{"


@dataclass(frozen=True)
class Browser:
    """A browser, as far as the server can tell: cookies, and its own origin with every form."""

    client: httpx.AsyncClient

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def page(self, path: str, status: int = 200) -> str:
        """Return the HTML of a page that has to have this status."""
        response = await self.get(path)
        assert response.status_code == status, f"{path}: {response.status_code} {response.text[:2000]}"
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return response.text

    async def fragments(self, path: str, *names: str) -> str:
        """Return fragments of a page, as the script asks for them."""
        response = await self.get(path, headers={"x-fragments": " ".join(names)})
        assert response.status_code == 200, response.text
        return response.text

    async def post(
        self, path: str, fields: Mapping[str, Any] | None = None, *, origin: str | None = ORIGIN
    ) -> httpx.Response:
        headers = {} if origin is None else {"origin": origin}
        return await self.client.post(path, data=dict(fields or {}), headers=headers)

    async def do(self, path: str, fields: Mapping[str, Any] | None = None) -> str:
        """Send a form, follow where it leads and return that page."""
        response = await self.post(path, fields)
        assert response.status_code == 303, response.text
        return await self.page(response.headers["location"])

    async def sign_in(self, key: str = KEY, **fields: str) -> httpx.Response:
        return await self.post("/sign-in", {"key": key, **fields})


@dataclass(frozen=True)
class Site:
    """A state manager with its dashboard.

    Attributes:
        app: The application, for requests that no client would send.
        api: For whatever happens behind the dashboard.
        browser: Signed in.
        anonymous: A browser that is not signed in.
    """

    service: Service
    dashboard: Dashboard
    app: ASGIApp
    api: Api
    browser: Browser
    anonymous: Browser


@asynccontextmanager
async def open_site(
    db: str | Path = ":memory:",
    *,
    clock: Callable[[], int] = wall_clock,
    cors_origins: tuple[str, ...] = (),
    settings: Settings = NO_SETTINGS,
    **options: Any,
) -> AsyncIterator[Site]:
    async with (
        open_service(db, clock=clock, settings=settings, **options) as service,
        _open_site(service, cors_origins=cors_origins) as site,
    ):
        assert (await site.browser.sign_in()).status_code == 303
        yield site


@asynccontextmanager
async def open_second(site: Site, *, key: str = KEY) -> AsyncIterator[Site]:
    """Open another dashboard on the database of this one, with which its browser shares the cookies."""
    async with _open_site(replace(site.service, claims_kept=ClaimsKept()), key=key) as second:
        second.browser.client.cookies = site.browser.client.cookies
        yield second


@asynccontextmanager
async def _open_site(
    service: Service, *, key: str = KEY, cors_origins: tuple[str, ...] = ()
) -> AsyncIterator[Site]:
    dashboard = Dashboard(service, key=key)
    app = create_app(
        service, key=key, allowed_hosts={"localhost"}, dashboard=dashboard, cors_origins=cors_origins
    )
    inside = httpx.ASGITransport(local(app), raise_app_exceptions=False)
    outside = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        open_client(transport=inside) as client,
        open_client(transport=outside, url=ORIGIN) as browser,
        open_client(transport=outside, url=ORIGIN) as other,
    ):
        yield Site(service, dashboard, app, Api(client, NAMESPACE), Browser(browser), Browser(other))


async def failed_run(api: Api, error: str = "it broke") -> tuple[Flow, str]:
    """Return a run whose second of two states failed, and the id of that state."""
    flow = await Flow.deploy(
        api,
        place("first", "second", inputs={"note": "plain"}),
        place("second", inputs={"v": "${{ first.outputs.v }}"}),
        graph="orders",
        retry_policy=NO_RETRY,
    )
    await flow.trigger(inputs={"note": SCRIPT})
    await flow.run("first", {"v": SCRIPT, "w": ""})
    return flow, await flow.fail("second", times=1, error=error)


def text_of(html: str) -> str:
    """Return HTML with its escapes undone, to find what a user reads."""
    return unescape(html)
