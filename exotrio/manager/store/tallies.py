"""How many states and runs ended with which status, and how long they took.

A chart cannot read a million states, so each is counted when it ends. Use cases count in memory; the store
writes the counts with a commit, at most one each second, into the table ``trends``: by node and
graph, in slots of several widths, each kept as long as charts show slots of that width (``WIDTHS``).

Durations are counted in four buckets for each doubling, so a quantile is right to about an eighth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from exotrio.manager.store.driver import Connection
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MINUTE_MS = 60_000

WIDTHS = {1: 2 * 60, 15: 25 * 60, 120: 8 * 24 * 60}
"""The widths of slots in ``trends``, in minutes, each with the minutes for which such slots are kept."""

Key = tuple[int, int, str, int, int]
"""Graph, node id, status, bucket and minute of a state that ended; of a run with ``RUN`` for the node."""
RUN = 0
"""Instead of a node id, which is never 0."""


def bucket_of(ms: int) -> int:
    """Return the bucket of a duration: four for each doubling, one for each of the first milliseconds."""
    if ms < 4:
        return max(0, ms)
    exponent = ms.bit_length() - 3
    return 4 * exponent + (ms >> exponent)


def minute_of(ms: int) -> int:
    """Return the minute of a time, both of Unix."""
    return ms // MINUTE_MS


def middle_ms(bucket: int) -> float:
    if bucket < 8:
        return float(bucket)
    exponent, part = bucket // 4 - 1, bucket % 4 + 4
    return (part + 0.5) * (1 << exponent)


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """Return the ms that ``share`` of the counted states did not exceed; None if there are none."""
    rank = share * sum(buckets.values())
    if not rank:
        return None
    counted = 0
    for bucket in sorted(buckets):
        counted += buckets[bucket]
        if counted >= rank:
            return middle_ms(bucket)
    raise AssertionError("unreachable: no share is more than the whole")


def write(connection: Connection | Transaction, counted: Mapping[Key, int], now_ms: int) -> None:
    """Add counts to the slots of their minutes, and delete those of the same nodes that are too old.

    A count may be negative: a run that is retried no longer counts as ended, where it did. Another state
    manager may not have written that yet, so the sum may be negative for a while.
    """
    minute = minute_of(now_ms)
    connection.executemany(
        # Nothing for a graph that was deleted meanwhile: SQLite gives its number to another one.
        "INSERT INTO trends SELECT ?, ?, ?, id, ?, ?, ? FROM graphs WHERE id = ?"
        " ON CONFLICT (node_id, width, slot, graph, status, bucket)"
        " DO UPDATE SET count = trends.count + excluded.count",
        # Sorted, so that all state managers lock rows in the same order.
        sorted(
            (node_id, width, ended // width, status, bucket, count, graph)
            for (graph, node_id, status, bucket, ended), count in counted.items()
            for width in WIDTHS
            if count
        ),
    )
    connection.executemany(
        "DELETE FROM trends WHERE node_id = ? AND width = ? AND slot < ?",
        [
            (node_id, width, (minute - kept) // width)
            for node_id in sorted({node_id for _, node_id, *_ in counted})
            for width, kept in WIDTHS.items()
        ],
    )


def of_node(view: View, node_id: int, minutes: int) -> tuple[Counter[str], Counter[int]]:
    """Return how many states of a node ended in the last ``minutes``, by status and by bucket.

    They are counted in the narrowest slots that are kept for so long, the present one included.
    """
    width = next(width for width, kept in WIDTHS.items() if minutes <= kept)
    statuses: Counter[str] = Counter()
    buckets: Counter[int] = Counter()
    for by_status, by_bucket in in_slots(view, width, minutes // width, nodes=[node_id]).values():
        statuses.update(by_status)
        buckets.update(by_bucket)
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

    It reads at most slots x statuses x buckets rows for each node or graph.

    Args:
        width: One of ``WIDTHS``, in minutes.
        nodes: Only states of these nodes.
        graphs: Only states or runs of these graphs.
        runs: Count runs instead of states.
    """
    first = minute_of(view.now_ms) // width - slots + 1
    conditions, parameters = ["width = ?", "slot >= ?", "slot < ?"], [width, first, first + slots]
    if runs:
        conditions.append(f"node_id = {RUN}")
    elif nodes is None:
        conditions.append(f"node_id <> {RUN}")
    # ``(graph + 0)`` keeps the index by graph from being used: for runs it would read all states, too.
    for column, numbers in (("node_id", nodes), ("(graph + 0)" if runs else "graph", graphs)):
        if numbers is not None:
            conditions.append(view.any_of(column))
            parameters.append(view.items(list(numbers)))
    counts: Slots = {slot: (Counter(), Counter()) for slot in range(first, first + slots)}
    for row in view.execute(
        "SELECT slot, status, bucket, CAST(sum(count) AS BIGINT) AS count FROM trends"
        f" WHERE {' AND '.join(conditions)} GROUP BY slot, status, bucket HAVING sum(count) > 0",
        tuple(parameters),
    ):
        statuses, buckets = counts[row["slot"]]
        statuses[row["status"]] += row["count"]
        buckets[row["bucket"]] += row["count"]
    return counts
