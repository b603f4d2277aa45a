"""How much waits and how much is held, by node: queries that cost the same beside any history.

They walk the partial indexes of what waits and of what is held, which finished states are not in.
Counting stops at ``MOST_COUNTED``: beyond that nobody needs the number, and a scrape has to stay short.
"""

from __future__ import annotations

from dataclasses import dataclass

from exotrio.manager.store.port import View

MOST_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """One node's states that have not ended.

    Attributes:
        waiting: CREATED, those that may not run yet included; at most ``MOST_COUNTED``.
        eligible: Of those, what a runtime could claim now; at most ``MOST_COUNTED``.
        oldest: Seconds since the first of them could be claimed; 0 without any.
        held: QUEUED.
    """

    namespace: str
    node: str
    waiting: int
    eligible: int
    oldest: float
    held: int


def backlog(view: View, *, namespace: str | None = None, node: str | None = None) -> list[Backlog]:
    """Return the backlog of every registered node, or of those with this namespace and this name."""
    held = dict(
        view.execute(
            "SELECT node_id, count(*) FROM states WHERE status = 'QUEUED' GROUP BY node_id"
        ).fetchall()
    )
    found = []
    for row in view.execute(
        "SELECT id, namespace, name FROM nodes WHERE (?1 IS NULL OR namespace = ?1)"
        " AND (?2 IS NULL OR name = ?2) ORDER BY namespace, name",
        (namespace, node),
    ).fetchall():
        waiting = view.execute(
            "SELECT count(*) FROM (SELECT 1 FROM states WHERE node_id = ? AND status = 'CREATED' LIMIT ?)",
            (row["id"], MOST_COUNTED),
        ).fetchone()[0]
        eligible, first = view.execute(
            "SELECT count(*), min(enqueue_after) FROM (SELECT enqueue_after FROM states WHERE node_id = ?"
            " AND status = 'CREATED' AND enqueue_after <= ? ORDER BY enqueue_after LIMIT ?)",
            (row["id"], view.now_ms, MOST_COUNTED),
        ).fetchone()
        oldest = 0.0 if first is None else max(0, view.now_ms - first) / 1000
        found.append(
            Backlog(row["namespace"], row["name"], waiting, eligible, oldest, held.get(row["id"], 0))
        )
    return found
