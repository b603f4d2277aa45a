"""Taking states.

A v0 claim is anonymous: only an outcome ends it. A native claim has an id that its client chose, and gives
each state a token. Whoever has the last token of a state may report or release it.

Nothing here changes a counter, so claims of one run do not wait for each other: they lock the states that
they take, and no run.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import from_json

from exotrio._util.times import timestamp
from exotrio._wire.vocabulary import from_ms
from exotrio.manager.engine.releases import held_under, undo_claim, undo_v0_claim, used_at
from exotrio.manager.engine.states import CREATED, numbered
from exotrio.manager.store.catalog import RunFacts
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, Topic, WithEffects
from exotrio.manager.store.heads import START, Position, position
from exotrio.manager.store.transaction import Transaction

MAX_CLAIM_BYTES = 2 * 1024 * 1024
"""Maximum of the inputs of one claim, unless it is a single state: a slow connection must transfer them
within the time of a request, and within a fraction of their leases."""
UNKNOWN_RUN = -1
"""In place of the number of a run that was not triggered yet."""
NODES_PER_STATEMENT = 100
"""SQLite takes no more than 500 parts of one statement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """Who claims; ``worker``, ``claim_id``, ``run_id`` and ``announces`` as in ``NativeClaimRequest``.

    Attributes:
        manager: The state manager in whose process it runs, and with which it ends; None if it is elsewhere.
        now: On the clock of leases, ms.
        ttl_ms: How long the claim holds unless it is renewed, or None for ever.
        alone_from: A state that was running when this many runtimes were lost is to run alone.
    """

    manager: str | None
    now: int
    ttl_ms: int | None
    worker: str | None = None
    claim_id: str | None = None
    run_id: str | None = None
    announces: bool = False
    alone_from: int = 4

    @property
    def deadline(self) -> int | None:
        """When the claim ends unless it is renewed."""
        return None if self.ttl_ms is None else self.now + self.ttl_ms


@dataclass(frozen=True, slots=True)
class ClaimedState:
    """One claimed state: as v0 shows it, and what the native API adds to that."""

    v0: dict[str, Any]
    native: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim took, oldest first, and what to run if the reply does not arrive."""

    states: list[ClaimedState]
    seqs: Sequence[int] = ()
    """Their numbers."""
    spent: bool = False
    """Whether the claim id takes no more, so that there is nothing to wait for."""
    unregistered: bool = False
    """Whether nothing was taken, and one of the nodes is not registered."""
    undo: Callable[[Transaction], object] | None = None


def claim(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Claimer
) -> WithEffects[Claimed]:
    """Take up to ``limit`` states, oldest first, and of each node no more than its entry in ``limits``.

    With ``claimer.run_id`` only states of that run, which may not be triggered yet. Large inputs make the
    claim smaller, but never empty. A claim id that took states before, or was voided, takes no more: it
    returns what is still held under it.
    """
    most, run = _asked_for(tx, namespace, limits, claimer)
    if run == UNKNOWN_RUN:
        return _nothing(tx, namespace, limits, claimer, {str(claimer.run_id): math.inf})
    due = _due(tx, most, limit, run)
    if not due:
        due_in = _due_in(tx, most, run)
        waits_for: dict[Topic, float] = {
            n if run is None else (run, n): seconds for n, seconds in due_in.items()
        }
        return _nothing(tx, namespace, limits, claimer, waits_for)
    claimed, effects = _take(tx, namespace, due, limit, run, claimer)
    if claimed is None:
        claimed = _taken_before(tx, namespace, claimer)
        assert claimed is not None, "a claim id is kept for minutes"
        effects.undo = claimed.undo
    return WithEffects(claimed, effects)


def claim_due(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Claimer
) -> WithEffects[Claimed]:
    """Take what is due, as ``claim`` does, in the use case that made some of it; nothing if nothing is due.

    For a claim id that is sent once: if it is known already, it was voided.
    """
    most, run = _asked_for(tx, namespace, limits, claimer)
    due = [] if run == UNKNOWN_RUN else _due(tx, most, limit, run)
    claimed, effects = _take(tx, namespace, due, limit, run, claimer)
    return WithEffects(claimed or Claimed([]), effects)


def _asked_for(
    tx: Transaction, namespace: str, limits: Mapping[str, int], claimer: Claimer
) -> tuple[dict[int, int], int | None]:
    """Return how many states of each node are asked for, by the node's id, and of which run."""
    ids = {name: tx.node_id(namespace, name) for name in limits}
    most = {
        node_id: limits[name] for name, node_id in ids.items() if node_id is not None and limits[name] > 0
    }
    if claimer.run_id is None:
        return most, None
    row = tx.row("SELECT id FROM runs WHERE run_id = ? AND namespace = ?", (claimer.run_id, namespace))
    return most, UNKNOWN_RUN if row is None else row["id"]


def _take(
    tx: Transaction, namespace: str, due: Sequence[Row], limit: int, run: int | None, claimer: Claimer
) -> WithEffects[Claimed | None]:
    """Take as many of these states as fit; None if there are none, or the claim id was used or voided."""
    seqs = _as_many_as_fit(due[:limit])
    token = None
    effects = Effects()
    if seqs and claimer.claim_id is not None:
        token = secrets.token_hex(8)
        if not tx.insert_new("claims", ("id", "at"), [(claimer.claim_id, claimer.now)]):
            seqs = []
    for state in due[len(seqs) :]:
        # Another claim that came meanwhile skipped it, since it was locked, and may wait by now.
        effects.announced.add(state["node_id"] if run is None else (run, state["node_id"]))
    if not seqs:
        return WithEffects(None, effects)
    taken = tx.execute(
        "UPDATE states SET status = 'QUEUED', claim = ?, token = ?, worker = ?, manager = ?, requeued = 0,"
        f" lease_until = ?, claimed_at = ?, begun = ? WHERE {numbered(tx, CREATED)} RETURNING {_HANDED_OUT}",
        (
            claimer.claim_id,
            token,
            claimer.worker,
            claimer.manager,
            claimer.deadline,
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
    claimed = Claimed(_taken(tx, claimer, seqs, taken), seqs, undo=effects.undo)
    return WithEffects(claimed, effects)


def _nothing(
    tx: Transaction,
    namespace: str,
    names: Collection[str],
    claimer: Claimer,
    waits_for: dict[Topic, float],
) -> WithEffects[Claimed]:
    """Return what a claim gets for which nothing is due: what it has, if it took something before."""
    if (before := _taken_before(tx, namespace, claimer)) is not None:
        return WithEffects(before, Effects(undo=before.undo))
    unregistered = any(tx.node_id(namespace, name) is None for name in names)
    return WithEffects(Claimed([], unregistered=unregistered), Effects(waits_for=waits_for))


def _due(tx: Transaction, most: Mapping[int, int], limit: int, run: int | None) -> list[Row]:
    """Return what is due of each node, no more than ``most`` or ``limit`` of it, oldest first, and locked."""
    if limit <= 0:
        return []
    most = {node_id: min(each, limit) for node_id, each in most.items()}
    condition, locked = " AND enqueue_after <= ?", tx.skip_locked("states")

    def search(begins: Mapping[int, Position]) -> list[Row]:
        if all(begin == START for begin in begins.values()):
            nodes: dict[int, tuple[int, ...]] = {node_id: (tx.now_ms, n) for node_id, n in most.items()}
            return list(_first(tx, nodes, run, condition, locked))
        nodes = {node_id: (tx.now_ms, *begins[node_id], n) for node_id, n in most.items()}
        return list(_first(tx, nodes, run, f"{condition} AND (enqueue_after, seq) >= (?, ?)", locked))

    found = search({}) if run is not None else tx.heads.search(most, search, tx.now_ms)
    return sorted(found, key=position)


def _due_in(tx: Transaction, node_ids: Collection[int], run: int | None) -> dict[int, float]:
    """Return the seconds until the next state of each node comes due, infinity if none waits; or until all of
    its states are searched again (``store.heads``), if that is sooner.

    Of those that are due already others are taking what they have locked; the rest is announced.
    """
    found = _first(tx, dict.fromkeys(node_ids, (tx.now_ms, 1)), run, " AND enqueue_after > ?")
    next_at = {state["node_id"]: state["enqueue_after"] for state in found}
    return {
        node_id: min(
            from_ms(next_at[node_id] - tx.now_ms) if node_id in next_at else math.inf,
            tx.heads.due_in(node_id) if run is None else math.inf,
        )
        for node_id in node_ids
    }


def _first(
    tx: Transaction, nodes: Mapping[int, tuple[int, ...]], run: int | None, condition: str, locked: str = ""
) -> Iterator[Row]:
    """Yield the first states of each node that wait and meet a condition; none of a node that is paused.

    ``nodes`` gives for each the parameters of the condition, and how many.
    """
    of_run, in_run = ("", ()) if run is None else (" AND run = ?", (run,))
    # Each in a SELECT of its own: PostgreSQL locks no rows of a UNION, and an index brings them in order.
    # Whether the node is paused (engine.pausing) is read once, and not for each state.
    one = (
        "SELECT * FROM (SELECT seq, node_id, enqueue_after, size FROM states WHERE status = 'CREATED'"
        f" AND node_id = ?{of_run}{condition} AND (SELECT paused_at FROM nodes WHERE id = ?) IS NULL"
        f" ORDER BY enqueue_after, seq LIMIT ?{locked}) AS waiting"
    )
    given = list(nodes.items())
    for start in range(0, len(given), NODES_PER_STATEMENT):
        chunk = given[start : start + NODES_PER_STATEMENT]
        values: list[int] = []
        for node_id, (*parameters, most) in chunk:
            values += (node_id, *in_run, *parameters, node_id, most)
        yield from tx.execute(" UNION ALL ".join([one] * len(chunk)), tuple(values))


def _as_many_as_fit(due: Sequence[Row]) -> list[int]:
    """Return the numbers of the first states whose inputs have ``MAX_CLAIM_BYTES`` together; at least one."""
    left = MAX_CLAIM_BYTES
    for index, state in enumerate(due):
        left -= state["size"]
        if left < 0 and index:
            return [state["seq"] for state in due[:index]]
    return [state["seq"] for state in due]


def _taken_before(tx: Transaction, namespace: str, claimer: Claimer) -> Claimed | None:
    """Return what is still held under a claim id that takes no more; None if it may take something."""
    if claimer.claim_id is None or (known := used_at(tx, claimer.claim_id)) is None:
        return None
    held = [state["seq"] for state in held_under(tx, namespace, claimer.claim_id)]
    if tx.waited or not held:
        # If it waited, its client has sent another request since, and the states are in the reply to that.
        return Claimed([], spent=True)
    # A different value, so that the undo of an earlier reply that fails does not touch these states.
    tx.execute("UPDATE claims SET at = ? WHERE id = ?", (known + 1, claimer.claim_id))
    undo = partial(undo_claim, namespace=namespace, claim_id=claimer.claim_id, handed_out=known + 1)
    rows = tx.execute(f"SELECT {_HANDED_OUT} FROM states WHERE {tx.any_of('seq')}", (tx.items(held),))
    return Claimed(_taken(tx, claimer, held, rows.fetchall()), spent=True, undo=undo)


def claim_once_ready(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Callable[[], Claimer]
) -> WithEffects[Claimed | None]:
    """Claim, for a client that waits: None as long as there is nothing, and all nodes are registered.

    ``claimer`` returns who claims, as of now: the term of a claim begins when it takes something.
    """
    claimed, effects = claim(tx, namespace, limits, limit, claimer())
    is_final = claimed.states or claimed.spent or claimed.unregistered
    return WithEffects(claimed if is_final else None, effects)


_HANDED_OUT = (
    "seq, run, place, inputs, created_at, token, lease_until, retry_count, deliveries, suspect, trace"
)


def _taken(tx: Transaction, claimer: Claimer, seqs: Sequence[int], rows: Sequence[Row]) -> list[ClaimedState]:
    """Return what the holder of states is told, in the order of ``seqs``."""
    found = {state["seq"]: state for state in rows}
    runs = tx.run_facts({state["run"] for state in rows})
    return [_claim_reply(tx, claimer, found[seq], runs[found[seq]["run"]]) for seq in seqs]


def _claim_reply(tx: Transaction, claimer: Claimer, state: Row, run: RunFacts) -> ClaimedState:
    until = state["lease_until"]
    place = tx.template(run.template).places[state["place"]]
    limits = {} if place.timeout_ms is None else {"timeout_ms": place.timeout_ms}
    return ClaimedState(
        v0={
            "state_id": tx.state_id(state["seq"]),
            "node_name": place.node_name,
            "identifier": place.identifier,
            "inputs": from_json(state["inputs"]),
            "created_at": timestamp(state["created_at"]),
        },
        native={
            **({} if state["trace"] is None else {"trace": state["trace"]}),
            "graph_name": run.graph_name,
            "run_id": run.run_id,
            **limits,
            "lease": {
                "token": state["token"],
                "ttl_ms": None if until is None else max(0, until - claimer.now),
                "attempt": state["retry_count"] + 1,
                "deliveries": state["deliveries"],
                "announce": bool(state["suspect"]),
                "alone": state["deliveries"] >= claimer.alone_from,
            },
        },
    )
