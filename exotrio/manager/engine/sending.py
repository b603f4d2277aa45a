"""Use cases about events: sending one to a run, and ending waits whose deadlines have passed."""

from __future__ import annotations

from collections.abc import Mapping

from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.mailbox import Sent, end_waiting, overdue, put_event
from exotrio.manager.engine.runs import lock_run
from exotrio.manager.engine.states import locked_runs_of
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction


def send(
    tx: Transaction, namespace: str, run_id: str, name: str, value: Mapping[str, str]
) -> WithEffects[Sent]:
    """Send an event to a run: it is kept, and the states that wait for it go on, in the same commit.

    The first value under a name wins. The same one is accepted again, also after the run has ended.

    Raises:
        NotFound: there is no such run.
        Conflict, InvalidRequest: as ``mailbox.put_event``.
    """
    run = lock_run(tx, namespace, run_id)
    changes = Changes(tx, [run])
    sent = put_event(changes, run.id, tx.template(run.template), name, value)
    commit_changes(changes)
    return WithEffects(sent, changes.effects)


def expire_waits(tx: Transaction) -> WithEffects[int]:
    """End some waits whose deadlines have passed; return how many. Call it again until it returns 0."""
    seqs = overdue(tx)
    changes = Changes(tx, locked_runs_of(tx, seqs).values() if seqs else ())
    ended = end_waiting(changes, seqs) if seqs else 0
    commit_changes(changes)
    return WithEffects(ended, changes.effects)
