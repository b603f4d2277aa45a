"""Use cases about events: sending one to a run, and ending waits whose deadlines have passed."""

from __future__ import annotations

from collections.abc import Mapping

from exotrio.graph import WAIT_NODE, WITHOUT_RUNTIME
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.child_cancellation import TO_CANCEL
from exotrio.manager.engine.children import STARTING, TO_DELIVER, claimable
from exotrio.manager.engine.failures import DUE
from exotrio.manager.engine.inputs import event_name
from exotrio.manager.engine.mailbox import Sent, end_overdue, end_waiting, find_event, put_event
from exotrio.manager.engine.order import LATER, WAITING, begins_at
from exotrio.manager.engine.runs import lock_run
from exotrio.manager.engine.sources import InputsError, Need, Sources, read_shared
from exotrio.manager.engine.states import CREATED, ERRORED, State, locked_runs_of, numbered, read_states
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

_NOT_STORED = (
    "the graph was stored by a state manager of an earlier version, which left out what this place waits for:"
    " store the graph again, and start another run"
)
MAX_PER_STEP = 1_000
"""Deadlines, and states that begin to wait, that one transaction handles."""
_LIMITED = "status = 'CREATED' AND lane = 'waiting' AND enqueue_after < 200000000000000"
"""The condition of the index ``states_deadlines``."""
_UNADOPTED = (
    # In a separate SELECT: PostgreSQL might read all states that can be claimed for a join.
    "FROM (SELECT coalesce("
    "(SELECT seq FROM states WHERE node_id = nodes.id AND status = 'CREATED' AND lane IS NULL"
    " ORDER BY priority, turn, seq LIMIT 1),"
    f" (SELECT seq FROM states WHERE node_id = nodes.id AND status = 'CREATED' AND lane = '{LATER}'"
    " AND enqueue_after <= ? ORDER BY enqueue_after, seq LIMIT 1)"
    f") AS seq FROM nodes WHERE name IN {WITHOUT_RUNTIME}) AS found WHERE seq IS NOT NULL"
)
"""States of places that wait, or run graphs, which a state manager of an earlier version created: it does not
know that they wait. Those that it retried, or was to start later, are in the lane ``LATER``."""


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


def has_waits_to_handle(view: View) -> bool:
    """Whether the deadline of a waiting state has passed, a state has to begin to wait, or something is to be
    done about runs that states wait for (``children``) or that follow failed ones (``alerts``)."""
    overdue = (
        f"SELECT 1 AS found FROM states INDEXED BY states_deadlines WHERE {_LIMITED} AND enqueue_after <= ?"
    )
    unadopted = f"SELECT seq {_UNADOPTED}"
    any_of_them = " UNION ALL ".join((overdue, unadopted, TO_DELIVER, TO_CANCEL, DUE)) + " LIMIT 1"
    return view.row(any_of_them, (view.now_ms, view.now_ms)) is not None


def notes(view: View) -> list[str]:
    """Return what is to be done about runs that states wait for, or that follow failed ones: some of
    alert, cancel, deliver, start, in this order."""
    starting = f"SELECT seq FROM states INDEXED BY states_deadlines WHERE {STARTING}"
    which = {
        "start": f"{starting} UNION ALL SELECT seq {_UNADOPTED}",
        "deliver": TO_DELIVER,
        "cancel": TO_CANCEL,
        "alert": DUE,
    }
    each = (f"SELECT '{note}' AS note WHERE EXISTS ({noted})" for note, noted in which.items())
    return sorted(row["note"] for row in view.execute(" UNION ALL ".join(each), (view.now_ms, view.now_ms)))


def handle_waits(tx: Transaction) -> WithEffects[int]:
    """End some waits whose deadlines have passed, and begin some that a state manager of an earlier version
    did not begin; return how many those were. Call it again until it returns 0."""
    over, new = _overdue(tx), claimable(tx, WAIT_NODE, MAX_PER_STEP)
    if not over and not new:
        return WithEffects(0, NO_EFFECTS)
    runs = locked_runs_of(tx, [*over, *new])
    changes = Changes(tx, runs.values())
    handled = end_waiting(changes, over) if over else 0
    which = f"{numbered(tx, CREATED)} AND (lane IS NULL OR lane = '{LATER}')"
    for state in read_states(tx, runs, which, (tx.items(sorted(new)),), tx.for_update("states")):
        _adopt(changes, state)
        handled += 1
    commit_changes(changes)
    return WithEffects(handled, changes.effects)


def _overdue(tx: Transaction) -> list[int]:
    """Return the numbers of states that wait for events and whose deadlines have passed, oldest first."""
    rows = tx.execute(
        f"SELECT seq FROM states INDEXED BY states_deadlines WHERE {_LIMITED} AND enqueue_after <= ?"
        " AND event IS NOT NULL ORDER BY enqueue_after, seq LIMIT ?",
        (tx.now_ms, MAX_PER_STEP),
    )
    return [row["seq"] for row in rows]


def _adopt(changes: Changes, state: State) -> None:
    """Let a state of a place that waits begin to wait, from now on."""
    tx = changes.tx
    run = state.scope(tx)
    place = run.template.places[state.place]
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
