"""What is left behind: nodes that go on though nobody waits for them any more.

They take no place from the workers, so a node that hangs does not stop the others. But they hold
memory, and perhaps a connection; so there is a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("exotrio.worker")

MOST_LEFT_PER_WORKER = 4


class LeftBehind:
    """Counts, and logs, the nodes of one kind that were left behind. Used in the Trio thread only.

    Args:
        most: Nodes left behind from which on ``full`` is true.
        kind: Names the kind in the log.
        where: Says in the log where they go on.
        changed: Called when ``full`` may have changed.
    """

    def __init__(self, most: int, kind: str, where: str, changed: Callable[[], None]) -> None:
        self._most = most
        self._kind = kind
        self._where = where
        self._changed = changed
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether so many were left behind that no other node of the kind should be begun."""
        return self._count >= self._most

    @property
    def why(self) -> str:
        """Why no other node of the kind is begun; empty if they are. From any thread."""
        return f"{self._count} {self._kind} were left behind and still run" if self.full else ""

    def add(self, what: str) -> None:
        """``what`` is left behind."""
        self._count += 1
        log.warning("%s goes on %s, which nobody waits for any more", what, self._where)
        if self._count == self._most:
            log.error(
                "%d %s were left behind and still run: no such node is begun until one of them ends",
                self._count,
                self._kind,
            )
        self._changed()

    def ended(self, what: str, did: str) -> None:
        """``what``, left behind earlier, ended after all."""
        was_full = self.full
        self._count -= 1
        log.warning("%s %s %s at last, which is ignored", what, did, self._where)
        if was_full and not self.full:
            log.info("%s are begun again", self._kind)
        self._changed()
