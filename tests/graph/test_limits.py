"""``Graph.limit`` and ``limits=`` of ``Graph.add``: what they make, and what is refused at its line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from trio.testing import MockClock

from exotrio import BaseNode, Graph, GraphInvalid, GraphNodeModel, LimitModel, NodeLimitModel
from exotrio._util.words import readable_errors
from exotrio.testing import run_graph


class Order(BaseNode):
    class Outputs(BaseModel):
        card: str
        customer: int

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(card=str(number), customer=number % 2) for number in range(6)]


class Charge(BaseNode):
    class Inputs(BaseModel):
        card: str

    async def execute(self) -> None: ...


def orders() -> tuple[Graph, Any]:
    graph = Graph("orders", namespace="shop")
    return graph, graph.add(Order)


def test_a_limit_is_declared_and_named_by_nodes() -> None:
    graph, order = orders()
    stripe = graph.limit("stripe", at_most=5)
    customer = graph.limit("customer", at_most=2, starts=100, period=60)
    graph.limit("stripe", at_most=5)  # the same again
    graph.add(Charge, card=order.card, limits=stripe)
    limits = [graph.limit("elsewhere"), customer.for_key(f"c-{order.customer}")]
    graph.add(Charge, identifier="again", card=order.card, limits=limits)
    assert graph.limits == [
        LimitModel(name="stripe", at_most=5),
        LimitModel(name="customer", at_most=2, starts=100, period_ms=60_000),
    ]
    assert [node.limits for node in graph.nodes] == [
        [],
        [NodeLimitModel(name="stripe")],
        [
            NodeLimitModel(name="elsewhere"),
            NodeLimitModel(name="customer", key="c-${{ order.outputs.customer }}"),
        ],
    ]
    assert "limits" not in graph.nodes[0].model_dump()


def test_a_key_makes_the_edge_as_an_input_does() -> None:
    graph, order = orders()
    graph.add(Charge, card="4242", limits=graph.limit("customer", at_most=2).for_key(order.customer))
    assert graph.nodes[0].next_nodes == ["charge"]


@pytest.mark.parametrize(
    ("mistake", "problem"),
    [
        (lambda graph, order: graph.limit("x", at_most=-1), "at_most: Input should be greater than or equal"),
        (lambda graph, order: graph.limit("x", starts=5), "starts and the period belong together"),
        (lambda graph, order: graph.limit("x", period=5), "starts and the period belong together"),
        (
            lambda graph, order: graph.limit("x", starts=5, period=0.5),
            "the period is from 1 s to 31 days, not 0.5",
        ),
        (lambda graph, order: graph.limit("x", starts=5, period=float("nan")), "not nan"),
        (
            lambda graph, order: graph.limit("x", starts=5, period=timedelta(days=32)),
            "the period is from 1 s to 31 days, not datetime.timedelta(days=32)",
        ),
        (
            lambda graph, order: graph.limit("stripe").for_key(None),
            "None is not a key of limit 'stripe'",
        ),
        (lambda graph, order: graph.limit("stripe").for_key(""), "'' is not a key of limit 'stripe'"),
        (
            lambda graph, order: graph.add(
                Charge, card="1", limits=Graph("g", namespace="other").limit("calls")
            ),
            "limit 'calls' is one of namespace 'other', not of 'shop': write graph.limit('calls')",
        ),
        (lambda graph, order: graph.limit("x", at_most=True), "at_most: it is a whole number, not True"),
        (lambda graph, order: graph.limit("x", at_most="2"), "at_most: it is a whole number, not '2'"),
        (lambda graph, order: graph.limit("x", starts=2.0, period=9), "it is a whole number, not 2.0"),
        (lambda graph, order: graph.limit("x", starts=2, period=True), "the period is from 1 s to 31 days"),
        (
            lambda graph, order: graph.limit("stripe").for_key("a").for_key("b"),
            "limit 'stripe' has a key already",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limits=2),
            "limits= takes what limit() returned, and no int: write graph.limit(NAME)",
        ),
        (lambda graph, order: graph.limit("x/y", at_most=5), "name: cannot stand in a URL path"),
        (lambda graph, order: graph.limit(" "), "name: cannot be blank"),
        (lambda graph, order: graph.limit("stripe", at_most=4), "was declared before, with other values"),
        (
            lambda graph, order: graph.add(Charge, card="1", limits=["stripe"]),
            "limits= takes what limit() returned, and no str: write graph.limit('stripe')",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limits="stripe"),
            "limits= takes what limit() returned, and no str: write graph.limit('stripe')",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limits=[graph.limit("stripe")] * 2),
            "limits: repeated: stripe",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limits=graph.limit("stripe").for_key(order)),
            "the key of limit 'stripe': <Order as 'order'> is a node, not one of its outputs",
        ),
        (
            lambda graph, order: graph.add(
                Charge, card="1", limits=graph.limit("stripe").for_key("${{ order.outputs.cst }}")
            ),
            "the key of limit 'stripe': Order has no output 'cst'",
        ),
        (
            lambda graph, order: graph.add(
                Charge, card="1", limits=graph.limit("stripe").for_key(order.every.card)
            ),
            "the key of limit 'stripe': a key is one text, not a list",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limits=graph.limit("stripe").for_key("x" * 257)),
            "the key of limit 'stripe': it is longer than 256 characters",
        ),
        (
            lambda graph, order: graph.add(
                Charge, card="1", limits=graph.limit("stripe").for_key("{{ order.outputs.customer }}")
            ),
            "the key of limit 'stripe': it has '{{' without '$': a reference is '${{",
        ),
        (
            lambda graph, order: graph.add(Charge, card="1", limit=1),
            "no input 'limit'; did you mean 'limits'?",
        ),
    ],
)
def test_a_mistake_is_refused_at_its_line(mistake: Callable[[Graph, Any], object], problem: str) -> None:
    graph, order = orders()
    graph.limit("stripe", at_most=5)
    with pytest.raises(GraphInvalid) as refusal:
        mistake(graph, order)
    assert problem in str(refusal.value)
    last = traceback.extract_tb(refusal.tb)[-1]
    assert last.name in ("add", "limit", "for_key"), "no line of the library comes after the call"
    assert [node.identifier for node in graph.nodes] == ["order"], "nothing was added"


def test_a_period_is_seconds_or_a_timedelta() -> None:
    graph, _ = orders()
    graph.limit("calls", starts=5, period=timedelta(minutes=1))
    graph.limit("calls", starts=5, period=60)  # the same
    assert graph.limits == [LimitModel(name="calls", starts=5, period_ms=60_000)]


def test_a_limit_that_is_not_an_object_is_refused_by_its_fields() -> None:
    with pytest.raises(ValidationError) as refusal:
        Graph("g", nodes=[], limits=["calls"])  # type: ignore[list-item]
    assert "limits.0: must be an object, with the fields name, at_most, starts, period_ms" in readable_errors(
        refusal.value
    )
    place = {"node_name": "N", "namespace": "n", "identifier": "n", "limits": ["calls"]}
    with pytest.raises(ValidationError) as refusal:
        GraphNodeModel.model_validate(place)
    assert readable_errors(refusal.value) == ["limits.0: must be an object, with the fields name, key"]


def test_the_models_refuse_fields_that_do_not_exist() -> None:
    with pytest.raises(ValidationError, match="there is no such field; did you mean 'at_most'"):
        LimitModel.model_validate({"name": "x", "at_msot": 5})
    with pytest.raises(ValidationError, match="there is no such field; did you mean 'key'"):
        GraphNodeModel.model_validate(
            {"node_name": "N", "namespace": "n", "identifier": "n", "limits": [{"name": "x", "kye": ""}]}
        )


async def test_a_limit_that_is_declared_elsewhere_has_room_in_tests(autojump_clock: MockClock) -> None:
    graph, order = orders()
    graph.add(Charge, card=order.card, limits=graph.limit("elsewhere"))
    assert (await run_graph(graph, [Order, Charge])).status == "SUCCESS"


async def test_a_graph_with_a_rate_takes_no_real_time(autojump_clock: MockClock) -> None:
    graph, order = orders()
    calls = graph.limit("calls", starts=1, period=60)
    graph.add(Charge, card=order.card, limits=calls)
    run = await run_graph(graph, [Order, Charge], timeout=100_000)
    assert run.status == "SUCCESS"
    assert autojump_clock.current_time() > 5 * 60
