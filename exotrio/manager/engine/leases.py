"""Leases: how long a claim holds, and what happens when nothing renews it (``renewals``).

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from exotrio._wire.vocabulary import from_ms
from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.slots import IS_STOPPING, OF_ANY_LIMIT, end_leases_of_slots, free
from exotrio.manager.engine.states import (
    ERRORED,
    QUEUED,
    RunRow,
    add_events,
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
    """End the leases whose deadline has passed; return how many states those were of.

    With ``sweeper``, the calling state manager, also do what ``recover`` does. Both happen in one step: the
    second of two would lock runs while states are locked.
    """
    lost = [] if sweeper is None else [_held_in_lost_managers(sweeper)]
    overdue: Cause = ("lease_until <= ?", (now,))
    count, effects = _lose(tx, terms, [overdue, *lost])
    # Those of states that have ended. After the others, since releases lock states before slots.
    freed = Effects(freed=end_leases_of_slots(tx, now))
    freed.add(effects)
    return WithEffects(count, freed)


def _lose(tx: Transaction, terms: Terms, causes: Sequence[Cause]) -> WithEffects[int]:
    """Take some states back from lost runtimes, and record which of these vanished; return how many states
    those were."""
    vanished = find_vanished(tx, causes)
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
        claimed_at, begun_at = state["claimed_at"], state["begun_at"]
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
    held, until = tx.items(_locked_leases(tx)), now + terms.lease_ttl_ms
    leased = f"{tx.any_of('seq')} AND token IS"
    _extend(tx, "states", "lease_until", by_ms, until, f"{leased} NOT NULL", held)
    if terms.claim_timeout_ms is not None:
        _extend(tx, "states", "lease_until", by_ms, now + terms.claim_timeout_ms, f"{leased} NULL", held)
    in_order = (
        "(limit_id, key, state) IN (SELECT limit_id, key, state FROM slots"
        f" WHERE {OF_ANY_LIMIT} AND {IS_STOPPING} ORDER BY limit_id, key, state{tx.for_update('slots')})"
    )
    # Before the rows of runtimes, as in a heartbeat.
    _extend(tx, "slots", "check_at", by_ms, until, in_order)
    _extend(tx, "workers", "lease_until", by_ms, until, "lease_until IS NOT NULL")


def _extend(
    tx: Transaction, table: str, column: str, by_ms: int, until: int, which: str, *parameters: object
) -> None:
    later = f"CASE WHEN {column} + ? > ? THEN ? ELSE {column} + ? END"
    tx.execute(
        f"UPDATE {table} SET {column} = {later} WHERE {which}", (by_ms, until, until, by_ms, *parameters)
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
    which = f"{OF_ANY_LIMIT} AND {IS_STOPPING}"
    tx.execute(f"UPDATE slots SET check_at = ? WHERE {which}", (now + terms.lease_ttl_ms,))
    tx.execute("UPDATE claims SET at = ?", (now,))
