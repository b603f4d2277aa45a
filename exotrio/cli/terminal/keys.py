"""Keys that are pressed, one by one and at once."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import trio


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
