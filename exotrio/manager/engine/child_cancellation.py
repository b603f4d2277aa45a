"""Cancel the runs of states that ended while they waited for them."""

from __future__ import annotations

from collections.abc import Sequence

from exotrio.manager.engine.due_work import MAX_PER_STEP
from exotrio.manager.engine.runs import cancel
from exotrio.manager.engine.states import locked_runs
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_CANCELLING = 0.05
"""Seconds after which a transaction cancels no further run."""


def cancel_children(tx: Transaction, seqs: Sequence[int]) -> WithEffects[int]:
    """Cancel some of the runs for which these states waited that have ended; return how many runs and records
    of them were handled."""
    ended = tx.items(seqs)
    rows = tx.execute(
        f"SELECT id FROM runs INDEXED BY runs_by_parent WHERE {tx.any_of('parent_state')}"
        " AND parent_state IS NOT NULL AND awaited = 1 AND cancelled_at IS NULL AND pending > 0 LIMIT ?",
        (ended, MAX_PER_STEP),
    ).fetchall()
    effects, cancelled = Effects(), 0
    # All at once, in their order, and then their states: ``cancel`` locks them again.
    ids = tx.items(sorted(row["id"] for row in rows))
    runs = locked_runs(tx, tx.any_of("runs.id"), (ids,))
    if len(runs) > 1:
        states = f"SELECT seq FROM states WHERE {tx.any_of('run')} AND status IN ('CREATED', 'QUEUED')"
        tx.execute(f"{states} ORDER BY seq{tx.for_update('states')}", (ids,)).fetchall()
    for run in runs.values():
        if cancelled and tx.has_run_for(MAX_CANCELLING):
            return WithEffects(cancelled, effects)
        if run.pending and run.cancelled_at is None:
            effects.add(cancel(tx, run.namespace, run.run_id, is_abandoned=True).effects)
            cancelled += 1
    if len(rows) == MAX_PER_STEP:
        return WithEffects(len(rows), effects)
    deleted = tx.execute(f"DELETE FROM children_to_cancel WHERE {tx.any_of('state')}", (ended,)).rowcount
    return WithEffects(cancelled + deleted, effects)
