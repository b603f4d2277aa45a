"""What state managers on one database tell each other, by NOTIFY: what was announced, and that they live.

A NOTIFY takes a lock that all of a server's share, so it is not part of use cases: one connection sends what
was announced since it sent the last one. Nothing is sent while no other manager is heard of, nor behind a
pooler, where nobody can listen. What is lost, polling finds (``topics``).
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import trio
from pydantic_core import from_json, to_json

from exotrio._util.backoff import OUTAGE
from exotrio.manager.store.port import Topic
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.connection import Connection
from exotrio.manager.store.postgres.server import Server

logger = logging.getLogger("exotrio.manager.store")

INTERVAL = 5.0
"""Seconds between two measures of the clock, each with a sign of life."""
SILENCE = 3 * INTERVAL
"""Seconds without a sign of life after which another manager, or a listening connection, counts as gone."""
MAX_PAYLOAD = 7_000
"""Bytes; PostgreSQL refuses 8000."""

Hear = Callable[[set[Topic] | None], None]


class Notices:
    """Tells other managers what this one announced, and hears what they did."""

    def __init__(self, server: Server, clock: ServerClock, *, channel: str, listens: bool) -> None:
        self._server = server
        self._clock = clock
        self._channel = channel
        self._listens = listens
        self._own = secrets.token_hex(8)
        self._untold: set[Topic] = set()
        self._has_news = False
        self._says_hello = False
        self._wakeup = trio.Event()
        self._limiter = trio.CapacityLimiter(2)
        # Until the first answer comes, there may be others.
        self._others_until = trio.current_time() + SILENCE
        self._known: dict[str, float] = {}
        self._heard_own_at = math.inf

    def tell(self, topics: Iterable[Topic]) -> None:
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
        connection: Connection | None = None
        failures = 0
        measure_at = -math.inf
        try:
            while True:
                try:
                    if connection is None:
                        connection = await self._in_thread(self._connect_sender)
                    if trio.current_time() >= measure_at:
                        await self._in_thread(self._clock.measure, connection)
                        measure_at = trio.current_time() + INTERVAL
                        self._says_hello = self._listens
                    if self._has_news or self._says_hello:
                        topics, has_news = self._untold, self._has_news
                        self._untold, self._has_news, self._says_hello = set(), False, False
                        await self._in_thread(self._notify, connection, topics, has_news)
                    failures = 0
                except psycopg.Error as error:
                    failures += 1
                    logger.debug("other managers are not told of news: %s", self._server.reason(error))
                    if connection is not None:
                        connection.close()
                    connection = None
                    # Others find it by polling.
                    self._untold.clear()
                    await trio.sleep(OUTAGE.pause(failures))
                    continue
                self._wakeup = trio.Event()
                if not (self._has_news or self._says_hello):
                    with trio.move_on_at(measure_at):
                        await self._wakeup.wait()
        finally:
            if connection is not None:
                connection.close()

    async def _listen(self, hear: Hear) -> None:
        failures = 0
        while True:
            try:
                connection = await self._in_thread(self._connect_listener)
            except psycopg.Error as error:
                failures += 1
                logger.debug("other managers are not heard: %s", self._server.reason(error))
                await trio.sleep(OUTAGE.pause(failures))
                continue
            try:
                failures = 0
                # What was announced before is not heard any more.
                hear(None)
                self._say_hello()
                await self._hear_all(connection, hear)
            except psycopg.Error as error:
                logger.debug("other managers are not heard any more: %s", self._server.reason(error))
            finally:
                connection.close()

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
        if sender == self._own:
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
        connection = self._server.connect()
        if self._listens:
            # Nothing is lost with what it writes, so nobody has to wait for a disk.
            connection.control("SET synchronous_commit = off")
        return connection

    def _connect_listener(self) -> Connection:
        connection = self._server.connect(writes=False)
        connection.control(f'LISTEN "{self._channel}"')
        return connection

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

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter, abandon_on_cancel=False)
