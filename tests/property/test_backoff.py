"""Section 9.2: the delay before every retry, for all nine strategies."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio.graph import RetryPolicyModel, RetryStrategyEnum
from exotrio.manager.rules.retry_delay import retry_delay_ms

STRATEGIES = list(RetryStrategyEnum)
factors = st.integers(1, 10_000_000)
exponents = st.integers(1, 1000)
retries = st.integers(1, 60)
caps = st.none() | st.integers(1, 10_000_000_000)
shares = st.floats(0, 1)


def _base(strategy: str, factor: int, exponent: int, retry: int) -> int:
    """Return B of the table, held to the longest delay there is."""
    if strategy.startswith("EXPONENTIAL"):
        exact = factor * int(exponent ** (retry - 1))
    elif strategy.startswith("LINEAR"):
        exact = factor * retry
    else:
        exact = factor
    return min(exact, MAX_DELAY_MS)


def _range(strategy: str, base: int) -> tuple[Fraction, Fraction]:
    low = {"FULL": Fraction(0), "EQUAL": Fraction(base, 2)}
    kind = next((kind for kind in low if kind in strategy), None)
    return (low[kind] if kind else Fraction(base), Fraction(base))


def _at(share: float) -> Callable[[float, float], float]:
    return lambda a, b: a + (b - a) * share


def test_there_are_nine_strategies() -> None:
    assert len(STRATEGIES) == 9


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(factor=factors, exponent=exponents, retry=retries, cap=caps, share=shares)
def test_a_delay_is_the_one_of_the_table(
    strategy: RetryStrategyEnum, factor: int, exponent: int, retry: int, cap: int | None, share: float
) -> None:
    policy = RetryPolicyModel(strategy=strategy, backoff_factor=factor, exponent=exponent, max_delay=cap)
    low, high = _range(strategy.value, _base(strategy.value, factor, exponent, retry))
    delay = retry_delay_ms(policy, retry, uniform=_at(share))
    assert type(delay) is int
    expected = low + (high - low) * Fraction(share)
    # Floats carry 53 bits: for the longest delays a millisecond is within their error.
    slack = 1 + math.ceil(high / 2**50)
    uncapped = math.floor(expected)
    assert abs(delay - (uncapped if cap is None else min(uncapped, cap))) <= (0 if low == high else slack)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if "JITTER" in s.value])
def test_jitter_is_drawn_from_the_range_of_the_table(strategy: RetryStrategyEnum) -> None:
    ranges: list[tuple[float, float]] = []

    def uniform(a: float, b: float) -> float:
        ranges.append((a, b))
        return b

    policy = RetryPolicyModel(strategy=strategy, backoff_factor=100, exponent=3)
    base = _base(strategy.value, 100, 3, 4)
    assert retry_delay_ms(policy, 4, uniform=uniform) == base
    assert ranges == [(0, base if "FULL" in strategy.value else base / 2)]


@pytest.mark.parametrize(
    ("strategy", "share", "cap", "expected"),
    [
        ("FIXED_FULL_JITTER", 0.999, None, 99),  # truncated, not rounded
        ("FIXED_EQUAL_JITTER", 0.999, None, 99),
        ("FIXED_FULL_JITTER", 0.0, 50, 0),
        ("FIXED_FULL_JITTER", 0.4, 50, 40),  # the cap applies after jitter: it does not shrink the range
        ("FIXED_FULL_JITTER", 0.6, 50, 50),
        ("FIXED_EQUAL_JITTER", 0.0, 50, 50),
        ("FIXED", 0.5, 50, 50),
    ],
)
def test_truncation_and_cap(strategy: str, share: float, cap: int | None, expected: int) -> None:
    policy = RetryPolicyModel(strategy=RetryStrategyEnum(strategy), backoff_factor=100, max_delay=cap)
    assert retry_delay_ms(policy, 1, uniform=_at(share)) == expected


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(retry=st.integers(1, 1_000_000))
def test_huge_exponents_neither_explode_nor_leave_64_bits(strategy: RetryStrategyEnum, retry: int) -> None:
    policy = RetryPolicyModel(
        strategy=strategy, backoff_factor=MAX_DELAY_MS, exponent=1_000_000, max_retries=1_000_000
    )
    assert 0 <= retry_delay_ms(policy, retry) <= MAX_DELAY_MS < 2**62
    capped = policy.model_copy(update={"max_delay": 7})
    assert retry_delay_ms(capped, retry) <= 7
