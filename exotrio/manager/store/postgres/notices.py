"""What state managers on one database announce to each other, by NOTIFY.

A NOTIFY takes a lock that the whole server shares, so it is not part of use cases: one connection sends what
was announced since the last one. Each manager also greets the others every few seconds, and at once when it
receives something from one that it does not know. Announcements are sent only while another manager is known,
and not behind a pooler, where none can listen. Polling finds what is lost (``waiting``).
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
"""Seconds between two measurements of the clock, each with a greeting."""
MAX_SILENCE = 3 * INTERVAL
"""Seconds without a greeting after which another manager, or a listening connection, counts as lost."""
GREETING_TIME = 2.0
"""Seconds within which other managers answer the first greeting."""
MAX_PAYLOAD = 7_000
"""Bytes; PostgreSQL refuses 8000."""

OnNotification = Callable[[set[Topic] | None], None]


class Notices:
    """Sends to other managers what this one announces, and receives what they announce."""

    def __init__(self, epochs: Epochs, clock: ServerClock, *, channel: str, listens: bool) -> None:
        self._epochs = epochs
        self.clock = clock
        self._channel = channel
        self._listens = listens
        self._own = secrets.token_hex(8)
        self._unsent: set[Topic] = set()
        self._has_changes = False
        self._must_greet = False
        self._wakeup = trio.Event()
        # Until it is known whether there are others, announcements are sent.
        self._others_until = trio.current_time() + GREETING_TIME
        self._known: dict[str, float] = {}

    def publish(self, topics: Iterable[Topic]) -> None:
        """Send to others that something was written, and what was announced. Returns at once."""
        if self._listens and trio.current_time() < self._others_until:
            self._unsent.update(topics)
            self._has_changes = True
            self._wakeup.set()

    async def run(self, on_notification: OnNotification) -> None:
        """Send, listen and keep the clock right. Never returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            if self._listens:
                nursery.start_soon(self._listen, on_notification)

    async def _send(self) -> None:
        sender = _Owner(self._connect_sender, self._epochs.has)
        failures = 0
        measure_at = -math.inf
        try:
            while True:
                try:
                    if trio.current_time() >= measure_at:
                        await self._run_on(sender, self.clock.measure)
                        measure_at = trio.current_time() + INTERVAL
                        self._must_greet = self._listens
                    if self._has_changes or self._must_greet:
                        topics, has_changes = self._unsent, self._has_changes
                        self._unsent, self._has_changes, self._must_greet = set(), False, False
                        await self._run_on(
                            sender, partial(self._notify, topics=topics, has_changes=has_changes)
                        )
                    failures = 0
                except psycopg.Error as error:
                    failures += 1
                    logger.debug(
                        "announcements to other managers fail: %s", self._epochs.server.reason(error)
                    )
                    sender.end()
                    sender = _Owner(self._connect_sender, self._epochs.has)
                    # Others find it by polling.
                    self._unsent.clear()
                    await trio.sleep(OUTAGE.pause(failures))
                    continue
                self._wakeup = trio.Event()
                if not (self._has_changes or self._must_greet):
                    with trio.move_on_at(measure_at):
                        await self._wakeup.wait()
        finally:
            sender.end()

    async def _listen(self, on_notification: OnNotification) -> None:
        failures = 0
        while True:
            began = trio.current_time()
            listener = _Owner(partial(self._epochs.connect, writes=False), self._epochs.has)
            try:
                connection = await self._run_on(listener, self._begin_to_listen)
                # Earlier announcements were not received.
                on_notification(None)
                self._others_until = max(self._others_until, trio.current_time() + GREETING_TIME)
                self._greet()
                await self._receive_all(connection, on_notification)
            except psycopg.Error as error:
                logger.debug("listening to other managers fails: %s", self._epochs.server.reason(error))
            finally:
                listener.end()
            failures = 0 if trio.current_time() - began >= MAX_SILENCE else failures + 1
            await trio.sleep(OUTAGE.pause(failures))

    async def _receive_all(self, connection: Connection, on_notification: OnNotification) -> None:
        """Receive notifications until the connection is lost, or silent even to this manager's greetings."""
        pgconn = connection.driver.pgconn
        while True:
            while (notice := pgconn.notifies()) is not None:
                self._receive(notice.extra, on_notification)
            with trio.move_on_after(MAX_SILENCE) as waiting:
                await trio.lowlevel.wait_readable(pgconn.socket)
            if waiting.cancelled_caught:
                raise psycopg.OperationalError("no notification arrived, not even our own")
            pgconn.consume_input()

    def _receive(self, payload: bytes, on_notification: OnNotification) -> None:
        try:
            sender, has_changes, topics = from_json(payload)
            received: set[Any] = {tuple(topic) if isinstance(topic, list) else topic for topic in topics}
        except (ValueError, TypeError):
            return  # of another program
        if sender == self._own or not isinstance(sender, str):
            return
        now = trio.current_time()
        self._others_until = now + MAX_SILENCE
        if now - self._known.get(sender, -math.inf) > MAX_SILENCE:
            # It does not know this manager yet.
            self._greet()
        self._known = {name: at for name, at in self._known.items() if now - at <= MAX_SILENCE} | {
            sender: now
        }
        if has_changes:
            on_notification(received)

    def _greet(self) -> None:
        self._must_greet = True
        self._wakeup.set()

    def _connect_sender(self) -> Connection:
        connection = self._epochs.connect()
        if self._listens:
            try:
                # What it writes may be lost, so no commit has to wait for a disk.
                connection.control("SET synchronous_commit = off")
            except psycopg.Error:
                connection.close()
                raise
        return connection

    def _begin_to_listen(self, connection: Connection) -> None:
        connection.control(f'LISTEN "{self._channel}"')

    def _notify(self, connection: Connection, topics: set[Topic], has_changes: bool) -> None:
        for payload in self._payloads(topics, has_changes):
            connection.execute("SELECT pg_notify(?, ?)", (self._channel, payload))

    def _payloads(self, topics: set[Topic], has_changes: bool) -> Iterable[str]:
        part: list[Topic] = []
        size = 0
        for topic in topics:
            length = len(to_json(topic)) + 1
            if size + length > MAX_PAYLOAD:
                yield to_json((self._own, has_changes, part)).decode()
                part, size = [], 0
            part.append(topic)
            size += length
        yield to_json((self._own, has_changes, part)).decode()

    async def _run_on(self, owner: _Owner, do: Callable[[Connection], object]) -> Connection:
        """Run ``do`` in a thread and return the connection. Raises psycopg.Error, also after
        ``MAX_SILENCE``."""
        with trio.move_on_after(MAX_SILENCE):
            return await trio.to_thread.run_sync(
                owner.use, do, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
            )
        raise psycopg.OperationalError("the server does not answer")


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
        """Connect if necessary, run ``do`` and return the connection. For threads."""
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
