"""Ends the process if its stop takes longer than all steps together may take.

Trio cannot end a task that shields itself, and ``await anyio.to_thread.run_sync(f)`` does that until ``f``
returns. Nothing can end code that blocks the loop. So in a process that belongs to the runtime a thread
watches the time: it needs neither the loop nor the main thread. It also handles signals while the main
thread hangs in C code: Python's own handlers run only in that thread. (Code that never releases the
interpreter's lock stops every thread, and this one too.)
"""

from __future__ import annotations

import logging
import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import trio

from exotrio._shared import deadlines
from exotrio._util.crossing import call_in_loop

log = logging.getLogger("exotrio.runtime")

ABANDONED = 75
"""The exit code, as in ``Summary.exit_code``."""
RESPONSE = 1.0
"""Seconds that the main thread has to handle a signal."""
MAX_WAIT = 0.2
"""Seconds after which the thread checks the time while a stop has a deadline: poll cannot wait for weeks, and
a wait that takes longer shows that the process was suspended. That time is known but for so much."""
_WAKE = 0
_HANDLED = 0x80
"""Added to the number of a signal, it says that the main thread has handled all of these so far."""


class Watchdog:
    """The thread, and the deadlines of the stop. It runs until ``close``.

    Args:
        handle: Called with each signal that the main thread did not handle within ``RESPONSE`` seconds.
        ends_process: Nothing follows the runtime in this process, so that the end of the process is bounded,
            too: Python waits for threads of the user's code without a limit.

    Attributes:
        cut_off: Called with the exit code in another thread, just before the process ends.
        loop: Woken by each signal.
        wake_up: The descriptor for ``signal.set_wakeup_fd``.
    """

    def __init__(self, handle: Callable[[int], None], *, ends_process: bool) -> None:
        self.cut_off: Callable[[int], None] = _nothing
        self.loop: trio.lowlevel.TrioToken | None = None
        self._handle = handle
        self._ends_process = ends_process
        self._deadlines: list[float] = []
        self._suspended = 0.0
        self._armed: tuple[float, float] | None = None
        """When the thread was to be woken by ``arm``: the time, and the processor time until then."""
        self._closed = False
        self._woken, self.wake_up = os.pipe()
        os.set_blocking(self.wake_up, False)
        # A daemon, since it has to run while Python waits for the other threads.
        self._thread = threading.Thread(target=self._watch, name="exotrio watchdog", daemon=True)
        self._thread.start()

    def arm(self, grace: float) -> None:
        """Have the process ended unless a stop with that grace is over in time. The earliest deadline counts.

        From any thread, and from a signal handler: it takes no lock.
        """
        self._armed = self._armed or (time.monotonic(), time.process_time())
        self._deadlines.append(self._now() + deadlines.max_exit(grace) - deadlines.LAST_LINES)
        self._wake()

    def handled(self, number: int) -> None:
        """Note that the main thread has handled a signal. From its handler."""
        self._wake(number | _HANDLED)

    def disarm(self) -> None:
        """Forget the deadlines, since the runtime has stopped, unless the process has to end, too."""
        if not self._ends_process:
            self._deadlines.clear()

    def close(self) -> None:
        """End the thread, unless the process is to end: then it only watches the time."""
        if self._ends_process:
            # As long as a thread refers to the user's code, Python does not flush files that this left open.
            self._handle, self.cut_off, self.loop = _nothing, _nothing, None
            return
        self._closed = True
        self._wake()
        self._thread.join()
        os.close(self.wake_up)
        os.close(self._woken)

    def _wake(self, why: int = _WAKE) -> None:
        with suppress(BlockingIOError):  # The pipe is full, so the thread is awake.
            os.write(self.wake_up, bytes([why]))

    def _now(self) -> float:
        """Return the time, less that of suspensions of this process, in which its stop did not go on."""
        return time.monotonic() - self._suspended

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        signals: deque[tuple[float, int]] = deque()
        began, used = time.monotonic(), time.process_time()
        while not self._closed:
            until = min(*self._deadlines, signals[0][0] if signals else math.inf, math.inf)
            wait = min(max(0.0, until - self._now()), MAX_WAIT)
            woken = poll.poll(None if until == math.inf else wait * 1000)
            # Read once for all that follows, and for the next time: a suspension may begin at any line.
            seen = time.monotonic(), time.process_time()
            if self._armed is not None:
                # It was to be awake from then on: the process may be suspended before it is.
                (began, used), wait, self._armed = self._armed, 0.0, None
            if self._deadlines:
                # Late without using the processor: SIGSTOP, a frozen container, a busy machine.
                late = seen[0] - began - wait
                self._suspended += max(0.0, late - (seen[1] - used))
            began, used = seen
            if woken:
                for number in os.read(self._woken, 4096):
                    if number & _HANDLED:
                        signals = deque(each for each in signals if each[1] != number ^ _HANDLED)
                    elif number != _WAKE:
                        signals.append((self._now() + RESPONSE, number))
                        # As Trio's own descriptor does, which this one replaces.
                        call_in_loop(self.loop, _nothing, once=True)
            now = seen[0] - self._suspended
            while signals and signals[0][0] <= now:
                self._handle(signals.popleft()[1])
            if now >= min(self._deadlines, default=math.inf):
                exit_now(ABANDONED, self._last_lines)

    def _last_lines(self) -> None:
        log.critical(
            "exiting with code %d: the time for the stop is over, and node code goes on that cannot be ended "
            "(it shields itself, or blocks a thread); make such a node a plain def, or run it in a process",
            ABANDONED,
        )
        self.cut_off(ABANDONED)


def exit_now(code: int, last_lines: Callable[[], object]) -> NoReturn:
    """Exit the process within ``deadlines.LAST_LINES``. From any thread, and from a signal handler.

    ``last_lines`` is called in another thread: a stream that is not read blocks the thread that writes to it,
    and the code that the signal interrupted may hold the lock of a handler.
    """

    def end() -> None:
        with suppress(Exception):
            last_lines()
        for reference in list(logging._handlerList):  # type: ignore[attr-defined]
            # One broken handler must not keep the others from being flushed.
            with suppress(Exception):
                if handler := reference():
                    handler.flush()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()

    thread = threading.Thread(target=end, name="exotrio last lines", daemon=True)
    with suppress(RuntimeError, MemoryError):  # no thread can be started
        thread.start()
        thread.join(deadlines.LAST_LINES)
    os._exit(code)


def _nothing(*args: object) -> None: ...
