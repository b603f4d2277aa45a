"""The runs that end in one use case, as the metrics count them."""

from __future__ import annotations

from exotrio.manager.engine.states import ERRORED, SUCCESS, RunRow
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.tallies import RUN, Key, bucket_of, minute_of
from exotrio.manager.store.transaction import Transaction

IDLE = (
    "CASE WHEN runs.retried > 0 THEN (SELECT CAST(COALESCE(sum(until - since), 0) AS BIGINT) FROM idle_times"
    " WHERE run = runs.id) ELSE 0 END AS idle"
)
"""The column with the milliseconds for which a run had ended and waited to be retried."""
CANCELLED = "CANCELLED"
"""The status under which a run is counted that was cancelled."""


def ended_key(tx: Transaction, run: RunRow, ended_at: int) -> Key:
    """Return under which key a run is counted that ends, or ended, at a time."""
    status = CANCELLED if run.cancelled_at is not None else ERRORED if run.errored else SUCCESS
    # Only retries let a run go on after it had ended.
    idle = tx.one(f"SELECT {IDLE} FROM runs WHERE id = ?", (run.id,))["idle"] if run.retried else 0
    return run.graph, RUN, status, bucket_of(ended_at - run.created_at - idle), minute_of(ended_at)


class EndedRuns:
    """Announces the runs that end in one use case, and counts each once, as it is when the use case is over.

    Within it a run may end for a moment: the last state of a group ends before the united node that follows
    is created, or fails since its inputs cannot be built.
    """

    def __init__(self, tx: Transaction, effects: Effects) -> None:
        self._tx = tx
        self._effects = effects
        self._counted: dict[int, Key] = {}

    def change(self, run: RunRow, *, may_end: bool) -> None:
        """Take a run as it is after a change, by which it may have ended, or may go on or have failed."""
        is_counted = run.id in self._counted
        if is_counted:
            self._count(run, self._counted.pop(run.id), -1)
        if run.pending == 0 and (is_counted or may_end):
            self._effects.announced.add(run.run_id)
            self._effects.deliveries |= bool(run.awaited)
            key = self._counted[run.id] = ended_key(self._tx, run, self._tx.now_ms)
            self._count(run, key)

    def with_status(self, status: str) -> list[int]:
        return [run for run, key in self._counted.items() if key[2] == status]

    def _count(self, run: RunRow, key: Key, by: int = 1) -> None:
        self._effects.tally[key] += by
        self._effects.ended_runs[run.namespace, run.graph_name, key[2]] += by
