"""Where the waiting states of each node begin in the index of claims, as far as one state manager knows.

PostgreSQL keeps claimed states in its indexes until no transaction may see them as they were. While some
transaction stays open, all of them are kept, and each claim would read them again. So if full searches took
long, later searches begin at the first state that the last full search found. A state before that position
whose claim was released or ended is found by the next full search. That is the next search, if the state
came back in this process; otherwise it comes within ``MAX_PAUSE``. A claim that waits runs again when a full
search is due.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

LONG = 0.002
"""Seconds of a search; without dead rows it ends far sooner."""
LONG_ONES = 10
"""Long full searches in a row before one is put off: on a busy machine some are long anyway."""
SHARE = 50
"""A long full search takes at most one part in so many of the time, ..."""
MAX_PAUSE = 2.0
"""... but it is never put off for more seconds than this."""
COMMIT_TIME = 0.25
"""Minimum of seconds between two full searches of which one is put off. A search misses the states of
transactions that are not committed yet. The next ones begin where the full search before it began to find
some, and find them. Those of longer transactions wait for the next full search."""

Position = tuple[int, int, int]
"""Of a state in the order of claims: its priority, its turn and its number."""
START: Position = (-(2**63), 0, 0)


class Found(Protocol):
    """A waiting state that a search found; it is in no lane unless it was searched for elsewhere."""

    @property
    def node_id(self) -> int: ...

    @property
    def lane(self) -> str | None: ...

    @property
    def position(self) -> Position: ...


F = TypeVar("F", bound=Found)


@dataclass(frozen=True, slots=True)
class _Head:
    position: Position
    first: Position
    until: float
    long_ones: int


class Heads:
    """Positions by node, shared by all threads of a store."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, is_needed: bool = True) -> None:
        self._clock = clock
        self._is_needed = is_needed
        self._heads: dict[int, _Head] = {}

    def search(self, nodes: Iterable[int], find: Callable[[dict[int, Position]], list[F]]) -> list[F]:
        """Return the waiting states of nodes that ``find`` finds, given where to begin for each node."""
        if not self._is_needed:
            return find({})
        begins = {node_id: self.of(node_id) for node_id in nodes}
        began = self._clock()
        states = find(begins)
        seconds = self._clock() - began
        firsts = {
            state.node_id: state.position
            for state in sorted(states, key=lambda state: state.position, reverse=True)
            if state.lane is None
        }
        for node_id, begin in begins.items():
            if begin == START:
                self.record(node_id, firsts.get(node_id), seconds)
        return states

    def of(self, node_id: int) -> Position:
        """Return where a search may begin."""
        head = self._heads.get(node_id)
        return START if head is None or self._clock() >= head.until else head.position

    def due_in(self, node_id: int) -> float:
        """Return the seconds until the next full search; infinity if each search is full."""
        head = self._heads.get(node_id)
        return math.inf if head is None or head.until == -math.inf else max(0.0, head.until - self._clock())

    def record(self, node_id: int, first: Position | None, seconds: float) -> None:
        """Record a full search: how long it took, and the first state that it returned."""
        if seconds < LONG:
            self.forget(node_id)
            return
        before = self._heads.get(node_id)
        known = START if before is None else before.first
        first = first or known
        long_ones = 1 if before is None else before.long_ones + 1
        pause = max(COMMIT_TIME, min(SHARE * seconds, MAX_PAUSE)) if long_ones >= LONG_ONES else -math.inf
        position = first if known == START else min(known, first)
        self._heads[node_id] = _Head(position, first, self._clock() + pause, long_ones)

    def forget(self, node_id: int) -> None:
        """Make the next search a full one: an older state may have come back."""
        self._heads.pop(node_id, None)
