"""Every route, page and action, requested with a key of every scope: the tables say who is let in."""

from __future__ import annotations

import re
from html import unescape

import pytest

from exotrio.manager.rules.access import IN_NAMESPACE, Permission
from exotrio.manager.web.actions import ACTIONS
from exotrio.manager.web.pages import PAGES
from tests.support.keyed import ROOT, open_keyed
from tests.support.manager import ENGINES

HERE, ELSEWHERE = "shop", "bank"
SCOPES = [
    *(f"{permission}:{namespace}" for permission in IN_NAMESPACE for namespace in (HERE, ELSEWHERE, "*")),
    "admin",
]
OPEN = {"/health", "/livez", "/readyz", "/openapi.json", "/docs"}
"""Paths that need no key. Each addition needs a reason."""
ANY_KEY = {"/exotrio/v1", "/v0/namespaces"}
"""Those that need a key, of whatever scope. Each addition needs a reason."""
OF_RUNTIMES = {
    *(
        f"/exotrio/v1/namespace/{{namespace}}/{name}"
        for name in ("claim", "heartbeat", "outcomes", "release")
    ),
    *("/v0/namespace/{namespace}/nodes", "/v0/namespace/{namespace}/states/enqueue"),
    *(
        f"/v0/namespace/{{namespace}}/state/{{state_id}}/{name}"
        for name in ("executed", "errored", "prune", "re-enqueue-after", "secrets")
    ),
}
"""Those for the keys of runtimes, which may change nothing else. Each addition needs a reason."""
TRIGGERS = {
    *(f"/exotrio/v1/namespace/{{namespace}}/graph/{{graph}}/{name}" for name in ("trigger", "runs")),
    "/v0/namespace/{namespace}/graph/{graph}/trigger",
    *("/ns/{namespace}/graphs/{graph}", "/ns/{namespace}/runs/{run_id}/again"),
}
"""Those that start runs, for keys which may do nothing else. Each addition needs a reason."""


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
    async with open_keyed() as here:
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
    async with open_keyed() as here:
        for route in here.table:
            has_namespace = "{namespace}" in route.path
            assert has_namespace == (route.needs in IN_NAMESPACE), route
            assert (route.path in OPEN) == (route.needs is Permission.OPEN), route
            assert (route.path in ANY_KEY) == (route.needs is Permission.ANY_KEY), route
            # What only reads needs "read"; secrets are for who runs the state.
            if has_namespace and route.method == "GET" and not route.path.endswith("/secrets"):
                assert route.needs is Permission.READ, route
            if route.needs is Permission.READ:
                # A check reads a body, and changes nothing.
                assert route.method == "GET" or route.path.endswith("/check"), route


async def test_what_changes_something_needs_graphs_unless_it_is_for_runtimes_or_starts_runs() -> None:
    async with open_keyed() as here:
        needed = [(route.path, route.needs) for route in here.table if route.method != "GET"]
        needed += [(route.path, route.needs) for route in here.table if route.path.endswith("/secrets")]
    needed += [(path, needs) for path, (needs, _) in ACTIONS.items()]
    assert {path for path, needs in needed if needs is Permission.RUNTIME} == OF_RUNTIMES
    assert {path for path, needs in needed if needs is Permission.TRIGGER} == TRIGGERS
    for path, needs in needed:
        if "{namespace}" in path and path not in OF_RUNTIMES | TRIGGERS and not path.endswith("/check"):
            assert needs is Permission.GRAPHS, path


async def test_each_page_and_action_lets_in_the_sessions_of_keys_with_its_scope_and_no_others() -> None:
    served = [("GET", page.path, page.needs) for page in PAGES]
    served += [("GET", f"/live{page.path}", page.needs) for page in PAGES]
    served += [("POST", path, needed) for path, (needed, _) in ACTIONS.items()]
    served.append(("GET", "/ns/{namespace}/runs/{run_id}/export", Permission.READ))
    async with open_keyed() as here:
        cookies = {scope: await here.sign_in(await here.key(scope)) for scope in SCOPES}
        for method, path, needed in served:
            # A stream would go on; HEAD shows who gets it.
            method = "HEAD" if path.startswith("/live/") else method
            for scope, cookie in cookies.items():
                form: dict[str, str] | None = {} if method == "POST" else None
                status, *_ = await here.ask(method, filled(path), cookie=cookie, form=form)
                cell = f"{method} {path} with {scope}: {status}"
                assert (status not in (401, 403)) == is_allowed(scope, needed), cell


@pytest.mark.parametrize("engine", ENGINES)
async def test_only_keys_for_all_namespaces_see_the_condition_of_the_database(
    db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_keyed(db) as site:
        path, page = f"/exotrio/v1/namespace/{HERE}/checkup", f"/ns/{HERE}/system"
        why = "/a/place/of/the.db is full"
        hidden = {site.service.manager, site.service.database, site.service.cipher.newest, why}
        failed = property(lambda _: f"{why}; free some space", lambda _, value: None)  # commits succeed here
        monkeypatch.setattr(type(site.service.store), "unwritable", failed, raising=False)
        whole = await site.call(ROOT, "GET", path)
        for scope in SCOPES:
            key = await site.key(f"read:{HERE}", scope)
            shown = await site.call(key, "GET", path)
            status, _, html = await site.ask("GET", page, cookie=await site.sign_in(key))
            text, sees = unescape(html.decode()), scope in ("read:*", "admin")
            assert status == 200
            assert {part for part in hidden if part in text} == (hidden if sees else set()), scope
            assert ("a key with the scope read:* or admin" in text) is not sees, scope
            if sees:
                assert shown["database"].keys() == whole["database"].keys()
            else:
                assert shown["database"] is None, scope
                assert "the database cannot be written" in shown["unwritable"]
                assert "the database cannot be written" in text
            other: dict[str, object] = {"database": None, "at_ms": 0, "namespaces": [], "unwritable": ""}
            assert {**shown, **other} == {**whole, **other}
