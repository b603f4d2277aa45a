"""How many states and runs ended with which status, and how long they took.

A chart cannot read a million states, so each is counted when it ends. Use cases count in memory; the store
writes the counts with a commit, at most one each second, into the table ``trends``: by node and
graph, in slots of several widths, each kept as long as charts show slots of that width (``WIDTHS``).
How long states waited before is counted with them, by node, in the table ``waiting_trends``. Each wait of a
node's state for events or runs is, too, when it goes on: under the number of its node with a minus, since
state managers of earlier versions would take another stage for states that ended.

Durations are counted in four buckets for each doubling, so a quantile is right to about an eighth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MINUTE_MS = 60_000

WIDTHS = {1: 2 * 60, 15: 25 * 60, 120: 8 * 24 * 60}
"""The widths of slots, in minutes, each with the minutes for which such slots are kept."""

Key = tuple[int, int, str, int, int]
"""Graph, node id, status, bucket and minute of a state that ended; of a run with ``RUN`` for the node. How
long that state waited is counted under ``ANY_GRAPH``, with ``WAITED`` or ``BUFFERED`` for the status."""
RUN = ANY_GRAPH = 0
"""Instead of a node id, or of the number of a graph, which are never 0."""
WAITED, BUFFERED = "waited", "buffered"
"""The time of a state until its claim, and from there until ``execute``, as in ``StateTimes``."""

_AWAITED = "awaited"
_STAGE = f"CASE WHEN node_id < 0 THEN '{_AWAITED}' ELSE stage END"


def bucket_of(ms: int) -> int:
    """Return the bucket of a duration: four for each doubling, one for each of the first milliseconds."""
    if ms < 4:
        return ms if ms > 0 else 0
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
    """Return the ms that ``share`` of the counted states did not exceed; None if there are none.

    Where that share ends between two states, as the half of two does, it is the mean of their times.
    """
    rank = share * sum(buckets.values())
    if not rank:
        return None
    ordered = sorted(buckets)
    counts = list(zip(ordered, accumulate(buckets[bucket] for bucket in ordered), strict=True))
    before = next(bucket for bucket, count in counts if count >= rank)
    after = next((bucket for bucket, count in counts if count > rank), before)
    return (middle_ms(before) + middle_ms(after)) / 2


def write(tx: Transaction, counted: Mapping[Key, int]) -> None:
    """Add counts to the slots of their minutes, and delete those of the same nodes that are too old.

    A count may be negative: a run that is retried no longer counts as ended, where it did. Another state
    manager may not have written that yet, so the sum may be negative for a while.
    """
    slots = Counter[tuple[int, int, int, int, str, int]]()
    for (graph, node_id, status, bucket, ended), count in counted.items():
        for width in WIDTHS:
            slots[graph, node_id, width, ended // width, status, bucket] += count
    # Sorted, so that all state managers lock rows in the same order.
    rows = sorted((*slot, count) for slot, count in slots.items() if count)
    tx.executemany(
        # Nothing for a graph that was deleted meanwhile: SQLite gives its number to another one.
        "INSERT INTO trends SELECT ?, ?, ?, id, ?, ?, ? FROM graphs WHERE id = ?"
        " ON CONFLICT (node_id, width, slot, graph, status, bucket)"
        " DO UPDATE SET count = trends.count + excluded.count",
        sorted((*row, graph) for graph, *row in rows if graph != ANY_GRAPH),
    )
    tx.insert(
        "waiting_trends",
        ("node_id", "width", "slot", "stage", "bucket", "count"),
        [tuple(row) for graph, *row in rows if graph == ANY_GRAPH],
        "(node_id, width, slot, stage, bucket) DO UPDATE SET count = waiting_trends.count + excluded.count",
    )
    minute, node_ids = minute_of(tx.now_ms), sorted({node_id for _, node_id, *_ in counted})
    for table in ("trends", "waiting_trends"):
        for width, kept in WIDTHS.items():
            tx.execute(
                f"DELETE FROM {table} WHERE {tx.any_of('node_id')} AND width = ? AND slot < ?",
                (tx.items(node_ids), width, (minute - kept) // width),
            )


@dataclass(slots=True)
class Counts:
    """How many ended with which status, and how long they took and had waited, for events and runs
    (``awaited``), too, by bucket."""

    statuses: Counter[str] = field(default_factory=Counter)
    took: Counter[int] = field(default_factory=Counter)
    waited: Counter[int] = field(default_factory=Counter)
    buffered: Counter[int] = field(default_factory=Counter)
    awaited: Counter[int] = field(default_factory=Counter)

    @staticmethod
    def sum(each: Iterable[Counts]) -> Counts:
        """Return all of these together; there is at least one."""
        parts = zip(
            *((one.statuses, one.took, one.waited, one.buffered, one.awaited) for one in each), strict=True
        )
        return Counts(*(sum(part, Counter[Any]()) for part in parts))


def of_node(view: View, node_id: int, minutes: int) -> Counts:
    """Return what ended of a node in the last ``minutes``.

    It is counted in the narrowest slots that are kept for so long, the present one included.
    """
    width = next(width for width, kept in WIDTHS.items() if minutes <= kept)
    return Counts.sum(in_slots(view, width, minutes // width, nodes=[node_id]).values())


def in_slots(
    view: View,
    width: int,
    slots: int,
    *,
    nodes: Iterable[int] | None = None,
    graphs: Iterable[int] | None = None,
    runs: bool = False,
) -> dict[int, Counts]:
    """Return what ended in each of the last slots, the present one included; the earliest first.

    It reads at most slots x statuses x buckets rows for each node or graph.

    Args:
        width: One of ``WIDTHS``, in minutes.
        nodes: Only states of these nodes. How long states waited is known by node only.
        graphs: Only states or runs of these graphs.
        runs: Count runs instead of states.
    """
    first = minute_of(view.now_ms) // width - slots + 1
    conditions, parameters = ["width = ?", "slot >= ?", "slot < ?"], [width, first, first + slots]
    of_width = list(parameters)
    if runs:
        conditions.append(f"node_id = {RUN}")
    elif nodes is None:
        conditions.append(f"node_id <> {RUN}")
    # ``(graph + 0)`` keeps the index by graph from being used: for runs it would read all states, too.
    for column, numbers in (("node_id", nodes), ("(graph + 0)" if runs else "graph", graphs)):
        if numbers is not None:
            conditions.append(view.any_of(column))
            parameters.append(view.items(list(numbers)))
    sql = (
        "SELECT slot, status, bucket, CAST(sum(count) AS BIGINT) AS count FROM trends"
        f" WHERE {' AND '.join(conditions)} GROUP BY slot, status, bucket HAVING sum(count) > 0"
    )
    if nodes is not None:
        sql += (
            f" UNION ALL SELECT slot, {_STAGE}, bucket, CAST(sum(count) AS BIGINT) FROM waiting_trends WHERE"
            f" width = ? AND slot >= ? AND slot < ? AND {view.any_of('node_id')} GROUP BY slot, 2, bucket"
        )
        parameters += [*of_width, view.items([each for node in nodes for each in (node, -node)])]
    by_slot = {slot: Counts() for slot in range(first, first + slots)}
    for slot, status, bucket, count in view.execute(sql, tuple(parameters)):
        counts = by_slot[slot]
        if status in (WAITED, BUFFERED, _AWAITED):
            getattr(counts, status)[bucket] += count
        else:
            counts.statuses[status] += count
            counts.took[bucket] += count
    return by_slot
