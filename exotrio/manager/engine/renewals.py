"""Renewing leases: what a heartbeat of a runtime does to the states that it names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from exotrio._wire.heartbeats import HeartbeatState, HeartbeatStateReply
from exotrio._wire.vocabulary import HeartbeatResult
from exotrio.manager.engine.checkpoints import CheckpointChanges
from exotrio.manager.engine.leases import Terms
from exotrio.manager.engine.slots import Pair, keep, lock, pairs_of, put_slots
from exotrio.manager.engine.states import CREATED, QUEUED, RETRY_CREATED, add_events, numbered
from exotrio.manager.store.driver import Row
from exotrio.manager.store.transaction import Transaction

Execution = tuple[int, int | None, int | None]
"""``begun``, ``begun_at`` and ``ran_ms`` of a state that is, or was, executed."""


def renew(
    tx: Transaction,
    namespace: str,
    beats: Sequence[HeartbeatState],
    now: int,
    terms: Terms,
    *,
    in_process: bool = False,
    owner: str | None = None,
) -> list[HeartbeatStateReply]:
    """Give the lease of each state a new term from ``now`` (clock of leases, ms), if it is still held.

    With ``in_process``, the states are held by a runtime inside a state manager and have no deadline. Then
    only states that change are locked, which are those that began to run or have a new checkpoint.
    ``owner`` is the name of the key of the caller, if it has one (``states.State``).
    """
    seqs = {beat.state_id: tx.seq(beat.state_id) for beat in beats}
    numbers = [seq for seq in seqs.values() if seq is not None]
    known = _reported(tx, namespace, numbers, locked=not in_process)

    def find(beat: HeartbeatState) -> Row | None:
        state = known.get(seqs[beat.state_id] or 0)
        if state is None or state["token"] != beat.token or owner not in (None, state["owner"]):
            return None
        return state

    found = [(beat, find(beat)) for beat in beats]
    if in_process and (
        changing := [state["seq"] for beat, state in found if state and _is_written(beat, state, tx.now_ms)]
    ):
        # Read again: an outcome may have been recorded before the lock.
        known |= _reported(tx, namespace, changing, locked=True)
        found = [(beat, find(beat)) for beat in beats]
    held = [(beat, state) for beat, state in found if state and _is_held(state)]
    ended = [(beat, state) for beat, state in found if state and not _is_held(state)]
    news = {state["seq"]: new for beat, state in held if (new := _news(beat, state, tx.now_ms))}
    _renew(tx, list({state["seq"]: state for _, state in held}.values()), news, now + terms.lease_ttl_ms)
    checkpoints = [(state["seq"], beat.token, beat.checkpoint) for beat, state in held if beat.checkpoint]
    stored = CheckpointChanges(checkpoints).apply(tx)
    _write_begins(tx, ended)
    # Their nodes go on until they have stopped.
    stopping = {state["seq"]: state["limits"] for _, state in ended if _keeps_slots(state)}
    keep(tx, stopping.items(), now + terms.lease_ttl_ms)
    cancelled = _cancelled(tx, {state["run"] for _, state in ended})
    replies = []
    for beat, state in found:
        reply = HeartbeatStateReply(state_id=beat.state_id, result=HeartbeatResult.LOST)
        if state is not None:
            reply.checkpoint, reply.release = stored.get(state["seq"]), _keeps_slots(state)
            if _is_held(state):
                reply.result = HeartbeatResult.OK
            elif state["status"] == RETRY_CREATED or state["run"] in cancelled:
                reply.result = HeartbeatResult.CANCELLED
        replies.append(reply)
    return replies


def _reported(tx: Transaction, namespace: str, seqs: Sequence[int], *, locked: bool) -> dict[int, Row]:
    """Return the states that a heartbeat names, by number."""
    return {
        state["seq"]: state
        for state in tx.execute(
            "SELECT seq, run, status, token, worker, manager, lease_until, claimed_at, begun, begun_at,"
            " ran_ms, finished_at, states.limits, owner"
            f" FROM states JOIN nodes ON nodes.id = node_id WHERE {tx.any_of('seq')} AND namespace = ?"
            " ORDER BY seq"
            f"{tx.for_update('states') if locked else ''}",
            (tx.items(seqs), namespace),
        )
    }


def _is_held(state: Row) -> bool:
    """Whether the last token still holds: the state is QUEUED, or waits because its lease ended.

    Released and requeued states have no deadline.
    """
    return state["status"] == QUEUED or (state["status"] == CREATED and state["lease_until"] is not None)


def _keeps_slots(state: Row) -> bool:
    """Whether the state has ended and may keep slots, until its node has stopped (``engine.slots``)."""
    return state["limits"] is not None and state["finished_at"] is not None


def _is_written(beat: HeartbeatState, state: Row, now_ms: int) -> bool:
    """Whether a heartbeat changes a state: it has a deadline, or the heartbeat has news or a checkpoint."""
    is_leased = state["manager"] is None or state["status"] == CREATED
    has_news = beat.checkpoint is not None or _news(beat, state, now_ms) is not None
    return _is_held(state) and (is_leased or has_news)


def _news(beat: HeartbeatState, state: Row, now_ms: int) -> Execution | None:
    """Return what a heartbeat is the first to say: that a worker has the state, that ``execute`` began, or
    that the node has ended. None if it says nothing new."""
    if not beat.running and beat.ran_ms is None:
        return None
    begun_at, claimed_at = state["begun_at"], state["claimed_at"]
    if begun_at is None and beat.buffered_ms is not None:
        # A clock may have been set back by a little.
        begun_at = max(claimed_at, min(claimed_at + beat.buffered_ms, now_ms))
    new = (1, begun_at, beat.ran_ms)
    return None if new == (state["begun"], state["begun_at"], state["ran_ms"]) else new


def _renew(tx: Transaction, held: Sequence[Row], news: Mapping[int, Execution], deadline: int) -> None:
    """Renew leases, and write the ``news`` of states."""
    leased = [state["seq"] for state in held if state["status"] == QUEUED and state["manager"] is None]
    if leased:
        tx.execute(
            f"UPDATE states SET lease_until = ? WHERE {numbered(tx, QUEUED)}",
            (deadline, tx.items(leased)),
        )
    # The leases ended, but no other runtime claimed the states: their runtime was only late. One whose slot
    # another state has taken waits on; its runtime still has it, and regains it with a later heartbeat.
    lapsed = [state for state in held if state["status"] == CREATED]
    if regained := _regain(tx, lapsed):
        tx.execute(
            "UPDATE states SET status = 'QUEUED', lane = NULL, lease_until = ?,"
            " deliveries = deliveries - begun"
            f" WHERE {numbered(tx, CREATED)}",
            (deadline, tx.items([state["seq"] for state in regained])),
        )
        add_events(tx, "lease regained", regained)
    waiting = {state["seq"] for state in lapsed} - {state["seq"] for state in regained}
    rows = [(seq, QUEUED, *execution) for seq, execution in sorted(news.items()) if seq not in waiting]
    tx.update("states", ("seq", "status"), ("begun", "begun_at", "ran_ms"), rows)


def _regain(tx: Transaction, states: Sequence[Row]) -> list[Row]:
    """Return those of these states, whose leases ended, that may be held again; they are entered as held.

    Others have taken the slots of the rest since.
    """
    limits = {state["seq"]: pairs_of(state["limits"]) for state in states}
    if not any(limits.values()):
        return [*states]
    slots = lock(tx, {limit for pairs in limits.values() for limit, _ in pairs})
    slots.load(pair for pairs in limits.values() for pair in pairs)
    used: Counter[Pair] = Counter()
    regained = []
    for state in states:
        pairs = [pair for pair in limits[state["seq"]] if pair[0] in slots.limits]
        limited = [(pair, slots.limits[pair[0]].at_most) for pair in pairs]
        if all(most is None or slots.held(pair) + used[pair] < most for pair, most in limited):
            used.update(pairs)
            regained.append(state)
    put_slots(
        tx,
        sorted(
            (*pair, state["seq"], None)
            for state in regained
            for pair in limits[state["seq"]]
            if pair[0] in slots.limits
        ),
    )
    return regained


def _write_begins(tx: Transaction, ended: Sequence[tuple[HeartbeatState, Row]]) -> None:
    """Write when states began that were cancelled, or replaced, while a runtime held them: the first
    heartbeat after that knows it. One that never began has its end for its begin, and no ``ran_ms``."""
    rows = {}
    for beat, state in ended:
        claimed, finished = state["claimed_at"], state["finished_at"]
        if None in (claimed, finished) or (state["begun_at"], state["ran_ms"]) != (None, None):
            continue
        begun = beat.running or beat.ran_ms is not None
        if not begun or beat.buffered_ms is not None:
            at = min(claimed + (beat.buffered_ms or 0), finished) if begun else finished
            rows[state["seq"]] = (state["seq"], state["status"], at, finished - at if begun else None)
    tx.update("states", ("seq", "status"), ("begun_at", "ran_ms"), sorted(rows.values()))


def _cancelled(tx: Transaction, runs: Collection[int]) -> set[int]:
    if not runs:
        return set()
    # In a separate statement: the one that locked the states may have waited for a cancellation.
    which = f"SELECT id FROM runs WHERE {tx.any_of('id')} AND cancelled_at IS NOT NULL"
    return {row["id"] for row in tx.execute(which, (tx.items(sorted(runs)),))}
