"""The calls of the public client about named keys, and about what they changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from pydantic import Field

from exotrio._util.words import readable_errors
from exotrio._wire.audit import AUDIT_PATH, AuditQuery, ChangePage, ChangesQuery
from exotrio._wire.keys import KEYS_PATH, KeyInfo, KeyList, NewKey, make_key
from exotrio.client._calls import checked_query, named
from exotrio.client._events import EventCalls
from exotrio.errors import ConfigurationError


class AddedKey(KeyInfo):
    """A key that was added, with its text, which no state manager has."""

    text: str = Field(repr=False)


class AdministrationCalls(EventCalls):
    """The calls about the record of changes, and about named keys; those about keys need the root key, or the
    scope ``admin``."""

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
        """
        filters = {"who": who, "action": action, "target": target, "since": since, "until": until}
        query = checked_query(ChangesQuery, **filters, limit=limit, before=before)
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
        """
        filters = {"who": who, "action": action, "target": target, "since": since, "until": until}
        query = checked_query(AuditQuery, **filters, namespace=namespace, limit=limit, before=before)
        return await self._calls.fetch_native(ChangePage, "GET", AUDIT_PATH, query)

    async def keys(self) -> KeyList:
        """Return the named keys of the state manager, also revoked ones, by name. Needs our server.

        Returns:
            ``keys``, and ``held_by_root``: how many states runtimes hold by the root key.
        """
        return await self._calls.fetch_native(KeyList, "GET", KEYS_PATH)

    async def add_key(self, name: str, scopes: Sequence[str], *, expires: float | None = None) -> AddedKey:
        """Add a key, which may do what its scopes say. Needs our server.

        Its text is made here and not sent: only its digest is. Keep ``text`` of what is returned: no other
        call returns it. Several keys may have one name: what one of them has claimed, all of them may report.

        Args:
            name: Up to 64 letters, digits, ``.``, ``_`` and ``-``.
            scopes: Such as ``runtime:shop``, ``trigger:shop``, ``read:*``, ``graphs:shop`` or ``admin``.
            expires: Seconds from now on. Defaults to None: never.

        Returns:
            The key with its ``text``.

        Raises:
            RequestRefused: the state manager refuses the name or a scope, or has 1,000 keys.

        Cancellation:
            It may have been added all the same, and its text is lost: revoke it.
        """
        made = make_key()
        try:
            body = NewKey(
                name=name,
                digest=made.digest,
                scopes=list(scopes),
                expires_in_ms=None if expires is None else round(expires * 1000),
            )
        except (OverflowError, ValueError) as error:
            raise ConfigurationError(f"key {name!r} cannot be added", readable_errors(error)) from None
        path = f"{KEYS_PATH}/{made.id}"
        added = await self._calls.fetch_native(KeyInfo, "PUT", path, body=body)
        return AddedKey.model_construct(**dict(added), text=made.text)

    async def revoke_key(self, name_or_id: str) -> list[KeyInfo]:
        """Revoke the key with this id, or else all keys of this name; return them. Needs our server.

        Within 5 s every state manager refuses them, ends their requests that wait, and their sessions.

        Cancellation:
            It may have been revoked all the same.
        """
        named(("key", name_or_id))
        path = f"{KEYS_PATH}/{quote(name_or_id, safe='')}"
        return (await self._calls.fetch_native(KeyList, "DELETE", path)).keys
