"""Signing in to the dashboard: sessions, links that open one once, and wrong keys.

Rows of three small tables, so that all state managers on a database know the same. What browsers have, and
what was tried as a key, is stored as a digest only, which callers make with the API key: who reads the
database can neither sign in nor find out what was tried, and another key ends all sessions.
"""

from __future__ import annotations

from pydantic_core import from_json, to_json

from exotrio.manager.engine.workers import MAX_TRIMMED, trim
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Conflict, Transaction, View

IDLE_MS = 12 * 3_600_000
"""After this an unused session ends."""
MAX_AGE_MS = 7 * 24 * 3_600_000
"""After this any session ends."""
LINK_LASTS_MS = 600_000
MAX_SESSIONS = 1_000
MAX_LINKS = 100
MAX_FLASHES = 20
TRIES = 10
"""Different wrong keys from one network that are refused without a delay."""
FORGOTTEN_AFTER_MS = 10_000
"""After this one of them is forgotten."""
MAX_NETWORKS = 10_000

# -- sessions


def open_session(tx: Transaction, session: str) -> None:
    """Begin a session. The first of too many ends."""
    trim(tx, "sessions", "WHERE used_at < ? OR opened_at < ? LIMIT ?", (*_oldest(tx), MAX_TRIMMED))
    trim(tx, "sessions", "ORDER BY opened_at DESC LIMIT ? OFFSET ?", (MAX_TRIMMED, MAX_SESSIONS - 1))
    tx.insert("sessions", ("id", "opened_at", "used_at"), [(session, tx.now_ms, tx.now_ms)])


def is_open(view: View, session: str) -> bool:
    found = view.row(
        "SELECT id FROM sessions WHERE id = ? AND used_at >= ? AND opened_at >= ?", (session, *_oldest(view))
    )
    return found is not None


def _oldest(view: View) -> tuple[int, int]:
    return view.now_ms - IDLE_MS, view.now_ms - MAX_AGE_MS


def use_session(tx: Transaction, session: str) -> None:
    now = tx.now_ms
    tx.execute("UPDATE sessions SET used_at = ? WHERE id = ? AND used_at < ?", (now, session, now))


def end_session(tx: Transaction, session: str) -> None:
    tx.execute("DELETE FROM sessions WHERE id = ?", (session,))


def add_flash(tx: Transaction, session: str, flash: str) -> None:
    """Add a message that the next page of this session shows. Of too many the last are kept."""
    flashes = [*_locked_flashes(tx, session), flash][-MAX_FLASHES:]
    tx.execute("UPDATE sessions SET flashes = ? WHERE id = ?", (to_json(flashes).decode(), session))


def has_flashes(view: View, session: str) -> bool:
    """Return whether there are messages for the next page."""
    return view.row("SELECT id FROM sessions WHERE id = ? AND flashes <> '[]'", (session,)) is not None


def take_flashes(tx: Transaction, session: str) -> list[str]:
    """Return the messages for the next page, and forget them."""
    flashes = _locked_flashes(tx, session)
    tx.execute("UPDATE sessions SET flashes = '[]' WHERE id = ?", (session,))
    return flashes


def _locked_flashes(tx: Transaction, session: str) -> list[str]:
    row = tx.row(f"SELECT flashes FROM sessions WHERE id = ?{tx.for_update('sessions')}", (session,))
    flashes: list[str] = [] if row is None else from_json(row["flashes"])
    return flashes


# -- links


def add_link(tx: Transaction, link: str) -> None:
    """Keep a link that opens one session within ``LINK_LASTS_MS``. The first of too many opens none."""
    trim(tx, "sign_in_links", "WHERE until < ? LIMIT ?", (tx.now_ms, MAX_TRIMMED))
    trim(tx, "sign_in_links", "ORDER BY until DESC LIMIT ? OFFSET ?", (MAX_TRIMMED, MAX_LINKS - 1))
    tx.insert("sign_in_links", ("id", "until"), [(link, tx.now_ms + LINK_LASTS_MS)])


def is_link(view: View, link: str) -> bool:
    """Return whether a link may still open a session."""
    query = "SELECT id FROM sign_in_links WHERE id = ? AND until >= ?"
    return view.row(query, (link, view.now_ms)) is not None


def redeem(tx: Transaction, link: str, session: str) -> bool:
    """Begin a session by a link; return False if that is unknown, used or too old."""
    deleted = tx.execute("DELETE FROM sign_in_links WHERE id = ? AND until >= ?", (link, tx.now_ms)).rowcount
    if deleted:
        open_session(tx, session)
    return bool(deleted)


# -- wrong keys


def count_wrong_key(tx: Transaction, network: str, key: str) -> tuple[int, list[str]]:
    """Count a wrong key from a network; return when all of them are forgotten, in ms, and the first of them.

    Only different keys count.
    """
    row = _locked_network(tx, network)
    if row is None:
        trim(tx, "wrong_keys", "WHERE until < ? LIMIT ?", (tx.now_ms, MAX_TRIMMED), key="network")
        too_many = "ORDER BY until DESC LIMIT ? OFFSET ?"
        trim(tx, "wrong_keys", too_many, (MAX_TRIMMED, MAX_NETWORKS - 1), key="network")
        columns = ("network", "until", "keys")
        tx.insert("wrong_keys", columns, [(network, tx.now_ms, "[]")], "(network) DO NOTHING")
        row = _locked_network(tx, network)
        if row is None:
            raise Conflict("wrong_keys")
    left: int = max(0, row["until"] - tx.now_ms)
    keys: list[str] = from_json(row["keys"]) if left else []
    if key not in keys:
        left = min(left + FORGOTTEN_AFTER_MS, (TRIES + 1) * FORGOTTEN_AFTER_MS)
        keys = [*keys, key][:TRIES]
        tx.execute(
            "UPDATE wrong_keys SET until = ?, keys = ? WHERE network = ?",
            (tx.now_ms + left, to_json(keys).decode(), network),
        )
    return left, keys


def _locked_network(tx: Transaction, network: str) -> Row | None:
    found = f"SELECT until, keys FROM wrong_keys WHERE network = ?{tx.for_update('wrong_keys')}"
    return tx.row(found, (network,))
