"""``self.call``: the calls of an execution, their results, and what an execution must not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import BaseModel

from exotrio import BaseNode, ChildFailed, Graph
from exotrio._link.outcomes import added_fields, name_and_fields, name_and_value, outcome_of
from exotrio._nodes.outcome import ChildCall
from exotrio._wire.native import CallingItem
from exotrio._wire.vocabulary import MAX_CALL_BYTES, MAX_CALLS
from exotrio.testing import Calling, Errored, Executed, run_node
from tests.support.process_nodes import CallsInProcess


class Weather(BaseModel):
    degrees: int


class Cities(BaseModel):
    cities: list[str]


class Text(BaseModel):
    text: str


CITIES = Cities(cities=["Oslo", "Rome"])


class Warmest(BaseNode):
    Inputs = Cities
    Outputs = Text

    async def execute(self) -> Text:
        children = {city: self.call("weather", {"city": city}) for city in self.inputs.cities}
        degrees = {city: child.outputs(Weather).degrees for city, child in children.items()}
        return Text(text=max(degrees, key=lambda city: degrees[city]))


class InThread(Warmest):
    def execute(self) -> Any:
        children = [self.call("weather", {"city": city}) for city in self.inputs.cities]
        return Text(text=" ".join(str(child.outputs(Weather).degrees) for child in children))


class OnAsyncio(Warmest):
    runs_in = "asyncio"


def weather(graph: str, inputs: Mapping[str, str]) -> Weather:
    assert graph == "weather"
    return Weather(degrees=len(inputs["city"]) + ord(inputs["city"][0]))


async def test_the_first_output_that_is_not_there_ends_the_execution_with_all_calls() -> None:
    outcome = await run_node(Warmest, CITIES)
    assert isinstance(outcome, Calling)
    calls = [(call.graph, call.inputs) for call in outcome.calls]
    assert calls == [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
    assert len({call.id for call in outcome.calls}) == 2
    again = await run_node(Warmest, CITIES)
    assert again == outcome


@pytest.mark.parametrize(
    ("node", "text"),
    [(Warmest, "Rome"), (OnAsyncio, "Rome"), (InThread, "83 86"), (CallsInProcess, "83 86")],
)
async def test_the_node_runs_again_with_the_outputs_wherever_it_runs(node: type[BaseNode], text: str) -> None:
    outcome = await run_node(node, {"cities": CITIES.cities}, children=weather)
    assert outcome == Executed([{"text": text}])


async def test_a_child_that_failed_is_an_error_that_the_node_may_catch() -> None:
    def broken(graph: str, inputs: Mapping[str, str]) -> Weather:
        if inputs["city"] == "Rome":
            raise ChildFailed("no station")
        return weather(graph, inputs)

    outcome = await run_node(Warmest, CITIES, children=broken)
    assert isinstance(outcome, Errored)
    assert not outcome.retry
    assert "not to be retried: the nodes of the child were" in outcome.error
    assert "ChildFailed: no station" in outcome.error

    class Some(Warmest):
        async def execute(self) -> Text:
            children = [self.call("weather", {"city": city}) for city in self.inputs.cities]
            return Text(text=", ".join(child.error or str(child.outputs()["degrees"]) for child in children))

    assert await run_node(Some, CITIES, children=broken) == Executed([{"text": "83, no station"}])


async def test_outputs_that_do_not_fit_the_model_are_an_error() -> None:
    outcome = await run_node(Warmest, CITIES, children=lambda *_: {"degrees": "warm"})
    assert isinstance(outcome, Errored)
    assert "degrees" in outcome.error


class Rounds(BaseNode):
    """Calls one child after another, as an agent does; its decisions are in the checkpoint."""

    class Checkpoint(BaseModel):
        asked: list[str] = []

    Outputs = Text

    async def execute(self) -> Text:
        asked, text = list(self.checkpoint.asked), ""
        for number in range(3):
            if number == len(asked):
                asked.append(f"{text}{number}")
                self.checkpoint = self.Checkpoint(asked=asked)
            text = self.call("echo", {"text": asked[number]}).outputs(Text).text
        return Text(text=text)


async def test_a_child_is_called_once_and_the_checkpoint_is_kept_from_round_to_round() -> None:
    called = []

    def echo(graph: str, inputs: Mapping[str, str]) -> Text:
        called.append(inputs["text"])
        return Text(text=f"({inputs['text']})")

    assert await run_node(Rounds, children=echo) == Executed([{"text": "(((0)1)2)"}])
    assert called == ["0", "(0)1", "((0)1)2"]


async def test_a_graph_is_called_by_itself_or_by_its_name_and_values_become_texts() -> None:
    graph = Graph("weather", namespace="ns")

    class Calls(BaseNode):
        async def execute(self) -> None:
            self.call(graph, {"day": 3, "city": "Oslo"}).outputs()
            self.call("weather", Cities(cities=["Oslo"])).outputs()

    outcome = await run_node(Calls)
    assert isinstance(outcome, Calling)
    [call] = outcome.calls
    assert (call.graph, call.inputs) == ("weather", {"day": "3", "city": "Oslo"})


async def test_keys_name_children_whatever_the_order() -> None:
    class Keyed(Warmest):
        executions = 0

        async def execute(self) -> Text:
            Keyed.executions += 1
            names = self.inputs.cities[:: (-1) ** Keyed.executions]
            children = {name: self.call("weather", {"city": name}, key=name) for name in names}
            # Not counted: this one has a position.
            first = self.call("weather", {"city": "Bern"})
            assert self.call("weather", {"city": "Oslo"}, key="Oslo") is children["Oslo"]
            return Text(text=str(children["Oslo"].outputs(Weather).degrees + first.outputs(Weather).degrees))

    calls: list[Mapping[str, str]] = []

    def answer(graph: str, inputs: Mapping[str, str]) -> Weather:
        calls.append(inputs)
        return Weather(degrees=1)

    assert await run_node(Keyed, CITIES, children=answer) == Executed([{"text": "2"}])
    assert len(calls) == 3
    assert Keyed.executions == 2


class Changing(BaseNode):
    """Calls something else each time: what a model answers, say, that is not kept in the checkpoint."""

    executions = 0
    Outputs = Text

    async def execute(self) -> Text:
        Changing.executions += 1
        return self.call("echo", {"text": str(Changing.executions)}).outputs(Text)


async def test_a_call_that_differs_from_that_of_an_earlier_execution_is_not_retried() -> None:
    outcome = await run_node(Changing, children=lambda _, inputs: {"text": inputs["text"]})
    assert isinstance(outcome, Errored)
    assert not outcome.retry
    assert (
        "Changing calls 'echo' as child '1', and called another graph, or with other inputs" in outcome.error
    )
    assert "keep what decides that in its checkpoint" in outcome.error


def calls(times: int, text: str = "", *, reads: bool = True, **options: Any) -> type[BaseNode]:
    class Calls(BaseNode):
        async def execute(self) -> None:
            for number in range(times):
                child = self.call("echo", {"text": f"{number}{text}"}, **options)
            if reads:
                child.outputs()

    return Calls


@pytest.mark.parametrize(
    ("node", "error", "retry"),
    [
        (calls(MAX_CALLS + 1), f"Calls calls more than {MAX_CALLS:,} children in one state", False),
        (calls(2, "x" * (MAX_CALL_BYTES // 2)), f"more than {MAX_CALL_BYTES:,} bytes of inputs", False),
        (calls(2, reads=False), "called 'echo' and returned without reading the outputs: nothing was", False),
        (calls(2, key="a"), "ValueError: the child 'a' was called before", True),
        (calls(1, key=""), "ValueError: is empty", True),
        (calls(1, key="x" * 240), "ValueError: the key of a child has up to 239 characters, not 240", True),
    ],
)
async def test_calls_that_cannot_be_made_are_errors(node: type[BaseNode], error: str, retry: bool) -> None:
    outcome = await run_node(node)
    assert isinstance(outcome, Errored)
    assert error in outcome.error
    assert outcome.retry is retry


async def test_as_many_calls_as_are_allowed_are_made() -> None:
    outcome = await run_node(calls(MAX_CALLS))
    assert isinstance(outcome, Calling)
    assert len(outcome.calls) == MAX_CALLS


def test_the_native_api_and_the_outbox_keep_calls() -> None:
    outcome = Calling((ChildCall("1 a", "echo", {"text": "x"}), ChildCall("2 b", "echo", {})))
    name, value = name_and_value(outcome)
    assert outcome_of(name, value, added_fields(outcome)) == outcome
    name, fields = name_and_fields(outcome)
    item = CallingItem.model_validate({"state_id": "s", "token": "t", "outcome": name, **fields})
    assert [(call.id, call.graph, call.inputs) for call in item.calls] == [
        ("1 a", "echo", {"text": "x"}),
        ("2 b", "echo", {}),
    ]
