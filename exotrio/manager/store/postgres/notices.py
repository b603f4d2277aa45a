"""What state managers on one database tell each other, by NOTIFY: what was announced, and that they live.

A NOTIFY takes a lock that all of a server's share, so it is not part of use cases: one connection sends what
was announced since it sent the last one. Nothing is sent while no other manager is heard of, nor behind a
pooler, where nobody can listen. What is lost, polling finds (``topics``).
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import psycopg
import trio
from pydantic_core import from_json, to_json

from exotrio._util.backoff import OUTAGE
from exotrio.manager.store.effects import Topic
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.connection import Connection
from exotrio.manager.store.postgres.epochs import Epochs

logger = logging.getLogger("exotrio.manager.store")

INTERVAL = 5.0
"""Seconds between two measures of the clock, each with a sign of life."""
SILENCE = 3 * INTERVAL
"""Seconds without a sign of life after which another manager, or a listening connection, counts as gone."""
ANSWER = 2.0
"""Seconds in which others, who answer the first sign of life at once, are expected to be heard of."""
MAX_PAYLOAD = 7_000
"""Bytes; PostgreSQL refuses 8000."""

Hear = Callable[[set[Topic] | None], None]


class Notices:
    """Tells other managers what this one announced, and hears what they did."""

    def __init__(self, epochs: Epochs, clock: ServerClock, *, channel: str, listens: bool) -> None:
        self._epochs = epochs
        self.clock = clock
        self._channel = channel
        self._listens = listens
        self._own = secrets.token_hex(8)
        self._untold: set[Topic] = set()
        self._has_news = False
        self._says_hello = False
        self._wakeup = trio.Event()
        # Until it is known whether there are others, as if there were.
        self._others_until = trio.current_time() + ANSWER
        self._known: dict[str, float] = {}

    def publish(self, topics: Iterable[Topic]) -> None:
        """Tell others that something was written, and what was announced. Returns at once."""
        if self._listens and trio.current_time() < self._others_until:
            self._untold.update(topics)
            self._has_news = True
            self._wakeup.set()

    async def run(self, hear: Hear) -> None:
        """Send, listen and keep the clock right. Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            if self._listens:
                nursery.start_soon(self._listen, hear)

    async def _send(self) -> None:
        sender = _Owner(self._connect_sender, self._epochs.has)
        failures = 0
        measure_at = -math.inf
        try:
            while True:
                try:
                    if trio.current_time() >= measure_at:
                        await self._use(sender, self.clock.measure)
                        measure_at = trio.current_time() + INTERVAL
                        self._says_hello = self._listens
                    if self._has_news or self._says_hello:
                        topics, has_news = self._untold, self._has_news
                        self._untold, self._has_news, self._says_hello = set(), False, False
                        await self._use(sender, partial(self._notify, topics=topics, has_news=has_news))
                    failures = 0
                except psycopg.Error as error:
                    failures += 1
                    logger.debug("other managers are not told of news: %s", self._epochs.server.reason(error))
                    sender.end()
                    sender = _Owner(self._connect_sender, self._epochs.has)
                    # Others find it by polling.
                    self._untold.clear()
                    await trio.sleep(OUTAGE.pause(failures))
                    continue
                self._wakeup = trio.Event()
                if not (self._has_news or self._says_hello):
                    with trio.move_on_at(measure_at):
                        await self._wakeup.wait()
        finally:
            sender.end()

    async def _listen(self, hear: Hear) -> None:
        failures = 0
        while True:
            began = trio.current_time()
            listener = _Owner(partial(self._epochs.connect, writes=False), self._epochs.has)
            try:
                connection = await self._use(listener, self._begin_to_listen)
                # What was announced before is not heard any more.
                hear(None)
                self._others_until = max(self._others_until, trio.current_time() + ANSWER)
                self._say_hello()
                await self._hear_all(connection, hear)
            except psycopg.Error as error:
                logger.debug("other managers are not heard: %s", self._epochs.server.reason(error))
            finally:
                listener.end()
            failures = 0 if trio.current_time() - began >= SILENCE else failures + 1
            await trio.sleep(OUTAGE.pause(failures))

    async def _hear_all(self, connection: Connection, hear: Hear) -> None:
        """Hear what comes until the connection is lost, or silent though this manager speaks."""
        pgconn = connection.driver.pgconn
        while True:
            while (notice := pgconn.notifies()) is not None:
                self._take(notice.extra, hear)
            with trio.move_on_after(SILENCE) as waiting:
                await trio.lowlevel.wait_readable(pgconn.socket)
            if waiting.cancelled_caught:
                raise psycopg.OperationalError("it is silent")
            pgconn.consume_input()

    def _take(self, payload: bytes, hear: Hear) -> None:
        try:
            sender, has_news, topics = from_json(payload)
            heard: set[Any] = {tuple(topic) if isinstance(topic, list) else topic for topic in topics}
        except (ValueError, TypeError):
            return  # somebody else's
        if sender == self._own or not isinstance(sender, str):
            return
        now = trio.current_time()
        self._others_until = now + SILENCE
        if now - self._known.get(sender, -math.inf) > SILENCE:
            # It does not know yet that this manager is there.
            self._say_hello()
        self._known = {name: at for name, at in self._known.items() if now - at <= SILENCE} | {sender: now}
        if has_news:
            hear(heard)

    def _say_hello(self) -> None:
        self._says_hello = True
        self._wakeup.set()

    def _connect_sender(self) -> Connection:
        connection = self._epochs.connect()
        if self._listens:
            try:
                # Nothing is lost with what it writes, so nobody has to wait for a disk.
                connection.control("SET synchronous_commit = off")
            except psycopg.Error:
                connection.close()
                raise
        return connection

    def _begin_to_listen(self, connection: Connection) -> None:
        connection.control(f'LISTEN "{self._channel}"')

    def _notify(self, connection: Connection, topics: set[Topic], has_news: bool) -> None:
        for payload in self._payloads(topics, has_news):
            connection.execute("SELECT pg_notify(?, ?)", (self._channel, payload))

    def _payloads(self, topics: set[Topic], has_news: bool) -> Iterable[str]:
        part: list[Topic] = []
        size = 0
        for topic in topics:
            length = len(to_json(topic)) + 1
            if size + length > MAX_PAYLOAD:
                yield to_json((self._own, has_news, part)).decode()
                part, size = [], 0
            part.append(topic)
            size += length
        yield to_json((self._own, has_news, part)).decode()

    async def _use(self, owner: _Owner, do: Callable[[Connection], object]) -> Connection:
        """Do something with a connection, which then exists. Raises psycopg.Error, also after ``SILENCE``."""
        with trio.move_on_after(SILENCE):
            return await trio.to_thread.run_sync(
                owner.use, do, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
            )
        raise psycopg.OperationalError("it does not answer")


class _Owner:
    """A connection that is used in threads, by one at a time, and may be ended meanwhile.

    A server that takes a statement and never answers must not delay the end of this manager.
    """

    def __init__(self, connect: Callable[[], Connection], is_usable: Callable[[Connection], bool]) -> None:
        self._connect = connect
        self._is_usable = is_usable
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._ended = False

    def use(self, do: Callable[[Connection], object]) -> Connection:
        """Connect if need be, do something and return the connection. For threads."""
        try:
            with self._lock:
                if self._connection is None:
                    self._connection = self._connect()
                if not self._is_usable(self._connection):
                    raise psycopg.OperationalError("another primary took over")
                if not self._ended:
                    do(self._connection)
                return self._connection
        finally:
            if self._ended:
                self.end()

    def end(self) -> None:
        """Close the connection; if a thread uses it, end what it waits for, and have the thread close it."""
        self._ended = True
        if self._lock.acquire(blocking=False):
            try:
                if self._connection is not None:
                    self._connection.close()
            finally:
                self._lock.release()
        elif self._connection is not None:
            self._connection.abort()
