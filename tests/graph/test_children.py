"""Graphs that run graphs, as they are built: each mistake is an error at its line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from exotrio import BaseNode, Graph, GraphInvalid, GraphNodeModel, RequestRefused, RunGraphModel
from tests.support.client_double import Server


class Price(BaseNode):
    class Inputs(BaseModel):
        order: int
        currency: str = "EUR"

    class Outputs(BaseModel):
        total: int
        more: bool

    async def execute(self) -> Outputs:
        return self.Outputs(total=self.inputs.order, more=False)


class Note(BaseNode):
    class Inputs(BaseModel):
        max_rounds: bool

    class Outputs(BaseModel):
        pass

    async def execute(self) -> Outputs:
        return self.Outputs()


def bill() -> Graph:
    graph = Graph("bill", namespace="shop")
    price = graph.add(Price, order=graph.store("order"))
    again = graph.add(graph, order=price.total, when=price.more, max_rounds=10)
    graph.output("total", again.total, price.total)
    return graph


def problems(error: pytest.ExceptionInfo[GraphInvalid]) -> str:
    return "; ".join(error.value.problems)


def test_a_graph_is_given_values_by_name_and_has_its_outputs() -> None:
    child, graph = bill(), Graph("sell", namespace="shop")
    first = graph.add(Price, order=1)
    billed = graph.add(child, order=first.total, currency="USD")
    graph.add(Price, identifier="after", order=billed.total)
    node = graph.nodes[1]
    assert node == GraphNodeModel(
        node_name="run graph",
        namespace="shop",
        identifier="bill",
        graph=RunGraphModel(name="bill"),
        inputs={"order": "${{ price.outputs.total }}", "currency": "USD"},
        next_nodes=["after"],
    )
    assert child.outputs == {"total": ["${{ bill.outputs.total }}", "${{ price.outputs.total }}"]}
    assert child.nodes[1].graph == RunGraphModel(name="bill", max_rounds=10)
    with pytest.raises(GraphInvalid, match="graph 'bill' has no output 'totl'; did you mean 'total'"):
        _ = billed.totl


def test_names_that_a_graph_does_not_take_are_refused_at_their_line() -> None:
    graph = Graph("sell", namespace="shop")
    with pytest.raises(GraphInvalid) as refused:
        graph.add(bill(), ordr=1)
    assert (
        "neither the store of graph 'bill' nor its first node has 'ordr'; did you mean 'order'"
        in problems(refused)
    )
    assert "store key 'order' of graph 'bill' is missing" in problems(refused)
    with pytest.raises(GraphInvalid, match="cannot be added") as refused:
        graph.add(bill(), order=1, max_rounds=2)
    assert "max_rounds= is only for a graph that runs itself" in problems(refused)
    with pytest.raises(GraphInvalid) as refused:
        graph.add(bill(), order=1, timeout=2)
    assert "a place that runs a graph runs no node" in problems(refused)
    assert graph.nodes == []


def test_the_type_of_an_output_is_that_of_its_node() -> None:
    graph = Graph("sell", namespace="shop")
    billed = graph.add(bill(), order=1)
    with pytest.raises(GraphInvalid) as refused:
        graph.add(Note, max_rounds=billed.total)
    assert "output 'total' of 'bill' is int, which does not always fit bool" in problems(refused)
    assert graph.add(Note, max_rounds=True, after=billed), "it is an input of this node like any other"


def test_a_graph_that_is_only_named_is_checked_when_it_is_stored() -> None:
    graph = Graph("sell", namespace="shop")
    billed = graph.add(Graph("bill"), anything=1)
    graph.output("whatever", billed.whatever)
    assert graph.named_graphs() == []


def test_a_graph_that_would_run_itself_without_an_end_is_refused() -> None:
    graph = Graph("loop", namespace="shop")
    first = graph.add(Price, order=1)
    between = graph.add(Price, identifier="between", order=first.total)
    for after in (first, between):
        with pytest.raises(GraphInvalid) as refused:
            graph.add(graph, after=after)
        assert "would run itself without an end" in problems(refused)
    some = graph.add(Price, identifier="some", order=first.total, when=first.more)
    assert graph.add(graph, after=some), "a condition before it suffices"


def test_outputs_that_are_none_are_refused() -> None:
    graph = bill()
    price = Graph("other", namespace="shop").add(Price, order=1)
    for value, message in ((price.total, "another graph"), ("${{ no.outputs.x }}", "has no node 'no'")):
        with pytest.raises(GraphInvalid, match=message):
            graph.output("more", value)
    with pytest.raises(GraphInvalid, match="was declared before"):
        graph.output("total", 1)


def test_the_graphs_that_a_graph_names_come_before_it_even_if_they_name_each_other() -> None:
    one, other, top = (Graph(name, namespace="shop") for name in ("one", "other", "top"))
    first = one.add(Price, order=1)
    other.add(one)
    one.add(other, when=first.more)
    top.add(other)
    assert [graph.name for graph in top.named_graphs()] == ["one", "other"]
    assert [graph.name for graph in one.named_graphs()] == ["other"]


async def test_a_server_that_runs_no_graphs_gets_none_that_does_or_has_outputs() -> None:
    server = Server()
    with_output = Graph("child", namespace="shop")
    with_output.output("total", with_output.add(Price, order=1).total)
    running = Graph("parent", namespace="shop")
    running.add(Graph("child"))
    for graph in (with_output, running):
        with pytest.raises(RequestRefused, match="cannot be stored with outputs, or with places that run"):
            await server.client.upsert_graph(graph)
