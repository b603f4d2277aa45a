"""A wall clock that can be set (``state_manager``)."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "CHAOS_CLOCK"
FORMAT = "=q"


class Clock:
    """Sets the clocks of the processes that are given ``env``.

    Args:
        path: Of a file that is made here, and mapped by those processes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ahead_ms = 0
        path.write_bytes(struct.pack(FORMAT, 0))

    @property
    def env(self) -> dict[str, str]:
        return {VARIABLE: str(self._path)}

    def set(self, ahead_ms: int) -> None:
        """Let them show this many milliseconds more than the machine's clock, or less if it is negative."""
        self.ahead_ms = ahead_ms
        with self._path.open("r+b") as file:
            file.write(struct.pack(FORMAT, ahead_ms))


def install(path: str) -> None:
    """Let ``time.time`` and ``time.time_ns`` of this process follow the file."""
    with open(path, "rb") as file:
        shared = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    true_ns: Callable[[], int] = time.time_ns

    def time_ns() -> int:
        (ahead_ms,) = struct.unpack_from(FORMAT, shared)
        return true_ns() + int(ahead_ms) * 1_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
