"""From plain code into the loop: ``start()`` and its signals.

The first signal begins the drain, the second ends it, so that running nodes are cancelled (both by ``stop``),
and the third ends the process.

Signal handlers are set before the loop begins and restored after it ended, so that Python's default (a
KeyboardInterrupt anywhere) never applies during a run. They are plain ``signal`` handlers instead of
a task that awaits signals: such a task cannot run while node code blocks the loop, and then the third
signal, which is meant for just that, would do nothing. The watchdog handles signals while the main thread
hangs in C code.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import TypeVar

import trio

from exotrio._runtime.watchdog import Watchdog, exit_now
from exotrio.errors import LifecycleError

T = TypeVar("T")

SAME_REQUEST = 1.0
"""Seconds within which different signals are one request: a terminal or a service manager sends several."""
_previous: dict[signal.Signals, Callable[[int, FrameType | None], object] | int | None] = {}
"""The handlers before ours, while ours are set; else empty."""
_watchdog: Watchdog | None = None
"""The watchdog of this process, while the process belongs to the runtime that its main thread runs."""
_RECIPE = (
    "inside Trio: await nursery.start(runtime.run); elsewhere (a notebook, asyncio): "
    "threading.Thread(target=runtime.start).start(), and later runtime.stop()"
)


def run_blocking(
    main: Callable[[], Awaitable[T]],
    stop: Callable[[float | None, str], None],
    *,
    exiting: Callable[[], str | None] = lambda: None,
    ends_process: bool = False,
) -> T:
    """Run ``main`` in a new Trio loop, and turn signals into requests to stop.

    In the main thread, the process belongs to the runtime in ``main``: it exits if the stop of the runtime
    takes too long (``watchdog``).

    Args:
        main: What the loop runs; it ends with that.
        stop: Called with None at the first SIGTERM, SIGINT or SIGHUP, with 0 at the second, and with
            the signal's name; see ``StopRequests`` for what counts as one. It runs in a signal handler,
            so it must not block. The third ends the process with status 128+n. In any thread but the
            main one there are no signals to handle.
        exiting: Called at the third, in the handler too; it may return what happens to the work, to be
            printed in place of ``states may stay claimed``.
        ends_process: See ``Watchdog``.

    Raises:
        LifecycleError: a Trio or asyncio loop runs in this thread.
    """
    refuse_inside_loop()
    if threading.current_thread() is not threading.main_thread():
        return trio.run(main)
    with _owned_signals(stop, exiting, ends_process) as watchdog:
        return trio.run(partial(_woken_by, watchdog, main))


def only_nodes_interrupt() -> bool:
    """Whether a KeyboardInterrupt in this thread's loop can only come from node code.

    A Ctrl-C does not become one if its signal has a handler of ours, or goes to another thread.
    """
    return bool(_previous) or threading.current_thread() is not threading.main_thread()


def watchdog() -> Watchdog | None:
    """Return the watchdog of this process, if this thread runs the runtime that the process belongs to."""
    return _watchdog if threading.current_thread() is threading.main_thread() else None


def refuse_inside_loop() -> None:
    """Raise LifecycleError if this thread runs an event loop."""
    asyncio = sys.modules.get("asyncio")
    if trio.lowlevel.in_trio_run():
        kind = "a Trio"
    elif asyncio is not None and asyncio._get_running_loop() is not None:
        kind = "an asyncio"
    else:
        return
    raise LifecycleError(f"start() would block {kind} loop that runs in this thread", fix=_RECIPE)


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask for a stop; not SIGHUP where it is ignored, as under ``nohup``."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


@dataclass(slots=True)
class StopRequests:
    """Counts how many requests to stop the signals so far make."""

    count: int = 0
    _last: int = 0
    _at: float = -math.inf

    def add(self, number: int) -> bool:
        """Count a signal; False if it belongs to the request before it.

        A signal within a second after the one before belongs to it if it is a different one, or a SIGHUP: a
        terminal that closes and its shell each send one. Every other signal is a request to stop sooner.
        """
        again = number == self._last and number != signal.SIGHUP
        now = time.monotonic()
        if not again and now - self._at < SAME_REQUEST:
            return False
        self.count += 1
        self._last, self._at = number, now
        return True


async def _woken_by(watchdog: Watchdog, main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` while signals wake the watchdog, which wakes the loop."""
    watchdog.loop = trio.lowlevel.current_trio_token()
    trios = signal.set_wakeup_fd(watchdog.wake_up, warn_on_full_buffer=False)
    try:
        return await main()
    finally:
        signal.set_wakeup_fd(trios, warn_on_full_buffer=False)


@dataclass(slots=True, kw_only=True)
class _SignalHandler:
    """Handles each signal once: in the main thread, or in the watchdog's while the main thread hangs in C."""

    stop: Callable[[float | None, str], None]
    exiting: Callable[[], str | None]
    ends_process: bool
    watchdog: Watchdog = field(init=False)
    _requests: StopRequests = field(default_factory=StopRequests, init=False)
    _taken_over: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self._take_over, ends_process=self.ends_process)

    @property
    def has_stopped(self) -> bool:
        """Whether a signal asked for the stop."""
        return self._requests.count > 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal in the main thread."""
        if number in self._taken_over:
            self._taken_over.discard(number)
        else:
            self.watchdog.handled(number)
            self._act(number)

    def _take_over(self, number: int) -> None:
        """Handle a signal in the watchdog's thread. Race: the main thread may get to it later."""
        if number in _previous:
            self._taken_over.add(number)
            self._act(number)

    def _act(self, number: int) -> None:
        requests = self._requests
        if not requests.add(number):
            return
        if requests.count <= 2:
            self.stop(None if requests.count == 1 else 0.0, signal.Signals(number).name)
            return
        fate = self.exiting() or "states may stay claimed"
        text = f"\nexotrio: third signal: exiting without waiting; {fate}\n".encode(errors="replace")
        # Not logged, and unbuffered: the interrupted code may hold the lock of a log handler or of the
        # stream.
        exit_now(128 + number, lambda: os.write(2, text))


@contextmanager
def _owned_signals(
    stop: Callable[[float | None, str], None], exiting: Callable[[], str | None], ends_process: bool
) -> Iterator[Watchdog]:
    global _watchdog
    signals = _SignalHandler(stop=stop, exiting=exiting, ends_process=ends_process)
    _watchdog = watchdog = signals.watchdog
    try:
        for each in stop_signals():
            _previous[each] = signal.signal(each, signals.handle)
        yield watchdog
    finally:
        while _previous:
            each, handler = _previous.popitem()
            if ends_process and signals.has_stopped:
                # Race: another signal may come while Python ends, which the watchdog bounds. It must not
                # replace the exit code of a complete stop. Python would reset any handler but this one.
                handler = signal.SIG_IGN
            # None: a handler that Python did not set and cannot restore.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        _watchdog = None
        watchdog.close()


def _restore_in_child() -> None:
    """Let signals end a child process that was forked (by a node, say)."""
    global _watchdog
    if not _previous:
        return
    _watchdog = None
    signal.set_wakeup_fd(-1)  # it would wake the parent
    for number, handler in _previous.items():
        # No KeyboardInterrupt: caught as the error of a state, it would let a copy of this runtime go on.
        signal.signal(number, signal.SIG_IGN if handler is signal.SIG_IGN else signal.SIG_DFL)
    _previous.clear()


os.register_at_fork(after_in_child=_restore_in_child)
