"""How many states and runs ended how, and how long they took.

A chart cannot read a million states, so each is counted when it ends. Use cases count in memory; the store
writes the counts with one of its commits, at most once a second: into ``tallies`` by node and minute, kept
for a day, and into ``trends`` by node and graph in slots of several widths, kept as long as a chart of slots
so wide is looked at (``WIDTHS``).

Durations are counted in buckets at most a fifth wide, so a quantile is right to about a tenth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from exotrio.manager.store.driver import Connection
from exotrio.manager.store.port import Transaction, View

MINUTE_MS = 60_000
KEPT_MINUTES = 25 * 60

WIDTHS = {1: 2 * 60, 15: 25 * 60, 120: 8 * 24 * 60}
"""Of the slots of ``trends``, in minutes, with the minutes for which they are kept."""

Key = tuple[int, int, str, int]
"""Graph, node id, status and bucket of a state that ended, or, with ``RUN`` for the node, of a run."""
RUN = 0
"""Instead of a node id, which is never 0."""


def bucket_of(ms: int) -> int:
    """Return the bucket of a duration: four for each doubling, one for each of the first milliseconds."""
    if ms < 4:
        return max(0, ms)
    exponent = ms.bit_length() - 3
    return 4 * exponent + (ms >> exponent)


def middle_ms(bucket: int) -> float:
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
    by_node: Counter[tuple[int, str, int]] = Counter()
    for (_, node_id, status, bucket), count in counted.items():
        if node_id != RUN:
            by_node[node_id, status, bucket] += count
    # Sorted, as all rows that several state managers change.
    connection.executemany(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) ON CONFLICT (node_id, minute, status, bucket)"
        " DO UPDATE SET count = tallies.count + excluded.count",
        [(node_id, minute, status, bucket, n) for (node_id, status, bucket), n in sorted(by_node.items())],
    )
    connection.executemany(
        "DELETE FROM tallies WHERE node_id = ? AND minute < ?",
        [(node_id, minute - KEPT_MINUTES) for node_id in sorted({node_id for node_id, _, _ in by_node})],
    )
    connection.executemany(
        # Not of a graph that was deleted meanwhile, whose number SQLite gives to another one.
        "INSERT INTO trends SELECT ?, ?, ?, id, ?, ?, ? FROM graphs WHERE id = ?"
        " ON CONFLICT (node_id, width, slot, graph, status, bucket)"
        " DO UPDATE SET count = trends.count + excluded.count",
        sorted(
            (node_id, width, minute // width, status, bucket, count, graph)
            for (graph, node_id, status, bucket), count in counted.items()
            for width in WIDTHS
        ),
    )
    connection.executemany(
        "DELETE FROM trends WHERE node_id = ? AND width = ? AND slot < ?",
        [
            (node_id, width, (minute - kept) // width)
            for node_id in sorted({node_id for _, node_id, _, _ in counted})
            for width, kept in WIDTHS.items()
        ],
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


Slots = dict[int, tuple[Counter[str], Counter[int]]]
"""For each slot, the earliest first: how many ended by status, and by bucket."""


def in_slots(
    view: View,
    width: int,
    slots: int,
    *,
    nodes: Iterable[int] | None = None,
    graphs: Iterable[int] | None = None,
    runs: bool = False,
) -> Slots:
    """Return what ended in each of the last slots, the present one included.

    It reads at most as many rows as there are slots, statuses and buckets of what is asked for.

    Args:
        width: One of ``WIDTHS``, in minutes.
        nodes: Only states of these nodes.
        graphs: Only states or runs of these graphs.
        runs: Count runs instead of states.
    """
    first = view.now_ms // MINUTE_MS // width - slots + 1
    conditions, parameters = ["width = ?", "slot >= ?", "slot < ?"], [width, first, first + slots]
    if runs:
        conditions.append(f"node_id = {RUN}")
    elif nodes is None:
        conditions.append(f"node_id <> {RUN}")
    # Not by graph where it is about runs: that index would bring all states of these graphs, too.
    for column, numbers in (("node_id", nodes), ("(graph + 0)" if runs else "graph", graphs)):
        if numbers is not None:
            conditions.append(view.any_of(column))
            parameters.append(view.items(list(numbers)))
    found: Slots = {slot: (Counter(), Counter()) for slot in range(first, first + slots)}
    for row in view.execute(
        "SELECT slot, status, bucket, CAST(sum(count) AS BIGINT) AS count FROM trends"
        f" WHERE {' AND '.join(conditions)} GROUP BY slot, status, bucket",
        tuple(parameters),
    ):
        statuses, buckets = found[row["slot"]]
        statuses[row["status"]] += row["count"]
        buckets[row["bucket"]] += row["count"]
    return found
