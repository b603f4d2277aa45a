"""Pauses between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Uniform = Callable[[float, float], float]

MAX_DELAY_MS = 10 * 365 * 86_400_000
"""Ten years: a longer delay is a mistake, and it keeps every sum of times within 64 bits."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Random pauses (full jitter) below a bound that doubles with each failure, from ``base`` to ``cap``."""

    base: float
    cap: float

    def pause(self, failures: int, at_least: float | None = None) -> float:
        """Return the seconds to wait before the next attempt.

        ``failures`` are those before the last one; ``at_least`` is what a server asked for (``Retry-After``).
        """
        pause = random.uniform(0.0, min(self.cap, self.base * 2.0 ** min(failures, 64)))
        return pause if at_least is None else max(pause, at_least)


WITHIN_CALL = Backoff(0.25, 2.0)
"""For attempts that somebody waits for."""
OUTAGE = Backoff(0.25, 10.0)
"""For attempts that go on until one succeeds: they find a server that is back soon, and do not flood it."""
REFUSED = Backoff(2.0, 30.0)
"""For what a server understood and refused: it will hardly accept it soon."""
