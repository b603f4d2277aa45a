"""How a runtime is stopped: requests that may come from anywhere, and the way from them to the end.

Every request is a moved deadline: ``stop(grace)`` moves the end of the drain to ``grace`` seconds
from now, if that is earlier than it was; a second signal moves it to now. A cancelled surrounding
scope, and a defect, do the same and skip the drain. One task, ``walk``, goes through the phases and
bounds each of them; nothing else decides when what is cancelled.

Requests only append to a queue and wake the loop. Both are atomic, so a request needs no lock, and
can be made in a signal handler, where taking one may deadlock. It cannot fall between two stools:
the requester appends, then looks for a loop; the loop makes itself known, then looks for requests.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import trio

from exotrio._link.port import Link
from exotrio._runtime.drain_log import tell_waiting, waited_for
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage
from exotrio._runtime.lifecycle import Phase
from exotrio.errors import ExotrioError

log = logging.getLogger("exotrio")

GRACE = 20.0
"""Seconds that running nodes may go on, unless a runtime or a request says otherwise."""
CLEANUP = 5.0
"""Seconds cancelled nodes have for their clean-up."""
FLUSH = 3.0
"""Seconds for the last outcomes and releases."""
CLOSE = 0.5
"""Seconds for the last heartbeat, the asyncio loop, the connections and the outbox, all at the same time."""
STOP = {"drain": GRACE, "clean-up": CLEANUP, "flush": FLUSH, "close": CLOSE}
"""Seconds that each step of a stop takes at most, one after the other: together less than the 30 s after
which Kubernetes, for one, kills a process."""


class Stop:
    """Requests to stop, as the tasks of one runtime see them.

    Attributes:
        requested: A stop was asked for: begin nothing new.
        cut: It leaves no time to drain.
        asked: Set with ``requested``.
        flushing: Set when the last phase begins.
        grace: Cancelled when the drain is over.
        polling: Cancelled when the drain is over, and a claim in flight with it.
        why: Who asked, for the log; what left no time to drain, once something did.
        failure: What made the runtime stop by itself, to be raised at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self.cut = False
        self.asked = trio.Event()
        self.flushing = trio.Event()
        self.grace = trio.CancelScope()
        self.polling = trio.CancelScope()
        self.why = ""
        self.failure: BaseException | None = None
        self._requests: deque[tuple[float, str]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None
        self._interrupted: set[trio.CancelScope] = set()

    def ask(self, grace: float, why: str) -> None:
        """Ask for a drain of ``grace`` seconds at most. From any thread, task or signal handler.

        Args:
            grace: Seconds.
            why: Who asks, for the log.
        """
        self._requests.append((grace, why))
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # then nothing is left to stop
                self._token.run_sync_soon(self._take, idempotent=True)

    def enter_loop(self) -> None:
        """Begin to heed requests, those made before included."""
        self._token = trio.lowlevel.current_trio_token()
        self._take()

    @property
    def was_asked(self) -> bool:
        """Whether a stop was asked for, also if the loop does not know of it yet. From any thread."""
        return self.requested or bool(self._requests)

    @contextmanager
    def interrupted(self) -> Iterator[trio.CancelScope]:
        """Cancel the body as soon as a stop is asked for."""
        with trio.CancelScope() as scope:
            if self.requested:
                scope.cancel()
            self._interrupted.add(scope)
            try:
                yield scope
            finally:
                self._interrupted.discard(scope)

    async def watch(self) -> None:
        """Turn a cancellation of the surrounding scope into a stop without drain. Never returns."""
        try:
            await trio.sleep_forever()
        finally:
            self._cut("the scope around it was cancelled")

    def fail(self, error: BaseException) -> None:
        """Stop without drain because of ``error``, which is raised once the stop is done."""
        if self.failure is None:
            self.failure = error
        else:
            log.error("another failure while stopping", exc_info=error)
        self._cut("a failure")

    # A Ctrl-C may go to any line of the loop's thread. Between a claim's answer and the ledger, say, it
    # would lose the claim; so it goes to the application's main task instead.
    @trio.lowlevel.enable_ki_protection
    async def guard(self, loop: Callable[..., Awaitable[object]], *args: Any, **options: Any) -> None:
        """Run one of the runtime's loops. If it fails, the others go on until the stop path ends them."""
        try:
            await loop(*args, **options)
        except BaseException as error:
            failure = without_cancelled(error)
            if failure is None:
                raise
            # Errors of ours are raised to the caller, who tells them; a defect is worth its traceback.
            if isinstance(failure, Exception) and not isinstance(failure, ExotrioError):
                log.critical("%s failed; the runtime stops", loop.__name__, exc_info=failure)
            self.fail(failure)

    def _cut(self, why: str) -> None:
        self.cut = True
        self.why = why
        self._begin(0.0, why)

    def _take(self) -> None:
        while self._requests:
            self._begin(*self._requests.popleft())

    def _begin(self, grace: float, why: str) -> None:
        self.grace.deadline = min(self.grace.deadline, trio.current_time() + grace)
        if not self.requested:
            self.requested = True
            self.why = why
            self.asked.set()
            for scope in self._interrupted:
                scope.cancel()


async def walk(
    stop: Stop,
    ledger: Ledger,
    link: Link,
    *,
    enter: Callable[[Phase], None],
    release: Callable[[HeldClaim], None],
) -> None:
    """Wait for a stop, then lead the runtime through its phases. Takes no longer than they may.

    Args:
        stop: Where it is asked for.
        ledger: What is held. In the end all of it is delivered, or written off and logged.
        link: Told how long a claim in flight may take.
        enter: Called with each phase.
        release: Passes a state to the reporter, to be handed back.

    Cancellation:
        Not meant to be cancelled: it runs behind the runtime's shield.
    """
    await stop.asked.wait()
    if not stop.cut:
        enter(Phase.DRAINING)
        log.info(
            "asked to stop by %s: %d running, %d go back unstarted, %d being delivered; %.0f s at most",
            stop.why,
            ledger.count(Stage.RUNNING),
            ledger.count(Stage.BUFFERED),
            ledger.count(Stage.DONE),
            max(0.0, stop.grace.deadline - trio.current_time()),
        )
        for held in ledger.all(Stage.RUNNING):
            _execution(held).drain()
        _release_buffered(ledger, release)
        with stop.grace:
            _settle_by_end_of_drain(stop, link)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_waiting, ledger)
                # Outcomes too: a server that restarts meanwhile gets what is left of the grace to come back.
                await ledger.until(lambda: ledger.empty)
                nursery.cancel_scope.cancel()
    if stop.cut or not ledger.quiet:
        enter(Phase.CANCELLING)
        cause = f"no time to drain: {stop.why}" if stop.cut else "the grace is over"
        # Nodes that are cut short are worth a warning; a claim that has to be given up is not.
        level = logging.WARNING if ledger.count(Stage.RUNNING) else logging.INFO
        log.log(level, "%s; %s", cause, waited_for(ledger) or "nothing runs")
        link.settle_by(trio.current_time() + CLEANUP + FLUSH)
        for held in ledger.all(Stage.RUNNING):
            _execution(held).cancel()
        _release_buffered(ledger, release)
        with trio.move_on_after(CLEANUP):
            stop.polling.cancel()
            await ledger.until(lambda: ledger.quiet)
        for held in ledger.all(Stage.RUNNING):
            log.warning("%s did not end within %.0f s of being cancelled; it is handed back", held, CLEANUP)
            _execution(held).give_up()
            release(held)
    enter(Phase.FLUSHING)
    stop.polling.cancel()
    stop.flushing.set()
    with trio.move_on_after(FLUSH):
        await ledger.until(lambda: ledger.empty)
    write_off(ledger)


def without_cancelled(error: BaseException) -> BaseException | None:
    """Return ``error`` without any ``trio.Cancelled`` and needless group; None if nothing is left."""
    if isinstance(error, trio.Cancelled):
        return None
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(trio.Cancelled)[1]
        while isinstance(rest, BaseExceptionGroup) and len(rest.exceptions) == 1:
            rest = rest.exceptions[0]
        return rest
    return error


def _settle_by_end_of_drain(stop: Stop, link: Link) -> None:
    if math.isfinite(stop.grace.deadline):
        link.settle_by(stop.grace.deadline + CLEANUP + FLUSH)


def _release_buffered(ledger: Ledger, release: Callable[[HeldClaim], None]) -> None:
    # They stay in the channel; workers pass over what is no longer buffered.
    for held in ledger.all(Stage.BUFFERED):
        release(held)


def _execution(held: HeldClaim) -> Any:
    assert held.execution is not None, "a running state has an execution"
    return held.execution


def write_off(ledger: Ledger) -> None:
    """Log and count whatever is still held: the time for it is up."""
    for held in ledger.all(*Stage):
        if held.entry is not None and not (held.in_flight and held.unrepeatable):
            log.warning("%s: its %s is in the outbox, and sent at the next start", held, held.what)
            ledger.keep(held)
        elif held.in_flight:
            log.error("%s: whether its %s arrived is unknown: the time was up", held, held.what)
            ledger.lose(held)
        else:
            log.error("%s is abandoned, it stays claimed: the time was up for its %s", held, held.what)
            ledger.abandon(held)
