"""The next portion of a change of a run that goes on (``unfinished``)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from exotrio._util.words import plural
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.moves import move_portion
from exotrio.manager.engine.retries import NEVER, fanout_id, next_failed, replace_states
from exotrio.manager.engine.runs import cancel_portion
from exotrio.manager.engine.states import RunRow, locked_runs
from exotrio.manager.engine.unfinished import (
    CANCEL,
    MOVE,
    REPIN,
    RETRY,
    UNITE,
    Retry,
    drop,
    end_retry,
    keep,
    kept,
)
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.rules.lineage import split_groups
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction


def go_on(tx: Transaction, numbers: Sequence[int]) -> WithEffects[int]:
    """Go on with a change of one of these runs; return 0 if nothing is left to do."""
    # Always the first, and the others would wait until its change, however large, is complete.
    number = random.choice(numbers)
    for row in locked_runs(tx, "runs.id = ?", (number,)).values():
        changes = Changes(tx, [row])
        for change, content in kept(tx, number).items():
            if change == CANCEL:
                cancel_portion(changes, row, *content)
            elif change in (MOVE, REPIN):
                return WithEffects(1, move_portion(tx, row, change, *content))
            elif change == RETRY:
                changes = _retry_portion(tx, row, Retry(*content))
            else:
                _check_groups(changes, row, Retry(*content))
            commit_changes(changes)
            return WithEffects(1, changes.effects)
        return WithEffects(0, NO_EFFECTS)
    return WithEffects(drop(tx, number), NO_EFFECTS)


def _retry_portion(tx: Transaction, row: RunRow, retry: Retry) -> Changes:
    failed = next_failed(tx, row, retry.last, retry.until)
    # Of attempts of this retry some may have failed before, by the clock.
    own = f"{retry.request_id}:"
    states = [state for state in failed if not (state.manual_fanout_id or "").startswith(own)]
    fanout_ids = {state.seq: fanout_id(tx, retry.request_id, state.seq) for state in states}
    try:
        _, changes = replace_states(tx, row, states, fanout_ids, from_beginning=retry.from_beginning)
    except Conflict as refusal:
        changes, failed = Changes(tx, [row]), []
        result = f"{plural(retry.others, 'state')} not retried: {refusal.detail}"
        tx.record("run.retry", row.namespace, row.run_id, result, who="state manager")
    if failed:
        retry = retry._replace(last=failed[-1].seq, others=max(0, retry.others - len(failed)))
        keep(tx, changes.effects, row.id, RETRY, retry)
    else:
        drop(tx, row.id, [RETRY])
        keep(tx, changes.effects, row.id, UNITE, retry._replace(last=0, others=0))
    return changes


def _check_groups(changes: Changes, row: RunRow, retry: Retry) -> None:
    """Let groups be united that were not, since states in them had failed that might have been retried."""
    run = row.scope(changes.tx)
    failed = next_failed(changes.tx, row, retry.last, NEVER)
    for state in failed:
        for target_state, target in split_groups(state.groups):
            changes.touch(run, target_state, target)
    if failed:
        keep(changes.tx, changes.effects, row.id, UNITE, retry._replace(last=failed[-1].seq))
    else:
        end_retry(changes, row)
