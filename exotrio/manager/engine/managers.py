"""The state managers that share a database: which of them are there, and what one at a time does for all.

Each has a row in ``managers`` as long as it runs. One that is silent for ``SILENT_AFTER_MS`` is taken for
lost: its row is deleted, and what runtimes inside its process held is taken back (``leases.recover``). A file
has one state manager: its lock proves that others are gone.

What happens by itself are duties: whoever gets the row of one does it, and others leave it alone meanwhile.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from exotrio._version import VERSION
from exotrio.errors import DatabaseTooNew
from exotrio.manager.engine.leases import MAX_STATES_PER_SWEEP, Terms, expire, extend, limit_held_inside
from exotrio.manager.engine.releases import forget_claims
from exotrio.manager.store import clock, schema
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS, Misfit, misfit
from exotrio.manager.store.transaction import Transaction

SEEN_INTERVAL = 5.0
"""Seconds between two signs of life."""
MIN_LATENESS_MS = 1_000
"""A busy machine is as late as this at times, and no lease ended by it. Two state managers may differ by as
much in what they take for the time of their database."""
MIN_AHEAD_MS = 20_000
"""A lease of a minute that was renewed before a smaller step ahead is still renewed in time; of a shorter one
a third is as much."""
LEARNT_AFTER_MS = 10_000
"""Until then each state manager knows that the clock was set."""
RECOVERY_INTERVAL_MS = 60_000
"""What is held inside state managers may be many rows. It is read when one of them has ended, and otherwise
this often: one may have committed a claim after it was taken for lost, and have ended then."""
SWEEP, RETENTION, SCHEDULES, RECOVERY = DUTIES = ("sweep", "retention", "schedules", "recovery")


def enter(tx: Transaction, manager: str, now: int, keys: Sequence[str] = ()) -> None:
    """Say that a state manager is there, and which keys for secrets it has (``store.shared_keys``).

    ``now`` is on the clock of leases, ms, here and below.

    Raises:
        DatabaseTooNew: a newer exotrio changed the tables since this process looked, in a way that it does
            not know. That waits for those that are there; this one was not, or was silent for too long.
    """
    # First, as a sweep does: it waits for one that has taken its duty, and has nothing locked meanwhile.
    tx.insert("duties", ("name", "at"), [(name, now) for name in sorted(DUTIES)], "DO NOTHING")
    # Locked against such a change, which looks who is there.
    _check_version(tx, tx.for_share("meta"))
    tx.execute(
        "INSERT INTO managers (id, started_at, seen_at, version, schema_version, clock_ahead, secret_keys,"
        " host) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at,"
        " clock_ahead = excluded.clock_ahead",
        (manager, now, now, VERSION, schema.VERSION, clock.ahead_ms(tx), " ".join(keys), platform.node()),
    )


def stay(
    tx: Transaction,
    manager: str,
    now: int,
    keys: Sequence[str] = (),
    epoch: str | None = None,
    *,
    ends: Event | None = None,
) -> str | None:
    """Say that a state manager is still there; enter it anew if another one took it for lost.

    ``ends`` is set before it leaves: this may still run when ``leave`` is done, and must not enter it again.

    Return the epoch of the database. If it was another ``epoch`` before, commits may be lost by which
    runtimes inside this state manager reported outcomes.

    This waits for no lock of a newer exotrio that changes the tables: a state manager that has its row counts
    as there for that one, and silence would have others take back what it holds. Raises as ``enter``.
    """
    seen = "UPDATE managers SET seen_at = ?, clock_ahead = ? WHERE id = ?"
    if tx.execute(seen, (now, clock.ahead_ms(tx), manager)).rowcount:
        _check_version(tx)
    elif ends is None or not ends.is_set():
        enter(tx, manager, now, keys)
    row = tx.row("SELECT value FROM meta WHERE key = 'epoch'")
    present = None if row is None else str(row["value"])
    if epoch not in (None, present):
        limit_held_inside(tx, manager, now)
    return present


def _check_version(tx: Transaction, lock: str = "") -> None:
    oldest = tx.row(f"SELECT value FROM meta WHERE key = 'oldest_version'{lock}")
    if oldest is not None and int(oldest["value"]) > schema.VERSION:
        raise DatabaseTooNew(
            f"a newer exotrio changed the database (usable from schema {oldest['value']} on; this one knows"
            f" {schema.VERSION})",
            fix="upgrade exotrio",
        )


def enter_if_fit(tx: Transaction, manager: str, now: int, cipher: Cipher) -> Misfit | None:
    """Say that a state manager is there, unless its keys for secrets do not fit those of others."""
    # One at a time: each sees the keys of the one before.
    put_meta(tx, "entered_at", str(now))
    found = misfit(tx, cipher, now)
    if found is None:
        enter(tx, manager, now, cipher.key_ids)
    return found


def enter_alone(tx: Transaction, manager: str, now: int) -> None:
    """Say that a state manager is there, and no other."""
    tx.execute("DELETE FROM managers")
    enter(tx, manager, now)


def leave(tx: Transaction, manager: str) -> None:
    """Say that a state manager ends. The next sweep takes back what is still held inside its process."""
    # First, as a sweep does.
    tx.execute("UPDATE duties SET at = 0 WHERE name = ?", (RECOVERY,))
    tx.execute("DELETE FROM managers WHERE id = ?", (manager,))


def keep_backup(tx: Transaction) -> None:
    put_meta(tx, "backed_up_at", str(tx.now_ms))


def take_duty(tx: Transaction, name: str) -> int | None:
    """Return when a duty was last done, or None if another state manager is doing it.

    Until the end of the transaction no other gets it.
    """
    row = tx.row(f"SELECT at FROM duties WHERE name = ?{tx.skip_locked('duties')}", (name,))
    return None if row is None else int(row["at"])


@dataclass(frozen=True, slots=True)
class Swept:
    """How many leases a sweep ended, and by how much it was late: below zero if the clock was set back."""

    ended: int = 0
    late_ms: int = 0


def sweep(tx: Transaction, manager: str, now: int, terms: Terms, last: int | None) -> WithEffects[Swept]:
    """End the leases that are overdue, take back what lost state managers held, and forget old claims.

    ``manager`` sweeps, so it is there, however long it could not say so.

    A sweep that comes late only moves all deadlines, by its lateness: nobody may have been there to hear a
    heartbeat, or the database's clock was set ahead. What is overdue all the same is left to
    ``leases.expire`` in a transaction of its own, since that locks runs before states.

    ``last`` is when the only state manager swept last; None if several share the database: then the duty says
    it.
    """
    interval = round(terms.sweep_interval * 1000)
    is_shared = last is None
    if last is None:
        last = take_duty(tx, SWEEP)
        if last is None or -MIN_LATENESS_MS < now - last < interval // 2:
            return WithEffects(Swept(), NO_EFFECTS)
        tx.execute("UPDATE duties SET at = ? WHERE name = ?", (now, SWEEP))
    late = _lateness(now - last, interval)
    if late:
        if is_shared and late < 0:
            _lock_waiting(tx)
        extend(tx, now, max(0, late), terms)
        if is_shared:
            _follow_clock(tx, now, late, terms)
        return WithEffects(Swept(late_ms=late), NO_EFFECTS)
    if is_shared:
        # What others wrote meanwhile, who did not know it yet, is in the old time.
        ahead = clock.set_ahead_ms(tx, LEARNT_AFTER_MS)
        if is_set_back := clock.was_set_back(tx, LEARNT_AFTER_MS):
            clock.move_new_states(tx)
        if ahead or is_set_back:
            extend(tx, now, ahead, terms)
            _move_signs_of_life(tx, now, ahead)
            return WithEffects(Swept(), NO_EFFECTS)
        recovered = take_duty(tx, RECOVERY)
        tx.execute("UPDATE managers SET seen_at = ? WHERE id = ?", (now, manager))
        lost = tx.execute("DELETE FROM managers WHERE seen_at < ?", (now - SILENT_AFTER_MS,)).rowcount
        if lost or (recovered is not None and not 0 <= now - recovered < RECOVERY_INTERVAL_MS):
            forget_claims(tx, now)
            ended, effects = expire(tx, now, terms, sweeper=manager)
            # None: a state manager is just leaving. Its zero is for the next sweep.
            if recovered is not None:
                # More may be left than one sweep takes back.
                at = now if ended < MAX_STATES_PER_SWEEP else 0
                tx.execute("UPDATE duties SET at = ? WHERE name = ?", (at, RECOVERY))
            return WithEffects(Swept(ended=ended), effects)
    forget_claims(tx, now)
    ended, effects = expire(tx, now, terms)
    return WithEffects(Swept(ended=ended), effects)


def _lateness(passed: int, interval: int) -> int:
    """Return by how much a sweep is late, below zero if the clock was set back; 0 if it came in time."""
    if passed <= -MIN_LATENESS_MS:
        return passed
    late = passed - interval
    return late if late > max(interval // 2, MIN_LATENESS_MS) else 0


def _lock_waiting(tx: Transaction) -> None:
    """Lock all states whose times are moved when the clock was set back: an UPDATE does it in any order."""
    waiting = "SELECT seq FROM states WHERE status IN ('CREATED', 'QUEUED') ORDER BY seq"
    tx.execute(waiting + tx.for_update("states")).fetchall()


def _follow_clock(tx: Transaction, now: int, by_ms: int, terms: Terms) -> None:
    """Move what else is in the time of a shared database, which is its clock of leases and its wall clock."""
    _move_signs_of_life(tx, now, max(0, by_ms))
    if by_ms < 0:
        clock.set_back(tx, tx.now_ms, -by_ms)
    elif by_ms >= min(MIN_AHEAD_MS, terms.lease_ttl_ms // 3):
        clock.set_ahead(tx, tx.now_ms, by_ms)


def _move_signs_of_life(tx: Transaction, now: int, by_ms: int) -> None:
    tx.execute(
        "UPDATE managers SET seen_at = CASE WHEN seen_at + ? > ? THEN ? ELSE seen_at + ? END",
        (by_ms, now, now, by_ms),
    )
