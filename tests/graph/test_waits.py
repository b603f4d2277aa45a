"""``Graph.wait``: what it declares, and what is an error at its line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from exotrio import BaseNode, Graph, GraphInvalid


class Approval(BaseModel):
    by: str
    ok: bool
    note: str = ""
    days: int | None = None


class Plan(BaseNode):
    class Outputs(BaseModel):
        id: int

    async def execute(self) -> list[Outputs]:
        return []


class Ship(BaseNode):
    class Inputs(BaseModel):
        by: str
        ok: bool
        days: int | None

    async def execute(self) -> None:
        return None


class Computed(BaseModel):
    at: list[int] = Field(default_factory=list)


def graph() -> tuple[Graph, Any]:
    declared = Graph("g", namespace="tests")
    return declared, declared.add(Plan)


def test_a_place_that_waits_is_declared_with_its_event_and_the_fields_of_that() -> None:
    declared, plan = graph()
    approved = declared.wait(
        f"approved-{plan.id}", Approval, timeout=timedelta(days=3), on_timeout=Approval(by="-", ok=False)
    )
    declared.add(Ship, by=approved.by, ok=approved.ok, days=approved.days)
    plan_node, node, _ = declared.nodes
    assert plan_node.next_nodes == ["approved"]
    assert (node.identifier, node.node_name, node.next_nodes) == ("approved", "wait for event", ["ship"])
    assert node.model_dump(mode="json")["wait"] == {
        "event": "approved-${{ plan.outputs.id }}",
        "outputs": {
            "by": {"title": "By", "type": "string"},
            "ok": {"title": "Ok", "type": "string", "contentSchema": {"type": "boolean"}},
            "note": {"title": "Note", "type": "string", "default": ""},
            "days": {
                "title": "Days",
                "type": "string",
                "contentSchema": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                "default": "null",
            },
        },
        "timeout_ms": 259_200_000,
        "on_timeout": {"by": "-", "ok": "false", "note": "", "days": "null"},
    }


def test_a_graph_may_begin_with_a_place_that_waits_and_an_event_may_have_no_fields() -> None:
    declared = Graph("g", namespace="tests")
    declared.wait("go on", identifier=None)
    (node,) = declared.nodes
    assert node.model_dump(mode="json") == {
        "node_name": "wait for event",
        "namespace": "tests",
        "identifier": "go_on",
        "inputs": {},
        "next_nodes": None,
        "unites": None,
        "wait": {"event": "go on"},
    }


@pytest.mark.parametrize(
    ("wait", "problem"),
    [
        (lambda each, plan: each.wait("go", after=plan, timeout=timedelta(0)), "timeout_ms"),
        (lambda each, plan: each.wait("go", after=plan, timeout=timedelta(days=4_000)), "timeout_ms"),
        (lambda each, plan: each.wait(" ", after=plan, identifier="w"), "it has 1 to 256 characters"),
        (lambda each, plan: each.wait(f"{plan.id}"), "identifier"),
        (lambda each, plan: each.wait(f"x-{plan.no}"), "Plan has no output 'no'"),
        (lambda each, plan: each.wait(plan), "is a node, not one of its outputs"),
        (lambda each, plan: each.wait(plan.every.id, identifier="w"), "leave out .every"),
        (lambda each, plan: each.wait("go"), "it follows no node"),
        (lambda each, plan: each.wait("go", Plan, after=plan), "a class that inherits from pydantic"),
        (lambda each, plan: each.wait("go", after=plan, on_timeout="skip"), 'on_timeout= is "error"'),
        (lambda each, plan: each.wait("go", Approval, after=plan, on_timeout={}), "an instance of Approval"),
        (lambda each, plan: each.wait("go", Computed, after=plan), "default_factory"),
        (lambda each, plan: each.wait("plan", after=plan), "another 'plan'"),
        (lambda each, plan: each.wait("go", after=plan).by, "wait for event has no output 'by'"),
    ],
)
def test_what_is_wrong_with_a_wait_is_an_error_at_its_line(
    wait: Callable[[Graph, Any], object], problem: str
) -> None:
    declared, plan = graph()
    with pytest.raises(GraphInvalid) as raised:
        wait(declared, plan)
    assert problem in str(raised.value)
    assert len(declared.nodes) <= 2


def test_the_types_of_its_outputs_are_checked_where_they_are_referred_to() -> None:
    declared, plan = graph()
    approved = declared.wait("approved", Approval, after=plan)
    with pytest.raises(GraphInvalid, match="does not always fit"):
        declared.add(Ship, by=approved.by, ok=approved.days, days=None)
