"""The time of the database, which all state managers on it share."""

from __future__ import annotations

import math
import threading
import time

from exotrio.manager.store.postgres.connection import Connection
from exotrio.manager.store.view import View

SAMPLES = 3
DRIFT = 1e-4
"""Maximum difference in the speed of two clocks, as a fraction."""
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8"


def _own_ms() -> float:
    # CLOCK_BOOTTIME, where it exists, also runs while the machine is suspended, as the database's clock does.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) / 1e6


class ServerClock:
    """The database's clock, as an offset to this machine's monotonic clock, which is never set."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._measured_at = -math.inf
        self._error = math.inf
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """Return the time in Unix milliseconds."""
        return int(_own_ms() + self._offset)

    def measure(self, connection: Connection | View) -> None:
        """Compare with the database. From any thread."""
        samples = []
        for _ in range(SAMPLES):
            sent = _own_ms()
            row = connection.execute(_NOW).fetchone()
            received = _own_ms()
            if row is not None:
                samples.append((received - sent, row[0] - (sent + received) / 2))
        # The fastest answer has the smallest error. On a busy machine even that error may be larger than the
        # one of the earlier measurement, which is then kept unless the two contradict each other.
        took, offset = min(samples)
        with self._lock:
            known = self._error + DRIFT * (_own_ms() - self._measured_at)
            if took / 2 <= known or abs(offset - self._offset) > known + took / 2:
                self._offset, self._error, self._measured_at = offset, took / 2, _own_ms()
