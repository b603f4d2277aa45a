"""Outcomes of states: what each does to the state.

Outcomes come through v0 one by one (``record_v0``) and natively in batches (``record_batch``). An outcome for
a state that ended otherwise changes nothing. Secrets in errors and log lines have been masked before
(``reported_texts``).

``Changes.apply`` writes the rows, with statements that the dialect of each engine builds
(``store.sqlite.dialect``, ``store.postgres.dialect``).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json, to_json

from exotrio._wire.native import (
    AfterError,
    CallingItem,
    ErroredItem,
    ExecutedItem,
    ItemAnswer,
    OutcomeItem,
    PrunedItem,
    RequeuedItem,
    WaitingItem,
)
from exotrio._wire.vocabulary import MAX_CALLS, ItemResult
from exotrio.manager.engine.attempts import next_attempt, policy_of
from exotrio.manager.engine.calls import with_too_many
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.following import Follow, is_followed, max_created, need_to_follow
from exotrio.manager.engine.order import LATER, WAITING, deadline_ms
from exotrio.manager.engine.reported_texts import NUL, storable_logs, store_logs
from exotrio.manager.engine.slots import Hold, end_otherwise, free
from exotrio.manager.engine.sources import Shared, read_shared
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    NEXT_CREATED_ERROR,
    PRUNED,
    QUEUED,
    RETRY_CREATED,
    SUCCESS,
    NewState,
    RunScope,
    State,
    numbered,
    read_texts,
    states_to_change,
    waits_since,
)
from exotrio.manager.engine.unites import write_changes
from exotrio.manager.rules.lineage import linked, output_path
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View


def record_v0(
    tx: Transaction, namespace: str, item: OutcomeItem, owner: str | None = None
) -> WithEffects[tuple[ItemAnswer, int]]:
    """Record an outcome that came through v0, which knows no tokens; return also when the state may be
    claimed, in Unix ms. ``owner`` is the name of the key of the caller, if it has one (``states.State``)."""
    ((reply,), (state,), ended), effects = _record(tx, namespace, [(item, None)], owner)
    free(tx, effects, ended)
    return WithEffects((reply, 0 if state is None else state.enqueue_after), effects)


def record_batch(
    tx: Transaction, namespace: str, items: Sequence[OutcomeItem], owner: str | None = None
) -> WithEffects[list[ItemAnswer]]:
    """Record outcomes together; one that is refused does not affect the others. ``owner`` as of
    ``record_v0``."""
    (replies, ended), effects = record_and_keep(tx, namespace, items, owner)
    free(tx, effects, ended)
    return WithEffects(replies, effects)


def record_and_keep(
    tx: Transaction, namespace: str, items: Sequence[OutcomeItem], owner: str | None
) -> WithEffects[tuple[list[ItemAnswer], Sequence[Hold]]]:
    """Record outcomes as ``record_batch`` does, but leave no checks for the limits of the states that ended:
    return these states, for a claim in the same transaction."""
    (replies, _, ended), effects = _record(tx, namespace, [(item, item.token) for item in items], owner)
    return WithEffects((replies, ended), effects)


def _record(
    tx: Transaction, namespace: str, items: Sequence[tuple[OutcomeItem, str | None]], owner: str | None
) -> WithEffects[tuple[list[ItemAnswer], list[State | None], Sequence[Hold]]]:
    """Record outcomes, each with the token of its reporter, one after the other. The third value is for
    ``free``.

    Everything they need is read first, and everything they change is written last: the number of statements
    is the same for one and for many.
    """
    seqs = [tx.seq(item.state_id) for item, _ in items]
    states = states_to_change(tx, namespace, {seq for seq in seqs if seq is not None})
    reported_states = [None if seq is None else states.get(seq) for seq in seqs]
    accepted = [
        (state, item)
        for state, (item, token) in zip(reported_states, items, strict=True)
        if state is not None and _is_open(state, token) and owner in (None, state.owner)
    ]
    followed, copied, created = [], [], 0
    for held, item in accepted:
        run = held.scope(tx)
        if isinstance(item, ExecutedItem):
            created += max_created(run, held, len(item.outputs))
            if len(item.outputs) > 1:
                copied.append(held)
            if is_followed(run, held):
                followed.append(need_to_follow(run, held))
        elif isinstance(item, ErroredItem) and _is_retried(run, held, item):
            created += 1
            copied.append(held)
    # Those that are created with the same inputs.
    read_texts(tx, "inputs", copied)
    tx.reserve(created)
    shared = read_shared(tx, followed)
    excess = with_too_many(
        tx, [(state, item.calls) for state, item in accepted if isinstance(item, CallingItem)]
    )
    stuck = _to_keep_slots(tx, accepted)
    changes = Changes(tx, (state.run_row for state in states.values()))
    replies: list[ItemAnswer] = []
    logged: dict[int, str] = {}
    late: list[Hold] = []
    for state, (item, token) in zip(reported_states, items, strict=True):
        if state is None:
            detail = f"there is no state {item.state_id!r} in namespace {namespace!r}"
            replies.append({"state_id": item.state_id, "result": ItemResult.UNKNOWN, "detail": detail})
            continue
        if owner not in (None, state.owner):
            detail = f"another key claimed the state; the key {owner!r} may not report it"
            replies.append({"state_id": item.state_id, "result": ItemResult.STALE, "detail": detail})
            continue
        if excess and isinstance(item, CallingItem) and state.seq in excess:
            detail = f"a state calls at most {MAX_CALLS:,} children"
            replies.append({"state_id": item.state_id, "result": ItemResult.INVALID, "detail": detail})
            continue
        if isinstance(item, ErroredItem):
            item = item.model_copy(update={"error": item.error.replace("\0", NUL)})
        if _is_open(state, token):
            replies.append(_record_one(changes, shared, state, token, item))
        else:
            if token == state.token and not _is_stuck(item):
                late.append((state.seq, state.limits))
            replies.append(_refuse(tx, state, token, item))
        if item.logs and replies[-1]["result"] is ItemResult.OK:
            logged[state.seq] = storable_logs(item.logs)
    # The nodes of states that ended otherwise have stopped, too.
    free(tx, changes.effects, late)
    write_changes(changes)
    end_otherwise(tx, changes.effects, stuck)
    store_logs(tx, logged)
    goes_on = {state["seq"] for state in stuck}
    ended = [hold for hold in changes.ended if hold[0] not in goes_on] if stuck else changes.ended
    return WithEffects((replies, reported_states, ended), changes.effects)


def _is_stuck(item: OutcomeItem) -> bool:
    return isinstance(item, ErroredItem) and item.stuck


def _to_keep_slots(tx: Transaction, accepted: Sequence[tuple[State, OutcomeItem]]) -> list[Row]:
    """Return the states whose outcomes say that their nodes have not ended, for ``end_otherwise``."""
    stuck = [state.seq for state, item in accepted if state.limits is not None and _is_stuck(item)]
    if not stuck:
        return []
    which = f"SELECT seq, status, limits, lane, lease_until FROM states WHERE {numbered(tx, QUEUED)}"
    return tx.execute(which, (tx.items(sorted(stuck)),)).fetchall()


def _refuse(view: View, state: State, token: str | None, item: OutcomeItem) -> ItemAnswer:
    """Return the reply to an outcome that does not count, or no more."""
    same = _is_recorded(state, item) and (token is None or token == state.token)
    return {
        "state_id": item.state_id,
        "result": ItemResult.DUPLICATE if same else ItemResult.STALE,
        "detail": None if same else _why_closed(state, token),
        "after_error": _after_error(state.scope(view), state, item, retried=state.status == RETRY_CREATED),
    }


def _record_one(
    changes: Changes, shared: Shared, state: State, token: str | None, item: OutcomeItem
) -> ItemAnswer:
    run = state.scope(changes.tx)
    state.execution = item.trace
    if isinstance(item, ExecutedItem | PrunedItem):
        changes.checkpoints.erase(state)
    elif token is not None and item.checkpoint is not None:
        changes.checkpoints.save(state, token, item.checkpoint)
    match item:
        case ExecutedItem():
            _executed(changes, run, state, shared, item)
        case ErroredItem():
            return _errored(changes, run, state, item)
        case PrunedItem():
            _finish(changes, run, state, item, PRUNED, data=to_json(item.data).decode())
        case RequeuedItem():
            _requeued(changes, state, changes.tx.now_ms + item.delay_ms, lane=LATER)
        case WaitingItem():
            until = deadline_ms(changes.tx.now_ms, item.timeout_ms)
            changes.waiting[state.seq] = state.run, item.event
            _requeued(changes, state, until, lane=WAITING, event=item.event)
        case CallingItem():
            changes.calls.add(state, item.calls)
            changes.effects.deliveries = True  # which starts the runs
            state.calls_size = state.calls_size or 0
            # It waits for no event meanwhile, but the next execution has the last one all the same.
            kept = {} if state.event is None else {"data": to_json(state.event).decode()}
            _requeued(changes, state, changes.tx.now_ms, lane=WAITING, calls_size=state.calls_size, **kept)
    return {"state_id": item.state_id, "result": ItemResult.OK}


def _is_open(state: State, token: str | None) -> bool:
    """Whether an outcome of the holder of ``token`` still counts.

    A holder whose lease ended may report until another runtime claims the state: its token is then still the
    last one of the state.
    """
    if state.token != token:
        return False
    if state.status == QUEUED:
        return True
    return token is not None and state.status == CREATED and not state.requeued


def _is_recorded(state: State, item: OutcomeItem) -> bool:
    match item:
        case ExecutedItem():
            return state.status in (SUCCESS, NEXT_CREATED_ERROR)
        case ErroredItem():
            return state.status in (ERRORED, RETRY_CREATED) and state.error == item.error
        case PrunedItem():
            return state.status == PRUNED and bool(from_json(str(state.data)) == item.data)
        case RequeuedItem():
            return state.status == CREATED and bool(state.requeued)
        case WaitingItem():
            return state.status == CREATED and bool(state.requeued) and state.event == item.event
        case CallingItem():
            return state.status == CREATED and bool(state.requeued) and state.calls_size is not None


def _why_closed(state: State, token: str | None) -> str:
    if state.status != QUEUED:
        return f"the state is not QUEUED but {state.status}"
    if token is None:
        return "the state is held under a lease; only its holder can report it"
    return "the state is held under another lease by now"


def _executed(changes: Changes, run: RunScope, state: State, shared: Shared, item: ExecutedItem) -> None:
    """Give the state its first output and create a sibling for each further one; states follow each."""
    tx = changes.tx
    follow = Follow(changes, run, state, shared) if is_followed(run, state) else None
    above = state.path
    for index, output in enumerate(item.outputs or [{}]):
        seq = state.seq if index == 0 else tx.allocate()
        path = output_path(above, index)
        error = None if follow is None else follow.create(seq, output, path)
        status = NEXT_CREATED_ERROR if error else SUCCESS
        if index == 0:
            outputs = to_json(output).decode()
            _finish(changes, run, state, item, status, error=error, outputs=outputs, path=path)
            if not error:
                changes.add_member(run, seq, state.place, state.groups, path)
        else:
            changes.insert(
                run,
                NewState(
                    place=state.place,
                    node_id=state.node_id,
                    status=status,
                    inputs=state.inputs,
                    outputs=to_json(output).decode(),
                    error=error,
                    parent=state.parent,
                    groups=state.groups,
                    path=path,
                    enqueue_after=tx.now_ms,
                    trace=state.parent_trace,
                ),
                seq=seq,
            )


def _finish(
    changes: Changes,
    run: RunScope,
    state: State,
    item: OutcomeItem,
    status: str,
    *,
    outputs: str = "{}",
    data: str | None = None,
    error: str | None = None,
    path: bytes | None = None,
) -> None:
    """End a state by an outcome of its node."""
    now = changes.tx.now_ms
    begun_at, ran_ms = _times(state, item, now)
    changes.update(
        state,
        status=status,
        outputs=outputs,
        data=data,
        error=error,
        path=path or state.path,
        finished_at=now,
        begun_at=begun_at,
        ran_ms=ran_ms,
        **({"trace": state.execution} if state.execution else {}),
    )
    changes.transition(run, state.place, state.groups, state.status, status)
    changes.add_execution(state)
    claimed_at = state.claimed_at or now
    changes.tally(
        state.run_row.graph,
        state.node_id,
        status,
        waited_ms=claimed_at - waits_since(state.enqueue_after, state.updated_at, claimed_at),
        buffered_ms=None if begun_at is None else begun_at - claimed_at,
        # Without a report, what is known: the time from the claim to the outcome.
        took_ms=now - claimed_at if ran_ms is None else ran_ms,
    )
    # The batch may contain the same state again.
    state.status, state.data, state.error = status, data, error


def _times(state: State, item: OutcomeItem, now: int) -> tuple[int | None, int | None]:
    """Return when ``execute`` began, and how long it took, as the item says; None if it does not.

    Both within the time from the claim to now: a state that runs may have been claimed again.
    """
    if item.buffered_ms is None or item.ran_ms is None or state.claimed_at is None:
        return None, None
    held_ms = max(0, now - state.claimed_at)  # a clock may have been set back
    buffered_ms = min(item.buffered_ms, held_ms)
    return state.claimed_at + buffered_ms, min(item.ran_ms, held_ms - buffered_ms)


def _errored(changes: Changes, run: RunScope, state: State, item: ErroredItem) -> ItemAnswer:
    tx = changes.tx
    status, delay_ms = ERRORED, None
    if _is_retried(run, state, item):
        status = RETRY_CREATED
        copy = next_attempt(run, state, tx.now_ms)
        delay_ms = copy.enqueue_after - tx.now_ms
        attempt = changes.insert(run, copy)
        changes.checkpoints.move(state, attempt)
        changes.calls.move(state, attempt)
    _finish(changes, run, state, item, status, error=item.error)
    return {
        "state_id": item.state_id,
        "result": ItemResult.OK,
        "after_error": _after_error(run, state, item, retried=status == RETRY_CREATED, delay_ms=delay_ms),
    }


def _after_error(
    run: RunScope, state: State, item: OutcomeItem, *, retried: bool, delay_ms: int | None = None
) -> AfterError:
    attempts = policy_of(run, state).max_retries + 1
    release = _is_stuck(item) and state.limits is not None and item.token == state.token
    return AfterError(retried=retried, attempts=attempts, delay_ms=delay_ms, release=release)


def _is_retried(run: RunScope, state: State, item: ErroredItem) -> bool:
    return item.retry and state.retry_count < policy_of(run, state).max_retries


def _requeued(
    changes: Changes, state: State, until: int, *, lane: str, event: str | None = None, **more: object
) -> None:
    tx = changes.tx
    changes.update(
        state,
        status=CREATED,
        enqueue_after=until,
        lane=lane,
        **({"event": event} if event != state.event else {}),
        **more,
        requeued=1,
        deliveries=0,
        suspect=0,
        lease_until=None,
        updated_at=tx.now_ms,
        **({"trace": linked(state.trace, [state.execution])} if state.execution else {}),
    )
    if lane == LATER:
        changes.effects.announce(state.run, state.node_id)
    state.status, state.enqueue_after, state.requeued = CREATED, until, 1
    state.event = event
