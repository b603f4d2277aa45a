"""The sessions of the dashboard: who is signed in.

The API key opens a session, and so does a link, once. The browser has the random id of its session; we keep
only the hash of the id. A session ends when it is not used for a while, and with this process. Times are
Trio's.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

import trio

IDLE = 12 * 3600.0
"""Seconds after which an unused session ends."""
MAX_AGE = 7 * 24 * 3600.0
"""Seconds after which any session ends."""
LINK_LASTS = 600.0
MAX_SESSIONS = 1_000
MAX_LINKS = 100


@dataclass(slots=True)
class Session:
    """One signed-in browser. Its next page shows ``flashes`` once: messages about what its forms did."""

    opened_at: float
    used_at: float
    flashes: list[str] = field(default_factory=list)


class Sessions:
    """The sessions of one state manager."""

    def __init__(self, key: str) -> None:
        self._key = _hash(key)
        self._sessions: dict[bytes, Session] = {}
        self._links: dict[bytes, float] = {}

    def sign_in(self, key: str) -> str | None:
        """Return the id of a new session, or None if the key is wrong."""
        # Hashes are compared, so that the time it takes depends on neither content nor length of the key.
        return self._open() if hmac.compare_digest(_hash(key), self._key) else None

    def make_link(self) -> str:
        """Return a token that opens one session within the next minutes."""
        token = secrets.token_urlsafe(24)
        _forget_oldest(self._links, MAX_LINKS)
        self._links[_hash(token)] = trio.current_time() + LINK_LASTS
        return token

    def redeem(self, token: str) -> str | None:
        """Return the id of a new session, or None if the token is unknown, used or too old."""
        until = self._links.pop(_hash(token), None)
        return self._open() if until is not None and trio.current_time() <= until else None

    def find(self, session_id: str, *, used: bool = True) -> Session | None:
        """Return the session with this id, unless it ended.

        ``used`` says that a person sent the request: a page that refreshes itself keeps no session alive.
        """
        hashed = _hash(session_id)
        session = self._sessions.get(hashed)
        if session is None:
            return None
        now = trio.current_time()
        if now - session.used_at > IDLE or now - session.opened_at > MAX_AGE:
            del self._sessions[hashed]
            return None
        if used:
            session.used_at = now
        return session

    def end(self, session_id: str) -> None:
        """Sign out."""
        self._sessions.pop(_hash(session_id), None)

    def _open(self) -> str:
        session_id = secrets.token_urlsafe(32)
        _forget_oldest(self._sessions, MAX_SESSIONS)
        now = trio.current_time()
        self._sessions[_hash(session_id)] = Session(now, now)
        return session_id


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def _forget_oldest(entries: dict[bytes, Session] | dict[bytes, float], most: int) -> None:
    while len(entries) >= most:
        del entries[next(iter(entries))]
