"""Stuck nodes: node code that goes on though nothing waits for it any more.

They take no place from the workers, so a node that hangs does not stop the others. But they hold
memory, and perhaps a connection; so their number is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("exotrio.worker")

MAX_STUCK_PER_WORKER = 4


class StuckNodes:
    """Counts and logs the stuck nodes of one kind. Used in the Trio thread only, but for ``why``.

    Args:
        max_stuck: From this number on ``full`` is true.
        kind: Names the kind in the log.
        where: Says in the log where they go on.
        changed: Called when ``full`` may have changed.
    """

    def __init__(self, max_stuck: int, kind: str, where: str, changed: Callable[[], None]) -> None:
        self._max_stuck = max_stuck
        self._kind = kind
        self._where = where
        self._changed = changed
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether so many are stuck that no other node of the kind should be begun."""
        return self._count >= self._max_stuck

    @property
    def why(self) -> str:
        """Why no other node of the kind is begun; empty if they are. From any thread."""
        return f"{self._count} {self._kind} are stuck" if self.full else ""

    def add(self, what: str) -> None:
        """``what`` is stuck."""
        self._count += 1
        log.warning("%s is stuck: it goes on %s, and nothing waits for it any more", what, self._where)
        if self._count == self._max_stuck:
            log.error(
                "%d %s are stuck: no such node is begun until one of them ends", self._count, self._kind
            )
        self._changed()

    def ended(self, what: str, did: str) -> None:
        """``what``, stuck until now, has ended."""
        was_full = self.full
        self._count -= 1
        log.warning("%s, stuck until now, %s %s; what came of it is dropped", what, did, self._where)
        if was_full and not self.full:
            log.info("%s are begun again", self._kind)
        self._changed()
