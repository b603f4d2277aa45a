"""Keys that are pressed, one by one and at once."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import trio

if sys.platform == "win32":
    import msvcrt

    LOOK = 0.1
    """Seconds between two looks for a key: nothing tells of one."""

    @contextmanager
    def single_keys() -> Iterator[None]:
        """Do nothing: a Windows console gives keys at once."""
        yield

    async def keys() -> AsyncGenerator[str]:
        """Yield each key that is pressed. Never ends unless cancelled."""
        while True:
            await trio.sleep(LOOK)
            while msvcrt.kbhit():
                yield msvcrt.getwch()

else:
    import termios
    import tty

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
