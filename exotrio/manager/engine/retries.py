"""Retrying by hand: one state that ended badly, or all failed states of a run: many in portions
(``unfinished``).

United nodes that ran without them run again, with all that follows (``unites.Reruns``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic_core import from_json

from exotrio._wire.operations import RefusedState, RetriedState, RunRetry
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.attempts import copy_of
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.following import Follow, max_created, need_to_follow
from exotrio.manager.engine.order import begins_at
from exotrio.manager.engine.runs import lock_run
from exotrio.manager.engine.sources import read_shared
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    EXECUTED,
    NEXT_CREATED_ERROR,
    PRUNED,
    QUEUED,
    RETRY_CREATED,
    RETRYABLE,
    SUCCESS,
    NewState,
    RunRow,
    RunScope,
    State,
    locked_runs_of,
    read_states,
    read_texts,
)
from exotrio.manager.engine.unfinished import RETRY, Retry, begin_retry, kept
from exotrio.manager.engine.unites import REPLACED, Reruns, commit_changes, united_states
from exotrio.manager.rules.access import Permission
from exotrio.manager.rules.errors import Conflict, NotFound
from exotrio.manager.rules.template import Place
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

PORTION = 500
"""Maximum of states that one transaction retries."""
NEVER = 2**62
_FAILED = "run = ? AND status IN ('ERRORED', 'NEXT_CREATED_ERROR')"
_NOT_RETRIED = {
    CREATED: "this one is CREATED: it waits to run",
    QUEUED: "this one is QUEUED: a runtime has it",
    EXECUTED: "this one is EXECUTED: it succeeded, and what follows it is about to be created",
    SUCCESS: "this one is SUCCESS; to run it again, start its graph again",
    RETRY_CREATED: "this one is RETRY_CREATED: it was retried, or a state before it; retry its newest"
    " attempt, if that failed",
}
"""Why a state in one of these statuses is not retried."""


def retry_by_hand(
    tx: Transaction,
    namespace: str,
    state_id: str,
    fanout_id: str,
    *,
    from_beginning: bool = False,
) -> WithEffects[RunRetry]:
    """Replace a state that ended badly by a new one; the reply has that one.

    Its run or its node is of that namespace. The caller needs ``graphs`` for that of the run. The new one
    continues from the checkpoint of the old one, unless it is to run ``from_beginning``. A state whose next
    states could not be created is not run again: they are created from its outputs. A united state that could
    not be built is built again.
    """
    seq = tx.seq(state_id)
    state = None
    if seq is not None:
        state, *_ = [*read_states(tx, locked_runs_of(tx, [seq]), "seq = ?", (seq,)), None]
    if state is None or namespace not in (
        state.run_row.namespace,
        state.scope(tx).template.places[state.place].namespace,
    ):
        raise NotFound(f"there is no state {state_id!r} in namespace {namespace!r}")
    if tx.caller is not None:
        tx.caller.require(Permission.GRAPHS, state.run_row.namespace)
    if state.status not in RETRYABLE:
        raise Conflict(f"only a state that ended badly can be retried; {_NOT_RETRIED[state.status]}")
    if tx.row(
        "SELECT 1 FROM states WHERE run = ? AND place = ? AND manual_fanout_id = ? AND retry_count = 0",
        (state.run, state.place, fanout_id),
    ):
        raise Conflict(
            f"this node of the run was already retried with fanout_id {fanout_id!r};"
            " a further retry needs another one",
        )
    if state.run_row.cancelled_at is not None:
        raise Conflict("the run of this state was cancelled; trigger the graph again")
    fanout_ids = {state.seq: fanout_id}
    reply, changes = replace_states(tx, state.run_row, [state], fanout_ids, from_beginning=from_beginning)
    commit_changes(changes)
    if reply.refused:
        raise Conflict(f"its inputs still cannot be built: {reply.refused[0].reason}")
    tx.record(
        "run.retry",
        state.run_row.namespace,
        state.run_row.run_id,
        reply.text(f" ({state_id})", verb="to run"),
    )
    return WithEffects(reply, changes.effects)


def retry_run(
    tx: Transaction, namespace: str, run_id: str, request_id: str, *, from_beginning: bool = False
) -> WithEffects[RunRetry]:
    """Retry every failed state of a run, each as ``retry_by_hand`` does, except those that are replaced.

    A repeated request with the same ``request_id`` retries nothing more. Another one takes the place of a
    retry that goes on.
    """
    row = lock_run(tx, namespace, run_id)
    if row.cancelled_at is not None:
        raise Conflict(f"the run {run_id} was cancelled; trigger the graph again")
    run = row.scope(tx)
    failed = (
        read_states(tx, {row.id: row}, _FAILED, (row.id,))
        if row.errored <= PORTION
        else next_failed(tx, row, 0, NEVER)
    )
    if (earlier := _retried_before(tx, run, request_id)) is not None:
        unbuilt = [state for state in failed if _is_unbuilt(state)]
        again = zip(unbuilt, _rebuilt(tx, run, unbuilt), strict=True)
        earlier.refused = [_refusal(tx, old, new) for old, new in again if new.status == ERRORED]
        return WithEffects(earlier, NO_EFFECTS)
    if not failed:
        raise Conflict(f"the run {run_id} has no failed states")
    others = row.errored - len(failed)
    fanout_ids = {state.seq: fanout_id(tx, request_id, state.seq) for state in failed}
    reply, changes = replace_states(tx, row, failed, fanout_ids, from_beginning=from_beginning)
    if others:
        until = _now_or_later(tx, row)
        begin_retry(changes, row, Retry(request_id, from_beginning, until, failed[-1].seq, others))
        reply.others = others
    commit_changes(changes)
    tx.record("run.retry", namespace, run_id, reply.text(verb="to run"))
    return WithEffects(reply, changes.effects)


def _now_or_later(tx: Transaction, row: RunRow) -> int:
    """Return a time (Unix ms) until which what failed by now did so: the clock may have been set back, or
    that of another state manager be ahead."""
    latest = tx.one(f"SELECT max(finished_at) AS at FROM states WHERE {_FAILED}", (row.id,))["at"]
    return max(tx.now_ms, int(latest or 0))


def next_failed(tx: Transaction, row: RunRow, last: int, until: int) -> list[State]:
    """Return the next failed states after the number ``last``, of a run that is locked."""
    which = f"{_FAILED} AND seq > ? AND COALESCE(finished_at, 0) <= ?"
    return read_states(tx, {row.id: row}, which, (row.id, last, until), f" LIMIT {PORTION}")


def _retried_before(view: View, run: RunScope, request_id: str) -> RunRetry | None:
    """Return what a request under this id retried, as it is now; None if there was none."""
    begin = f"{request_id}:"
    of_request = (
        "FROM states WHERE run = ? AND retry_count = 0 AND retry_of IS NOT NULL"
        f" AND substr(manual_fanout_id, 1, {len(begin)}) = ?"
    )
    rows = view.execute(
        f"SELECT seq, retry_of, status, created_at, checkpoint_size {of_request} ORDER BY seq LIMIT ?",
        (run.id, begin, PORTION),
    ).fetchall()
    if not rows:
        return None
    count = view.one(f"SELECT count(*) AS number {of_request}", (run.id, begin))["number"]
    retried = [
        RetriedState(
            state_id=view.state_id(row["retry_of"]),
            new_state_id=view.state_id(row["seq"]),
            status=row["status"],
            from_checkpoint=row["checkpoint_size"] is not None,
        )
        for row in rows
    ]
    # All of it happened at one time, at which others may have been retried automatically.
    replaced = view.execute(
        "SELECT place, count(*) AS number FROM states WHERE run = ? AND status = 'RETRY_CREATED'"
        " AND EXISTS (SELECT 1 FROM events WHERE state = seq AND kind = ? AND at = ?) GROUP BY place",
        (run.id, REPLACED, rows[0]["created_at"]),
    )
    places = {row["place"]: row["number"] for row in replaced}
    others = count - len(rows)
    going_on = Retry(*kept(view, run.id).get(RETRY, ("", False, 0, 0, 0)))
    if going_on.request_id == request_id:
        others += going_on.others
    return RunRetry(retried=retried, refused=[], runs_again=_by_identifier(run, places), others=others)


def _by_identifier(run: RunScope, places: Mapping[int, int]) -> dict[str, int]:
    return {run.template.places[place].identifier: count for place, count in sorted(places.items())}


def fanout_id(view: View, request_id: str, seq: int) -> str:
    """Return an id of the request and the state: several states of one place may fail."""
    return f"{request_id}:{view.state_id(seq)}"


def _is_unbuilt(state: State) -> bool:
    """Whether the state is a united one whose inputs could not be built."""
    return state.status == ERRORED and bool(state.united) and state.claimed_at is None


def replace_states(
    tx: Transaction,
    row: RunRow,
    states: Sequence[State],
    fanout_ids: Mapping[int, str],
    *,
    from_beginning: bool,
) -> tuple[RunRetry, Changes]:
    """Replace states of a run, which is locked, by new attempts; the caller has to commit the changes.
    Nothing has been changed if it raises Conflict.

    Refused are those whose inputs still cannot be built. Left out are those that follow a united node which
    runs again: they are replaced with it.
    """
    run = row.scope(tx)
    reruns = Reruns()
    reruns.find(tx, run, [state for state in states if not _is_unbuilt(state)])
    unbuilt = [state for state in states if _is_unbuilt(state) and state.seq not in reruns.replaced]
    rebuilt = dict(zip((state.seq for state in unbuilt), _rebuilt(tx, run, unbuilt), strict=True))
    refused = {seq for seq, new in rebuilt.items() if new.status == ERRORED}
    reruns.find(tx, run, [state for state in unbuilt if state.seq not in refused])
    refusals = [
        _refusal(tx, state, rebuilt[state.seq]) for state in unbuilt if state.seq in refused - reruns.replaced
    ]
    retried = [state for state in states if state.seq not in refused | reruns.replaced]
    nodes = {}
    if run.template.version is not None:
        places = {state.place for state in retried}
        nodes = {place: _node_of(tx, run.template.places[place]) for place in sorted(places)}
    to_lock = sorted({*(state.seq for state in retried), *reruns.replaced, *reruns.first.values()})
    locked = tx.execute(
        # One that waits or ended has the worker of its last claim.
        "SELECT seq, place, status, groups, path, parent, united, limits, lane, lease_until, event,"
        " CASE WHEN status = 'QUEUED' THEN worker END AS worker FROM states"
        f" WHERE {tx.any_of('seq')} ORDER BY seq{tx.for_update('states')}",
        (tx.items(to_lock),),
    ).fetchall()
    replaced = [state for state in locked if state["seq"] in reruns.replaced]
    changes = Changes(tx, [row])
    reruns.replace(changes, run, replaced)
    reply = RunRetry(
        retried=_replace(changes, run, retried, nodes, rebuilt, fanout_ids, from_beginning=from_beginning),
        refused=refusals,
        runs_again=_by_identifier(run, Counter(state["place"] for state in replaced)),
    )
    if retried:
        changes.reopen(run.id)
    return reply, changes


def _replace(
    changes: Changes,
    run: RunScope,
    states: Sequence[State],
    nodes: Mapping[int, int],
    rebuilt: Mapping[int, NewState],
    fanout_ids: Mapping[int, str],
    *,
    from_beginning: bool,
) -> list[RetriedState]:
    """Replace states of a run by new attempts: those in ``rebuilt``, or copies.

    ``nodes`` has the nodes of the places, if the run is pinned.
    """
    tx = changes.tx
    followed = [state for state in states if state.status == NEXT_CREATED_ERROR]
    tx.reserve(len(states) + sum(max_created(run, state, 1) for state in followed))
    read_texts(tx, "inputs", [state for state in states if state.seq not in rebuilt])
    read_texts(tx, "outputs", followed)
    shared = read_shared(tx, (need_to_follow(run, state) for state in followed))
    retried = []
    for state in states:
        new = rebuilt.get(state.seq) or copy_of(state, enqueue_after=tx.now_ms)
        # However many there are, and however many states of the run wait.
        new.turn, new.comes_due = state.turn_again, True
        place = run.template.places[state.place]
        if nodes:
            new.node_id = nodes[state.place]
            if new.node_id != state.node_id:
                new.turn = None  # turns of two nodes cannot be compared
        if (place.wait or place.graph) and state.status != NEXT_CREATED_ERROR:
            new.waits, new.enqueue_after = True, begins_at(place, tx.now_ms)
        elif from_beginning:
            new.event = None
        keeps_calls = state.status == ERRORED and not from_beginning
        new.calls_size = state.calls_size if keeps_calls else None
        seq = tx.allocate()
        if state.status == NEXT_CREATED_ERROR:
            new.outputs = state.outputs
            follow = Follow(changes, run, state, shared)
            new.error = follow.create(seq, from_json(state.outputs), state.path)
            new.status = NEXT_CREATED_ERROR if new.error else SUCCESS
        new.manual_fanout_id = fanout_ids[state.seq]
        new.retry_of = state.seq
        new.failed_since = None if state.status == PRUNED else state.failed_since or state.finished_at
        changes.insert(run, new, seq=seq)
        continues = state.checkpoint_size is not None and not from_beginning
        if continues:
            changes.checkpoints.move(state, seq)
        else:
            changes.checkpoints.erase(state)
        if keeps_calls:
            changes.calls.move(state, seq)
        changes.update(state, status=RETRY_CREATED)
        changes.transition(run, state.place, state.groups, state.status, RETRY_CREATED)
        changes.add_event(state.seq, "retried by hand")
        state_id, new_state_id = tx.state_id(state.seq), tx.state_id(seq)
        retried.append(
            RetriedState(
                state_id=state_id,
                new_state_id=new_state_id,
                status=StateStatus(new.status),
                from_checkpoint=continues,
            )
        )
    return retried


def _node_of(tx: Transaction, place: Place) -> int:
    """Return the node that a pinned run has at a place: the run may have moved to another version since a
    state of that place ended, and what it was past need not fit."""
    node_id = tx.node_id(place.namespace, place.node_name)
    if node_id is None:
        raise Conflict(
            f"{place.identifier!r} runs {place.node_name!r} now, which is not registered in namespace"
            f" {place.namespace!r}; first start a runtime of that version that has it, or move the run to"
            " another version"
        )
    return node_id


def _rebuilt(tx: Transaction, run: RunScope, unbuilt: Sequence[State]) -> list[NewState]:
    """Build united states again, and return them: ERRORED if their inputs still cannot be built."""
    unites = {unite.place: unite for uniters in run.template.uniters.values() for unite in uniters}
    groups = []
    for state in unbuilt:
        assert state.parent is not None, "a united state hangs below its target"
        groups.append((run, state.parent, unites[state.place]))
    return united_states(tx, groups)


def _refusal(view: View, state: State, rebuilt: NewState) -> RefusedState:
    return RefusedState(state_id=view.state_id(state.seq), reason=str(rebuilt.error))
