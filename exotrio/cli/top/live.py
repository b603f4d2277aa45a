"""The live view of ``top``: asks again and again, draws, and goes on while the state manager is away."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime

import trio
from rich.console import Console, Group
from rich.live import Live

from exotrio._util.durations import format_coarse
from exotrio._wire.overview import MAX_RUNS
from exotrio.cli.top.view import Screen, screen_lines
from exotrio.client import Overview, StateManager
from exotrio.errors import ManagerError, ManagerUnavailable

PATIENCE = 5.0
"""Seconds until a state manager that does not answer is called away."""
RATE_OVER = 10.0
"""Seconds over which what ended is averaged: the counts come once a second."""
QUIT = frozenset("qQ")


async def show_live(manager: StateManager, where: str, interval: float) -> None:
    """Show a namespace until somebody quits, by key or signal.

    Args:
        manager: Its client.
        where: The state manager, as it is shown.
        interval: Seconds between two looks.

    Raises:
        ManagerError: the first look failed. Later ones are shown, and repeated.

    Cancellation:
        The terminal is as it was.
    """
    top = _Top(manager, where, interval)
    ours = (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH, signal.SIGTSTP)
    with trio.open_signal_receiver(*ours) as signals:
        async with trio.open_nursery() as nursery:

            async def heed() -> None:
                async for number in signals:
                    if number == signal.SIGWINCH:
                        top.draw()
                    elif number == signal.SIGTSTP:
                        top.pause()
                    else:
                        nursery.cancel_scope.cancel()

            async def read_keys() -> None:
                async with aclosing(keys()) as pressed:
                    async for key in pressed:
                        if key in QUIT:
                            nursery.cancel_scope.cancel()

            nursery.start_soon(heed)
            await top.look_first()
            with top.screen():
                nursery.start_soon(read_keys)
                await top.run()


class Rate:
    """How many states end per second, lately."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Overview]] = deque()

    def add(self, overview: Overview, now: float) -> float | None:
        """Return the rate by now, None before there is one.

        Args:
            now: In seconds, on any clock that only grows.
        """
        self._seen.append((now, overview))
        while len(self._seen) > 2 and now - self._seen[1][0] >= RATE_OVER:
            self._seen.popleft()
        began, first = self._seen[0]
        if now <= began:
            return None
        # Only minutes that both know: others have left the hour meanwhile.
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
        self._rate = Rate()
        self._shown: Screen | None = None
        self._away_since: datetime | None = None

    async def look_first(self) -> None:
        self._take(await self._manager.overview(runs=MAX_RUNS))

    async def run(self) -> None:
        """Draw and look, for ever."""
        while True:
            self.draw()
            await trio.sleep(self._interval)
            await self._look()

    async def _look(self) -> None:
        began = datetime.now(UTC)
        state, problem = "not reachable", f"it did not answer within {PATIENCE:g} s"
        with trio.move_on_after(PATIENCE):
            try:
                self._take(await self._manager.overview(runs=MAX_RUNS))
                return
            except ManagerError as error:
                state = "not reachable" if isinstance(error, ManagerUnavailable) else "refused"
                # Where it is stands above already, and the line has to say why.
                problem = error.what.removeprefix(f"the state manager at {self._where} ")
        assert self._shown is not None, "the first look succeeded"
        self._away_since = self._away_since or began
        ago = format_coarse((datetime.now(UTC) - self._away_since).total_seconds())
        text = f"{state} since {self._away_since:%H:%M:%S} UTC ({ago}): {problem}"
        self._shown = Screen(self._shown.overview, self._where, None, text, live=True)

    def _take(self, overview: Overview) -> None:
        if self._away_since is not None:
            # What ended meanwhile ended at no rate that anybody saw.
            self._rate, self._away_since = Rate(), None
        rate = self._rate.add(overview, trio.current_time())
        self._shown = Screen(overview, self._where, rate, live=True)

    def draw(self) -> None:
        if self._live is not None and self._shown is not None:
            width, height = self._console.size
            lines = screen_lines(self._shown, width, height, plain=self._console.options.ascii_only)
            self._live.update(Group(*lines), refresh=True)

    @contextmanager
    def screen(self) -> Iterator[None]:
        with single_keys():
            self._begin()
            try:
                yield
            finally:
                self._end()

    def pause(self) -> None:
        """Leave the terminal to the shell until this process is continued."""
        if self._live is None:
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        self._end()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._begin()
        self.draw()

    def _begin(self) -> None:
        self._live = Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self._live.start()

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


@contextmanager
def single_keys() -> Iterator[None]:
    """Let a terminal give keys at once and unseen, until the block ends. Ctrl-C stays a signal."""
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSANOW, before)


async def keys() -> AsyncGenerator[str]:
    """Yield each key that is pressed. Ends with the terminal; at once if standard input is none."""
    number = sys.stdin.fileno()
    while sys.stdin.isatty():
        await trio.lowlevel.wait_readable(number)
        read = os.read(number, 64)
        if not read:
            return
        for key in read.decode("utf-8", "ignore"):
            yield key
