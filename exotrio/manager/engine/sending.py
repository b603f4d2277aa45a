"""Use cases about events: sending one to a run, and ending waits whose deadlines have passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exotrio._wire.events import SentEvent
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.mailbox import end_overdue, end_waiting, find_event, put_event
from exotrio.manager.engine.runs import lock_run
from exotrio.manager.engine.states import locked_runs_of
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction


def send(
    tx: Transaction, namespace: str, run_id: str, name: str, value: Mapping[str, str]
) -> WithEffects[SentEvent]:
    """Send an event to a run: it is kept, and the states that wait for it go on, in the same commit.

    The first value under a name wins. The same one is accepted again, also after the run has ended. States
    whose deadlines have passed do not get it; it is kept if the run goes on without it.

    Raises:
        NotFound: there is no such run.
        Conflict, InvalidRequest: as ``mailbox.put_event``.
    """
    run = lock_run(tx, namespace, run_id)
    changes = Changes(tx, [run])
    earlier, overdue = find_event(tx, run.id, name)
    if overdue is not None:
        end_overdue(changes, run.id, name)
        commit_changes(changes)
    sent = put_event(changes, run.id, tx.template(run.template), name, value, earlier, overdue)
    commit_changes(changes)
    if sent.created:
        tx.record("run.send", namespace, run_id, name)
    return WithEffects(sent, changes.effects)


def handle_waits(tx: Transaction, seqs: Sequence[int]) -> WithEffects[int]:
    """End those of these waits whose deadlines have passed, and return how many those were."""
    changes = Changes(tx, locked_runs_of(tx, seqs).values())
    ended = end_waiting(changes, seqs)
    commit_changes(changes)
    return WithEffects(ended, changes.effects)
