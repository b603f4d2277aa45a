"""Native routes about named keys."""

from __future__ import annotations

import re

from exotrio._wire.keys import KEY_ID, KEYS_PATH, KeyInfo, KeyList, NewKey
from exotrio.manager.api.json import unprocessable
from exotrio.manager.api.routing import ADMIN, Endpoints, delete, get, put
from exotrio.manager.engine import keys
from exotrio.manager.rules.access import Caller


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
