"""How far the fair order (``engine.order``) has come, by node and priority: the turn of the state that was
claimed last.

A claim only keeps it in memory. The store writes it with the tallies, about once a second. So after a restart
it is behind by the claims of a second. Another state manager is behind by less if states wait: the time is at
most a share before the first of them. So a state that is created there comes next to that one, not before it.
If that stays so for long, the time is that of the first one: otherwise new states could come before others
again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from exotrio.manager.store.driver import Executor

SHARE = 1_000_000
"""By how much a state moves the next one of its run back, with a weight of 1."""
READ_AGAIN = 0.1
"""Seconds after which a time that other state managers may have moved is read again."""
STAYS_BEHIND = 1.0
"""Seconds for which a time stays a share behind the first state that waits."""
COLUMNS = ("node_id", "priority", "fair_key", "turn")
"""Of the table ``turns``."""
LATER_TURN = (
    "(node_id, priority, fair_key) DO UPDATE SET"
    " turn = CASE WHEN excluded.turn > turns.turn THEN excluded.turn ELSE turns.turn END"
)
"""What follows ON CONFLICT: another state manager may have written a later turn."""


class VirtualTimes:
    """Virtual times, shared by all threads of a store."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, is_shared: bool = True) -> None:
        self._clock = clock
        self._is_shared = is_shared
        self._known: dict[tuple[int, int], tuple[int, float, float]] = {}
        self._moved: set[tuple[int, int]] = set()

    def of(self, executor: Executor, node_id: int, priority: int) -> int:
        """Return the turn of the state of a node that was claimed last in this priority; 0 if none was."""
        key = node_id, priority
        now = self._clock()
        known, until, since = self._known.get(key, (0, -1.0, now))
        if until >= 0 and not (self._is_shared and now >= until):
            return known
        rows = executor.execute(
            "SELECT turn, turn FROM turns WHERE node_id = ? AND priority = ? AND fair_key = '' UNION ALL"
            " SELECT * FROM (SELECT turn - ?, turn FROM states WHERE status = 'CREATED' AND lane IS NULL"
            " AND node_id = ? AND priority = ? AND turn >= ? ORDER BY turn LIMIT 1) AS waiting",
            (*key, SHARE, *key, known),
        ).fetchall()
        turn: int = max([known, *(turn for turn, _ in rows)])
        first = max([turn, *(first for _, first in rows)])
        if turn == known < first and now >= since + STAYS_BEHIND:
            turn = first
        self._known[key] = turn, now + READ_AGAIN, since if turn == known < first else now
        return turn

    def move(self, executor: Executor, node_id: int, priority: int, turn: int) -> None:
        """Record the turn of a state that is claimed. An earlier one than the last changes nothing."""
        if turn > self.of(executor, node_id, priority):
            now = self._clock()
            self._known[node_id, priority] = turn, now + READ_AGAIN, now
            self._moved.add((node_id, priority))

    def follow(self, node_id: int, priority: int, turn: int) -> None:
        """Let a node be no further behind than another that the same runtimes claim, or its states would come
        first until it has caught up. Not stored: it costs no statement, and the next claim does it again."""
        known, until, since = self._known.get((node_id, priority), (0, -1.0, self._clock()))
        if turn > known:
            self._known[node_id, priority] = turn, until, since

    def write(self, executor: Executor, skip_locked: str) -> None:
        """Store those that moved since the last time, and delete turns of keys that they have passed.

        But none that is locked: states are created with it, perhaps with others in another order than here.
        """
        moved, self._moved = self._moved, set()
        # Sorted, so that all state managers lock rows in the same order.
        for key in sorted(moved.copy()):
            present = (*key, self._known[key][0])
            executor.execute(
                f"INSERT INTO turns VALUES (?, ?, '', ?) ON CONFLICT {LATER_TURN}",
                present,
            )
            executor.execute(
                "DELETE FROM turns WHERE (node_id, priority, fair_key) IN ("
                "SELECT node_id, priority, fair_key FROM turns WHERE node_id = ? AND priority = ?"
                f" AND turn <= ? AND fair_key <> ''{skip_locked})",
                present,
            )
