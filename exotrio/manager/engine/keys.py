"""Named keys in the database: add, revoke, list and read them.

The text of a key is ``exo_<id>_<43 random characters>``. Its client makes it, and only its digest is sent and
stored: the text is random, so SHA-256 is enough, and a request to add a key may be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic_core import from_json, to_json

from exotrio._util.times import from_unix_ms
from exotrio._util.words import listed
from exotrio._wire.keys import KeyInfo, KeyList, NewKey
from exotrio.manager.rules.access import ROOT, NamedKey, check_scope
from exotrio.manager.rules.errors import Conflict, InvalidRequest, NotFound
from exotrio.manager.store.driver import Row, count_change
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_KEYS = 1_000
"""Named keys of a database, valid or not."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_keys(view: View, known: str | None) -> tuple[str, int, list[NamedKey] | None]:
    """Return how often the keys were changed, the time in Unix ms, and the keys, also those that ended; None
    if ``known`` says that nothing was changed."""
    row = view.row("SELECT value FROM meta WHERE key = 'keys'")
    changes = "0" if row is None else str(row["value"])
    if changes == known:
        return changes, view.now_ms, None
    rows = view.execute("SELECT id, name, digest, scopes, expires_at, revoked_at FROM keys")
    keys = [
        NamedKey(
            id=row["id"],
            name=row["name"],
            digest=row["digest"],
            scopes=frozenset(from_json(row["scopes"])),
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
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
    if not _NAME.fullmatch(new.name) or new.name.lower() == ROOT:
        raise InvalidRequest(
            f"a key cannot have the name {new.name!r}: use up to 64 letters, digits, '.', '_' and '-',"
            f" and not {ROOT!r}"
        )
    scopes = to_json(sorted({check_scope(scope) for scope in new.scopes})).decode()
    expires_at = None if new.expires_in_ms is None else tx.now_ms + new.expires_in_ms
    # First: it lets one transaction after the other add a key.
    count_change(tx, "keys")
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
    count_change(tx, "keys")
    rows = tx.execute(
        f"SELECT * FROM keys WHERE id = ? OR name = ? ORDER BY id{tx.for_update('keys')}",
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


def use_keys(tx: Transaction, ages: Mapping[str, int]) -> None:
    """Store when these keys were used: how many ms ago."""
    # Another state manager may have stored a later use.
    rows = [(tx.now_ms - age, key_id, tx.now_ms - age) for key_id, age in ages.items()]
    tx.executemany("UPDATE keys SET used_at = ? WHERE id = ? AND coalesce(used_at, 0) < ?", rows)


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
