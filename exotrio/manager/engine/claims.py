"""Claiming states.

A v0 claim is anonymous: only an outcome ends it. A native claim has an id that its client chose, and gives
each state a token. The holder of a state's last token may report or release it.

A claim changes no counter, so claims of one run do not wait for each other: they lock the states that they
claim, and no run.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from exotrio._wire.native import ItemAnswer, OutcomeItem
from exotrio._wire.vocabulary import from_ms
from exotrio.graph import split_name
from exotrio.manager.engine.candidates import find_candidates, next_due
from exotrio.manager.engine.claim_replies import REPLIED, Reply, claim_replies
from exotrio.manager.engine.lanes import LimitedClaim
from exotrio.manager.engine.order import LATER, WAITING, Candidate
from exotrio.manager.engine.outcomes import record_and_keep
from exotrio.manager.engine.releases import held_under, is_used, undo_claim, undo_v0_claim, used_at
from exotrio.manager.engine.slots import Hold, free
from exotrio.manager.engine.states import CREATED, numbered
from exotrio.manager.engine.unfinished import IS_CLOSED
from exotrio.manager.store.effects import Effects, Topic, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_CLAIM_BYTES = 2 * 1024 * 1024
"""Maximum of the inputs, checkpoints and results of calls of one claim, unless it is a single state: a slow
connection must transfer them within the time of a request, and within a fraction of their leases."""
MAX_BELOW = 1_000
"""Runs below one of which a claim finds states at once."""
UNKNOWN_RUN = -1
"""Instead of the number of a run that was not triggered yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """Who claims; ``worker``, ``claim_id``, ``run_id`` and ``announces`` as in ``NativeClaimRequest``.

    Attributes:
        manager: The state manager in whose process it runs, and with which it ends; None if it is elsewhere.
        now: On the clock of leases, ms.
        ttl_ms: How long the claim holds unless it is renewed; None for no limit.
        owner: The name of its key; None for the root key, and inside the process.
        alone_from: A state that was running when this many runtimes were lost is to run alone.
    """

    manager: str | None
    now: int
    ttl_ms: int | None
    worker: str | None = None
    claim_id: str | None = None
    run_id: str | None = None
    announces: bool = False
    owner: str | None = None
    alone_from: int = 4


@dataclass(frozen=True, slots=True)
class Claimed:
    """The result of a claim: states in their order; those of v0 oldest first.

    Attributes:
        seqs: The numbers of the states.
        spent: Whether the claim id can claim nothing more, so that it is useless to wait.
        unregistered: Whether nothing was claimed, and one of the nodes is not registered.
        undo: The use case to run if the reply does not arrive.
    """

    states: Sequence[Reply] = ()
    seqs: Sequence[int] = ()
    spent: bool = False
    unregistered: bool = False
    undo: Callable[[Transaction], object] | None = None


def claim(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Claimer
) -> WithEffects[Claimed]:
    """Claim up to ``limit`` states in their order (``engine.order``), and of each node no more than its entry
    in ``limits``.

    With ``claimer.run_id`` only states of that run, which may not be triggered yet, and of those below it.
    Large inputs make the claim smaller, but never empty. A claim id that was used before, or voided, claims
    no more: it returns what is still held under it.
    """
    # Not first, usually: a claim that finds nothing would cost a statement more.
    if tx.is_repeated and (earlier := _claimed_before(tx, namespace, claimer)) is not None:
        return WithEffects(earlier, Effects(undo=earlier.undo))
    node_limits, runs = _limits_by_id(tx, namespace, limits), _run_numbers(tx, namespace, claimer)
    run = _run_to_claim(tx, runs, node_limits)
    effects, versions = Effects(), _versions(tx, namespace, limits)
    due, limited = _lock_due(tx, node_limits, versions, limit, run, effects)
    if due:
        claimed = _take(tx, namespace, due, limit, run, claimer, limited)
        if claimed is not None:
            return WithEffects(claimed, effects)
    else:
        limited.take(())
        for each in runs:
            effects.waits_for |= _waits_for(tx, node_limits, each, claimer, limited)
    if claimer.claim_id is not None and is_used(tx, claimer.claim_id):
        # The states that are held under it must not be waited for with locks of those that are due: they are
        # locked in the order of claims, and others lock states by number.
        tx.begin_again("claims")
        if (earlier := _claimed_before(tx, namespace, claimer)) is not None:
            effects.undo = earlier.undo
            return WithEffects(earlier, effects)
    assert not due, "the id of a claim is kept for minutes"
    return WithEffects(
        Claimed(unregistered=any(tx.node_id(namespace, name) is None for name in limits)), effects
    )


def claim_once_ready(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Callable[[], Claimer]
) -> WithEffects[Claimed | None]:
    """Claim, for a client that waits: None while nothing is due, and all nodes are registered.

    ``claimer`` returns who claims, as of now: the term of a claim begins when it claims something.
    """
    claimed, effects = claim(tx, namespace, limits, limit, claimer())
    is_final = claimed.states or claimed.spent or claimed.unregistered
    return WithEffects(claimed if is_final else None, effects)


def record_and_claim(
    tx: Transaction,
    namespace: str,
    items: Sequence[OutcomeItem],
    limits: Mapping[str, int],
    limit: int,
    claimer: Callable[[], Claimer],
) -> WithEffects[tuple[list[ItemAnswer], Claimed]]:
    """Record outcomes, then claim what is due: what a busy runtime asks for, in one use case.

    The states that follow from these outcomes are claimed with the rest, in the order of all: a runtime that
    is always busy overtakes no other states. The claim id is sent once: if it is known, it was voided.
    """
    who = claimer()
    (replies, ended), effects = record_and_keep(tx, namespace, items, who.owner)
    node_limits, versions = _limits_by_id(tx, namespace, limits), _versions(tx, namespace, limits)
    run = _run_to_claim(tx, _run_numbers(tx, namespace, who), node_limits)
    due, limited = _lock_due(tx, node_limits, versions, limit, run, effects, ended)
    claimed = _take(tx, namespace, due, limit, run, who, limited) or Claimed()
    for seq in claimed.seqs:
        # Not announced: no other runtime can claim it.
        effects.claimable.pop(seq, None)
    return WithEffects((replies, claimed), effects)


def _limits_by_id(tx: Transaction, namespace: str, limits: Mapping[str, int]) -> dict[int, int]:
    """Return the limits of those nodes that are registered and may be claimed, by their ids."""
    ids = {name: tx.node_id(namespace, name) for name in limits}
    return {
        node_id: limits[name] for name, node_id in ids.items() if node_id is not None and limits[name] > 0
    }


def _versions(tx: Transaction, namespace: str, limits: Mapping[str, int]) -> dict[int, int]:
    """Return the nodes of one version whose node is claimed, too, with that: they share its limit."""
    versions = {}
    for name in [name for name in limits if "@" in name]:
        node, version = split_name(name)
        if version is not None and limits.get(node, 0) > 0:
            ids = tx.node_id(namespace, name), tx.node_id(namespace, node)
            if ids[0] is not None and ids[1] is not None:
                versions[ids[0]] = ids[1]
    return versions


def _run_numbers(tx: Transaction, namespace: str, claimer: Claimer) -> list[int | None]:
    """Return the number of the run that a claim is restricted to, and those of the runs below it that have
    not ended; ``UNKNOWN_RUN`` alone if there is no such run, and None alone if it is not restricted."""
    if claimer.run_id is None:
        return [None]
    of_run = "FROM runs WHERE run_id = ? AND namespace = ?"
    rows = tx.execute(
        f"SELECT id, 0 AS below {of_run} UNION ALL SELECT id, 1 AS below FROM runs WHERE root IS NOT NULL"
        f" AND pending > 0 AND root = (SELECT id {of_run}) ORDER BY below, id LIMIT ?",
        (claimer.run_id, namespace, claimer.run_id, namespace, MAX_BELOW),
    )
    return [row["id"] for row in rows] or [UNKNOWN_RUN]


def _run_to_claim(tx: Transaction, runs: Sequence[int | None], node_ids: Collection[int]) -> int | None:
    """Return the one of these runs of which states are claimed: one with a state that waits only for its
    turn, or is due, if there is one."""
    if len(runs) == 1:
        return runs[0]
    row = tx.row(
        f"SELECT run FROM states WHERE {tx.any_of('run')} AND {tx.any_of('node_id')} AND status = 'CREATED'"
        f" AND NOT {IS_CLOSED}"
        f" AND coalesce(lane, '') <> '{WAITING}' AND (coalesce(lane, '') <> '{LATER}' OR enqueue_after <= ?)"
        " ORDER BY lane IS NOT NULL, lane DESC, seq LIMIT 1",
        (tx.items([run for run in runs if run is not None]), tx.items(sorted(node_ids)), tx.now_ms),
    )
    return runs[0] if row is None else int(row["run"])


def _take(
    tx: Transaction,
    namespace: str,
    due: Sequence[Candidate],
    limit: int,
    run: int | None,
    claimer: Claimer,
    limited: LimitedClaim,
) -> Claimed | None:
    """Claim as many of these states as fit; None if there are none, or the claim id was used or voided."""
    fitting = _fitting(due[:limit])
    seqs = [state.seq for state in fitting]
    token, effects = None, limited.effects
    # Sent with the next statement.
    read_runs = tx.ask_run_facts({state.run for state in fitting})
    if seqs and claimer.claim_id is not None:
        token = secrets.token_hex(8)
        if not tx.insert_new("claims", ("id", "at"), [(claimer.claim_id, claimer.now)]):
            # Another request with this id was faster, or the claim was released before this one came.
            seqs = []
    for state in due[len(seqs) :]:
        # A concurrent claim skipped this state because it was locked, and may be waiting by now.
        effects.announced.add(state.node_id if run is None else (run, state.node_id))
    limited.take(due[: len(seqs)])
    if not seqs:
        return None
    if run is None:
        # The last one of each is the one with the latest turn.
        last = {(state.node_id, state.priority): state.turn for state in fitting}
        for (node_id, priority), turn in last.items():
            tx.virtual_times.move(tx, node_id, priority, turn)
            for other in limited.shares_with(node_id):
                tx.virtual_times.follow(other, priority, turn)
    if claimer.claim_id is None:
        # As far as v0 shows, states come oldest first.
        seqs = [state.seq for state in sorted(fitting, key=lambda state: (state.enqueue_after, state.seq))]
    rows = tx.execute(
        "UPDATE states SET status = 'QUEUED', lane = NULL, claim = ?, token = ?, worker = ?, manager = ?,"
        " owner = ?, requeued = 0, lease_until = ?, claimed_at = ?, begun = ?, begun_at = NULL, ran_ms = NULL"
        f" WHERE {numbered(tx, CREATED)} RETURNING {REPLIED}",
        (
            claimer.claim_id,
            token,
            claimer.worker,
            claimer.manager,
            claimer.owner,
            None if claimer.ttl_ms is None else claimer.now + claimer.ttl_ms,
            tx.now_ms,
            int(not (claimer.announces or claimer.manager)),
            tx.items(seqs),
        ),
    ).fetchall()
    effects.undo_if_unknown = claimer.claim_id is None
    effects.undo = (
        partial(undo_v0_claim, seqs=seqs, claimed_at=tx.now_ms)
        if claimer.claim_id is None
        else partial(undo_claim, namespace=namespace, claim_id=claimer.claim_id, handed_out=claimer.now)
    )
    replies = claim_replies(tx, claimer.now, claimer.alone_from, seqs, rows, read_runs())
    return Claimed(replies, seqs, undo=effects.undo)


def _lock_due(
    tx: Transaction,
    node_limits: Mapping[int, int],
    versions: Mapping[int, int],
    limit: int,
    run: int | None,
    effects: Effects,
    ended: Sequence[Hold] = (),
) -> tuple[list[Candidate], LimitedClaim]:
    """Return states that can be claimed, locked, in their order (``engine.order``): of each node at most its
    limit, and at most ``limit``; only those that find room in their limits, which the second value is about.
    ``effects``, ``ended``: see ``LimitedClaim``.
    """
    counts = {node_id: min(each, limit) for node_id, each in node_limits.items()}
    search = partial(find_candidates, tx, run=run, versions=versions)
    limited = LimitedClaim(tx, search, counts, limit, run, versions, effects)
    if limit <= 0 or run == UNKNOWN_RUN or not counts:
        free(tx, effects, ended)
        return [], limited
    return limited.choose(ended), limited


def _waits_for(
    tx: Transaction, node_ids: Collection[int], run: int | None, claimer: Claimer, limited: LimitedClaim
) -> dict[Topic, float]:
    """Return the topics for which a claim waits that found nothing, each with the seconds until a state is
    due without an announcement, or until all states are searched again (``store.heads``); or with infinity.

    Due states that others have locked are announced if they are not claimed.
    """
    if run == UNKNOWN_RUN:
        return {str(claimer.run_id): math.inf}
    next_at = next_due(tx, node_ids, run)
    checked_in = limited.next_in()
    return {
        node_id if run is None else (run, node_id): min(
            checked_in,
            from_ms(next_at[node_id] - tx.now_ms) if node_id in next_at else math.inf,
            tx.heads.due_in(node_id) if run is None else math.inf,
        )
        for node_id in node_ids
    }


def _fitting(due: Sequence[Candidate]) -> list[Candidate]:
    """Return the first states that have ``MAX_CLAIM_BYTES`` together; at least one."""
    sizes = accumulate(state.size for state in due)
    return [
        state
        for index, (state, size) in enumerate(zip(due, sizes, strict=True))
        if size <= MAX_CLAIM_BYTES or index == 0
    ]


def _claimed_before(tx: Transaction, namespace: str, claimer: Claimer) -> Claimed | None:
    """Return what is still held under a claim id that was used before; None for a new one."""
    if claimer.claim_id is None or (known := used_at(tx, claimer.claim_id)) is None:
        return None
    held = [state["seq"] for state in held_under(tx, namespace, claimer.claim_id, claimer.owner)]
    if tx.waited or not held:
        # If it waited, its client has sent another request since, and the states are in the reply to that.
        return Claimed(spent=True)
    # A different value, so that the undo of an earlier reply that fails does not touch these states.
    tx.execute("UPDATE claims SET at = ? WHERE id = ?", (known + 1, claimer.claim_id))
    undo = partial(undo_claim, namespace=namespace, claim_id=claimer.claim_id, handed_out=known + 1)
    rows = tx.execute(f"SELECT {REPLIED} FROM states WHERE {tx.any_of('seq')}", (tx.items(held),)).fetchall()
    runs = tx.run_facts({state["run"] for state in rows})
    replies = claim_replies(tx, claimer.now, claimer.alone_from, held, rows, runs)
    return Claimed(replies, held, spent=True, undo=undo)
