"""The wall clock of a state manager, and what happens when it is set.

Times in the database are wall clock times, and people and daemons set that clock. The last time that was read
is stored, at least once a minute, and each commit compares the clock with it. A clock that shows less was set
back. One that shows much more was set ahead, or nothing ran meanwhile: both look the same and are treated the
same.

- Set back: the times of waiting states are moved back by as much, in the same transaction. States that were
  due stay due, in the same order, and a delay ends late by at most the time since the last commit. After a
  minute or more the next occurrences of cron expressions are computed again: they fire in each of two hours
  with the same times.
- Set ahead: a state that waits for a delay is due early, as the clock says. Retention does not count the jump
  for a day, to leave time to correct the clock before anything is deleted.

The clock of a database that several state managers share is compared in each sweep with the time of the sweep
before (``engine.managers``). Other managers may write old times until they know of it; the sweeps of the next
seconds move those.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pydantic_core import from_json, to_json

from exotrio._util.cron import next_occurrence_ms
from exotrio._util.times import format_duration
from exotrio.manager.store.driver import Connection, Executor, put_meta
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

Clock = Callable[[], int]
"""Returns milliseconds: Unix time, or for leases a time that never decreases."""

logger = logging.getLogger("exotrio.manager.clock")

DAY_MS = 86_400_000
MINUTE_MS = 60_000
MIN_STEP_BACK_MS = 1_000
"""A smaller step delays states by less than that, and time daemons make such steps all the time."""
MIN_STEP_AHEAD_MS = MINUTE_MS
"""The sweep for leases commits every few seconds, so a running process never sees such a gap."""
MAX_STEPS = 1_000
"""Steps ahead that are remembered."""
MAX_IN_FLIGHT = 10_000
"""States that transactions may have numbered and not yet committed."""
STORE_AFTER_MS = 1_000
STORE_AFTER_IDLE_MS = 30_000
"""Between two times that are stored, while nothing else is written."""


def wall_clock() -> int:
    """Return the time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_clock() -> int:
    """Return the monotonic clock in milliseconds: one that counts suspends too, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return (time.monotonic_ns() if boottime is None else time.clock_gettime_ns(boottime)) // 1_000_000


def ahead_ms(view: View) -> int:
    """Return by how many ms the wall clock of this process is ahead of the database's."""
    return wall_clock() - view.now_ms


class WatchedClock:
    """The clock of use cases: ``clock``, compared with the last time that ``connection`` stores.

    For the writing connection only.
    """

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        stored = connection.execute("SELECT value FROM meta WHERE key = 'clock_latest'").fetchone()
        self._stored = 0 if stored is None else int(stored[0])
        # The time of the last commit, and the highest one read in this one.
        self._latest = self._highest = self._stored
        self._to_be_stored: int | None = None
        self._has_committed = False
        self._set_by = 0
        self._changes = 0

    def __call__(self) -> int:
        now = self._clock()
        self._highest = max(self._highest, now)
        return now

    def compare(self) -> None:
        """Compare with the last commit. Call it at the beginning of a transaction."""
        self._changes, self._set_by = self._connection.total_changes, 0
        self._highest = now = self._clock()
        step = now - self._latest if self._latest else 0
        if step <= -MIN_STEP_BACK_MS:
            self._set_by = step
            set_back(self._connection, now, -step)
        elif step >= MIN_STEP_AHEAD_MS:
            # A jump at the start is not logged: nothing ran before.
            self._set_by = step if self._has_committed else 0
            set_ahead(self._connection, now, step)

    def store(self) -> None:
        """Store the time if the stored one is too old. Call it at the end of a transaction."""
        is_changed = self._connection.total_changes != self._changes
        is_due = abs(self._highest - self._stored) >= (STORE_AFTER_MS if is_changed else STORE_AFTER_IDLE_MS)
        self._to_be_stored = self._highest if is_due else None
        if is_due:
            put_meta(self._connection, "clock_latest", str(self._highest))

    def committed(self) -> None:
        """Compare with this transaction from now on. Call it once that is committed."""
        if self._set_by < 0:
            logger.warning(
                "the clock was set back by %s; waiting states keep their order and delays",
                format_duration(-self._set_by / 1000),
            )
        elif self._set_by > 0:
            logger.info(
                "the clock is %s ahead of the last commit: it was set, or nothing ran; retention does not"
                " count that time for a day",
                format_duration(self._set_by / 1000),
            )
        self._latest, self._has_committed = self._highest, True
        if self._to_be_stored is not None:
            self._stored = self._to_be_stored


_TIMES = ("created_at", "updated_at", "enqueue_after", "claimed_at", "begun_at")
_MOVED = ", ".join(f"{column} = {column} - ?" for column in _TIMES)


def set_back(connection: Executor, now: int, by: int) -> None:
    """Move the times of states that have not ended: the clock was set back by so many ms, to ``now``."""
    # Held states, too: one that is released waits in its old order.
    # One after the other: each has an index; for all together SQLite would scan all states.
    for which in (
        "status = 'CREATED' AND lane IS NULL",
        "status = 'CREATED' AND lane IS NOT NULL",
        "status = 'QUEUED'",
    ):
        connection.execute(f"UPDATE states SET {_MOVED} WHERE {which}", (by,) * len(_TIMES))
    connection.execute("UPDATE slots SET check_at = check_at - ? WHERE check_at > 0 AND state < 1", (by,))
    # Away from the old times first, which others of the same limit and key may have.
    connection.execute("UPDATE starts SET slot = -slot")
    connection.execute("UPDATE starts SET slot = -slot - ?", (by,))
    if steps := _steps_ahead(connection):
        # Each stays as far from now as before; this step back undoes the newest of them.
        moved, left = [], by
        for at, ahead in reversed(steps):
            moved.append((at - by, max(0, ahead - left)))
            left = max(0, left - ahead)
        _store_steps(connection, now, moved[::-1])
    if by >= MINUTE_MS:
        _reschedule(connection, now)
    (newest,) = connection.execute("SELECT coalesce(max(seq), 0) FROM states").fetchone()
    put_meta(connection, "clock_set_back", to_json((now, by, newest)).decode())


def set_ahead(connection: Executor, now: int, by: int) -> None:
    """Store that the clock was set ahead by so many ms, to ``now``, or that nothing ran meanwhile."""
    _store_steps(connection, now, [*_steps_ahead(connection), (now, by)])


def _store_steps(connection: Executor, now: int, steps: list[tuple[int, int]]) -> None:
    recent = [(at, by) for at, by in steps if now - at < DAY_MS and by]
    put_meta(connection, "clock_ahead", to_json(recent[-MAX_STEPS:]).decode())


def _reschedule(connection: Executor, now: int) -> None:
    for graph, expression in connection.execute("SELECT graph, expression FROM cron_triggers").fetchall():
        try:
            following = next_occurrence_ms(expression, now)
        except ValueError:
            following = now  # its zone is not known here: ``fire_schedules`` says so, and tries again later
        if following is not None:
            connection.execute(
                "UPDATE cron_triggers SET next_at = ? WHERE graph = ? AND expression = ?",
                (following, graph, expression),
            )


def set_ahead_ms(view: View, within_ms: int) -> int:
    """Return by how many ms the clock was set ahead within the last ``within_ms``, at most within a day."""
    return sum(by for at, by in _steps_ahead(view) if view.now_ms - at < min(within_ms, DAY_MS))


def was_set_back(view: View, within_ms: int) -> bool:
    return view.now_ms - _last_set_back(view)[0] < within_ms


def first_new_state(view: View) -> int:
    """Return the first state that may have been created after the clock was set back."""
    return max(0, _last_set_back(view)[2] - MAX_IN_FLIGHT + 1)


def move_new_states(tx: Transaction) -> None:
    """Move states that a state manager created with the old time after the clock was set back."""
    _, by, _ = _last_set_back(tx)
    # Those that were moved before are ahead by a few seconds only, and stay.
    made = tx.execute(
        "SELECT seq FROM states WHERE seq >= ? AND created_at > ? AND status IN ('CREATED', 'QUEUED')"
        f" ORDER BY seq{tx.for_update('states')}",
        (first_new_state(tx), tx.now_ms + by // 2),
    ).fetchall()
    seqs = tx.items([state["seq"] for state in made])
    tx.execute(f"UPDATE states SET {_MOVED} WHERE {tx.any_of('seq')}", (*[by] * len(_TIMES), seqs))


def _last_set_back(connection: Executor) -> tuple[int, int, int]:
    """Return when the clock was set back, by how many ms, and the newest state then."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'clock_set_back'").fetchone()
    return (-DAY_MS, 0, 0) if row is None else from_json(row[0])


def _steps_ahead(connection: Executor) -> list[tuple[int, int]]:
    """Return (when, by how many ms) the clock was set ahead within the last day or so."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'clock_ahead'").fetchone()
    return [] if row is None else [(at, by) for at, by in from_json(row[0])]
