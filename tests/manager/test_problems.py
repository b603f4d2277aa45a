"""What is wrong with a graph is a value, and one line of text that leads back to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrio._wire.graphs import GraphBody, PlaceModel
from exotrio.manager.rules.problems import MAX_PROBLEMS, Problem, RulesBroken, first_problems
from exotrio.manager.rules.template import Template

names = st.text(min_size=1)


@given(names | st.none(), names | st.none(), st.text())
def test_a_problem_is_read_from_the_line_that_it_was_written_as(
    node: str | None, name: str | None, text: str
) -> None:
    field = f"inputs.{name}" if node and name else None
    problem = Problem(text, node, field)
    if node is None:
        assert str(problem) == text
    else:
        assert Problem.read(str(problem)) == problem


@pytest.mark.parametrize("line", ["no graph", "node a: x", "node 'a", "node 'a', inputs 'b': x", ""])
def test_any_other_line_is_a_problem_of_the_whole_graph(line: str) -> None:
    assert Problem.read(line) == Problem(line)


def test_secrets_are_a_field_of_the_graph() -> None:
    problem = Problem("'token' is missing", field="secrets")
    assert (str(problem), Problem.read(str(problem))) == ("secrets: 'token' is missing", problem)


def test_a_template_names_node_and_field_of_each_problem() -> None:
    node = PlaceModel(node_name="N", namespace="n", identifier="a", inputs={"x": "${{ y"})
    body = GraphBody(nodes=[node], secrets={})
    with pytest.raises(RulesBroken) as caught:
        Template(body)
    (problem,) = caught.value.found
    assert (problem.node, problem.field) == ("a", "inputs.x")
    assert caught.value.problems == (str(problem),)


def test_only_the_first_problems_of_many_are_named() -> None:
    problems = first_problems(Problem(f"{number}") for number in range(10**9))
    assert len(problems) == MAX_PROBLEMS + 1
    assert "there are more" in problems[-1].text
