"""The whole application in this process, requested with keys that have scopes (``web.Site`` has one key)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic_core import from_json, to_json

from exotrio._wire.keys import NewKey, make_key
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.app import create_api
from exotrio.manager.engine.keys import add_key
from exotrio.manager.web import Dashboard
from tests.support.manager import NO_SETTINGS

ROOT = "root-key-of-the-scope-tests"


@dataclass
class Site:
    """The whole application in this process."""

    service: Service
    app: Any
    table: list[ApiRoute]

    async def key(self, *scopes: str) -> str:
        made = make_key()
        new = NewKey(name=f"k{made.id}", digest=made.digest, scopes=list(scopes))
        await self.service.store.write(add_key, made.id, new)
        await self.service.keys.read_again()
        return made.text

    async def ask(
        self,
        method: str,
        path: str,
        key: str = "",
        *,
        json: Any = None,
        cookie: str = "",
        form: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
        send: Callable[[dict[str, Any]], Awaitable[None]] | None = None,
        before_body: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer; ``before_body`` is awaited before the body is
        sent."""
        body = b"" if json is None else to_json(json)
        body = body if form is None else urlencode(form).encode()
        more = headers or {}
        headers = {"host": "manager", "x-api-key": key, "cookie": cookie, "origin": "http://manager"} | more
        if form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value],
            "client": ("192.0.2.1", 1),
            "server": ("manager", 80),
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if before_body is not None:
                await before_body()
            return {"type": "http.request", "body": body, "more_body": False}

        async def keep(message: dict[str, Any]) -> None:
            sent.append(message)
            if send is not None:
                await send(message)

        await self.app(scope, receive, keep)
        begin, *parts = sent
        named = {name.decode(): value.decode() for name, value in begin["headers"]}
        return begin["status"], named, b"".join(part.get("body", b"") for part in parts)

    async def call(
        self, key: str, method: str, path: str, json: Any = None, *, status: int = 200, **headers: str
    ) -> Any:
        """Return the JSON of an answer, which has to have this status."""
        answered, _, body = await self.ask(method, path, key, json=json, headers=headers)
        assert answered == status, f"{method} {path}: {answered} {body[:500]!r}"
        return from_json(body)

    async def sign_in(self, key: str) -> str:
        """Return the cookie of a new session."""
        status, headers, _ = await self.ask("POST", "/sign-in", form={"key": key})
        assert status == 303
        return headers["set-cookie"].partition(";")[0]


@asynccontextmanager
async def open_keyed(db: str | Path = ":memory:", **options: Any) -> AsyncIterator[Site]:
    async with open_service(db, settings=NO_SETTINGS, **options) as service:
        dashboard, metrics = Dashboard(service, key=ROOT), ManagerMetrics(service.store)
        table = create_api(service, metrics=metrics, dashboard=dashboard).table
        yield Site(service, create_app(service, key=ROOT, metrics=metrics, dashboard=dashboard), list(table))
