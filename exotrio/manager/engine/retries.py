"""Retrying by hand: one state that ended badly, or all failed states of a run."""

from __future__ import annotations

from pydantic_core import from_json

from exotrio._wire.operations import RefusedState, RetriedState, RunRetry
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.outcomes import Follow, copy_of
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import (
    ERRORED,
    NEXT_CREATED_ERROR,
    PRUNED,
    RETRY_CREATED,
    SUCCESS,
    Changes,
    NewState,
    RunScope,
    add_event,
    get_state,
)
from exotrio.manager.engine.unites import decide, united_state
from exotrio.manager.rules.errors import Refused, not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Transaction, View


def retry_by_hand(tx: Transaction, namespace: str, state_id: str, fanout_id: str) -> str:
    """Replace a state that ended badly by a new one and return the new one's id.

    A state whose next states could not be created is not run again: the creation is redone from
    its outputs. A united state that could not be built is built anew.
    """
    state = get_state(tx, namespace, state_id)
    if state["status"] not in (ERRORED, NEXT_CREATED_ERROR, PRUNED):
        raise Refused(409, f"only a state that ended badly can be retried; this one is {state['status']}")
    if tx.row(
        "SELECT 1 FROM states WHERE run = ? AND place = ? AND manual_fanout_id = ? AND retry_count = 0",
        (state["run"], state["place"], fanout_id),
    ):
        raise Refused(409, f"this node of the run was already retried with fanout_id {fanout_id!r}")
    if state["cancelled_at"] is not None:
        raise Refused(409, "the run of this state was cancelled; trigger the graph again")
    run = RunScope(state["run"], tx.template(state["template"]))
    changes = Changes(tx)
    seq, _ = _replace(changes, run, state, fanout_id)
    decide(changes)
    return tx.state_id(seq)


def retry_anywhere(tx: Transaction, state_id: str, fanout_id: str) -> str:
    """Retry a state as ``retry_by_hand`` does, whatever the namespace of its node is."""
    row = tx.row(
        "SELECT namespace FROM states JOIN nodes ON nodes.id = node_id WHERE seq = ?", (tx.seq(state_id),)
    )
    if row is None:
        raise not_found(f"there is no state {state_id!r}")
    return retry_by_hand(tx, row["namespace"], state_id, fanout_id)


def retry_run(tx: Transaction, namespace: str, run_id: str, request_id: str) -> RunRetry:
    """Retry every failed state of a run, each as ``retry_by_hand`` does.

    Asking again with the same ``request_id`` retries nothing more.
    """
    found = find_run(tx, namespace, run_id)
    if found["cancelled_at"] is not None:
        raise Refused(409, f"the run {run_id} was cancelled; trigger the graph again")
    run = RunScope(found["id"], tx.template(found["template"]))
    failed = _failed(tx, run.id)
    changes = Changes(tx)
    if earlier := _retried_before(tx, run.id, request_id):
        return RunRetry(retried=earlier, refused=_refusals(changes, run, failed))
    if not failed:
        raise Refused(409, f"the run {run_id} has no failed states")
    retried: list[RetriedState] = []
    refused: list[RefusedState] = []
    # United states that could not be built come last: they may read what the others bring about.
    for state in sorted(failed, key=_is_unbuilt):
        if _is_unbuilt(state):
            decide(changes)
        state_id = tx.state_id(state["seq"])
        try:
            seq, status = _replace(changes, run, state, _fanout_id(tx, request_id, state["seq"]))
        except Refused as refusal:
            refused.append(RefusedState(state_id=state_id, reason=refusal.detail))
        else:
            retried.append(RetriedState(state_id=state_id, new_state_id=tx.state_id(seq), status=status))
    decide(changes)
    return RunRetry(retried=retried, refused=refused)


def _failed(view: View, run: int) -> list[Row]:
    return view.execute(
        "SELECT * FROM states WHERE run = ? AND status IN ('ERRORED', 'NEXT_CREATED_ERROR') ORDER BY seq",
        (run,),
    ).fetchall()


def _retried_before(view: View, run: int, request_id: str) -> list[RetriedState]:
    """Return what a request under this id retried, as it is now."""
    return [
        RetriedState(
            state_id=view.state_id(row["retry_of"]),
            new_state_id=view.state_id(row["seq"]),
            status=row["status"],
        )
        for row in view.execute(
            "SELECT seq, retry_of, status, manual_fanout_id FROM states WHERE run = ? AND retry_count = 0"
            " AND manual_fanout_id IS NOT NULL AND retry_of IS NOT NULL ORDER BY seq",
            (run,),
        )
        if row["manual_fanout_id"] == _fanout_id(view, request_id, row["retry_of"])
    ]


def _refusals(changes: Changes, run: RunScope, failed: list[Row]) -> list[RefusedState]:
    """Return which states would be refused, and why. Nothing is changed."""
    refused = []
    for state in filter(_is_unbuilt, failed):
        try:
            _rebuilt(changes, run, state)
        except Refused as refusal:
            state_id = changes.tx.state_id(state["seq"])
            refused.append(RefusedState(state_id=state_id, reason=refusal.detail))
    return refused


def _fanout_id(view: View, request_id: str, seq: int) -> str:
    """Return an id of the request and the state: several states of one place may fail."""
    return f"{request_id}:{view.state_id(seq)}"


def _is_unbuilt(state: Row) -> bool:
    """Whether the state is a united one whose inputs could not be built."""
    return state["status"] == ERRORED and bool(state["united"]) and state["claimed_at"] is None


def _replace(changes: Changes, run: RunScope, state: Row, fanout_id: str) -> tuple[int, StateStatus]:
    """Replace a state by a new attempt; return its number and status.

    It raises Refused, and changes nothing, if the inputs still cannot be built.
    """
    tx = changes.tx
    seq = tx.allocate()
    new = _rebuilt(changes, run, state) if _is_unbuilt(state) else copy_of(state, enqueue_after=tx.now_ms)
    if state["status"] == NEXT_CREATED_ERROR:
        new.outputs = state["outputs"]
        new.error = Follow(changes, run, state).create(seq, from_json(state["outputs"]), state["path"])
        new.status = NEXT_CREATED_ERROR if new.error else SUCCESS
    new.manual_fanout_id = fanout_id
    new.retry_of = state["seq"]
    changes.insert(run, new, seq=seq)
    tx.execute(
        "UPDATE states SET status = ?, updated_at = ? WHERE seq = ?", (RETRY_CREATED, tx.now_ms, state["seq"])
    )
    changes.transition(run, state["place"], state["groups"], state["status"], RETRY_CREATED)
    add_event(tx, state["seq"], "retried by hand")
    return seq, StateStatus(new.status)


def _rebuilt(changes: Changes, run: RunScope, state: Row) -> NewState:
    """Return a united state that is built anew; refuse if its inputs still cannot be built."""
    target_state = state["parent"]
    unite = next(
        unite for unites in run.template.uniters.values() for unite in unites if unite.place == state["place"]
    )
    new = united_state(changes, run, target_state, unite)
    if new.status == ERRORED:
        raise Refused(409, str(new.error))
    return new
