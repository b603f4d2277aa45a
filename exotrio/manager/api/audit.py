"""Native routes about the record of changes: all of it, and that of a namespace."""

from __future__ import annotations

from exotrio._wire.audit import AUDIT_PATH, AuditQuery, ChangePage, ChangesQuery
from exotrio._wire.vocabulary import NATIVE_ROOT
from exotrio.manager.api.routing import ApiRoute
from exotrio.manager.queries.audit import list_audit, list_changes
from exotrio.manager.rules.access import Permission
from exotrio.manager.store.port import Store


class Audit:
    def __init__(self, store: Store) -> None:
        self._store = store

    @ApiRoute("GET", AUDIT_PATH, "List who changed what, from where", ChangePage, needs=Permission.ADMIN)
    async def list(self, query: AuditQuery) -> object:
        return await self._store.read_with_deadline(list_audit, query)

    @ApiRoute(
        "GET",
        NATIVE_ROOT + "/namespace/{namespace}/changes",
        "List who changed what in a namespace",
        ChangePage,
        needs=Permission.READ,
    )
    async def changes(self, namespace: str, query: ChangesQuery) -> object:
        return await self._store.read_with_deadline(list_changes, namespace, query)
