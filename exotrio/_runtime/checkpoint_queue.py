"""Which checkpoints each heartbeat brings.

Every ``CHECKPOINT_INTERVAL`` those that the state manager does not have yet are queued, and at once one that
its node waits for. A heartbeat brings those for which it has room, in the order of the queue: so each has its
turn, also if others change all the time. One that failed may have failed because of them, as behind a proxy
with a small limit: the next one brings none, so that the leases are renewed, and those after it fewer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import trio

from exotrio._nodes.outcome import CheckpointText
from exotrio._runtime.held_claim import HeldClaim

CHECKPOINT_INTERVAL = 5.0
"""Seconds after which new checkpoints are sent, unless a node waits for one."""
MAX_BYTES = 256 * 1024
"""Maximum size of the checkpoints in one heartbeat. The others come with the next one, at once."""
MIN_BYTES = 1024
"""The same after failures. A single checkpoint may be larger."""


@dataclass(slots=True)
class CheckpointQueue:
    """The states whose new checkpoints are to be sent. Used in the loop that sends heartbeats.

    Attributes:
        due_at: When all new ones are queued again, on Trio's clock.
    """

    due_at: float = -math.inf
    _waiting: dict[HeldClaim, None] = field(default_factory=dict)
    _max_bytes: int = MAX_BYTES
    _skips_one: bool = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, held_claims: Iterable[HeldClaim]) -> dict[HeldClaim, CheckpointText]:
        """Return the checkpoints that the next heartbeat brings, which renews these leases."""
        if self._skips_one:
            self._skips_one = False
            return {}
        if due := trio.current_time() >= self.due_at:
            self.postpone()
        views = {held: view for held in held_claims if (view := held.checkpoint_to_store)}
        new = [held for held, view in views.items() if view.unconfirmed and (due or view.is_awaited)]
        self._waiting = {held: None for held in (*self._waiting, *new) if held in views}
        taken: dict[HeldClaim, CheckpointText] = {}
        room = self._max_bytes
        for held in list(self._waiting):
            if (newest := views[held].unconfirmed) is not None:
                room -= len(newest.value.encode())
                if room < 0 and taken:
                    break
                taken[held] = newest
            del self._waiting[held]
        return taken

    def postpone(self) -> None:
        """Queue none of the new ones for an interval, unless a node waits for one."""
        self.due_at = trio.current_time() + CHECKPOINT_INTERVAL

    def note_failure(self) -> None:
        """Record that a heartbeat with checkpoints failed."""
        self._skips_one = True
        self._max_bytes = max(self._max_bytes // 2, MIN_BYTES)

    def note_success(self) -> None:
        """Record that a heartbeat with checkpoints was answered."""
        self._max_bytes = min(self._max_bytes * 2, MAX_BYTES)
