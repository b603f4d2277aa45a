"""Delays between attempts, as pure functions. Randomness is passed in, so tests can fix it."""

from __future__ import annotations

import random
from collections.abc import Callable

Uniform = Callable[[float, float], float]

MAX_DELAY_MS = 10 * 365 * 86_400_000
"""Ten years: a longer delay is a mistake, and it keeps every sum of times within 64 bits."""


def full_jitter(attempt: int, *, base: float, cap: float, uniform: Uniform = random.uniform) -> float:
    """Return a random delay in seconds below ``min(cap, base * 2 ** attempt)``.

    Args:
        attempt: Failures so far, less one: 0 for the first delay.
        base: Bound of the first delay, in seconds.
        cap: Bound of every delay, in seconds.
    """
    return uniform(0.0, min(cap, base * 2.0 ** min(attempt, 64)))
