"""How long commits take: every outcome waits for one, and for the disk below it."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

WRITTEN_AGAIN = "the database can be written again"
"""In the log, after a line about a commit that failed."""
LAST = 100
"""Commits that count. A few say nothing yet."""
LEAST = 10


class CommitTimes:
    """The times of the last commits of one process. From any thread."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=LAST)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure the commit in the body, if it does not fail."""
        began = perf_counter()
        yield
        self._seconds.append(perf_counter() - began)

    @property
    def median_ms(self) -> float | None:
        """The median, in ms; None if there were too few."""
        seconds = list(self._seconds)
        return round(1_000 * statistics.median(seconds), 1) if len(seconds) >= LEAST else None
