"""Declarations of a graph: what their own fields refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from exotrio import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, UnitesModel
from exotrio._util.words import readable_errors

NODE: dict[str, Any] = {"node_name": "A", "namespace": "ns", "identifier": "a"}


@pytest.mark.parametrize(
    ("declare", "problems"),
    [
        (lambda: Graph("g", [NODE], retry_polcy=5), ["retry_polcy: ...; did you mean 'retry_policy'?"]),
        (lambda: Graph("g", [{**NODE, "inptus": {}}]), ["nodes.0.inptus: ...; did you mean 'inputs'?"]),
        (lambda: GraphNodeModel(**NODE, inptus={}), ["inptus: ...; did you mean 'inputs'?"]),
        (lambda: UnitesModel(identifier="a", Strategy=1), ["Strategy: ...; did you mean 'strategy'?"]),
        (
            lambda: RetryPolicyModel(max_retires=1, max_delay=0),
            ["max_delay: Input should be greater than 0", "max_retires: ...; did you mean 'max_retries'?"],
        ),
        (
            lambda: StoreConfigModel(zzz=1),
            ["zzz: ...: the fields are required_keys, default_values"],
        ),
        (
            lambda: CronTrigger(expression="@daily", expresion=""),
            ["expresion: ...; did you mean 'expression'?"],
        ),
    ],
)
def test_a_field_that_does_not_exist_is_refused_beside_other_problems(
    declare: Callable[[], object], problems: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        declare()
    told = [each.replace("there is no such field", "...") for each in readable_errors(caught.value)]
    assert told == problems


def test_the_value_of_a_field_that_does_not_exist_is_not_told() -> None:
    with pytest.raises(ValidationError) as caught:
        Graph("g", [NODE], secret={"token": "hush"})
    assert "hush" not in str(caught.value)
