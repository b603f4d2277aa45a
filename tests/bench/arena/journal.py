"""What really was submitted and done, read from the journals that the replicas of a cell have written.

A line is ``stored NAME ...`` for jobs that the system has acknowledged, ``refused COUNT`` for those it has
not; ``done NAME TIME WAITED``: when a job ended, and the seconds from its submission until it began; or
``closed``: no more are submitted.
"""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections import Counter
from pathlib import Path


class Journals:
    """The journals of all replicas that have a file in a folder."""

    def __init__(self, folder: Path) -> None:
        self.stored: set[str] = set()
        self.done: Counter[str] = Counter()
        self.refused = 0
        self.closed: set[Path] = set()
        self._folder = folder
        self._offsets: Counter[Path] = Counter()
        self._ends: list[tuple[float, float]] = []

    def read(self) -> None:
        """Read what was written since the last time."""
        for path in self._folder.glob("replica-*"):
            with path.open("rb") as file:
                file.seek(self._offsets[path])
                # A line is written at once, but may be seen in part.
                lines, _, _ = file.read().rpartition(b"\n")
            self._offsets[path] += len(lines) + bool(lines)
            for line in lines.decode().splitlines():
                self._enter(path, *line.split())
        self._ends.sort()

    def _enter(self, path: Path, word: str, *fields: str) -> None:
        if word == "stored":
            self.stored.update(fields)
        elif word == "refused":
            self.refused += int(fields[0])
        elif word == "closed":
            self.closed.add(path)
        else:
            name, ended, waited = fields
            self.done[name] += 1
            self._ends.append((float(ended), float(waited)))

    @property
    def lost(self) -> int:
        """How many jobs were acknowledged and have not run."""
        return len(self.stored - self.done.keys())

    @property
    def repeated(self) -> int:
        """How many times a job ran that had run before."""
        return self.done.total() - len(self.done)

    @property
    def max_waited(self) -> float:
        """Seconds the job waited that waited max_waited."""
        return max((seconds for _, seconds in self._ends), default=0.0)

    def rate(self, begin: float, end: float) -> float:
        """Jobs per second that ended between two times."""
        return len(self._between(begin, end)) / (end - begin)

    def waited(self, begin: float, end: float) -> float:
        """Seconds that jobs which ended between two times had waited, p99."""
        waited = [seconds for _, seconds in self._between(begin, end)]
        return statistics.quantiles(waited, n=100, method="inclusive")[98] if len(waited) > 1 else 0.0

    def recovery(self, begin: float, end: float, rate: float, window: float) -> float | None:
        """Seconds from ``begin`` until jobs end at 90 % of a rate, in a window; None if they never do."""
        start = begin
        while start + window <= end:
            if self.rate(start, start + window) >= 0.9 * rate:
                return start - begin
            start += window / 4
        return None

    def _between(self, begin: float, end: float) -> list[tuple[float, float]]:
        return self._ends[bisect_left(self._ends, (begin,)) : bisect_left(self._ends, (end,))]
