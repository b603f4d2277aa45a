"""Native routes about the limits of a namespace."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from exotrio._wire.limits import DeletionOfLimit, LimitChange, LimitDetail, LimitList, RemovedLimit
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.json import reply
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.engine import limits
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.rules.access import Permission
from exotrio.manager.security.access import caller_of
from exotrio.manager.store.port import Store

NS = NATIVE_ROOT + "/namespace/{namespace}"


class Limits:
    def __init__(self, store: Store) -> None:
        self._store = store

    @ApiRoute("GET", NS + "/limits", "List limits", LimitList, needs=Permission.READ)
    async def list(self, request: Request, namespace: str) -> Response:
        return reply(LimitList(limits=await self._store.read_with_deadline(list_limits, namespace)))

    @ApiRoute(
        "GET",
        NS + "/limit/{limit}",
        "Show a limit: what holds it, and what waits",
        LimitDetail,
        needs=Permission.READ,
    )
    async def show(self, request: Request, namespace: str, limit: str) -> Response:
        return reply(await self._store.read_with_deadline(show_limit, namespace, limit))

    @ApiRoute("PUT", NS + "/limit/{limit}", "Make or change a limit", LimitDetail, needs=Permission.GRAPHS)
    async def set(self, request: Request, namespace: str, limit: str, body: LimitChange) -> Response:
        await self._store.write_as(caller_of(request.scope), limits.set_limit, namespace, limit, body)
        return reply(await self._store.read_with_deadline(show_limit, namespace, limit))

    @ApiRoute("DELETE", NS + "/limit/{limit}", "Delete a limit", RemovedLimit, needs=Permission.GRAPHS)
    async def remove(self, request: Request, namespace: str, limit: str, query: DeletionOfLimit) -> Response:
        graphs = await self._store.write_as(
            caller_of(request.scope), limits.remove_limit, namespace, limit, force=query.force
        )
        return reply(RemovedLimit(name=limit, graphs=graphs))
