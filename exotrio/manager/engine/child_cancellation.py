"""Cancel the runs of states that ended while they waited for them."""

from __future__ import annotations

from collections.abc import Sequence

from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.due_work import MAX_PER_STEP
from exotrio.manager.engine.runs import begin_to_cancel, cancel_portion
from exotrio.manager.engine.states import locked_runs
from exotrio.manager.engine.unfinished import PORTION
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction


def cancel_children(tx: Transaction, seqs: Sequence[int]) -> WithEffects[int]:
    """Let some of the runs be cancelled for which these states waited that have ended; return how many runs
    and records of them were handled. Those with many states follow in portions (``portions``)."""
    ended = tx.items(seqs)
    rows = tx.execute(
        f"SELECT id FROM runs INDEXED BY runs_by_parent WHERE {tx.any_of('parent_state')}"
        " AND parent_state IS NOT NULL AND awaited = 1 AND cancelled_at IS NULL AND pending > 0 LIMIT ?",
        (ended, MAX_PER_STEP),
    ).fetchall()
    runs = locked_runs(tx, tx.any_of("runs.id"), (tx.items(sorted(row["id"] for row in rows)),)).values()
    changes, small, states = Changes(tx, runs), [], 0
    for run in runs:
        if run.pending and run.cancelled_at is None:
            why = ", since the state that waited for the run has ended"
            begin_to_cancel(changes, run, who="state manager", why=why)
            states += run.pending
            small += [run] if states <= PORTION else []
    if len(small) > 1:
        # All at once, in their order: ``cancel_portion`` locks them again.
        which = (
            f"{tx.any_of('run')} AND status IN ('CREATED', 'QUEUED') ORDER BY seq{tx.for_update('states')}"
        )
        tx.execute(f"SELECT seq FROM states WHERE {which}", (tx.items([run.id for run in small]),)).fetchall()
    for run in small:
        cancel_portion(changes, run)
    changes.apply()
    if len(rows) == MAX_PER_STEP:
        return WithEffects(len(rows), changes.effects)
    deleted = tx.execute(f"DELETE FROM children_to_cancel WHERE {tx.any_of('state')}", (ended,)).rowcount
    return WithEffects(len(rows) + deleted, changes.effects)
