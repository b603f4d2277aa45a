"""Taking states and handing them back.

A v0 claim is anonymous: only an outcome ends it. A native claim has an id that its client chose, and gives
each state a token. Whoever has the last token of a state may report or release it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._util.times import timestamp
from exotrio._wire.native import HeldState, ItemReply
from exotrio._wire.vocabulary import ItemResult, from_ms
from exotrio.manager.engine.states import CREATED, QUEUED, Changes, add_event, find_state, size_of
from exotrio.manager.store.driver import Row, Rows
from exotrio.manager.store.port import Transaction

CLAIMS_KEPT_MS = 600_000
"""How long the id of a claim is kept: a repeated request comes much sooner."""
MAX_CLAIM_BYTES = 2 * 1024 * 1024
"""Maximum of the inputs of one claim, unless it is a single state: a slow connection must transfer them
within the time of a request, and within a fraction of their leases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """Who claims; ``worker``, ``claim_id``, ``run_id`` and ``announces`` as in ``NativeClaimRequest``.

    Attributes:
        local: Whether it runs in the process of the state manager, and so ends with it.
        now: On the monotonic clock, ms.
        ttl_ms: How long the claim holds unless it is renewed, or None for ever.
        alone_from: A state that was running when this many runtimes were lost is to run alone.
    """

    local: bool
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
class Taken:
    """One claimed state: as v0 shows it, and what the native API adds to that."""

    v0: dict[str, Any]
    native: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim took, oldest first, and what to run if the reply does not arrive."""

    states: list[Taken]
    spent: bool = False
    """Whether the claim id takes no more, so that there is nothing to wait for."""
    undo: Callable[[Transaction], object] | None = None


def claim(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Claimer
) -> Claimed:
    """Take up to ``limit`` states, oldest first, and of each node no more than its entry in ``limits``.

    With ``claimer.run_id`` only states of that run, which may not be triggered yet. Large inputs make the
    claim smaller, but never empty. A claim id that took states before, or was voided, takes no more: it
    returns what is still held under it.
    """
    if claimer.claim_id is not None and (known := _known(tx, claimer.claim_id)) is not None:
        return _taken_before(tx, namespace, claimer, claimer.claim_id, known)
    nodes = {name: tx.registered(namespace, name) for name in limits}
    node_ids = {node.id: limits[name] for name, node in nodes.items() if node is not None}
    of_run = ""
    run: tuple[int, ...] = ()
    if claimer.run_id is not None:
        row = tx.row("SELECT id FROM runs WHERE run_id = ? AND namespace = ?", (claimer.run_id, namespace))
        if row is None:
            tx.waits_for = {claimer.run_id: math.inf}
            return Claimed([])
        of_run, run = " AND run = ?", (row["id"],)
    due = sorted(
        (row["enqueue_after"], row["seq"])
        for node_id, most in node_ids.items()
        for row in tx.execute(
            f"SELECT seq, enqueue_after FROM states WHERE status = 'CREATED' AND node_id = ?{of_run}"
            " AND enqueue_after <= ? ORDER BY enqueue_after, seq LIMIT ?",
            (node_id, *run, tx.now_ms, max(0, min(most, limit))),
        )
    )[: max(0, limit)]
    if not due:
        tx.waits_for = {
            (run[0], node_id) if run else node_id: _due_in(tx, node_id, of_run, run)
            for node_id, most in node_ids.items()
            if most > 0
        }
        return Claimed([])
    states = _first_rows(tx, [seq for _, seq in due], MAX_CLAIM_BYTES)
    seqs = [state["seq"] for state in states]
    token = None
    if claimer.claim_id is not None:
        token = secrets.token_hex(8)
        tx.execute("DELETE FROM claims WHERE at < ?", (claimer.now - CLAIMS_KEPT_MS,))
        tx.execute("INSERT INTO claims VALUES (?, ?)", (claimer.claim_id, claimer.now))
    tx.execute(
        "UPDATE states SET status = 'QUEUED', claim = ?, token = ?, worker = ?, local = ?, requeued = 0,"
        " lease_until = ?, claimed_at = ?, begun = ? WHERE seq IN (SELECT value FROM json_each(?))",
        (
            claimer.claim_id,
            token,
            claimer.worker,
            claimer.local,
            claimer.deadline,
            tx.now_ms,
            not (claimer.announces or claimer.local),
            to_json(seqs).decode(),
        ),
    )
    changes = Changes(tx)
    for state in states:
        changes.transition_uncounted(state["run"], state["place"], CREATED, QUEUED)
    changes.apply()
    tx.undo = (
        partial(undo_v0_claim, seqs=seqs, claimed_at=tx.now_ms)
        if claimer.claim_id is None
        else partial(undo_claim, namespace=namespace, claim_id=claimer.claim_id, handed_out=claimer.now)
    )
    return Claimed([_taken(tx, state, claimer, token, claimer.deadline) for state in states], undo=tx.undo)


def _known(tx: Transaction, claim_id: str) -> int | None:
    """Return when a claim id was used last, on the monotonic clock; None if it was not."""
    row = tx.row("SELECT at FROM claims WHERE id = ?", (claim_id,))
    return None if row is None else int(row["at"])


def _taken_before(tx: Transaction, namespace: str, claimer: Claimer, claim_id: str, known: int) -> Claimed:
    """Return what is still held under a claim id that takes no more."""
    held = _held(tx, namespace, claim_id)
    if tx.waited or not held:
        # If it waited, its client has sent another request since, and the states are in the reply to that.
        return Claimed([], spent=True)
    # A different value, so that the undo of an earlier reply that fails does not touch these states.
    tx.execute("UPDATE claims SET at = ? WHERE id = ?", (known + 1, claim_id))
    tx.undo = partial(undo_claim, namespace=namespace, claim_id=claim_id, handed_out=known + 1)
    taken = [_taken(tx, state, claimer, state["token"], state["lease_until"]) for state in held]
    return Claimed(taken, spent=True, undo=tx.undo)


def claim_once_ready(
    tx: Transaction, namespace: str, limits: Mapping[str, int], limit: int, claimer: Callable[[], Claimer]
) -> Claimed | None:
    """Claim, for a client that waits: None as long as there is nothing.

    ``claimer`` returns who claims, as of now: the term of a claim begins when it takes something.
    """
    claimed = claim(tx, namespace, limits, limit, claimer())
    return claimed if claimed.states or claimed.spent else None


def _taken(
    tx: Transaction, state: Row, claimer: Claimer, token: str | None, lease_until: int | None
) -> Taken:
    return Taken(
        v0={
            "state_id": tx.state_id(state["seq"]),
            "node_name": state["name"],
            "identifier": tx.template(state["template"]).places[state["place"]].identifier,
            "inputs": from_json(state["inputs"]),
            "created_at": timestamp(state["created_at"]),
        },
        native={
            "graph_name": state["graph_name"],
            "run_id": state["run_id"],
            "lease": {
                "token": token,
                "ttl_ms": None if lease_until is None else max(0, lease_until - claimer.now),
                "attempt": state["retry_count"] + 1,
                "deliveries": state["deliveries"],
                "announce": bool(state["suspect"]),
                "alone": state["deliveries"] >= claimer.alone_from,
            },
        },
    )


def _held(tx: Transaction, namespace: str, claim_id: str) -> list[Row]:
    seqs = tx.execute(
        "SELECT seq FROM states JOIN nodes ON nodes.id = states.node_id"
        " WHERE status = 'QUEUED' AND claim = ? AND nodes.namespace = ?",
        (claim_id, namespace),
    )
    return _select(tx, [seq for (seq,) in seqs]).fetchall()


def _select(tx: Transaction, seqs: Sequence[int]) -> Rows:
    return tx.execute(
        "SELECT states.*, nodes.name, runs.run_id, runs.template, graphs.name AS graph_name FROM json_each(?)"
        " JOIN states ON states.seq = value JOIN nodes ON nodes.id = states.node_id"
        # By rowid, which is how json_each yields them: to sort by key, SQLite would read all rows first.
        " JOIN runs ON runs.id = states.run JOIN graphs ON graphs.id = runs.graph ORDER BY json_each.rowid",
        (to_json(seqs).decode(),),
    )


def _first_rows(tx: Transaction, seqs: Sequence[int], most_bytes: int) -> list[Row]:
    """Return the rows of as many of these states as have that many bytes of inputs, and at least one.

    It reads them one by one: all together may not fit into memory.
    """
    rows: list[Row] = []
    size = 0
    with closing(_select(tx, seqs)) as cursor:
        for row in cursor:
            size += size_of(row["inputs"])
            if rows and size > most_bytes:
                break
            rows.append(row)
    return rows


def _due_in(tx: Transaction, node_id: int, of_run: str, run: tuple[int, ...]) -> float:
    """Return the seconds until the next state of this node comes due, infinity if none waits."""
    row = tx.row(
        f"SELECT min(enqueue_after) FROM states WHERE status = 'CREATED' AND node_id = ?{of_run}",
        (node_id, *run),
    )
    return math.inf if row is None or row[0] is None else from_ms(row[0] - tx.now_ms)


def release(
    tx: Transaction, namespace: str, states: Sequence[HeldState], delay_ms: int = 0
) -> list[ItemReply]:
    """Make held states claimable again, as if they had not been claimed."""
    changes = Changes(tx)
    replies = []
    for held in states:
        state = find_state(tx, namespace, held.state_id)
        if state is None:
            result = ItemResult.UNKNOWN
        elif state["token"] != held.token:
            result = ItemResult.STALE
        elif state["status"] == QUEUED:
            _release(changes, state, delay_ms)
            result = ItemResult.OK
        else:
            result = ItemResult.DUPLICATE if state["status"] == CREATED else ItemResult.STALE
        replies.append(ItemReply(state_id=held.state_id, result=result))
    changes.apply()
    return replies


def release_claim(
    tx: Transaction, namespace: str, claim_id: str, now: int, delay_ms: int = 0
) -> list[ItemReply]:
    """Release all that is held under a claim id, and void the id: a request that is still on its way then
    takes nothing. ``now`` is on the monotonic clock, ms."""
    tx.execute("INSERT OR REPLACE INTO claims VALUES (?, ?)", (claim_id, now))
    changes = Changes(tx)
    states = _held(tx, namespace, claim_id)
    for state in states:
        _release(changes, state, delay_ms)
    changes.apply()
    return [ItemReply(state_id=tx.state_id(state["seq"]), result=ItemResult.OK) for state in states]


def undo_claim(tx: Transaction, namespace: str, claim_id: str, handed_out: int) -> None:
    """Release what a native claim took whose reply, made at ``handed_out``, could not be written.

    If the claim was repeated since, the states are in a later reply.
    """
    if _known(tx, claim_id) == handed_out:
        release_claim(tx, namespace, claim_id, handed_out)


def undo_v0_claim(tx: Transaction, seqs: Sequence[int], claimed_at: int) -> None:
    """Release what a v0 claim took at that time whose reply could not be written."""
    changes = Changes(tx)
    for state in _select(tx, seqs).fetchall():
        if state["status"] == QUEUED and state["token"] is None and state["claimed_at"] == claimed_at:
            _release(changes, state, 0)
    changes.apply()


def _release(changes: Changes, state: Row, delay_ms: int) -> None:
    tx = changes.tx
    # Without a delay the state keeps its time, and so its place in the order.
    due = tx.now_ms + delay_ms if delay_ms else state["enqueue_after"]
    tx.execute(
        "UPDATE states SET status = 'CREATED', enqueue_after = ?, lease_until = NULL WHERE seq = ?",
        (due, state["seq"]),
    )
    add_event(tx, state["seq"], "released", state["worker"])
    changes.transition_uncounted(state["run"], state["place"], QUEUED, CREATED)
    tx.announce(state["run"], state["node_id"])
