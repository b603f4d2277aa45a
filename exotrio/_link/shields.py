"""Shields whose deadline can be moved: what has to be settled goes on, but not beyond the end of a stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Shields:
    """Cancel scopes that protect work from cancellation, and the deadline of them all."""

    def __init__(self) -> None:
        self._deadline = math.inf
        self._open: set[trio.CancelScope] = set()

    def settle_by(self, deadline: float) -> None:
        """End all shields, and later ones, by ``deadline`` on Trio's clock. An earlier deadline stays."""
        self._deadline = min(self._deadline, deadline)
        for shield in self._open:
            shield.deadline = min(shield.deadline, self._deadline)

    @contextmanager
    def shield(self, limit: float = math.inf) -> Iterator[trio.CancelScope]:
        """Make a shield, which the caller enters, and which ends after ``limit`` seconds in any case."""
        deadline = min(self._deadline, trio.current_time() + limit)
        shield = trio.CancelScope(shield=True, deadline=deadline)
        self._open.add(shield)
        try:
            yield shield
        finally:
            self._open.discard(shield)
