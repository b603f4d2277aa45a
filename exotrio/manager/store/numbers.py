"""The numbers of rows.

New rows get higher ones than the database ever assigned, also after it may have gone back in time. A
restored backup, or a standby that takes over, may lack the last commits, while the numbers that those
assigned are still in use: the ids of states, which runtimes hold, end with them, and managers keep rows by
them. If one were assigned again, the outcome of one state could be recorded for another. So at each start,
and whenever PostgreSQL begins a new timeline, the next number is at least ``number_at`` that time, which
grows faster than any database assigns numbers: no record of them is needed, which could be lost with the
database. It is also at least ``GAP`` above the highest number, so a clock that was set back lowers none.
"""

from __future__ import annotations

_BEGIN_MS = 1_735_689_600_000  # 2025-01-01
_PER_MS = 256
"""Several times as many as any database inserts. Numbers stay below 2^47, which take six bytes on SQLite,
until 2042, and below 2^53 for a thousand years."""
GAP = 65_536
"""Minimum of numbers that are skipped. Other managers take fewer while the statement that skips runs."""


def number_at(now_ms: int) -> int:
    """Return a number that no database has assigned before that time, in Unix milliseconds."""
    return max(0, now_ms - _BEGIN_MS) * _PER_MS
