"""Releasing states: by their holders, by claim id, and if the reply to a claim did not arrive."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from exotrio._wire.native import ItemAnswer, ReleasedState
from exotrio._wire.vocabulary import ItemResult
from exotrio.manager.engine.checkpoints import CheckpointChanges, Saved
from exotrio.manager.engine.order import LATER
from exotrio.manager.engine.slots import free, pairs_of
from exotrio.manager.engine.starts import give_back_starts
from exotrio.manager.engine.states import CREATED, QUEUED, add_events, numbered
from exotrio.manager.rules.lineage import linked
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

CLAIMS_KEPT_MS = 600_000
"""How long the id of a claim is kept: a repeated request arrives much sooner."""

_TO_RELEASE = (
    "SELECT seq, run, node_id, status, token, worker, claimed_at, begun_at, trace, states.limits, owner"
    " FROM states"
)
_HELD = (ItemResult.OK, ItemResult.DUPLICATE)
"""Results for the holder of the last token. For a duplicate, its lease ended or it repeats a request."""
_OF_NODES = "JOIN nodes ON nodes.id = node_id WHERE"


def held_under(tx: Transaction, namespace: str, claim_id: str, owner: str | None) -> list[Row]:
    """Lock the states that are held under a claim id, and return by number those that ``owner`` may release
    (``states.State``)."""
    rows = tx.execute(
        f"{_TO_RELEASE} INDEXED BY states_held {_OF_NODES} status = 'QUEUED' AND claim = ? AND namespace = ?"
        f" ORDER BY seq{tx.for_update('states')}",
        (claim_id, namespace),
    ).fetchall()
    return rows if owner is None else [row for row in rows if row["owner"] == owner]


def is_used(tx: Transaction, claim_id: str) -> bool:
    """Return whether a claim id was used, without a lock."""
    return tx.row("SELECT 1 FROM claims WHERE id = ?", (claim_id,)) is not None


def used_at(tx: Transaction, claim_id: str) -> int | None:
    """Return when a claim id was used last, on the clock of leases; None if it was not."""
    row = tx.row(f"SELECT at FROM claims WHERE id = ?{tx.for_update('claims')}", (claim_id,))
    return None if row is None else int(row["at"])


def release(
    tx: Transaction,
    namespace: str,
    states: Sequence[ReleasedState],
    delay_ms: int = 0,
    owner: str | None = None,
) -> WithEffects[list[ItemAnswer]]:
    """Make held states claimable again, as if they had not been claimed; those that ended meanwhile only
    give back the slots of their limits. ``owner`` is the name of the key of the caller, if it has one
    (``states.State``)."""
    seqs = {held.state_id: tx.seq(held.state_id) for held in states}
    known = {
        state["seq"]: state
        for state in tx.execute(
            f"{_TO_RELEASE} {_OF_NODES} {tx.any_of('seq')} AND namespace = ?"
            f" ORDER BY seq{tx.for_update('states')}",
            (tx.items([seq for seq in seqs.values() if seq is not None]), namespace),
        )
    }
    released: dict[int, Row] = {}
    traces: list[tuple[int, str | None]] = []
    checkpoints: list[Saved] = []
    handed_over: set[int] = set()
    stopped: list[tuple[int, str | None]] = []
    replies: list[ItemAnswer] = []
    for held in states:
        seq = seqs[held.state_id]
        state = None if seq is None else known.get(seq)
        if state is None:
            result = ItemResult.UNKNOWN
        elif state["token"] != held.token or owner not in (None, state["owner"]):
            result = ItemResult.STALE
        elif state["seq"] in released or state["status"] == CREATED:
            result = ItemResult.DUPLICATE
        elif state["status"] == QUEUED:
            released[state["seq"]] = state
            if held.handed_over:
                handed_over.add(state["seq"])
            if held.trace is not None:
                traces.append((state["seq"], linked(state["trace"], [held.trace])))
            result = ItemResult.OK
        else:
            # It ended while it was held, and kept its slots: now its node has stopped.
            stopped.append((state["seq"], state["limits"]))
            result = ItemResult.STALE if state["limits"] is None else ItemResult.OK
        is_open = state is not None and result in _HELD and state["status"] in (CREATED, QUEUED)
        if state is not None and is_open and held.checkpoint is not None:
            checkpoints.append((state["seq"], held.token, held.checkpoint))
        replies.append({"state_id": held.state_id, "result": result})
    effects = _release(tx, list(released.values()), delay_ms, handed_over)
    free(tx, effects, stopped)
    tx.update("states", ("seq",), ("trace",), sorted(traces))
    CheckpointChanges(checkpoints).apply(tx)
    return WithEffects(replies, effects)


def release_claim(
    tx: Transaction,
    namespace: str,
    claim_id: str,
    now: int,
    delay_ms: int = 0,
    owner: str | None = None,
) -> WithEffects[list[ItemAnswer]]:
    """Release the states that are held under a claim id, and void it: a request with it that arrives later
    claims nothing. ``now`` is on the clock of leases, ms; ``owner`` as of ``release``."""
    tx.insert("claims", ("id", "at"), [(claim_id, now)], "(id) DO UPDATE SET at = excluded.at")
    states = held_under(tx, namespace, claim_id, owner)
    effects = _release(tx, states, delay_ms)
    replies = [ItemAnswer(state_id=tx.state_id(state["seq"]), result=ItemResult.OK) for state in states]
    return WithEffects(replies, effects)


def undo_claim(tx: Transaction, namespace: str, claim_id: str, handed_out: int) -> WithEffects[None]:
    """Release the states of a native claim whose reply, made at ``handed_out``, could not be sent.

    If the claim was repeated since, the states are in a later reply.
    """
    if used_at(tx, claim_id) != handed_out:
        return WithEffects(None, NO_EFFECTS)
    return WithEffects(None, release_claim(tx, namespace, claim_id, handed_out).effects)


def undo_v0_claim(tx: Transaction, seqs: Sequence[int], claimed_at: int) -> WithEffects[None]:
    """Release the states that a v0 claim took at that time, and whose reply could not be sent."""
    # Also lock states that do not look claimed: the commit of the claim may be under way, and this waits
    # for it.
    states = tx.execute(
        f"{_TO_RELEASE} {_OF_NODES} {tx.any_of('seq')} ORDER BY seq{tx.for_update('states')}",
        (tx.items(seqs),),
    ).fetchall()
    taken = (QUEUED, None, claimed_at)
    held = [each for each in states if (each["status"], each["token"], each["claimed_at"]) == taken]
    return WithEffects(None, _release(tx, held, 0))


def _release(
    tx: Transaction, states: Sequence[Row], delay_ms: int, handed_over: Collection[int] = ()
) -> Effects:
    effects = Effects()
    if not states:
        return effects
    # Without a delay a state keeps its position in the order of claims.
    later, due = (f", lane = '{LATER}', enqueue_after = ?", (tx.now_ms + delay_ms,)) if delay_ms else ("", ())
    tx.execute(
        "UPDATE states SET status = 'CREATED', lease_until = NULL, updated_at = ?"
        f"{later} WHERE {numbered(tx, QUEUED)}",
        (tx.now_ms, *due, tx.items([state["seq"] for state in states])),
    )
    if handed_over:
        # As after a requeue: its node ran, and its runtime was not lost.
        tx.execute(
            f"UPDATE states SET deliveries = 0, suspect = 0 WHERE {tx.any_of('seq')}",
            (tx.items(sorted(handed_over)),),
        )
    kinds: dict[str, list[Row]] = {"released": [], "cut": [], "handed over": []}
    for state in states:
        begun = "released" if state["begun_at"] is None else "cut"
        kinds["handed over" if state["seq"] in handed_over else begun].append(state)
    for kind, alike in kinds.items():
        add_events(tx, kind, alike)
    for state in states:
        effects.reopen(state["run"], state["node_id"])
    free(tx, effects, [(state["seq"], state["limits"]) for state in states])
    unused = [state for state in states if state["seq"] not in handed_over]
    give_back_starts(
        tx, [(pair, state["claimed_at"]) for state in unused for pair in pairs_of(state["limits"])]
    )
    return effects


def forget_claims(tx: Transaction, now: int) -> None:
    """Forget the ids of old claims. ``now`` is on the clock of leases, ms."""
    tx.execute("DELETE FROM claims WHERE at < ?", (now - CLAIMS_KEPT_MS,))
