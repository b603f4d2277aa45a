"""The time of the database, which all state managers on it share."""

from __future__ import annotations

import time

from exotrio.manager.store.postgres.connection import Connection

SAMPLES = 3
_NOW = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::float8"


def _own_ms() -> float:
    # Goes on while the machine is suspended, as the database's clock does, where there is such a clock.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) / 1e6


class ServerClock:
    """The database's clock, by an offset to this machine's own one, which nobody sets."""

    def __init__(self) -> None:
        self._offset = 0.0
        self.error_ms = 0.0
        """By how much it may be wrong."""

    def __call__(self) -> int:
        """Return the time in Unix milliseconds."""
        return int(_own_ms() + self._offset)

    def measure(self, connection: Connection) -> None:
        """Compare with the database."""
        found = []
        for _ in range(SAMPLES):
            sent = _own_ms()
            row = connection.execute(_NOW).fetchone()
            received = _own_ms()
            if row is not None:
                found.append((received - sent, row[0] - (sent + received) / 2))
        # The quickest answer was delayed least.
        took, self._offset = min(found)
        self.error_ms = took / 2
