"""The live view of ``top``: polls, draws, and continues while the state manager is not reachable."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import trio
from rich.console import Console, Group
from rich.live import Live

from exotrio._util.times import format_coarse
from exotrio._wire.overview import MAX_RUNS
from exotrio.cli.top.screen import Screen, screen_lines
from exotrio.client import Overview, StateManager
from exotrio.errors import ManagerError, ManagerUnavailable

ANSWER_TIMEOUT = 5.0
"""Seconds after which a state manager that does not answer counts as not reachable."""
RATE_OVER = 10.0
"""Seconds over which the rate is averaged; the state manager updates the counts every second."""


async def show_live(manager: StateManager, where: str, interval: float) -> None:
    """Show a namespace until a key or a signal ends it. Update it every ``interval`` seconds.

    Raises:
        ManagerError: the first update failed. Later errors are shown, and the update is repeated.
    """
    top = _Top(manager, where, interval)
    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGTSTP)
    with trio.open_signal_receiver(*ours) as signals:
        async with trio.open_nursery() as nursery:

            async def handle_signals() -> None:
                async for number in signals:
                    if number == signal.SIGWINCH:
                        top.draw()
                    elif number == signal.SIGTSTP:
                        top.pause()
                    else:
                        nursery.cancel_scope.cancel()

            async def read_keys() -> None:
                # Until the terminal is closed; not at all if standard input is not a terminal.
                while sys.stdin.isatty():
                    await trio.lowlevel.wait_readable(sys.stdin)
                    keys = os.read(sys.stdin.fileno(), 64)
                    if b"q" in keys.lower():
                        nursery.cancel_scope.cancel()
                    if not keys:
                        return

            nursery.start_soon(handle_signals)
            top.take(await manager.overview(runs=MAX_RUNS))
            with top.screen():
                nursery.start_soon(read_keys)
                await top.run()


class Rate:
    """How many states ended per second in the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Overview]] = deque()

    def add(self, overview: Overview, now: float) -> float | None:
        """Add an overview; return the rate, None before there is one. ``now`` are monotonic seconds."""
        self._seen.append((now, overview))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_OVER:
            self._seen.popleft()
        began, first = self._seen[0]
        if now <= began:
            return None
        # Only minutes that both overviews contain: each covers the last hour at its time.
        return max(0, _ended(overview, first) - _ended(first, first)) / (now - began)


def _ended(overview: Overview, since: Overview) -> int:
    lately = overview.throughput
    return sum(lately.ended[max(0, since.throughput.first_minute + 1 - lately.first_minute) :])


class _Top:
    def __init__(self, manager: StateManager, where: str, interval: float) -> None:
        self._manager = manager
        self._where = where
        self._interval = interval
        self._console = Console()
        self._live: Live | None = None
        self._before: list[Any] | None = None  # the settings of the terminal
        self._rate = Rate()
        self._shown: Screen | None = None
        self._unreachable_since: datetime | None = None

    async def run(self) -> None:
        """Draw and update until cancelled."""
        while True:
            self.draw()
            await trio.sleep(self._interval)
            await self._update()

    async def _update(self) -> None:
        began = datetime.now(UTC)
        state, problem = "not reachable", f"it did not answer within {ANSWER_TIMEOUT:g} s"
        with trio.move_on_after(ANSWER_TIMEOUT):
            try:
                self.take(await self._manager.overview(runs=MAX_RUNS))
                return
            except ManagerError as error:
                state = "not reachable" if isinstance(error, ManagerUnavailable) else "refused"
                # The title has the address already.
                problem = error.what.removeprefix(f"the state manager at {self._where} ")
        assert self._shown is not None, "the first update succeeded"
        self._unreachable_since = self._unreachable_since or began
        ago = format_coarse((datetime.now(UTC) - self._unreachable_since).total_seconds())
        text = f"{state} since {self._unreachable_since:%H:%M:%S} UTC ({ago}): {problem}"
        self._shown = Screen(self._shown.overview, self._where, None, text, live=True)

    def take(self, overview: Overview) -> None:
        if self._unreachable_since is not None:
            # States that ended meanwhile would distort the rate.
            self._rate, self._unreachable_since = Rate(), None
        rate = self._rate.add(overview, trio.current_time())
        self._shown = Screen(overview, self._where, rate, live=True)

    def draw(self) -> None:
        if self._live is not None and self._shown is not None:
            width, height = self._console.size
            lines = screen_lines(self._shown, width, height)
            self._live.update(Group(*lines), refresh=True)

    @contextmanager
    def screen(self) -> Iterator[None]:
        """Draw until the block ends, and read keys without Enter and echo. Ctrl-C stays a signal."""
        try:
            self._begin()
            yield
        finally:
            self._end()

    def pause(self) -> None:
        """Give the terminal to the shell until this process is continued."""
        was_drawn = self._live is not None
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        if was_drawn:
            self._begin()
            self.draw()

    def _begin(self) -> None:
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin, termios.TCSANOW)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, self._before)
            self._before = None
