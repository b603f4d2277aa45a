"""Requests to stop: they may be made anywhere, at any time, and more than once.

A request only appends to a queue and wakes the loop. Both are atomic, so a request needs no lock, and
can be made in a signal handler, where taking one may deadlock. None is missed: the requester appends,
then reads which loop to wake; the loop makes itself known, then reads the requests.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from exotrio._util.crossing import call_in_loop
from exotrio._util.exceptions import without_cancelled
from exotrio.errors import ExotrioError

log = logging.getLogger("exotrio")


class Stop:
    """The requests to stop one runtime, as its tasks see them.

    Attributes:
        arrived: Set with the first request: nothing new is begun.
        draining: Cancelled at the end of the drain, whose deadline each request can only move forward.
        moved: Set when that deadline is moved, and replaced.
        polling: Cancelled at the end of the drain, and with it a claim in flight.
        flushing: Set when the flush begins.
        flush_end: When it ends, on Trio's clock; inf before it begins.
        asked_at: When the first request was made, on Trio's clock; inf before it.
        why: The source of the first request, for the log.
        shortened_by: The source of a later request that ended the drain earlier; empty without one.
        failure: What made the runtime stop by itself, to be raised at the end.
        arm: Called with the grace of each request, from any thread or signal handler.
    """

    def __init__(self) -> None:
        self.arrived = trio.Event()
        self.skip_drain = False
        self.draining = trio.CancelScope()
        self.moved = trio.Event()
        self.polling = trio.CancelScope()
        self.flushing = trio.Event()
        self.flush_end = math.inf
        self.is_over = False
        self.asked_at = math.inf
        self.why = ""
        self.shortened_by = ""
        self.failure: BaseException | None = None
        self.arm: Callable[[float], None] = lambda grace: None
        self._requests: deque[tuple[float, str, float]] = deque()
        self._now: Callable[[], float] = lambda: math.inf
        self._token: trio.lowlevel.TrioToken | None = None
        self._interrupted: set[trio.CancelScope] = set()

    def request(self, grace: float, why: str) -> None:
        """Ask for a drain of at most ``grace`` seconds. From any thread, task or signal handler.

        ``why`` names the source of the request, for the log.
        """
        self._requests.append((grace, why, self._now()))
        self.arm(grace)  # here, too, since the loop may be blocked
        call_in_loop(self._token, self._take, once=True)

    def enter_loop(self) -> None:
        """Handle requests in this loop from now on, those made before included."""
        self._now = trio.lowlevel.current_clock().current_time
        self._token = trio.lowlevel.current_trio_token()
        self._take()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested. In the runtime's loop."""
        return self.arrived.is_set()

    @property
    def was_requested(self) -> bool:
        """Whether a stop was requested, also if the loop does not know of it yet. From any thread."""
        return self.requested or bool(self._requests)

    @property
    def first_request(self) -> tuple[str, float]:
        """The source and the time of the first request, also if the loop does not know of it yet. From any
        thread."""
        first = next(iter(list(self._requests)), None)
        return (self.why, self.asked_at) if self.requested or first is None else first[1:]

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Cancel the body as soon as a stop is requested."""
        with trio.CancelScope() as scope:
            if self.requested:  # Race: the request came before this scope was known to it.
                scope.cancel()
            self._interrupted.add(scope)
            try:
                yield
            finally:
                self._interrupted.discard(scope)

    async def watch(self) -> None:
        """Turn a cancellation of the surrounding scope into a stop without drain. Never returns."""
        try:
            await trio.sleep_forever()
        finally:
            if not self.is_over:
                self._without_drain("the cancellation of the scope around it")

    def fail(self, error: BaseException) -> None:
        """Stop without drain because of ``error``, which is raised once the stop is done."""
        if self.failure is None:
            self.failure = error
        else:
            log.error("another failure while stopping", exc_info=error)
        self._without_drain(f"a failure ({type(error).__name__})")

    # A Ctrl-C may go to any line of the loop's thread; it goes to the application's main task instead.
    @trio.lowlevel.enable_ki_protection
    async def guard(self, loop: Callable[[], Awaitable[object]], name: str) -> None:
        """Run one of the runtime's loops. If it fails, the others go on until the shutdown ends them."""
        try:
            await loop()
        except BaseException as error:
            failure = without_cancelled(error)
            if failure is None:
                raise
            # The caller shows errors of ours; a defect needs its traceback.
            if isinstance(failure, Exception) and not isinstance(failure, ExotrioError):
                log.critical("%s failed; the runtime stops", name, exc_info=failure)
            self.fail(failure)

    def _without_drain(self, why: str) -> None:
        self.skip_drain = True
        self._begin(0.0, why, trio.current_time())

    def _take(self) -> None:
        while self._requests:
            self._begin(*self._requests.popleft())

    def _begin(self, grace: float, why: str, asked_at: float) -> None:
        self.arm(grace)
        now = trio.current_time()
        deadline = now + grace
        if self.requested and deadline < self.draining.deadline:
            self.shortened_by = why
        if deadline < self.draining.deadline:
            self.draining.deadline = deadline
            self.moved.set()
            self.moved = trio.Event()
        if not self.requested:
            self.why = why
            self.asked_at = min(asked_at, now)  # earlier, if the loop was blocked
            self.arrived.set()
            for scope in self._interrupted:
                scope.cancel()
