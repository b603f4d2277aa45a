"""The calls of the public client about the record of changes."""

from __future__ import annotations

from datetime import datetime

from exotrio._wire.audit import AUDIT_PATH, AuditQuery, ChangePage, ChangesQuery
from exotrio.client._calls import checked_query
from exotrio.client._events import EventCalls


class AuditCalls(EventCalls):
    """What ``StateManager`` has for the record of changes."""

    async def changes(
        self,
        *,
        who: str | None = None,
        action: str | None = None,
        target: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> ChangePage:
        """Return who changed what in the namespace, newest first. Needs our server.

        Args:
            who: Only changes by the key with this name or id, also through the dashboard.
            action: Only actions that begin with this: ``run.cancel``, or ``run`` for all on runs.
            target: Only targets whose name or id begins with this.
            since: Only changes then or later; a ``datetime`` with its time zone.
            until: Only changes before then.
            limit: Maximum number of changes in the page, up to 1,000.
            before: ``next`` of the page before, for the following one.

        Returns:
            A page without where the requests came from; its ``next`` is None if it is the last one.

        Raises:
            ConfigurationError: an argument is out of range, or a time has no time zone; nothing was sent.
        """
        query = checked_query(
            ChangesQuery,
            who=who,
            action=action,
            target=target,
            since=since,
            until=until,
            limit=limit,
            before=before,
        )
        return await self._calls.fetch_native(ChangePage, "GET", ("changes",), query)

    async def audit(
        self,
        *,
        who: str | None = None,
        action: str | None = None,
        target: str | None = None,
        namespace: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> ChangePage:
        """Return who changed what in all namespaces, and from where, newest first.

        Needs our server, and the root key or the scope ``admin``. The state manager keeps the last 100,000
        changes, and these as long as runs.

        Args:
            namespace: Only changes in this namespace. Defaults to all, and to what belongs to none.
            who, action, target, since, until, limit, before: As for ``changes``.

        Returns:
            A page; its ``next`` is None if it is the last one.

        Raises:
            ConfigurationError: as for ``changes``.
        """
        query = checked_query(
            AuditQuery,
            who=who,
            action=action,
            target=target,
            since=since,
            until=until,
            namespace=namespace,
            limit=limit,
            before=before,
        )
        return await self._calls.fetch_native(ChangePage, "GET", AUDIT_PATH, query)
