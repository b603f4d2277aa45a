"""Delays between attempts, as pure functions. Randomness is passed in, so tests can fix it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exotrio.graph import RetryPolicyModel

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


def retry_delay_ms(policy: RetryPolicyModel, retry: int, *, uniform: Uniform = random.uniform) -> int:
    """Return the delay before retry number ``retry`` (1, 2, ...) in milliseconds.

    The cap ``max_delay`` applies after jitter; jittered delays are truncated to whole
    milliseconds. Without a cap the delay still ends at ten years, far below 64 bits.
    """
    shape, _, jitter = policy.strategy.value.partition("_")
    if shape == "EXPONENTIAL":
        # Integers throughout: exponent ** retry leaves the range of floats long before it matters.
        factor = policy.exponent ** min(retry - 1, 64)
    elif shape == "LINEAR":
        factor = retry
    else:
        factor = 1
    base = min(policy.backoff_factor * factor, MAX_DELAY_MS)
    if jitter == "FULL_JITTER":
        delay = int(uniform(0.0, base))
    elif jitter == "EQUAL_JITTER":
        delay = int(base / 2 + uniform(0.0, base / 2))
    else:
        delay = base
    return delay if policy.max_delay is None else min(delay, policy.max_delay)
