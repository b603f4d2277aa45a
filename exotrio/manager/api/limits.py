"""Native routes about the limits of a namespace."""

from __future__ import annotations

from exotrio._wire.limits import DeletionOfLimit, LimitChange, LimitDetail, LimitList, RemovedLimit
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.engine import limits
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.store.port import Store

NS = NATIVE_ROOT + "/namespace/{namespace}"


class Limits:
    def __init__(self, store: Store) -> None:
        self._store = store

    @ApiRoute("GET", NS + "/limits", "List limits", LimitList, needs=Permission.READ)
    async def list(self, namespace: str) -> object:
        return LimitList(limits=await self._store.read_with_deadline(list_limits, namespace))

    @ApiRoute(
        "GET",
        NS + "/limit/{limit}",
        "Show a limit: what holds it, and what waits",
        LimitDetail,
        needs=Permission.READ,
    )
    async def show(self, namespace: str, limit: str) -> object:
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @ApiRoute("PUT", NS + "/limit/{limit}", "Make or change a limit", LimitDetail, needs=Permission.GRAPHS)
    async def set(self, caller: Caller, namespace: str, limit: str, body: LimitChange) -> object:
        await self._store.write_as(caller, limits.set_limit, namespace, limit, body)
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @ApiRoute("DELETE", NS + "/limit/{limit}", "Delete a limit", RemovedLimit, needs=Permission.GRAPHS)
    async def remove(self, caller: Caller, namespace: str, limit: str, query: DeletionOfLimit) -> object:
        graphs = await self._store.write_as(caller, limits.remove_limit, namespace, limit, force=query.force)
        return RemovedLimit(name=limit, graphs=graphs)
