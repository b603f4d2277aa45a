"""Leases: how long a claim holds, what renews it, and what happens when nothing does.

Deadlines are on the clock of leases. For SQLite that is the monotonic clock of this process, so that setting
the wall clock changes no lease, and a restart gives each lease a new term. For a database that several state
managers share it is the database's clock; a sweep notices if that was set. A state whose lease ends is
claimable again, and no retry is used. Its last holder may still report or renew it until another runtime
claims it.

A state that ends its runtime again and again is poison. Which state that is cannot be seen directly, since a
runtime holds many states and runs several. So it is found in steps, which cost nothing while no runtime is
lost:

1. A runtime is lost. All states that it held become suspects. The loss does not count yet for a state that
   no heartbeat reported as running: its node had not begun, or had just begun.
2. A runtime announces a suspect: before the node begins, a heartbeat reports the state as running. From now
   on each lost runtime that ran it counts (``deliveries``), however early it was lost. If its node requeues
   it or hands it over, the count begins again.
3. States that ran in the same process have counted, too. So a state that would become an error the next time
   runs alone in its process. If that process is lost, too, it was this state; any other state just completes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from exotrio._wire.native import HeartbeatState, HeartbeatStateReply
from exotrio._wire.vocabulary import HeartbeatResult, from_ms
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.checkpoints import save_checkpoints
from exotrio.manager.engine.slots import free, regain
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    QUEUED,
    RETRY_CREATED,
    RunRow,
    add_events,
    begin_of,
    locked_runs_of,
    numbered,
    waits_since,
)
from exotrio.manager.engine.stops import Cause, find_vanished, record_vanished
from exotrio.manager.engine.unites import commit_changes
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

SWEEPS_PER_TERM = 12
MAX_SWEEP_INTERVAL = 5.0
NAMED_WITHIN_MS = 30_000
"""Time in which a runtime inside a state manager names all its states: it sends a heartbeat each second."""
MAX_STATES_PER_SWEEP = 1_000
"""States of one sweep's transaction: a larger one would delay other commits."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long claims hold."""

    lease_ttl_ms: int = 30_000
    """Of a native claim, from its last heartbeat."""
    claim_timeout_ms: int | None = None
    """Of a v0 claim, whose holder cannot renew it. None: no limit."""
    poison_limit: int = 5
    """A state is ERRORED once this many runtimes in a row were lost while they ran it."""

    @property
    def alone_from(self) -> int:
        """How many lost runtimes make a state run alone: one less than make it an error."""
        return max(1, self.poison_limit - 1)

    @property
    def silence_ms(self) -> int:
        """After so long without a heartbeat a runtime is lost if its connection was closed.

        Its next heartbeat is due after two thirds of this, and may have to be repeated.
        """
        return self.lease_ttl_ms // 2

    @property
    def sweep_interval(self) -> float:
        """Seconds between two sweeps."""
        term_ms = min(self.lease_ttl_ms, self.claim_timeout_ms or self.lease_ttl_ms)
        return min(MAX_SWEEP_INTERVAL, from_ms(term_ms) / SWEEPS_PER_TERM)


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

    def find_held(beat: HeartbeatState) -> Row | None:
        state = known.get(seqs[beat.state_id] or 0)
        if state is None or state["token"] != beat.token or owner not in (None, state["owner"]):
            return None
        return state

    def of_last_token() -> list[tuple[HeartbeatState, Row]]:
        return [(beat, state) for beat in beats if (state := find_held(beat)) is not None]

    if in_process and (
        changing := [state["seq"] for beat, state in of_last_token() if _is_written(beat, state, tx.now_ms)]
    ):
        # Read again: an outcome may have been recorded before the lock.
        known |= _reported(tx, namespace, changing, locked=True)
    held = [(beat, state) for beat, state in of_last_token() if _is_held(state)]
    news = {state["seq"]: new for beat, state in held if (new := _news(beat, state, tx.now_ms))}
    _renew(tx, list({state["seq"]: state for _, state in held}.values()), news, now + terms.lease_ttl_ms)
    checkpoints = [(state["seq"], beat.token, beat.checkpoint) for beat, state in held if beat.checkpoint]
    stored = save_checkpoints(tx, checkpoints)
    cancelled = _cancelled(tx, {state["run"] for _, state in of_last_token() if not _is_held(state)})
    replies = []
    for beat in beats:
        state = find_held(beat)
        if state is None:
            result = HeartbeatResult.LOST
        elif _is_held(state):
            result = HeartbeatResult.OK
        else:
            is_cancelled = state["status"] == RETRY_CREATED or state["run"] in cancelled
            result = HeartbeatResult.CANCELLED if is_cancelled else HeartbeatResult.LOST
        number = None if state is None else stored.get(state["seq"])
        replies.append(HeartbeatStateReply(state_id=beat.state_id, result=result, checkpoint=number))
    return replies


def _reported(tx: Transaction, namespace: str, seqs: Sequence[int], *, locked: bool) -> dict[int, Row]:
    """Return the states that a heartbeat names, by number."""
    return {
        state["seq"]: state
        for state in tx.execute(
            "SELECT seq, run, status, token, worker, manager, lease_until, claimed_at, begun, begun_at,"
            " ran_ms, states.limits, owner"
            f" FROM states JOIN nodes ON nodes.id = node_id WHERE {tx.any_of('seq')} AND namespace = ?"
            " ORDER BY seq"
            f"{tx.for_update('states') if locked else ''}",
            (tx.items(seqs), namespace),
        )
    }


Execution = tuple[int, int | None, int | None]
"""``begun``, ``begun_at`` and ``ran_ms`` of a state that is, or was, executed."""


def _is_held(state: Row) -> bool:
    """Whether the last token still holds: the state is QUEUED, or waits because its lease ended.

    Released and requeued states have no deadline.
    """
    return state["status"] == QUEUED or (state["status"] == CREATED and state["lease_until"] is not None)


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
    if begun_at is None or begun_at < claimed_at:
        begun_at = None if beat.buffered_ms is None else min(claimed_at + beat.buffered_ms, now_ms)
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
    if lapsed := regain(tx, [state for state in held if state["status"] == CREATED]):
        tx.execute(
            "UPDATE states SET status = 'QUEUED', lane = NULL, lease_until = ?,"
            " deliveries = deliveries - begun"
            f" WHERE {numbered(tx, CREATED)}",
            (deadline, tx.items([state["seq"] for state in lapsed])),
        )
        add_events(tx, "lease regained", lapsed)
    rows = [(seq, QUEUED, *execution) for seq, execution in sorted(news.items())]
    tx.update("states", ("seq", "status"), ("begun", "begun_at", "ran_ms"), rows)


def _cancelled(tx: Transaction, runs: Collection[int]) -> set[int]:
    if not runs:
        return set()
    # In a separate statement: the one that locked the states may have waited for a cancellation.
    which = f"SELECT id FROM runs WHERE {tx.any_of('id')} AND cancelled_at IS NOT NULL"
    return {row["id"] for row in tx.execute(which, (tx.items(sorted(runs)),))}


def _held_in_lost_managers(manager: str) -> Cause:
    # States that are held inside a state manager have no deadline; the index leaves out all others.
    which = (
        "lease_until IS NULL AND manager IS NOT NULL AND manager <> ?"
        " AND manager NOT IN (SELECT id FROM managers)"
    )
    return which, (manager,)


def recover(tx: Transaction, manager: str, terms: Terms) -> WithEffects[int]:
    """Take back the states that runtimes inside lost state managers held; return how many those were.

    ``manager`` is the caller, which is not lost.
    """
    return _lose(tx, terms, [_held_in_lost_managers(manager)])


def expire(tx: Transaction, now: int, terms: Terms, *, sweeper: str | None = None) -> WithEffects[int]:
    """End the leases whose deadline has passed; return how many those were.

    With ``sweeper``, the calling state manager, also do what ``recover`` does. Both happen in one step: the
    second of two would lock runs while states are locked.
    """
    lost = [] if sweeper is None else [_held_in_lost_managers(sweeper)]
    overdue: Cause = ("lease_until <= ?", (now,))
    return _lose(tx, terms, [overdue, *lost], silent_since=now - terms.lease_ttl_ms)


def _lose(
    tx: Transaction, terms: Terms, causes: Sequence[Cause], *, silent_since: int | None = None
) -> WithEffects[int]:
    """Take some states back from lost runtimes, and record which of these vanished; return how many states
    those were."""
    vanished = find_vanished(tx, causes, silent_since=silent_since)
    count, effects = _take_back(tx, terms, causes)
    stops = record_vanished(tx, vanished)
    if stops is not NO_EFFECTS:
        stops.add(effects)
        effects = stops
    return WithEffects(count, effects)


def _take_back(tx: Transaction, terms: Terms, causes: Sequence[Cause]) -> WithEffects[int]:
    seqs = [
        state["seq"]
        for which, parameters in causes
        for state in tx.execute(
            f"SELECT seq FROM states INDEXED BY states_held WHERE status = 'QUEUED' AND {which}"
            " ORDER BY lease_until LIMIT ?",
            (*parameters, MAX_STATES_PER_SWEEP),
        )
    ]
    if not seqs:
        return WithEffects(0, NO_EFFECTS)
    any_cause = " OR ".join(which for which, _ in causes)
    runs = locked_runs_of(tx, seqs)
    # Read again: an outcome or a heartbeat may have come before the lock.
    states = tx.execute(
        "SELECT seq, run, place, node_id, status, groups, worker, enqueue_after, updated_at, claimed_at,"
        " begun, begun_at, deliveries, limits FROM states"
        f" WHERE {numbered(tx, QUEUED)} AND ({any_cause})"
        f" ORDER BY seq{tx.for_update('states')}",
        (tx.items(seqs), *chain.from_iterable(parameters for _, parameters in causes)),
    ).fetchall()
    poison = [state for state in states if state["begun"] and state["deliveries"] + 1 >= terms.poison_limit]
    effects = _end_as_poison(tx, runs, poison)
    ended = {state["seq"] for state in poison}
    claimable = [state for state in states if state["seq"] not in ended]
    tx.execute(
        "UPDATE states SET status = 'CREATED', deliveries = deliveries + begun, suspect = 1, updated_at = ?"
        f" WHERE {numbered(tx, QUEUED)}",
        (tx.now_ms, tx.items([state["seq"] for state in claimable])),
    )
    add_events(tx, "lease lost", claimable)
    for state in claimable:
        effects.reopen(state["run"], state["node_id"])
    free(tx, effects, [(state["seq"], state["limits"]) for state in states])
    return WithEffects(len(states), effects)


def _end_as_poison(tx: Transaction, runs: Mapping[int, RunRow], states: Sequence[Row]) -> Effects:
    changes = Changes(tx, runs.values())
    rows = []
    for state in states:
        lost = state["deliveries"] + 1
        text = (
            f"poison: {lost} runtimes in a row ended, or lost their lease, while they ran this state, "
            "without an outcome; find out what ends the process, then retry it by hand"
        )
        rows.append((state["seq"], QUEUED, ERRORED, text, lost, tx.now_ms))
        run = runs[state["run"]].scope(tx)
        changes.transition(run, state["place"], state["groups"], state["status"], ERRORED)
        claimed_at, begun_at = state["claimed_at"], begin_of(state)
        changes.tally(
            runs[state["run"]].graph,
            state["node_id"],
            ERRORED,
            waited_ms=claimed_at - waits_since(state["enqueue_after"], state["updated_at"], claimed_at),
            buffered_ms=None if begun_at is None else begun_at - claimed_at,
            took_ms=tx.now_ms - (begun_at or claimed_at),
        )
    columns = ("status", "error", "deliveries", "finished_at")
    tx.update("states", ("seq", "status"), columns, rows)
    add_events(tx, "poison", states)
    commit_changes(changes)
    return changes.effects


def end_leases(
    tx: Transaction, namespace: str, worker: str, at: int, *, renewed_until: int | None = None
) -> int:
    """Let the leases of a runtime end at ``at``, on the clock of leases, ms; return how many those are.

    With ``renewed_until``, only if its last heartbeat, at whichever state manager, renewed them until then.
    Its next one renews them again.
    """
    # Locked before the row of the runtime, as by a heartbeat.
    held = _locked_leases(
        tx, " AND worker = ? AND node_id IN (SELECT id FROM nodes WHERE namespace = ?)", worker, namespace
    )
    if renewed_until is not None:
        unless_renewed = " WHERE namespace = ? AND worker_id = ? AND lease_until = ?"
        of_runtime = (at, namespace, worker, renewed_until)
        if not tx.execute(f"UPDATE workers SET lease_until = ?{unless_renewed}", of_runtime).rowcount:
            return 0
    return tx.execute(
        f"UPDATE states SET lease_until = ? WHERE {tx.any_of('seq')} AND lease_until > ?",
        (at, tx.items(held), at),
    ).rowcount


def extend(tx: Transaction, now: int, by_ms: int, terms: Terms) -> None:
    """Move every deadline by ``by_ms``, in which no lease could be renewed, at most to a term from ``now``.

    ``by_ms`` is 0 if the clock was set back, which only that of a database can be: leases that were renewed
    before cannot be distinguished from those renewed since, and no lease may end early.
    """
    held = tx.items(_locked_leases(tx))
    for of, term in (("NOT NULL", terms.lease_ttl_ms), ("NULL", terms.claim_timeout_ms)):
        if term is not None:
            tx.execute(
                "UPDATE states SET lease_until ="
                " CASE WHEN lease_until + ? > ? THEN ? ELSE lease_until + ? END"
                f" WHERE {tx.any_of('seq')} AND token IS {of}",
                (by_ms, now + term, now + term, by_ms, held),
            )
    tx.execute(
        "UPDATE workers SET lease_until = CASE WHEN lease_until + ? > ? THEN ? ELSE lease_until + ? END"
        " WHERE lease_until IS NOT NULL",
        (by_ms, now + terms.lease_ttl_ms, now + terms.lease_ttl_ms, by_ms),
    )


def _locked_leases(tx: Transaction, which: str = "", *parameters: str) -> list[int]:
    """Lock the states that are held under a lease, in the order of their numbers, and return these.

    An UPDATE of many states would lock them in any order.
    """
    # With the index: SQLite would read all states otherwise.
    rows = tx.execute(
        "SELECT seq FROM states INDEXED BY states_held WHERE status = 'QUEUED' AND lease_until IS NOT NULL"
        f"{which} ORDER BY seq{tx.for_update('states')}",
        parameters,
    )
    return [state["seq"] for state in rows]


def limit_held_inside(tx: Transaction, manager: str, now: int) -> None:
    """Give the states that runtimes inside a state manager hold a deadline, which their heartbeats now move.

    For a failover that lost commits: a runtime no longer holds the states that it reported by such a commit.
    """
    held = tx.execute(
        "SELECT seq FROM states WHERE status = 'QUEUED' AND lease_until IS NULL AND manager = ?"
        f" AND token IS NOT NULL ORDER BY seq{tx.for_update('states')}",
        (manager,),
    )
    tx.execute(
        f"UPDATE states SET manager = NULL, lease_until = ? WHERE {numbered(tx, QUEUED)}",
        (now + NAMED_WITHIN_MS, tx.items([state["seq"] for state in held])),
    )


def restart(tx: Transaction, now: int, terms: Terms) -> None:
    """Give every claim a new term on the clock of this process, and keep claim ids from now on."""
    timeout = None if terms.claim_timeout_ms is None else now + terms.claim_timeout_ms
    tx.execute(
        "UPDATE states SET lease_until = CASE WHEN token IS NULL THEN ? ELSE ? END WHERE status = 'QUEUED'",
        (timeout, now + terms.lease_ttl_ms),
    )
    tx.execute("UPDATE claims SET at = ?", (now,))
