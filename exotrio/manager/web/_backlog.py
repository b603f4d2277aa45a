"""What waits, runs and failed now, node by node. Every query is bounded, whatever the history.

Waiting and held states have indexes of their own, with no finished ones in them; counting stops at
``MOST_COUNTED``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from exotrio.manager._transaction import View

MOST_COUNTED = 100_000
"""Of the waiting states of one node, which are counted one by one."""
MOST_HELD = 20_000
"""Held states that are looked at."""
FAILED = "status IN ('ERRORED', 'NEXT_CREATED_ERROR') AND error <> 'cancelled'"
"""As in the index states_failed_by_time, letter for letter: SQLite recognizes it by that."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The waiting states of one node.

    Attributes:
        waiting: How many wait, those that are not due yet included.
        oldest: Since when the first of them that is due could run, Unix ms; None if none is due.
    """

    waiting: int
    oldest: int | None


def backlog(view: View, kind: int) -> Backlog:
    """Return what waits for a node. Reads the index states_ready only."""
    waiting = view.execute(
        "SELECT count(*) FROM (SELECT 1 FROM states WHERE status = 'CREATED' AND kind = ? LIMIT ?)",
        (kind, MOST_COUNTED),
    ).fetchone()[0]
    row = view.row(
        "SELECT enqueue_after FROM states WHERE status = 'CREATED' AND kind = ? AND enqueue_after <= ?"
        " ORDER BY enqueue_after, seq LIMIT 1",
        (kind, view.now_ms),
    )
    return Backlog(waiting, None if row is None else row[0])


def held(view: View) -> Counter[int]:
    """Return how many states of each kind are held by workers. Looks at no others."""
    rows = view.execute(
        "SELECT kind, count(*) AS count FROM (SELECT kind FROM states INDEXED BY states_held"
        " WHERE status = 'QUEUED' LIMIT ?) GROUP BY kind",
        (MOST_HELD,),
    )
    return Counter({row["kind"]: row["count"] for row in rows})


def held_by_worker(view: View) -> Counter[str]:
    """Return how many states each worker holds, as far as they say who they are. Looks at no others."""
    rows = view.execute(
        "SELECT worker, count(*) AS count FROM (SELECT worker FROM states INDEXED BY states_held"
        " WHERE status = 'QUEUED' LIMIT ?) WHERE worker IS NOT NULL GROUP BY worker",
        (MOST_HELD,),
    )
    return Counter({row["worker"]: row["count"] for row in rows})


def failed_since(view: View, kinds: Iterable[int], since: int) -> int:
    """Return how many states failed since then and still stand there. Reads the index only."""
    count = 0
    for kind in kinds:
        count += view.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM states WHERE kind = ? AND {FAILED} AND finished_at >= ?"
            " LIMIT ?)",
            (kind, since, MOST_COUNTED),
        ).fetchone()[0]
    return count
