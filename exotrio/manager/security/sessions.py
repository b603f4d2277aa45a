"""Sessions of the dashboard, and the links that open one session each.

The API key opens a session, and so does a link, once. A browser has the random id of its session. The
database has only digests of ids and links, made with the API key: all state managers that have the key know
the same sessions, a reader of the database cannot sign in, and another key ends all sessions.

A session that a named key opened, itself or by a link, has the id of that key and a dot before its id and
before its digest. It may do what that key may, and ends with it. State managers of version 6 do not find such
sessions, which would be the root key's there.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import trio
from pydantic_core import from_json, to_json

from exotrio.manager.rules.access import IN_PROCESS, Caller, NamedKey
from exotrio.manager.rules.errors import Unavailable
from exotrio.manager.security.keys import Keys
from exotrio.manager.store.base import Store
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

IDLE_MS = 12 * 3_600_000
"""After this an unused session ends."""
MAX_AGE_MS = 7 * 24 * 3_600_000
"""After this any session ends."""
LINK_LASTS_MS = 600_000
MAX_SESSIONS = 1_000
MAX_SESSIONS_OF_KEY = 100
"""Of one named key, so that its sessions end none of others."""
MAX_LINKS = 100
MAX_FLASHES = 20
TRUSTED_FOR = 5.0
"""Seconds for which a session counts as open without another query. A session that was ended at one state
manager stays open at the others for as long."""
WRITTEN_EVERY = 60.0
"""Seconds between two writes of when a session was used."""
QUERY_LIMIT = 10.0
"""Seconds that finding a session or a link may take."""
ID_BYTES = 32
_ID_LENGTH = len(secrets.token_urlsafe(ID_BYTES))


@dataclass(slots=True)
class _OpenSession:
    """A session that was open when the database was last queried. Times are Trio's."""

    queried_at: float
    written_at: float = -WRITTEN_EVERY


class Sessions:
    """The sessions in a database that this API key opened, or named keys. A session is named by the digest
    of its id."""

    def __init__(self, store: Store, key: str, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._key = _hash(key)
        self._open: dict[str, _OpenSession] = {}
        self._ended = 0
        self._querying = trio.Lock()

    async def sign_in(self, key: str, caller: Caller = IN_PROCESS) -> str | None:
        """Return the id of a new session, or None if the key is wrong. ``caller`` is who sent it."""
        # Hashes are compared, so that the time it takes depends on neither content nor length of the key.
        named = None
        if not hmac.compare_digest(_hash(key), self._key) and (named := await self._keys.find(key)) is None:
            return None
        session_id = _of_key(named, secrets.token_urlsafe(ID_BYTES))
        await self._store.write_as(replace(caller, key=named), open_session, self._digest(session_id))
        return session_id

    async def make_link(self, caller: Caller = IN_PROCESS) -> str:
        """Return a token that opens one session, of the caller's key, within the next minutes."""
        token = _of_key(caller.key, secrets.token_urlsafe(24))
        await self._store.write_as(caller, add_link, self._digest(token))
        return token

    async def redeem(self, token: str, caller: Caller = IN_PROCESS) -> str | None:
        """Return the id of a new session, or None if the token is unknown, used or too old."""
        link, key_id = self._digest(token), _key_of(token)
        key = None if key_id is None else await self._keys.get(key_id)
        session_id = _of_key(key, secrets.token_urlsafe(ID_BYTES))
        if key_id is not None and key is None:
            return None
        # Read first: unauthenticated clients must not be able to keep the database busy with writes.
        if not await self._query(is_link_valid, link):
            return None
        caller = replace(caller, key=key)
        opened = await self._store.write_as(caller, redeem_link, link, self._digest(session_id))
        return session_id if opened else None

    async def find(self, session_id: str) -> str | None:
        """Return the session with this id, unless it ended, or its key did."""
        key_id = _key_of(session_id)
        if len(session_id) != _ID_LENGTH + (0 if key_id is None else len(key_id) + 1):
            return None
        if key_id is not None and await self._keys.get(key_id) is None:
            return None
        session, now = self._digest(session_id), trio.current_time()
        known = self._open.get(session)
        if known is not None and now - known.queried_at < TRUSTED_FOR:
            return session
        ended = self._ended
        if not await self._query(is_session_open, session):
            self._open.pop(session, None)
            return None
        # A session that was ended during the query may be this one: then it must not be kept as open.
        if ended == self._ended:
            self._keep(session, now)
        return session

    def key_of(self, session: str) -> NamedKey | None:
        """Return the named key of a session that was found just now; None for the root key.

        Raises:
            Unavailable: the key has ended since.
        """
        key_id = _key_of(session)
        key = None if key_id is None else self._keys.known(key_id)
        if key_id is not None and key is None:
            raise Unavailable("the key of this session has ended")
        return key

    async def _query(self, query: Callable[[View, str], bool], digest: str) -> bool:
        """Run a query for one row. It does not wait for searches, which have other threads.

        One query at a time, so that guesses take at most one of the threads that runtimes need.
        """
        with trio.move_on_after(QUERY_LIMIT):
            async with self._querying:
                return await self._store.read(query, digest)
        raise Unavailable(f"the session could not be found within {QUERY_LIMIT:g} s; try again later")

    def _keep(self, session: str, now: float) -> None:
        known = self._open.pop(session, None) or _OpenSession(now)
        known.queried_at = now
        while len(self._open) >= MAX_SESSIONS:
            del self._open[next(iter(self._open))]
        self._open[session] = known

    def use(self, session: str) -> None:
        """Keep a session open: a person sent a request. A page that refreshes itself does not count."""
        known, now = self._open.get(session), trio.current_time()
        if known is not None and now - known.written_at >= WRITTEN_EVERY:
            known.written_at = now
            self._store.write_later(partial(use_session, session=session))

    async def end(self, session_id: str) -> None:
        """Sign out. At this state manager the session ends at once."""
        session = self._digest(session_id)
        await self._store.write(end_session, session)
        self._ended += 1
        self._open.pop(session, None)

    def _digest(self, token: str) -> str:
        digest = hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), "sha256").hex()
        return digest if (key_id := _key_of(token)) is None else f"{key_id}.{digest}"


def _of_key(key: NamedKey | None, token: str) -> str:
    return token if key is None else f"{key.id}.{token}"


def _key_of(token: str) -> str | None:
    """Return the id of the named key that a token, or the digest of one, belongs to; None: the root key."""
    key_id, dot, _ = token.partition(".")
    return key_id if dot else None


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


# -- in the database


def open_session(tx: Transaction, session: str) -> None:
    """Begin a session. If there are too many, or too many of its named key, the oldest of those ends."""
    tx.trim("sessions", "WHERE used_at < ? OR opened_at < ?", _oldest(tx))
    if (key_id := _key_of(session)) is not None:
        of_key = "WHERE id LIKE ? ORDER BY opened_at DESC"
        tx.trim("sessions", of_key, (f"{key_id}.%",), beyond=MAX_SESSIONS_OF_KEY - 1)
    tx.trim("sessions", "ORDER BY opened_at DESC", beyond=MAX_SESSIONS - 1)
    tx.insert("sessions", ("id", "opened_at", "used_at"), [(session, tx.now_ms, tx.now_ms)])
    tx.record("session.open", "", "")


def is_session_open(view: View, session: str) -> bool:
    query = "SELECT id FROM sessions WHERE id = ? AND used_at >= ? AND opened_at >= ?"
    return view.row(query, (session, *_oldest(view))) is not None


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


def add_link(tx: Transaction, link: str) -> None:
    """Keep a link that opens one session within ``LINK_LASTS_MS``. Of too many the oldest is deleted."""
    tx.trim("sign_in_links", "WHERE until < ?", (tx.now_ms,))
    tx.trim("sign_in_links", "ORDER BY until DESC", beyond=MAX_LINKS - 1)
    tx.insert("sign_in_links", ("id", "until"), [(link, tx.now_ms + LINK_LASTS_MS)])
    tx.record("link.make", "", "")


def is_link_valid(view: View, link: str) -> bool:
    """Return whether a link may still open a session."""
    query = "SELECT id FROM sign_in_links WHERE id = ? AND until >= ?"
    return view.row(query, (link, view.now_ms)) is not None


def redeem_link(tx: Transaction, link: str, session: str) -> bool:
    """Begin a session by a link; return False if that is unknown, used or too old."""
    deleted = tx.execute("DELETE FROM sign_in_links WHERE id = ? AND until >= ?", (link, tx.now_ms)).rowcount
    if deleted:
        open_session(tx, session)
    return bool(deleted)
