"""Use cases about events: sending one to a run, and ending waits whose deadlines have passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exotrio.graph import WAIT_NODE
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.inputs import event_name
from exotrio.manager.engine.mailbox import Sent, end_overdue, end_waiting, find_event, put_event
from exotrio.manager.engine.order import LATER, WAITING, begins_at
from exotrio.manager.engine.runs import lock_run
from exotrio.manager.engine.sources import InputsError, Need, Sources, read_shared
from exotrio.manager.engine.states import CREATED, ERRORED, State, locked_runs_of, numbered, read_states
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.rules.template import Place
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction

_NOT_STORED = (
    "the graph was stored by a state manager of an earlier version, which left out what this place waits for:"
    " store the graph again, and start another run"
)


def send(
    tx: Transaction, namespace: str, run_id: str, name: str, value: Mapping[str, str]
) -> WithEffects[Sent]:
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
    """End those of these waits whose deadlines have passed, begin those that a state manager of an earlier
    version did not begin, and return how many those were."""
    runs = locked_runs_of(tx, seqs)
    changes = Changes(tx, runs.values())
    handled = end_waiting(changes, seqs)
    which = f"{numbered(tx, CREATED)} AND (lane IS NULL OR lane = '{LATER}')"
    for state in read_states(tx, runs, which, (tx.items(seqs),), tx.for_update("states")):
        place = state.scope(tx).template.places[state.place]
        # A node may have been woken meanwhile by its event.
        if place.node_name == WAIT_NODE:
            _adopt(changes, state, place)
            handled += 1
    commit_changes(changes)
    return WithEffects(handled, changes.effects)


def _adopt(changes: Changes, state: State, place: Place) -> None:
    """Let a state of a place that waits begin to wait, from now on."""
    tx = changes.tx
    run = state.scope(tx)
    if place.wait is None:
        _fail(changes, state, _NOT_STORED)
        return
    need = Need(run=run, above=state.parent, places=(place,), known=())
    try:
        event = event_name(place.wait, Sources(tx, run, state.parent, read_shared(tx, [need])), "", {})
    except InputsError as problem:
        _fail(changes, state, str(problem))
        return
    changes.waiting[state.seq] = run.id, event
    until = begins_at(place, tx.now_ms)
    changes.update(state, lane=WAITING, event=event, enqueue_after=until, updated_at=tx.now_ms)


def _fail(changes: Changes, state: State, error: str) -> None:
    changes.update(state, status=ERRORED, lane=None, error=error, finished_at=changes.tx.now_ms)
    changes.transition(state.scope(changes.tx), state.place, state.groups, CREATED, ERRORED)
