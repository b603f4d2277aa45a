"""Where numbers go on when a database may have gone back in time: above all that it has given away.

A backup is restored, or a standby takes over that lacks the last commits. What the database had given away
since goes on elsewhere: runtimes hold states by ids that end with such numbers, and managers keep rows by
them. If one were assigned again, the outcome of one state could be taken for that of another.

So at each start, and whenever PostgreSQL begins a new timeline, numbers go on above ``number_at`` that
moment, which grows faster than numbers can be used up. No record is kept of what was given away, so none can
be lost together with the database. Rows keep their numbers, and a clock that was set back lowers nothing:
``GAP`` is left above the highest number in any case.
"""

from __future__ import annotations

_BEGIN_MS = 1_735_689_600_000  # 2025-01-01
_PER_MS = 256
"""Several times as many as any database inserts. Until 2042 numbers stay below 2^47, for which SQLite takes
six bytes, and for a thousand years below 2^53."""
GAP = 65_536
"""Numbers that are left out at least: more than other managers take during one statement."""


def number_at(now_ms: int) -> int:
    """Return a number that no database has reached at that time, in Unix milliseconds."""
    return max(0, now_ms - _BEGIN_MS) * _PER_MS
