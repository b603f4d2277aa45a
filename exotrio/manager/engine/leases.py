"""Leases: how long a claim holds, what renews it, and what happens when nothing does.

Deadlines are on the monotonic clock of this process, so that setting the wall clock changes no lease; a
restart gives each a fresh term. A state whose lease ends is claimable again, without a retry used. Its last
holder may still report or renew it as long as nobody else has claimed it.

A state that ends its runtime again and again is poison. Which state it is nobody can see directly, since a
runtime holds many states and runs several. So it is found in steps, which cost nothing while no runtime is
lost:

1. A runtime is lost. A state that its heartbeats never called running does not count: it was not begun, or
   just now. All that it held is suspect.
2. A suspect is announced: a heartbeat says that it runs before its node begins. From now on it counts
   (``deliveries``) each time a runtime is lost that runs it, however soon that is.
3. States that ran beside it have counted, too. So one that would become an error the next time runs alone in
   its process. If that is lost once more, it was this state; any other state just completes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from exotrio._wire.native import HeartbeatState, HeartbeatStateReply
from exotrio._wire.vocabulary import HeartbeatResult, from_ms
from exotrio.manager.engine.states import CREATED, ERRORED, QUEUED, Changes, RunScope, add_event, find_state
from exotrio.manager.engine.unites import decide
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Transaction

MonotonicClock = Callable[[], int]
"""Returns milliseconds that never decrease."""

SWEEPS_PER_TERM = 12
MAX_SWEEP_INTERVAL = 5.0
MAX_STATES_PER_SWEEP = 1_000
"""States of one sweep's transaction: a larger one would delay other commits."""


def monotonic_clock() -> int:
    """Return the monotonic clock in milliseconds: one that counts suspends too, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boottime is None else time.clock_gettime_ns(boottime)) // 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """How long claims hold."""

    lease_ttl_ms: int = 60_000
    """Of a native claim, from its last heartbeat."""
    claim_timeout_ms: int | None = None
    """Of a v0 claim, whose holder cannot renew it. None: for ever."""
    poison_limit: int = 5
    """A state is ERRORED once this many runtimes in a row were lost while they ran it."""

    @property
    def alone_from(self) -> int:
        """How many lost runtimes make a state run alone: one less than make it an error."""
        return max(1, self.poison_limit - 1)

    @property
    def sweep_interval(self) -> float:
        """Seconds between two sweeps."""
        shortest = min(self.lease_ttl_ms, self.claim_timeout_ms or self.lease_ttl_ms)
        return min(MAX_SWEEP_INTERVAL, from_ms(shortest) / SWEEPS_PER_TERM)


def renew(
    tx: Transaction, namespace: str, beats: Sequence[HeartbeatState], now: int, terms: Terms
) -> list[HeartbeatStateReply]:
    """Give the lease of each state a fresh term from ``now`` (monotonic, ms), if it is still held."""
    changes = Changes(tx)
    replies = []
    for beat in beats:
        state = find_state(tx, namespace, beat.state_id)
        if state is None or state["token"] != beat.token:
            result = HeartbeatResult.LOST
        elif state["status"] == QUEUED or _lapsed(state):
            begun = state["begun"] or beat.running
            if not state["local"]:
                tx.execute(
                    "UPDATE states SET status = 'QUEUED', lease_until = ?, begun = ? WHERE seq = ?",
                    (now + terms.lease_ttl_ms, begun, state["seq"]),
                )
            elif begun and not state["begun"]:
                tx.execute("UPDATE states SET begun = 1 WHERE seq = ?", (state["seq"],))
            if state["status"] == CREATED:
                # Its runtime was not lost after all.
                tx.execute(
                    "UPDATE states SET deliveries = deliveries - ? WHERE seq = ?",
                    (state["begun"], state["seq"]),
                )
                changes.transition_uncounted(state["run"], state["place"], CREATED, QUEUED)
                add_event(tx, state["seq"], "lease regained", state["worker"])
            result = HeartbeatResult.OK
        else:
            run = tx.row("SELECT cancelled_at FROM runs WHERE id = ?", (state["run"],))
            cancelled = run is not None and run["cancelled_at"] is not None
            result = HeartbeatResult.CANCELLED if cancelled else HeartbeatResult.LOST
        replies.append(HeartbeatStateReply(state_id=beat.state_id, result=result))
    changes.apply()
    return replies


def _lapsed(state: Row) -> bool:
    """Whether the state waits because its lease ended. Released and requeued states have no deadline."""
    return state["status"] == CREATED and state["lease_until"] is not None


def expire(tx: Transaction, now: int, terms: Terms) -> int:
    """End the leases whose deadline has passed; return how many those were."""
    return _lose(tx, "lease_until <= ? ORDER BY lease_until LIMIT ?", (now, MAX_STATES_PER_SWEEP), terms)


def recover(tx: Transaction, terms: Terms) -> int:
    """Take back what runtimes inside the former process of this database held: they ended with it."""
    return _lose(tx, "local = 1", (), terms)


def _lose(tx: Transaction, which: str, parameters: tuple[int, ...], terms: Terms) -> int:
    """Take states back from lost runtimes; return how many those were."""
    changes = Changes(tx)
    states = tx.execute(
        "SELECT states.*, runs.template FROM states JOIN runs ON runs.id = states.run"
        f" WHERE status = 'QUEUED' AND {which}",
        parameters,
    ).fetchall()
    for state in states:
        lost = state["deliveries"] + bool(state["begun"])
        if state["begun"] and lost >= terms.poison_limit:
            text = (
                f"poison: {lost} runtimes in a row ended, or lost their lease, while they ran this state, "
                "without an outcome; find out what ends the process, then retry it by hand"
            )
            tx.execute(
                "UPDATE states SET status = 'ERRORED', error = ?, deliveries = ?, updated_at = ?,"
                " finished_at = ? WHERE seq = ?",
                (text, lost, tx.now_ms, tx.now_ms, state["seq"]),
            )
            run = RunScope(state["run"], tx.template(state["template"]))
            changes.finish(run, state, ERRORED)
            add_event(tx, state["seq"], "poison", state["worker"])
        else:
            tx.execute(
                "UPDATE states SET status = 'CREATED', deliveries = ?, suspect = 1 WHERE seq = ?",
                (lost, state["seq"]),
            )
            changes.transition_uncounted(state["run"], state["place"], QUEUED, CREATED)
            add_event(tx, state["seq"], "lease lost", state["worker"])
            tx.announce(state["run"], state["node_id"])
    decide(changes)
    return len(states)


def end_leases(tx: Transaction, namespace: str, worker: str, now: int) -> int:
    """End the leases of a runtime whose process has ended; return how many those were.

    The next sweep takes the states back. ``now`` is on the monotonic clock, ms.
    """
    return tx.execute(
        "UPDATE states SET lease_until = ? WHERE status = 'QUEUED' AND lease_until IS NOT NULL AND worker = ?"
        " AND node_id IN (SELECT id FROM nodes WHERE namespace = ?)",
        (now, worker, namespace),
    ).rowcount


def extend(tx: Transaction, by_ms: int) -> None:
    """Move every deadline by ``by_ms``, in which this process did not run and nobody could renew."""
    tx.execute(
        "UPDATE states SET lease_until = lease_until + ? WHERE status = 'QUEUED' AND lease_until IS NOT NULL",
        (by_ms,),
    )


def restart(tx: Transaction, now: int, terms: Terms) -> None:
    """Give every claim a fresh term on the clock of this process, and keep claim ids from now on."""
    timeout = None if terms.claim_timeout_ms is None else now + terms.claim_timeout_ms
    tx.execute(
        "UPDATE states SET lease_until = CASE WHEN token IS NULL THEN ? ELSE ? END WHERE status = 'QUEUED'",
        (timeout, now + terms.lease_ttl_ms),
    )
    tx.execute("UPDATE claims SET at = ?", (now,))
