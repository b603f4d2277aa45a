"""``RetryPolicyModel``: when the failed states of a graph are tried again."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio.graph.declaration import Declaration


class RetryStrategyEnum(StrEnum):
    """How the delay grows from retry to retry, and how much of it is random."""

    EXPONENTIAL = "EXPONENTIAL"
    EXPONENTIAL_FULL_JITTER = "EXPONENTIAL_FULL_JITTER"
    EXPONENTIAL_EQUAL_JITTER = "EXPONENTIAL_EQUAL_JITTER"
    LINEAR = "LINEAR"
    LINEAR_FULL_JITTER = "LINEAR_FULL_JITTER"
    LINEAR_EQUAL_JITTER = "LINEAR_EQUAL_JITTER"
    FIXED = "FIXED"
    FIXED_FULL_JITTER = "FIXED_FULL_JITTER"
    FIXED_EQUAL_JITTER = "FIXED_EQUAL_JITTER"


Jitter = Literal["full", "equal"] | None


class RetryPolicyModel(Declaration):
    """When a failed state is tried again. Fields are in milliseconds; ``fixed``, ``linear`` and
    ``exponential`` take seconds.

    Args:
        max_retries: Retries after the first attempt. Defaults to 3.
        strategy: How delays grow. Defaults to EXPONENTIAL.
        backoff_factor: Base delay in milliseconds. Defaults to 2000.
        exponent: Base of the exponential strategies. Defaults to 2.
        max_delay: Maximum delay in milliseconds, or None for no limit.

    Raises:
        pydantic.ValidationError: a number is too small or too large.
    """

    max_retries: int = Field(default=3, ge=0, le=1_000_000)
    strategy: RetryStrategyEnum = RetryStrategyEnum.EXPONENTIAL
    backoff_factor: int = Field(default=2000, gt=0, le=MAX_DELAY_MS)
    exponent: int = Field(default=2, gt=0, le=1_000_000)
    max_delay: int | None = Field(default=None, gt=0, le=MAX_DELAY_MS)

    @classmethod
    def fixed(cls, delay: float, *, retries: int = 3, jitter: Jitter = None) -> Self:
        """Try again after ``delay`` seconds each time.

        Args:
            delay: Seconds.
            retries: Retries after the first attempt. Defaults to 3.
            jitter: ``"full"``: each delay is random, up to that; ``"equal"``: at least half of that. So
                states that failed together are not retried together. Defaults to none.
        """
        return cls._of("FIXED", delay, retries, jitter)

    @classmethod
    def linear(
        cls, step: float, *, retries: int = 3, max_delay: float | None = None, jitter: Jitter = None
    ) -> Self:
        """Try again after ``step`` seconds, then after twice and three times as many, and so on.

        Args:
            step: Seconds.
            retries: Retries after the first attempt. Defaults to 3.
            max_delay: Maximum seconds between two attempts. Defaults to no limit.
            jitter: As in ``fixed``.
        """
        return cls._of("LINEAR", step, retries, jitter, max_delay=_ms(max_delay))

    @classmethod
    def exponential(
        cls,
        first: float,
        *,
        factor: int = 2,
        retries: int = 3,
        max_delay: float | None = None,
        jitter: Jitter = None,
    ) -> Self:
        """Try again after ``first`` seconds, then each time after ``factor`` times as many.

        Args:
            first: Seconds.
            factor: Defaults to 2.
            retries: Retries after the first attempt. Defaults to 3.
            max_delay: Maximum seconds between two attempts. Defaults to no limit.
            jitter: As in ``fixed``.
        """
        return cls._of("EXPONENTIAL", first, retries, jitter, exponent=factor, max_delay=_ms(max_delay))

    @classmethod
    def _of(cls, growth: str, delay: float, retries: int, jitter: Jitter, **rest: float | None) -> Self:
        strategy = growth if jitter is None else f"{growth}_{jitter.upper()}_JITTER"
        values = {"max_retries": retries, "strategy": strategy, "backoff_factor": _ms(delay), **rest}
        return cls.model_validate(values)


def _ms(seconds: float | None) -> float | None:
    # The field refuses infinity and NaN.
    return round(seconds * 1000) if seconds is not None and math.isfinite(seconds) else seconds
