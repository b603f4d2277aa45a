"""The state managers that share a database: which of them are there, and the duties that one at a time does.

Each state manager has a row in ``managers`` while it runs. One that is silent for ``SILENT_AFTER_MS`` counts
as lost: its row is deleted, and the states that runtimes inside its process held are taken back
(``leases.recover``). A file has one state manager: its lock proves that others are gone.

Work that no request asks for is divided into duties. A state manager that locks the row of a duty does it;
the others skip it meanwhile.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

from exotrio._version import VERSION
from exotrio.errors import DatabaseTooNew
from exotrio.manager.engine.due_work import due_work
from exotrio.manager.engine.leases import MAX_STATES_PER_SWEEP, Terms, expire, extend, limit_held_inside
from exotrio.manager.engine.releases import forget_claims
from exotrio.manager.engine.starts import tidy
from exotrio.manager.rules.access import Caller
from exotrio.manager.store import clock, schema
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import NO_EFFECTS, WithEffects
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS, KeyConflict, key_conflict
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

SEEN_INTERVAL = 5.0
"""Seconds between two calls of ``stay``."""
MIN_LATENESS_MS = 1_000
"""A busy machine is sometimes as late as this, and no lease ended by it. The times that two state managers
measure of their database may differ by as much."""
LEARNT_AFTER_MS = 10_000
"""Time after which each state manager knows that the clock was set."""
RECOVERY_INTERVAL_MS = 60_000
"""Many states may be held inside state managers. They are checked when one of these has ended, and otherwise
this often: one may have committed a claim after it counted as lost, and have ended then."""
SWEEP, RETENTION, SCHEDULES, RECOVERY = DUTIES = ("sweep", "retention", "schedules", "recovery")


def enter(tx: Transaction, manager: str, now: int, keys: Sequence[str] = ()) -> None:
    """Insert the row of a state manager, with its keys for secrets (``store.shared_keys``).

    ``now`` is on the clock of leases, ms, here and below.

    Raises:
        DatabaseTooNew: a newer exotrio changed the tables since this process checked them, in a way that it
            does not know. Such a change waits for all state managers with a row; this one had none, or was
            silent for too long.
    """
    # First, as in a sweep: this may wait for a sweep, and must hold no lock meanwhile.
    tx.insert("duties", ("name", "at"), [(name, now) for name in sorted(DUTIES)], "DO NOTHING")
    # Locked against such a change, which checks which state managers are there.
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
    """Record that a state manager is still there; insert its row again if it counted as lost.

    ``ends`` is set before it leaves: this may still run when ``leave`` is done, and must not insert the row
    again.

    Returns the epoch of the database. If it differs from ``epoch``, commits may be lost by which runtimes
    inside this state manager reported outcomes.

    This does not wait for a newer exotrio that changes the tables: that one waits for state managers with a
    row, and a state manager that is silent meanwhile would lose its states to others. Raises as ``enter``.
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


def enter_if_fit(tx: Transaction, manager: str, now: int, cipher: Cipher) -> KeyConflict | None:
    """Insert the row of a state manager, unless its keys for secrets conflict with those of others."""
    # One at a time: each sees the keys of the one before.
    put_meta(tx, "entered_at", str(now))
    conflict = key_conflict(tx, cipher, now)
    if conflict is None:
        enter(tx, manager, now, cipher.key_ids)
    return conflict


def enter_alone(tx: Transaction, manager: str, now: int) -> None:
    """Insert the row of the only state manager."""
    tx.execute("DELETE FROM managers")
    enter(tx, manager, now)


def leave(tx: Transaction, manager: str) -> None:
    """Delete the row of a state manager. The next sweep takes back the states held inside its process."""
    # First, as in a sweep.
    tx.execute("UPDATE duties SET at = 0 WHERE name = ?", (RECOVERY,))
    tx.execute("DELETE FROM managers WHERE id = ?", (manager,))


def keep_backup(tx: Transaction, caller: Caller) -> None:
    tx.caller = caller
    put_meta(tx, "backed_up_at", str(tx.now_ms))
    tx.record("backup.make", "", "")


def take_duty(tx: Transaction, name: str) -> int | None:
    """Lock a duty until the end of the transaction, and return when it was last done; None if another state
    manager does it now."""
    row = tx.row(f"SELECT at FROM duties WHERE name = ?{tx.skip_locked('duties')}", (name,))
    return None if row is None else int(row["at"])


@dataclass(frozen=True, slots=True)
class Swept:
    """How many leases a sweep ended, by how much it was late (below zero if the clock was set back), and
    whether other work is due (``due_work``)."""

    ended: int = 0
    late_ms: int = 0
    has_work: bool = False


def last_sweep(view: View) -> int | None:
    """Return when the state managers that share a database swept last."""
    row = view.row("SELECT at FROM duties WHERE name = ?", (SWEEP,))
    return None if row is None else int(row["at"])


def sweep(
    tx: Transaction, manager: str, now: int, terms: Terms, last: int | None, seen: int | None = None
) -> WithEffects[Swept]:
    """End overdue leases, take back the states that lost state managers held, and forget old claims.

    ``manager`` is the caller, which does not count as lost, even if it was silent for long.

    A late sweep only moves all deadlines, by its lateness: perhaps no state manager was there to receive
    heartbeats, or the database's clock was set ahead. Leases that are overdue even then are left to
    ``leases.expire`` in a separate transaction, since that locks runs before states.

    ``last`` is when the only state manager swept last; None if several share the database: then the row of
    the duty has it. ``seen`` is what that row had before ``now`` was measured: if another one has swept
    since, ``now`` may be from before the clock was set, which that one has counted.
    """
    if last is None:
        return _sweep_shared(tx, manager, now, terms, seen)
    if late := _lateness(now - last, terms):
        extend(tx, now, max(0, late), terms)
        return WithEffects(Swept(late_ms=late), NO_EFFECTS)
    return _end_overdue(tx, now, terms)


def _sweep_shared(
    tx: Transaction, manager: str, now: int, terms: Terms, seen: int | None
) -> WithEffects[Swept]:
    last = take_duty(tx, SWEEP)
    # Another state manager sweeps at this moment, or has just swept. One of an earlier version, which may
    # always be the first, knows of no waits for events.
    if last is None or seen not in (None, last) or -MIN_LATENESS_MS < now - last < terms.sweep_interval * 500:
        return WithEffects(Swept(has_work=bool(due_work(tx))), NO_EFFECTS)
    tx.execute("UPDATE duties SET at = ? WHERE name = ?", (now, SWEEP))
    if late := _lateness(now - last, terms):
        if late < 0:
            _lock_waiting(tx)
        extend(tx, now, max(0, late), terms)
        _follow_clock(tx, now, late, terms)
        return WithEffects(Swept(late_ms=late), NO_EFFECTS)
    # The clock was set a moment ago: others wrote in the old time until they knew that.
    ahead = clock.set_ahead_ms(tx, LEARNT_AFTER_MS)
    if is_set_back := clock.was_set_back(tx, LEARNT_AFTER_MS):
        _lock_waiting(tx, clock.first_new_state(tx))
        clock.move_new_states(tx)
    if ahead or is_set_back:
        extend(tx, now, ahead, terms)
        _move_seen_times(tx, now, ahead)
        return WithEffects(Swept(), NO_EFFECTS)
    recovered = take_duty(tx, RECOVERY)
    tx.execute("UPDATE managers SET seen_at = ? WHERE id = ?", (now, manager))
    lost = tx.execute("DELETE FROM managers WHERE seen_at < ?", (now - SILENT_AFTER_MS,)).rowcount
    if not lost and (recovered is None or 0 <= now - recovered < RECOVERY_INTERVAL_MS):
        return _end_overdue(tx, now, terms)
    swept, effects = _end_overdue(tx, now, terms, sweeper=manager)
    # None: a state manager is leaving at this moment, and sets the time to zero for the next sweep.
    if recovered is not None:
        # One sweep takes back a limited number: if it reached that, the next one goes on.
        at = now if swept.ended < MAX_STATES_PER_SWEEP else 0
        tx.execute("UPDATE duties SET at = ? WHERE name = ?", (at, RECOVERY))
    return WithEffects(swept, effects)


def _end_overdue(
    tx: Transaction, now: int, terms: Terms, *, sweeper: str | None = None
) -> WithEffects[Swept]:
    forget_claims(tx, now)
    tidy(tx)
    ended, effects = expire(tx, now, terms, sweeper=sweeper)
    return WithEffects(Swept(ended=ended, has_work=bool(due_work(tx))), effects)


def _lateness(passed: int, terms: Terms) -> int:
    """Return by how much a sweep is late, below zero if the clock was set back; 0 if it is in time."""
    if passed <= -MIN_LATENESS_MS:
        return passed
    interval = round(terms.sweep_interval * 1000)
    late = passed - interval
    return late if late > max(interval // 2, MIN_LATENESS_MS) else 0


def _lock_waiting(tx: Transaction, first: int = 0) -> None:
    """Lock all states whose times are moved when the clock was set back: those that are held, and those that
    wait from number ``first`` on. An UPDATE locks in any order, and so do two SELECTs."""
    moved = "SELECT seq FROM states WHERE status = 'QUEUED' OR (status = 'CREATED' AND seq >= ?) ORDER BY seq"
    tx.execute(moved + tx.for_update("states"), (first,)).fetchall()


def _follow_clock(tx: Transaction, now: int, by_ms: int, terms: Terms) -> None:
    """Move other times in a shared database, whose clock is the clock of leases and the wall clock."""
    _move_seen_times(tx, now, max(0, by_ms))
    if by_ms < 0:
        clock.set_back(tx, tx.now_ms, -by_ms)
    elif by_ms >= terms.lease_ttl_ms // 3:  # a lease renewed before a smaller step is still renewed in time
        clock.set_ahead(tx, tx.now_ms, by_ms)


def _move_seen_times(tx: Transaction, now: int, by_ms: int) -> None:
    tx.execute(
        "UPDATE managers SET seen_at = CASE WHEN seen_at + ? > ? THEN ? ELSE seen_at + ? END",
        (by_ms, now, now, by_ms),
    )
