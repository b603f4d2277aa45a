"""The sessions of the dashboard: who is signed in.

The API key opens a session, and so does a link, once. The browser has the random id of its session; the
database has a digest of it, made with the API key (``engine.sign_in``), so a session is known to all state
managers that have the same key, and ends when it is not used for a while.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import trio

from exotrio.manager.engine import sign_in
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Store, View

TRUSTED_FOR = 5.0
"""Seconds for which a session counts as open without being looked up again. It is how long one stays open at
other state managers once it was ended at one."""
WRITTEN_EVERY = 60.0
"""Seconds between two writes of when a session was used."""
LOOK_UP_LIMIT = 10.0
"""Seconds that looking up a session or a link may take."""
ID_BYTES = 32
_ID_LENGTH = len(secrets.token_urlsafe(ID_BYTES))


@dataclass(slots=True)
class _Known:
    """A session that was open when it was looked up. Times are Trio's."""

    found_at: float
    written_at: float = -WRITTEN_EVERY


class Sessions:
    """The sessions of a database, as far as this API key opened them. Each has a digest for its name."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = _hash(key)
        self._known: dict[str, _Known] = {}
        self._ended = 0
        self._looking_up = trio.Lock()

    async def sign_in(self, key: str) -> str | None:
        """Return the id of a new session, or None if the key is wrong."""
        # Hashes are compared, so that the time it takes depends on neither content nor length of the key.
        if not hmac.compare_digest(_hash(key), self._key):
            return None
        session_id = secrets.token_urlsafe(ID_BYTES)
        await self._store.write(sign_in.open_session, self._digest(session_id))
        return session_id

    async def make_link(self) -> str:
        """Return a token that opens one session within the next minutes."""
        token = secrets.token_urlsafe(24)
        await self._store.write(sign_in.add_link, self._digest(token))
        return token

    async def redeem(self, token: str) -> str | None:
        """Return the id of a new session, or None if the token is unknown, used or too old."""
        link, session_id = self._digest(token), secrets.token_urlsafe(ID_BYTES)
        # Looked up first: strangers must not be able to keep the database busy with writes.
        if not await self._look_up(sign_in.is_link, link):
            return None
        opened = await self._store.write(sign_in.redeem, link, self._digest(session_id))
        return session_id if opened else None

    async def find(self, session_id: str) -> str | None:
        """Return the session with this id, unless it ended."""
        if len(session_id) != _ID_LENGTH:
            return None
        session, now = self._digest(session_id), trio.current_time()
        known = self._known.get(session)
        if known is not None and now - known.found_at < TRUSTED_FOR:
            return session
        ended = self._ended
        if not await self._look_up(sign_in.is_open, session):
            self._known.pop(session, None)
            return None
        # Not if one was ended meanwhile: it could be this one.
        if ended == self._ended:
            self._keep(session, now)
        return session

    async def _look_up(self, query: Callable[[View, str], bool], digest: str) -> bool:
        """Run a query for one row, however many searches run or wait.

        One after the other, so that guesses take at most one of the threads that runtimes need.
        """
        with trio.move_on_after(LOOK_UP_LIMIT):
            async with self._looking_up:
                return await self._store.read(query, digest)
        raise Refused(503, f"the session could not be looked up within {LOOK_UP_LIMIT:g} s; try again later")

    def _keep(self, session: str, now: float) -> None:
        known = self._known.pop(session, None) or _Known(now)
        known.found_at = now
        while len(self._known) >= sign_in.MAX_SESSIONS:
            del self._known[next(iter(self._known))]
        self._known[session] = known

    def use(self, session: str) -> None:
        """Keep a session open: a person sent a request. A page that refreshes itself does not count."""
        known, now = self._known.get(session), trio.current_time()
        if known is not None and now - known.written_at >= WRITTEN_EVERY:
            known.written_at = now
            self._store.write_later(partial(sign_in.use_session, session=session))

    async def end(self, session_id: str) -> None:
        """Sign out. Here that holds at once."""
        session = self._digest(session_id)
        await self._store.write(sign_in.end_session, session)
        self._ended += 1
        self._known.pop(session, None)

    def _digest(self, token: str) -> str:
        return hmac.digest(self._key, token.encode("utf-8", "surrogatepass"), "sha256").hex()


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
