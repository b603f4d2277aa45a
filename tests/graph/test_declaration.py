"""Declarations of a graph: what their own fields refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from exotrio import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, UnitesModel
from exotrio._util.words import readable_errors

NODE: dict[str, Any] = {"node_name": "A", "namespace": "ns", "identifier": "a"}


def extra(name: str, value: object) -> dict[str, Any]:
    """Return an argument that type checkers would refuse."""
    return {name: value}


@pytest.mark.parametrize(
    ("declare", "problems"),
    [
        (
            lambda: Graph("g", [NODE], **extra("retry_polcy", 5)),
            ["retry_polcy: ...; did you mean 'retry_policy'?"],
        ),
        (lambda: Graph("g", [{**NODE, "inptus": {}}]), ["nodes.0.inptus: ...; did you mean 'inputs'?"]),
        (lambda: GraphNodeModel(**NODE, **extra("inptus", {})), ["inptus: ...; did you mean 'inputs'?"]),
        (
            lambda: UnitesModel(identifier="a", **extra("Strategy", 1)),
            ["Strategy: ...; did you mean 'strategy'?"],
        ),
        (
            lambda: RetryPolicyModel(**extra("max_retires", 1), max_delay=0),
            ["max_delay: Input should be greater than 0", "max_retires: ...; did you mean 'max_retries'?"],
        ),
        (
            lambda: StoreConfigModel(**extra("zzz", 1)),
            ["zzz: ...: the fields are required_keys, default_values"],
        ),
        (
            lambda: CronTrigger(expression="@daily", **extra("expresion", "")),
            ["expresion: ...; did you mean 'expression'?"],
        ),
    ],
)
def test_an_unknown_field_is_refused_together_with_other_problems(
    declare: Callable[[], object], problems: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        declare()
    shown = [each.replace("there is no such field", "...") for each in readable_errors(caught.value)]
    assert shown == problems


def test_the_value_of_an_unknown_field_is_not_shown() -> None:
    with pytest.raises(ValidationError) as caught:
        Graph("g", [NODE], **extra("secret", {"token": "hush"}))
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "strategy", "fields"),
    [
        (RetryPolicyModel.fixed(0.2, retries=2), "FIXED", (2, 200, 2, None)),
        (RetryPolicyModel.fixed(1, jitter="equal"), "FIXED_EQUAL_JITTER", (3, 1000, 2, None)),
        (RetryPolicyModel.linear(1.5, max_delay=60), "LINEAR", (3, 1500, 2, 60_000)),
        (
            RetryPolicyModel.exponential(0.1, factor=3, jitter="full"),
            "EXPONENTIAL_FULL_JITTER",
            (3, 100, 3, None),
        ),
        (RetryPolicyModel.exponential(2), RetryPolicyModel().strategy, (3, 2000, 2, None)),
    ],
)
def test_a_retry_policy_in_seconds(
    policy: RetryPolicyModel, strategy: str, fields: tuple[int | None, ...]
) -> None:
    assert policy.strategy == strategy
    assert (policy.max_retries, policy.backoff_factor, policy.exponent, policy.max_delay) == fields


def test_a_retry_policy_refuses_invalid_delays_and_jitters() -> None:
    with pytest.raises(ValidationError, match="backoff_factor"):
        RetryPolicyModel.fixed(0)
    with pytest.raises(ValidationError, match="max_delay"):
        RetryPolicyModel.linear(1, max_delay=float("inf"))
    with pytest.raises(ValidationError, match="strategy"):
        RetryPolicyModel.fixed(1, jitter="none")  # type: ignore[arg-type]
