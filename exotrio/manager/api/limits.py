"""Native routes about the limits of a namespace."""

from __future__ import annotations

from exotrio._wire.limits import DeletionOfLimit, LimitChange, LimitDetail, LimitList, RemovedLimit
from exotrio.manager.api.routing import GRAPHS, NS, READ, Endpoints, delete, get, put
from exotrio.manager.engine import limits
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.rules.access import Caller


class Limits(Endpoints):
    @get(NS + "/limits", "List limits", READ, LimitList)
    async def list(self, namespace: str) -> object:
        return LimitList(limits=await self._store.read_with_deadline(list_limits, namespace))

    @get(NS + "/limit/{limit}", "Show a limit: what holds it, and what waits", READ, LimitDetail)
    async def show(self, namespace: str, limit: str) -> object:
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @put(NS + "/limit/{limit}", "Make or change a limit", GRAPHS, LimitDetail)
    async def set(self, caller: Caller, namespace: str, limit: str, body: LimitChange) -> object:
        await self._store.write_as(caller, limits.set_limit, namespace, limit, body)
        return await self._store.read_with_deadline(show_limit, namespace, limit)

    @delete(NS + "/limit/{limit}", "Delete a limit", GRAPHS, RemovedLimit)
    async def remove(self, caller: Caller, namespace: str, limit: str, query: DeletionOfLimit) -> object:
        graphs = await self._store.write_as(caller, limits.remove_limit, namespace, limit, force=query.force)
        return RemovedLimit(name=limit, graphs=graphs)
