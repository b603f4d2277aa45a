"""Routes of probes, metrics, sign-in links and named keys."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from exotrio._httpd import stopping_event
from exotrio._wire.keys import KEY_ID, KEYS_PATH, KeyInfo, KeyList, NewKey
from exotrio._wire.operations import SIGN_IN_PATH, SignInLink
from exotrio.errors import DatabaseError
from exotrio.manager.api.json import unprocessable
from exotrio.manager.api.metrics import CONTENT_TYPE, ManagerMetrics
from exotrio.manager.api.routing import ADMIN, OPEN, ApiRoute, Endpoints, delete, get, post, put, routes_of
from exotrio.manager.engine import keys
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.store.base import Store
from exotrio.manager.store.errors import Replaced

MAX_WRITE = 2.0
CACHED = 1.0
"""Seconds for which a check of the writer counts, so that unauthenticated clients cannot keep it busy."""


def operation_routes(
    store: Store, metrics: ManagerMetrics | None, *, open_metrics: bool = False
) -> list[ApiRoute]:
    routes = routes_of(_Probes(store))
    if metrics is not None:
        routes += [
            replace(route, needs=Permission.OPEN) if open_metrics else route
            for route in routes_of(_Scraping(metrics))
        ]
    return routes


class SignInLinks:
    """The route by which a client with the key signs in a browser that does not have it."""

    def __init__(self, make_sign_in_link: Callable[..., Awaitable[str]]) -> None:
        self._make_sign_in_link = make_sign_in_link

    @post(SIGN_IN_PATH, "Let a browser sign in, once", ADMIN, SignInLink)
    async def make_link(self, caller: Caller) -> object:
        return SignInLink(path=await self._make_sign_in_link("", caller=caller))


class KeyRoutes(Endpoints):
    @get(KEYS_PATH, "List named keys", ADMIN, KeyList)
    async def list(self) -> object:
        return await self._store.read_with_deadline(keys.show_keys)

    @put(KEYS_PATH + "/{key}", "Add a named key", ADMIN, KeyInfo)
    async def add(self, caller: Caller, key: str, body: NewKey) -> object:
        if not re.fullmatch(KEY_ID, key):
            raise unprocessable("value_error", ["path", "key"], "eight lower-case letters or digits", key)
        added = await self._store.write_as(caller, keys.add_key, key, body)
        await self._service.keys.read_again()
        return added

    @delete(KEYS_PATH + "/{key}", "Revoke a key, or all of a name", ADMIN, KeyList)
    async def revoke(self, caller: Caller, key: str) -> object:
        revoked = await self._store.write_as(caller, keys.revoke_keys, key)
        await self._service.keys.read_again()
        return KeyList(keys=revoked)


class _Scraping:
    def __init__(self, metrics: ManagerMetrics) -> None:
        self._metrics = metrics

    @get("/metrics", "Metrics for Prometheus", ADMIN, "text/plain")
    async def metrics(self) -> Response:
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        return Response(await self._metrics.render(), headers=headers)


class _Probes:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._checking = trio.Lock()
        self._checked_at = -CACHED
        self._problem = ""

    @get("/livez", "Say that the process serves", OPEN, "text/plain")
    async def livez(self, request: Request) -> Response:
        # This loop serves every request: a response shows that it runs. The database is not checked: if it
        # cannot be reached, restarting all state managers would not help.
        return PlainTextResponse("ok\n")

    @get("/readyz", "Say whether the database can be written", OPEN, "text/plain")
    async def readyz(self, request: Request) -> Response:
        stopping = stopping_event(request.scope)
        problem = "stopping" if stopping is not None and stopping.is_set() else await self._check()
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def _check(self) -> str:
        """Return why nothing can be written; an empty text if something can."""
        async with self._checking:
            if trio.current_time() - self._checked_at >= CACHED:
                self._problem = f"a write did not end within {MAX_WRITE:g} s"
                with trio.move_on_after(MAX_WRITE):
                    try:
                        await self._store.check_writable()
                        self._problem = ""
                    except DatabaseError as error:
                        cause = error.__cause__
                        why = str(cause) if isinstance(cause, Replaced) else type(cause).__name__
                        self._problem = f"the database cannot be written ({why})"
                self._checked_at = trio.current_time()
            return self._problem
