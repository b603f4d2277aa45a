"""Queries, in threads, each on a connection with one snapshot.

Queries that runtimes wait for are short (``read``). Pages, searches and exports may take seconds, and there
may be many of them (``read_with_deadline``): they have separate threads, so that they do not delay runtimes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import trio

from exotrio._util.backoff import Outage
from exotrio.manager.rules.errors import InvalidRequest, Refused, Unavailable
from exotrio.manager.store.errors import NotRead
from exotrio.manager.store.view import View

T = TypeVar("T")

DEADLINE = 10.0
"""Seconds that a query with a deadline may wait for its turn, and then take."""
SEARCHES = 2
"""Queries with a deadline that run at the same time: they take processor time from everything else."""


class _Closable(Protocol):
    def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class Readers(Generic[C]):
    """Runs queries: an engine says how, with ``_run``. ``reads`` without a deadline run at the same time."""

    def __init__(self, reads: int) -> None:
        self._reads = trio.CapacityLimiter(reads)
        self._searches = trio.CapacityLimiter(SEARCHES)
        self._turns = trio.Semaphore(SEARCHES)
        self._outage = Outage(logging.getLogger("exotrio.manager.store"), "reading the database")
        self._idle: list[C] = []
        self._closed = False

    async def read(self, query: Callable[[View], T]) -> T:
        """Run a query without a deadline; a cancellation ends it."""
        return await self._log_outages(query, math.inf, self._reads)

    async def read_with_deadline(self, query: Callable[[View], T]) -> T:
        """Run a query; raise Refused after ``DEADLINE`` seconds, or if its turn did not come by then."""
        with trio.move_on_after(DEADLINE) as waiting:
            async with self._turns:
                waiting.deadline = math.inf
                return await self._log_outages(query, DEADLINE, self._searches)
        raise Unavailable(f"other pages and searches took all of {DEADLINE:g} s; try again later")

    def close(self) -> None:
        """Close the connections that are not in use, and each other one once it is not."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _log_outages(
        self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter
    ) -> T:
        """Run a query; log when queries begin to fail, and when one works again."""
        try:
            result = await self._run(query, limit, limiter)
        except NotRead as error:
            self._outage.failed(error, "the caller gets an error", level=logging.ERROR)
            raise
        self._outage.worked()
        return result

    async def _run(self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter) -> T:
        """Run a query, for at most ``limit`` seconds, in a thread of the limiter.

        Raises:
            NotRead: the database fails.
            Refused: ``too_slow``.
        """
        raise NotImplementedError

    def _idle_connection(self) -> C | None:
        """Return a connection that is not in use, if there is one. For any thread."""
        try:
            # Not checked first: another thread may take the last one in between.
            return self._idle.pop()
        except IndexError:
            return None

    def _give_back(self, connection: C, *, is_usable: bool) -> None:
        """Keep a connection for the next query, or close it. For any thread."""
        if is_usable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()


def too_slow(limit: float) -> Refused:
    """Return the error for a query that was ended at its deadline, after so many seconds."""
    return InvalidRequest(
        f"this took longer than {limit:g} s and was ended; ask for less:"
        " one run, graph or node, a shorter time, or a smaller page",
    )
