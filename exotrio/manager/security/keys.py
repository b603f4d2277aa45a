"""Named keys: which ones there are, as every request asks.

A state manager that was never sent the text of a named key queries nothing. From the first one on, it reads
every ``READ_EVERY`` seconds how often the keys were changed, and reads the keys if that number is new. So a
key that is revoked at one state manager is soon refused by all of them, and its requests in flight end.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256

import trio

from exotrio._util.times import timestamp
from exotrio._wire.keys import KEY_TEXT
from exotrio.errors import DatabaseError
from exotrio.manager.engine.keys import read_keys, use_keys
from exotrio.manager.rules.access import NamedKey
from exotrio.manager.rules.errors import Unavailable
from exotrio.manager.security.refusals import Refusals
from exotrio.manager.store.base import Store

READ_EVERY = 2.0
TRUSTED_FOR = 5.0
"""Seconds after which a named key is refused, with 503, unless the keys were read again."""
READ_AGAIN_AFTER = 0.25
"""Minimum seconds between two readings. An unknown key waits for the next one: it may be new."""
QUERY_LIMIT = 5.0
USED_EVERY = 60.0
"""Seconds between two writes of when a key was used."""
_KEY = re.compile(KEY_TEXT)


class Keys:
    """The named keys of a database, as one state manager knows them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.refusals: Refusals = Refusals()
        # Separate, so that a client that guesses keys uses up no line about what a named key may not do.
        self.refusals_of_wrong_keys: Refusals = Refusals()
        self._known: dict[str, NamedKey] = {}
        # By texts that were verified; of valid keys, so there are no more than of these.
        self._verified: dict[str, NamedKey] = {}
        self._changes: str | None = None
        self._read_at = -math.inf
        self._now_ms = 0
        self._reading = trio.Lock()
        self._wanted = trio.Event()
        self._in_use: dict[str, set[trio.CancelScope]] = {}
        # When each key was used last; it is written once it was not for ``USED_EVERY``.
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}

    def recall(self, text: str) -> NamedKey | None:
        """Return as ``find`` if that needs neither a query nor the digest of the text: None says nothing."""
        # Not compared in constant time: a dict compares texts only if their hashes, with a secret of this
        # process, are the same.
        key = self._verified.get(text)
        if key is None:
            return None
        now = trio.current_time()
        if now - self._read_at >= TRUSTED_FOR or (key.expires_at is not None and self.known(key.id) is None):
            return None
        self._used[key.id] = now
        return key

    async def find(self, text: str) -> NamedKey | None:
        """Return the key with this text, unless it is revoked or expired.

        Raises:
            DatabaseError, Unavailable: the keys could not be read.
        """
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key = await self.get(match["id"])
        if key is None or not _has_text(key, text):
            return None
        self._used[key.id] = trio.current_time()
        self._verified[text] = key
        return key

    def ending(self, text: str) -> str | None:
        """Return when the key with this text was revoked, or expired, if it was; from what was read last.

        Only for the client that has the text: others must not learn which keys there were.
        """
        match = _KEY.fullmatch(text)
        key = None if match is None else self._known.get(match["id"])
        return None if key is None or not _has_text(key, text) else self.ending_of(key)

    def ending_of(self, key: NamedKey) -> str | None:
        """Return as ``ending``, to a client that had the key when its request began."""
        key = self._known.get(key.id, key)
        what, at = ("was revoked", key.revoked_at) if key.revoked_at else ("expired", key.expires_at)
        if at is None or self.known(key.id) is not None:
            return None
        return f"the key {key.name!r} ({key.id}) {what} {timestamp(at, 'seconds')}: give another one"

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
        if key is None or key.revoked_at is not None:
            return None
        if key.expires_at is None:
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
        while True:
            await trio.sleep(READ_EVERY)
            with suppress(DatabaseError):  # the store logs it, and ``get`` refuses what was read too long ago
                await self._read(trio.current_time())
            now = trio.current_time()
            due = [each for each in self._used if now - self._written.get(each, -math.inf) >= USED_EVERY]
            if due:
                self._written |= dict.fromkeys(due, now)
                ages = {each: round(1000 * (now - self._used.pop(each))) for each in sorted(due)}
                self._store.write_later(partial(use_keys, ages=ages))

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
                self._verified.clear()
        for key_id in [each for each in self._in_use if self.known(each) is None]:
            for scope in self._in_use.pop(key_id):
                scope.cancel()


def wrong_key(text: str) -> str:
    """Return words for a key that is not accepted: with its id, if it has one, which is not secret."""
    match = _KEY.fullmatch(text)
    return "a wrong key" if match is None else f"an unknown, revoked or expired key ({match['id']})"


def _has_text(key: NamedKey, text: str) -> bool:
    return hmac.compare_digest(sha256(text.encode()).hexdigest(), key.digest)
