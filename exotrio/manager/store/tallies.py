"""How many states of each node ended how, and how long they ran: by minute, kept for a day.

A chart cannot read a million states, so each is counted when it ends. Use cases count in memory; the store
writes the counts with one of its commits, at most once a second.

Durations are counted in buckets at most a fifth wide, so a quantile is right to about a tenth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from exotrio.manager.store.driver import Connection
from exotrio.manager.store.port import Transaction, View

MINUTE_MS = 60_000
KEPT_MINUTES = 25 * 60

Key = tuple[int, str, int]
"""Node id, status and bucket of a state that ended."""


def bucket_of(ms: int) -> int:
    """Return the bucket of a duration: four for each doubling, one for each of the first milliseconds."""
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
    """Return the ms that ``share`` of the counted states did not exceed; None if there are none."""
    wanted = share * sum(buckets.values())
    if not wanted:
        return None
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= wanted:
            return middle_ms(bucket)
    raise AssertionError("unreachable: no share is more than the whole")


def write(connection: Connection | Transaction, counted: Counter[Key], now_ms: int) -> None:
    """Add counts to the present minute, and delete those of the same nodes that are too old."""
    if not counted:
        return
    minute = now_ms // MINUTE_MS
    connection.executemany(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (node_id, minute, status, bucket)"
        " DO UPDATE SET count = tallies.count + excluded.count",
        [(node_id, minute, status, bucket, n) for (node_id, status, bucket), n in sorted(counted.items())],
    )
    connection.executemany(
        "DELETE FROM tallies WHERE node_id = ? AND minute < ?",
        [(node_id, minute - KEPT_MINUTES) for node_id in sorted({node_id for node_id, _, _ in counted})],
    )


def by_minute(view: View, node_ids: Iterable[int], minutes: int) -> dict[int, Counter[str]]:
    """Return for each of the last ``minutes``, the present one included, how many ended in which status.

    It reads at most as many rows as there are minutes, statuses and buckets of these nodes.
    """
    # The cast: on PostgreSQL a sum is a decimal number.
    first = view.now_ms // MINUTE_MS - minutes + 1
    found = {minute: Counter[str]() for minute in range(first, first + minutes)}
    for row in view.execute(
        f"SELECT minute, status, CAST(sum(count) AS BIGINT) AS count FROM tallies"
        f" WHERE {view.any_of('node_id')} AND minute >= ? GROUP BY minute, status",
        (view.items(list(node_ids)), first),
    ):
        if row["minute"] in found:
            found[row["minute"]][row["status"]] += row["count"]
    return found


def of_node(view: View, node_id: int, minutes: int) -> tuple[Counter[str], Counter[int]]:
    """Return how many states of a node ended within the last ``minutes``, by status and by bucket."""
    statuses: Counter[str] = Counter()
    buckets: Counter[int] = Counter()
    present = view.now_ms // MINUTE_MS
    for row in view.execute(
        # Later minutes were counted before the clock was set back.
        "SELECT status, bucket, CAST(sum(count) AS BIGINT) AS count FROM tallies WHERE node_id = ?"
        " AND minute > ? AND minute <= ? GROUP BY status, bucket",
        (node_id, present - minutes, present),
    ):
        statuses[row["status"]] += row["count"]
        buckets[row["bucket"]] += row["count"]
    return statuses, buckets
