"""Native routes about the record of changes: all of it, and that of a namespace."""

from __future__ import annotations

from exotrio._wire.audit import AUDIT_PATH, AuditQuery, ChangePage, ChangesQuery
from exotrio.manager.api.routing import ADMIN, NS, READ, Endpoints, get
from exotrio.manager.queries.audit import list_audit, list_changes


class Audit(Endpoints):
    @get(AUDIT_PATH, "List who changed what, from where", ADMIN, ChangePage)
    async def list(self, query: AuditQuery) -> object:
        return await self._store.read_with_deadline(list_audit, query)

    @get(NS + "/changes", "List who changed what in a namespace", READ, ChangePage)
    async def changes(self, namespace: str, query: ChangesQuery) -> object:
        return await self._store.read_with_deadline(list_changes, namespace, query)
