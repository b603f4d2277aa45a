"""How many states of each node ended how, and how long they ran: by minute, kept for a day.

A million states are too many to look at for a chart, so what ends is counted as it ends. Use cases count
in memory; the store writes the counts with one of its commits, once a second at most.

Times are counted in buckets that are at most a fifth wide, so a quantile is right to a tenth or so.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping

from exotrio.manager.store.port import View

MINUTE_MS = 60_000
KEPT_MINUTES = 25 * 60

Key = tuple[int, str, int]
"""Kind, status and bucket of a state that ended."""


def bucket_of(ms: int) -> int:
    """Return the bucket of a span: four for each doubling, one for each of the first milliseconds."""
    if ms < 4:
        return max(0, ms)
    exponent = ms.bit_length() - 3
    return 4 * exponent + (ms >> exponent)


def middle_ms(bucket: int) -> float:
    """Return the middle of a bucket, in milliseconds."""
    if bucket < 8:
        return float(bucket)
    exponent, part = bucket // 4 - 1, bucket % 4 + 4
    return (part + 0.5) * (1 << exponent)


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the time that ``share`` of the counted states did not exceed, in ms; None if there are none."""
    wanted = share * sum(buckets.values())
    if not wanted:
        return None
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return middle_ms(bucket)
    raise AssertionError("unreachable: no share is more than the whole")


def write(connection: sqlite3.Connection, counted: Counter[Key], now_ms: int) -> None:
    """Add counts to the present minute, and forget those of its nodes that are too old."""
    if not counted:
        return
    minute = now_ms // MINUTE_MS
    connection.executemany(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, minute, status, bucket)"
        " DO UPDATE SET count = count + excluded.count",
        [(kind, minute, status, bucket, count) for (kind, status, bucket), count in counted.items()],
    )
    connection.executemany(
        "DELETE FROM tallies WHERE kind = ? AND minute < ?",
        [(kind, minute - KEPT_MINUTES) for kind in {kind for kind, _, _ in counted}],
    )


def by_minute(view: View, kinds: Iterable[int], minutes: int) -> dict[int, Counter[str]]:
    """Return for each of the last ``minutes``, the present one included, how many ended in which status.

    Reads at most that many times the statuses and buckets of these kinds.
    """
    first = view.now_ms // MINUTE_MS - minutes + 1
    found = {minute: Counter[str]() for minute in range(first, first + minutes)}
    for kind in kinds:
        for row in view.execute(
            "SELECT minute, status, sum(count) AS count FROM tallies WHERE kind = ? AND minute >= ?"
            " GROUP BY minute, status",
            (kind, first),
        ):
            if row["minute"] in found:
                found[row["minute"]][row["status"]] += row["count"]
    return found


def of_kind(view: View, kind: int, minutes: int) -> tuple[Counter[str], Counter[int]]:
    """Return how many states of a node ended in which status, and in which bucket, of late."""
    statuses: Counter[str] = Counter()
    buckets: Counter[int] = Counter()
    present = view.now_ms // MINUTE_MS
    for row in view.execute(
        # Later minutes are of a clock that was set back since.
        "SELECT status, bucket, sum(count) AS count FROM tallies WHERE kind = ? AND minute > ?"
        " AND minute <= ? GROUP BY status, bucket",
        (kind, present - minutes, present),
    ):
        statuses[row["status"]] += row["count"]
        buckets[row["bucket"]] += row["count"]
    return statuses, buckets
