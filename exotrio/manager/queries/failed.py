"""States that failed and were not retried, by node and time: an index of their own knows them."""

from __future__ import annotations

from collections.abc import Iterable

from exotrio.manager.store.port import View

MOST_COUNTED = 100_000
FAILED = "status IN ('ERRORED', 'NEXT_CREATED_ERROR') AND error <> 'cancelled'"
"""As in the index states_failed_by_time, letter for letter: SQLite recognizes it by that."""


def failed_since(view: View, node_ids: Iterable[int], since: int) -> int:
    """Return how many states of these nodes failed since then; at most ``MOST_COUNTED`` of each."""
    count = 0
    for node_id in node_ids:
        count += view.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM states WHERE node_id = ? AND {FAILED} AND finished_at >= ?"
            " LIMIT ?)",
            (node_id, since, MOST_COUNTED),
        ).fetchone()[0]
    return count
