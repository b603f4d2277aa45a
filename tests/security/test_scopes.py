"""Every route, page and action, requested with a key of every scope: the tables say who is let in."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from exotrio._wire.keys import NewKey, make_key
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.app import create_api
from exotrio.manager.rules.access import IN_NAMESPACE, Permission
from exotrio.manager.security.keys import add_key
from exotrio.manager.web import Dashboard
from exotrio.manager.web.actions import ACTIONS
from exotrio.manager.web.pages import PAGES
from tests.support.manager import NO_SETTINGS

ROOT = "root-key-of-the-scope-tests"
HERE, ELSEWHERE = "shop", "bank"
SCOPES = [
    *(f"{permission}:{namespace}" for permission in IN_NAMESPACE for namespace in (HERE, ELSEWHERE, "*")),
    "admin",
]
OPEN = {"/health", "/livez", "/readyz", "/openapi.json", "/docs"}
"""Paths that need no key. Each addition needs a reason."""
ANY_KEY = {"/exotrio/v1", "/v0/namespaces"}
"""Those that need a key, of whatever scope. Each addition needs a reason."""


@dataclass
class Site:
    """The whole application in this process."""

    service: Service
    app: Any
    table: list[ApiRoute]
    cookies: dict[str, str] = field(default_factory=dict)

    async def key(self, *scopes: str) -> str:
        made = make_key()
        new = NewKey(name=f"k{made.id}", digest=made.digest, scopes=list(scopes))
        await self.service.store.write(add_key, made.id, new)
        await self.service.keys.read_again()
        return made.text

    async def ask(
        self, method: str, path: str, key: str = "", *, cookie: str = "", form: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer."""
        body = b"" if form is None else urlencode(form).encode()
        headers = {"host": "manager", "x-api-key": key, "cookie": cookie, "origin": "http://manager"}
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
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value],
            "client": ("192.0.2.1", 1),
            "server": ("manager", 80),
        }
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        begin, *parts = sent
        named = {name.decode(): value.decode() for name, value in begin["headers"]}
        return begin["status"], named, b"".join(part.get("body", b"") for part in parts)

    async def sign_in(self, key: str) -> str:
        """Return the cookie of a new session."""
        status, headers, _ = await self.ask("POST", "/sign-in", form={"key": key})
        assert status == 303
        return headers["set-cookie"].partition(";")[0]


@asynccontextmanager
async def site() -> Any:
    async with open_service(":memory:", settings=NO_SETTINGS) as service:
        dashboard, metrics = Dashboard(service, key=ROOT), ManagerMetrics(service.store)
        table = create_api(service, metrics=metrics, dashboard=dashboard).table
        yield Site(service, create_app(service, key=ROOT, metrics=metrics, dashboard=dashboard), list(table))


def is_allowed(scope: str, needs: Permission) -> bool:
    """Return whether a key with one scope may do what needs this permission ``HERE``."""
    if needs in (Permission.OPEN, Permission.ANY_KEY):
        return True
    if needs is Permission.ADMIN:
        return scope == "admin"
    return scope in (f"{needs}:{HERE}", f"{needs}:*")


def filled(path: str) -> str:
    values = {"namespace": HERE, "page": "1", "size": "1"}
    return re.sub(r"\{(\w+)(:\w+)?\}", lambda match: values.get(match[1], "0" * 24), path)


async def test_each_route_lets_in_the_keys_with_its_scope_and_no_others() -> None:
    async with site() as here:
        keys = {scope: await here.key(scope) for scope in SCOPES}
        for route in here.table:
            for scope, key in keys.items():
                status, _, body = await here.ask(route.method, filled(route.path), key)
                cell = f"{route.method} {route.path} with {scope}: {status}"
                assert (status not in (401, 403)) == is_allowed(scope, route.needs), cell
                if status == 403:
                    missing = route.needs if route.needs is Permission.ADMIN else f"{route.needs}:{HERE}"
                    assert f"lacks the scope {missing};" in body.decode(), cell
            status, *_ = await here.ask(route.method, filled(route.path), ROOT)
            assert status not in (401, 403), route


async def test_each_route_names_a_permission_that_fits_its_path() -> None:
    async with site() as here:
        for route in here.table:
            has_namespace = "{namespace}" in route.path
            assert has_namespace == (route.needs in IN_NAMESPACE), route
            assert (route.path in OPEN) == (route.needs is Permission.OPEN), route
            assert (route.path in ANY_KEY) == (route.needs is Permission.ANY_KEY), route
            # What only reads needs "read"; secrets are for who runs the state.
            if has_namespace and route.method == "GET" and not route.path.endswith("/secrets"):
                assert route.needs is Permission.READ, route
            if route.needs is Permission.READ:
                assert route.method == "GET", route


async def test_each_page_and_action_lets_in_the_sessions_of_keys_with_its_scope_and_no_others() -> None:
    served = [("GET", page.path, Permission.READ) for page in PAGES]
    served += [("GET", f"/live{page.path}", Permission.READ) for page in PAGES]
    served += [("POST", path, needed) for path, (needed, _) in ACTIONS.items()]
    served.append(("GET", "/ns/{namespace}/runs/{run_id}/export", Permission.READ))
    async with site() as here:
        cookies = {scope: await here.sign_in(await here.key(scope)) for scope in SCOPES}
        for method, path, needed in served:
            # A stream would go on; HEAD shows who gets it.
            method = "HEAD" if path.startswith("/live/") else method
            for scope, cookie in cookies.items():
                form: dict[str, str] | None = {} if method == "POST" else None
                status, *_ = await here.ask(method, filled(path), cookie=cookie, form=form)
                cell = f"{method} {path} with {scope}: {status}"
                assert (status not in (401, 403)) == is_allowed(scope, needed), cell
