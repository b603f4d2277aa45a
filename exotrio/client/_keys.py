"""The calls of the public client about named keys."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from pydantic import Field, ValidationError

from exotrio._util.words import readable_errors
from exotrio._wire.keys import KEYS_PATH, KeyInfo, KeyList, NewKey, make_key
from exotrio.client._audit import AuditCalls
from exotrio.errors import ConfigurationError


class AddedKey(KeyInfo):
    """A key that was added, with its text, which no state manager has."""

    text: str = Field(repr=False)


class KeyCalls(AuditCalls):
    """What ``StateManager`` has for named keys. All of it needs the root key, or the scope ``admin``."""

    async def keys(self) -> KeyList:
        """Return the named keys of the state manager, also revoked ones, by name. Needs our server.

        Returns:
            ``keys``, and ``held_by_root``: how many states runtimes hold by the root key.
        """
        return await self._calls.fetch_native(KeyList, "GET", KEYS_PATH)

    async def add_key(self, name: str, scopes: Sequence[str], *, expires: float | None = None) -> AddedKey:
        """Add a key, which may do what its scopes say. Needs our server.

        Its text is made here and not sent: only its digest is. Keep ``text`` of what is returned: it cannot
        be had again. Several keys may have one name: what one of them has claimed, all of them may report.

        Args:
            name: Up to 64 letters, digits, ``.``, ``_`` and ``-``.
            scopes: Such as ``runtime:shop``, ``trigger:shop``, ``read:*``, ``graphs:shop`` or ``admin``.
            expires: Seconds from now on. Defaults to None: never.

        Returns:
            The key with its ``text``.

        Raises:
            ConfigurationError: ``expires`` is out of range, or there is no scope; nothing was sent.
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
            problems = readable_errors(error) if isinstance(error, ValidationError) else [str(error)]
            raise ConfigurationError(f"key {name!r} cannot be added", problems) from None
        path = f"{KEYS_PATH}/{made.id}"
        added = await self._calls.fetch_native(KeyInfo, "PUT", path, body=body)
        return AddedKey.model_construct(**dict(added), text=made.text)

    async def revoke_key(self, name_or_id: str) -> list[KeyInfo]:
        """Revoke the key with this id, or else all keys of this name; return them. Needs our server.

        Within 5 s every state manager refuses them, ends their requests that wait, and their sessions.

        Raises:
            NotFound: there is no such key.

        Cancellation:
            It may have been revoked all the same.
        """
        path = f"{KEYS_PATH}/{quote(name_or_id, safe='')}"
        return (await self._calls.fetch_native(KeyList, "DELETE", path)).keys
