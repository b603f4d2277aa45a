"""Native routes about named keys."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from exotrio._wire.keys import KEY_ID, KEYS_PATH, KeyInfo, KeyList, NewKey
from exotrio.manager.api.json import reply, unprocessable
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.engine import keys
from exotrio.manager.rules.access import Permission
from exotrio.manager.security.access import caller_of
from exotrio.manager.service import Service


class KeyRoutes:
    def __init__(self, service: Service) -> None:
        self._store = service.store
        self._keys = service.keys

    @ApiRoute("GET", KEYS_PATH, "List named keys", KeyList, needs=Permission.ADMIN)
    async def list(self, request: Request) -> Response:
        return reply(await self._store.read_with_deadline(keys.show_keys))

    @ApiRoute("PUT", KEYS_PATH + "/{key}", "Add a named key", KeyInfo, needs=Permission.ADMIN)
    async def add(self, request: Request, key: str, body: NewKey) -> Response:
        if not re.fullmatch(KEY_ID, key):
            raise unprocessable("value_error", ["path", "key"], "eight lower-case letters or digits", key)
        added = await self._store.write_as(caller_of(request.scope), keys.add_key, key, body)
        await self._keys.read_again()
        return reply(added)

    @ApiRoute(
        "DELETE", KEYS_PATH + "/{key}", "Revoke a key, or all of a name", KeyList, needs=Permission.ADMIN
    )
    async def revoke(self, request: Request, key: str) -> Response:
        revoked = await self._store.write_as(caller_of(request.scope), keys.revoke_keys, key)
        await self._keys.read_again()
        return reply(KeyList(keys=revoked))
