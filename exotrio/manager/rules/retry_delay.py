"""When a failed state is tried again, by the retry policy of its graph."""

from __future__ import annotations

import random

from exotrio._util.backoff import MAX_DELAY_MS, Uniform
from exotrio.graph import RetryPolicyModel


def retry_delay_ms(policy: RetryPolicyModel, retry: int, *, uniform: Uniform = random.uniform) -> int:
    """Return the delay before retry number ``retry`` (1, 2, ...) in milliseconds. Pure.

    The cap ``max_delay`` applies after jitter; jittered delays are truncated to whole
    milliseconds. Without ``max_delay`` the limit is ``MAX_DELAY_MS``, ten years.
    """
    shape, _, jitter = policy.strategy.value.partition("_")
    if shape == "EXPONENTIAL":
        # Integers throughout: a float would overflow for a large exponent. The result is limited anyway.
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
