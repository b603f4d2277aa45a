"""Named keys: which ones there are, as every request asks, and the use cases that add and revoke them.

The text of a key is ``exo_<id>_<43 random characters>``. Its client makes it, and only its digest is sent and
stored: the text is random, so SHA-256 is enough, and a request to add a key may be repeated.

A state manager that never got such a text queries nothing. From the first one on it reads every
``READ_EVERY`` seconds how often the keys were changed, and the keys when that is news. So a key that is
revoked at one state manager is refused by all of them soon, and the requests that it has in flight end.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256

import trio
from pydantic_core import from_json, to_json

from exotrio._util.times import from_unix_ms
from exotrio._util.words import listed
from exotrio._wire.keys import KEY_TEXT, KeyInfo, KeyList, NewKey
from exotrio.errors import DatabaseError
from exotrio.manager.rules.access import ROOT, NamedKey, check_scope
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound, Unavailable
from exotrio.manager.security.refusals import Refusals
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Store
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_KEYS = 1_000
READ_EVERY = 2.0
TRUSTED_FOR = 5.0
"""Seconds after which a named key is refused, with 503, unless the keys were read again."""
READ_AGAIN_AFTER = 0.25
"""Minimum seconds between two readings. An unknown key waits for the next one: it may be new."""
QUERY_LIMIT = 5.0
USED_EVERY = 60.0
"""Seconds between two writes of which keys were used."""
_KEY = re.compile(KEY_TEXT)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keys:
    """The named keys of a database, as one state manager knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refusals: Refusals = Refusals()
        # Separate, so that a client that guesses keys uses up no line about what a named key may not do.
        self.refusals_of_wrong_keys: Refusals = Refusals()
        self._known: dict[str, NamedKey] = {}
        self._changes: str | None = None
        self._read_at = -math.inf
        self._now_ms = 0
        self._reading = trio.Lock()
        self._wanted = trio.Event()
        self._in_use: dict[str, set[trio.CancelScope]] = {}
        self._used: set[str] = set()

    async def find(self, text: str) -> NamedKey | None:
        """Return the key with this text, unless it is revoked or expired.

        Raises:
            DatabaseError, Unavailable: the keys could not be read.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key = await self.get(match["id"])
        if key is None or not hmac.compare_digest(sha256(text.encode()).hexdigest(), key.digest):
            return None
        self._used.add(key.id)
        return key

    async def get(self, key_id: str) -> NamedKey | None:
        """Return the key with this id, unless it is revoked or expired. Errors as in ``find``."""
        self._wanted.set()
        since = trio.current_time()
        is_new = key_id not in self._known
        if is_new or since - self._read_at >= TRUSTED_FOR:
            with trio.move_on_after(QUERY_LIMIT):
                if is_new:
                    # Not more often: unauthenticated clients must not keep the database busy with guesses.
                    await trio.sleep_until(self._read_at + READ_AGAIN_AFTER)
                await self._read(since)
                return self.known(key_id)
            raise Unavailable(f"the keys could not be read within {QUERY_LIMIT:g} s; try again later")
        return self.known(key_id)

    async def read_again(self) -> None:
        """Read the keys: they were changed here. Errors as of a query."""
        await self._read(trio.current_time())

    def known(self, key_id: str) -> NamedKey | None:
        """Return the key with this id as it was read last, unless it has expired."""
        key = self._known.get(key_id)
        if key is None or key.expires_at is None:
            return key
        now_ms = self._now_ms + 1000 * (trio.current_time() - self._read_at)
        return key if now_ms < key.expires_at else None

    @contextmanager
    def using(self, key: NamedKey) -> Iterator[trio.CancelScope]:
        """Cancel the body when the key is revoked, or expires."""
        scopes = self._in_use.setdefault(key.id, set())
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                yield scope
            finally:
                scopes.discard(scope)
                if not scopes and self._in_use.get(key.id) is scopes:
                    del self._in_use[key.id]

    async def run(self) -> None:
        """Keep the keys up to date once one was presented. Never returns unless cancelled."""
        await self._wanted.wait()
        written_at = trio.current_time()
        while True:
            await trio.sleep(READ_EVERY)
            with suppress(DatabaseError):  # the store logs it, and ``get`` refuses what was read too long ago
                await self._read(trio.current_time())
            if self._used and trio.current_time() - written_at >= USED_EVERY:
                used, self._used, written_at = sorted(self._used), set(), trio.current_time()
                self._store.write_later(partial(use_keys, ids=used))

    async def _read(self, since: float) -> None:
        """Read the keys, unless they were read since then; end the requests of those that are gone."""
        async with self._reading:
            if self._read_at >= since:
                return
            began = trio.current_time()
            changes, now_ms, keys = await self._store.read(read_keys, self._changes)
            self._changes, self._now_ms, self._read_at = changes, now_ms, began
            if keys is not None:
                self._known = {key.id: key for key in keys}
        for key_id in [each for each in self._in_use if self.known(each) is None]:
            for scope in self._in_use.pop(key_id):
                scope.cancel()


def wrong_key(text: str) -> str:
    """Return words for a key that is not accepted: with its id, if it has one, which is not secret."""
    match = _KEY.fullmatch(text)
    return "a wrong key" if match is None else f"an unknown, revoked or expired key ({match['id']})"


# -- in the database


def read_keys(view: View, known: str | None) -> tuple[str, int, list[NamedKey] | None]:
    """Return how often the keys were changed, the time in Unix ms, and those that are not revoked; None if
    ``known`` says that nothing was changed."""
    row = view.row("SELECT value FROM meta WHERE key = 'keys'")
    changes = "0" if row is None else str(row["value"])
    if changes == known:
        return changes, view.now_ms, None
    rows = view.execute("SELECT id, name, digest, scopes, expires_at FROM keys WHERE revoked_at IS NULL")
    keys = [
        NamedKey(
            id=row["id"],
            name=row["name"],
            digest=row["digest"],
            scopes=frozenset(from_json(row["scopes"])),
            expires_at=row["expires_at"],
        )
        for row in rows
    ]
    return changes, view.now_ms, keys


def add_key(tx: Transaction, key_id: str, new: NewKey) -> KeyInfo:
    """Add a key; nothing happens if it is there already.

    Raises:
        InvalidRequest: for its name or its scopes.
        Conflict: there is another key with this id, or there are too many keys.
    """
    if not _NAME.fullmatch(new.name) or new.name == ROOT:
        raise InvalidRequest(
            f"a key cannot have the name {new.name!r}: use up to 64 letters, digits, '.', '_' and '-',"
            f" and not {ROOT!r}"
        )
    scopes = to_json(sorted({check_scope(scope) for scope in new.scopes})).decode()
    expires_at = None if new.expires_in_ms is None else tx.now_ms + new.expires_in_ms
    # First: it lets one transaction after the other add a key.
    _count_change(tx)
    if (row := tx.row("SELECT * FROM keys WHERE id = ?", (key_id,))) is not None:
        if (row["name"], row["digest"], row["scopes"]) != (new.name, new.digest, scopes):
            raise Conflict(f"there is another key with the id {key_id}; make a new one")
        return _info(row, tx.now_ms)
    ended = "WHERE revoked_at IS NOT NULL OR expires_at <= ?"
    if tx.one("SELECT count(*) FROM keys")[0] >= MAX_KEYS:
        tx.trim("keys", f"{ended} ORDER BY created_at", (tx.now_ms,))
        if tx.one("SELECT count(*) FROM keys")[0] >= MAX_KEYS:
            raise Conflict(f"there are {MAX_KEYS:,} keys already; revoke some first")
    columns = ("id", "name", "digest", "scopes", "created_at", "expires_at")
    tx.insert("keys", columns, [(key_id, new.name, new.digest, scopes, tx.now_ms, expires_at)])
    tx.record("key.add", "", new.name, f"{key_id}: {listed(from_json(scopes))}")
    return _info(tx.one("SELECT * FROM keys WHERE id = ?", (key_id,)), tx.now_ms)


def revoke_keys(tx: Transaction, name_or_id: str) -> list[KeyInfo]:
    """Revoke the key with this id, or else all keys of this name, and return them."""
    _count_change(tx)
    rows = tx.execute(
        f"SELECT * FROM keys WHERE id = ? OR name = ? ORDER BY created_at{tx.for_update('keys')}",
        (name_or_id, name_or_id),
    ).fetchall()
    chosen = [row for row in rows if row["id"] == name_or_id] or rows
    if not chosen:
        raise NotFound(f"there is no key with the name or the id {name_or_id!r}")
    tx.execute(
        f"UPDATE keys SET revoked_at = ? WHERE revoked_at IS NULL AND {tx.any_of('id')}",
        (tx.now_ms, tx.items([row["id"] for row in chosen])),
    )
    if ended := [row["id"] for row in chosen if row["revoked_at"] is None]:
        tx.record("key.revoke", "", chosen[0]["name"], listed(ended))
    ids = {row["id"] for row in chosen}
    return [key for key in list_keys(tx) if key.id in ids]


def list_keys(view: View) -> list[KeyInfo]:
    """Return all keys, by their names."""
    rows = view.execute("SELECT * FROM keys ORDER BY name, created_at, id")
    return [_info(row, view.now_ms) for row in rows]


def show_keys(view: View) -> KeyList:
    """Return all keys, and how many states runtimes hold by the root key."""
    held = "SELECT count(*) FROM states WHERE status = 'QUEUED' AND owner IS NULL AND manager IS NULL"
    return KeyList(keys=list_keys(view), held_by_root=view.one(held)[0])


def use_keys(tx: Transaction, ids: Sequence[str]) -> None:
    """Store that these keys were used."""
    tx.execute(f"UPDATE keys SET used_at = ? WHERE {tx.any_of('id')}", (tx.now_ms, tx.items(ids)))


def _count_change(tx: Transaction) -> None:
    """Let all state managers read the keys again."""
    tx.execute(
        "INSERT INTO meta VALUES ('keys', '1') ON CONFLICT (key)"
        " DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT)"
    )


def _info(row: Row, now_ms: int) -> KeyInfo:
    ends = row["revoked_at"], row["expires_at"]
    return KeyInfo(
        id=row["id"],
        name=row["name"],
        scopes=from_json(row["scopes"]),
        created_at=from_unix_ms(row["created_at"]),
        expires_at=from_unix_ms(row["expires_at"]),
        revoked_at=from_unix_ms(row["revoked_at"]),
        used_at=from_unix_ms(row["used_at"]),
        is_valid=all(end is None or now_ms < end for end in ends),
    )
