"""Going on with the retry of a run with many failed states, in portions (``retry_notes``)."""

from __future__ import annotations

from collections.abc import Sequence

from exotrio._util.words import plural
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.retries import NEVER, fanout_id, next_failed, replace_states
from exotrio.manager.engine.retry_notes import SETTLE, RetryNote, drop, end, keep, note_of
from exotrio.manager.engine.states import RunRow, locked_runs
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.rules.lineage import split_groups
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction


def retry_more(tx: Transaction, numbers: Sequence[int]) -> WithEffects[int]:
    """Go on with the retry of the first of these runs, and return 1; 0 if nothing is left to do."""
    number = numbers[0]
    for row in locked_runs(tx, "runs.id = ?", (number,)).values():
        if row.cancelled_at is not None:  # by a state manager of an earlier version
            changes = Changes(tx, [row])
            end(changes, row)
        elif note := note_of(tx, number):
            changes = _retry_portion(tx, row, note)
        elif note := note_of(tx, number, SETTLE):
            changes = _check_groups(tx, row, note)
        else:
            return WithEffects(0, NO_EFFECTS)
        commit_changes(changes)
        return WithEffects(1, changes.effects)
    return WithEffects(drop(tx, number), NO_EFFECTS)


def _retry_portion(tx: Transaction, row: RunRow, note: RetryNote) -> Changes:
    failed = next_failed(tx, row, note.last, note.until)
    # Of attempts of this retry some may have failed before, by the clock.
    own = f"{note.request_id}:"
    states = [state for state in failed if not (state.manual_fanout_id or "").startswith(own)]
    fanout_ids = {state.seq: fanout_id(tx, note.request_id, state.seq) for state in states}
    try:
        _, changes = replace_states(tx, row, states, fanout_ids, from_beginning=note.from_beginning)
    except Conflict as refusal:
        changes, failed = Changes(tx, [row]), []
        result = f"{plural(note.others, 'state')} not retried: {refusal.detail}"
        tx.record("run.retry", row.namespace, row.run_id, result, who="state manager")
    if failed:
        keep(tx, row.id, note._replace(last=failed[-1].seq, others=max(0, note.others - len(failed))))
    else:
        drop(tx, row.id)
        keep(tx, row.id, note._replace(last=0, others=0), SETTLE)
    return changes


def _check_groups(tx: Transaction, row: RunRow, note: RetryNote) -> Changes:
    """Let groups be united that were not, since states in them had failed that might have been retried."""
    changes, run = Changes(tx, [row]), row.scope(tx)
    failed = next_failed(tx, row, note.last, NEVER)
    for state in failed:
        for target_state, target in split_groups(state.groups):
            changes.touch(run, target_state, target)
    if failed:
        keep(tx, row.id, note._replace(last=failed[-1].seq), SETTLE)
    else:
        end(changes, row)
    return changes
