"""``exotrio.testing``: whole graphs in a user's own tests."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    ConfigurationError,
    ExotrioError,
    Graph,
    GraphInvalid,
    NotFound,
    PruneSignal,
    RequestRefused,
    ReQueueAfterSignal,
    RetryPolicyModel,
)
from exotrio.testing import Executed, GraphRun, RunStatus, StateStatus, run_graph, run_node


class Split(BaseNode):
    class Inputs(BaseModel):
        names: str

    class Outputs(BaseModel):
        name: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(name=name) for name in self.inputs.names.split(",")]


class Greet(BaseNode):
    """Greets; prunes a greeting without a name, fails once for Bob, and always for Mallory."""

    failed: set[str] = set()

    class Inputs(BaseModel):
        name: str
        word: str

    class Secrets(BaseModel):
        sign: str

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        name = self.inputs.name
        if not name:
            raise PruneSignal({"why": "no name"})
        if name == "Mallory" or (name == "Bob" and name not in self.failed):
            self.failed.add(name)
            raise RuntimeError(f"no greeting for {name}")
        return self.Outputs(text=f"{self.inputs.word}, {name}{self.secrets.sign}")


class Join(BaseNode):
    waited: list[int] = []

    class Inputs(BaseModel):
        texts: str

    class Outputs(BaseModel):
        texts: str

    async def execute(self) -> Outputs:
        if not self.waited:
            self.waited.append(1)
            raise ReQueueAfterSignal(timedelta(hours=1))
        return self.Outputs(texts=self.inputs.texts)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Greet.failed.clear()
    Join.waited.clear()


NODES: list[type[BaseNode]] = [Split, Greet, Join]


def graph(namespace: str = "ns") -> Graph:
    made = Graph(
        "greetings",
        namespace="ns",
        secrets={"sign": "!"},
        retry_policy=RetryPolicyModel(max_retries=1, backoff_factor=120_000),
    )
    split = made.add(Split, names="Ada")
    greet = made.add(Greet, namespace=namespace, name=split.name, word=made.store("word"))
    made.add(Join, texts=greet.text)
    return made


async def greetings(names: str) -> GraphRun:
    return await run_graph(graph(), NODES, inputs={"names": names}, store={"word": "Hello"}, timeout=86_400)


async def test_a_graph_runs_to_its_end_under_virtual_time(
    autojump_clock: MockClock,
) -> None:
    run = await run_graph(
        graph(), NODES, inputs={"names": "Ada,Bob,"}, store={"word": "Hello"}, timeout=86_400
    )
    assert run.status is RunStatus.SUCCESS
    assert run.outputs("split") == [{"name": "Ada"}, {"name": "Bob"}, {"name": ""}]
    assert [state.status for state in run.of("greet")] == [
        StateStatus.SUCCESS,
        StateStatus.RETRY_CREATED,
        StateStatus.PRUNED,
        StateStatus.SUCCESS,
    ]
    assert sorted(state["texts"] for state in run.outputs("join")) == ["Hello, Ada!", "Hello, Bob!"]
    assert run.errors == []
    assert trio.current_time() >= 3_600


async def test_a_node_that_fails_makes_a_failed_run_with_its_error(
    autojump_clock: MockClock,
) -> None:
    run = await run_graph(
        graph(), NODES, inputs={"names": "Mallory"}, store={"word": "Hello"}, timeout=86_400
    )
    assert run.status is RunStatus.FAILED
    (error,) = run.errors
    assert "RuntimeError: no greeting for Mallory" in error
    assert run.outputs("greet") == []
    assert run.of("greet")[0].inputs == {"name": "Mallory", "word": "Hello"}


async def test_a_node_that_the_graph_does_not_have_is_an_error_and_one_that_did_not_run_is_not(
    autojump_clock: MockClock,
) -> None:
    run = await run_graph(graph(), NODES, inputs={"names": ""}, store={"word": "Hello"})
    assert run.of("join") == []
    assert run.outputs("join") == []
    with pytest.raises(NotFound, match="'geet'; did you mean 'greet'"):
        run.of("geet")
    with pytest.raises(NotFound, match="'x'; it has: split, greet, join"):
        run.outputs("x")


async def test_a_graph_that_cannot_be_run_is_refused_with_the_reasons(autojump_clock: MockClock) -> None:
    with pytest.raises(GraphInvalid, match="Greet"):
        await run_graph(graph(), [Split, Join], store={"word": "Hello"})
    with pytest.raises(RequestRefused, match="word"):
        await run_graph(graph(), NODES)
    with pytest.raises(ConfigurationError, match="several namespaces: ns, other"):
        await run_graph(graph("other"), NODES)
    with pytest.raises(ConfigurationError, match="dict"):
        await run_graph(graph(), [dict], store={"word": "Hello"})  # type: ignore[list-item]
    with pytest.raises(RequestRefused, match="no input 'nmaes'; it has: names; did you mean 'names'"):
        await run_graph(graph(), NODES, inputs={"nmaes": "Ada"}, store={"word": "Hello"})


async def test_a_run_that_takes_too_long_names_the_waiting_states(autojump_clock: MockClock) -> None:
    waiting = r"did not end in 60 s: greet is CREATED \(2 states\)$"
    with pytest.raises(trio.TooSlowError, match=waiting):
        await run_graph(graph(), NODES, inputs={"names": "Bob,Mallory"}, store={"word": "x"}, timeout=60)


class Price(BaseNode):
    class Inputs(BaseModel):
        day: date
        rates: list[Decimal]
        note: str = "none"
        until: date | None = None

    class Outputs(BaseModel):
        total: Decimal
        until: date | None

    async def execute(self) -> Outputs:
        return self.Outputs(total=sum(self.inputs.rates, Decimal(0)), until=self.inputs.until)


DAY = date(2026, 9, 1)


async def test_a_node_takes_values_and_returns_outputs_of_its_class() -> None:
    outcome = await run_node(Price, {"day": DAY, "rates": [Decimal("1.10"), 2], "until": DAY})
    assert outcome.outputs_of(Price) == [Price.Outputs(total=Decimal("3.10"), until=DAY)]
    assert outcome == Executed([{"total": "3.10", "until": "2026-09-01"}])
    assert await run_node(Price, Price.Inputs(day=DAY, rates=[])) == Executed(
        [{"total": "0", "until": "null"}]
    )
    assert await run_node(Price, {"day": DAY, "rates": "[]", "until": None}) == Executed(
        [{"total": "0", "until": "null"}]
    )
    missing = await run_node(Price, {"rates": []})
    with pytest.raises(
        ExotrioError, match=r"Price returned no outputs: the inputs do not fit [^\0]*day: Field"
    ):
        missing.outputs_of(Price)
    with pytest.raises(ConfigurationError, match="note: Input should be a valid string") as error:
        await run_node(Price, {"day": 7.5, "rates": "[]", "note": None})
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["day", "note"]
    with pytest.raises(
        ConfigurationError, match=r"the inputs are an instance of Split.Inputs, not of Price.Inp"
    ):
        await run_node(Price, Split.Inputs(names="Ada"))
    with pytest.raises(ConfigurationError, match="the inputs are a list, not a dict or an instance"):
        await run_node(Price, ["day"])  # type: ignore[arg-type]


async def test_outputs_are_read_by_what_add_returned_or_by_the_class(autojump_clock: MockClock) -> None:
    made = Graph("prices", namespace="ns")
    first = made.add(Price, day=DAY, rates=[1])
    second = made.add(Price, identifier="second", day=DAY, rates=[2], after=first)
    by_name = made.add("Split", after=second, names="Ada")
    run = await run_graph(made, [Price, Split])
    assert run.outputs(second) == [Price.Outputs(total=Decimal(2), until=None)]
    assert [run.outputs(each) for each in (by_name, "split", Split)] == [
        [{"name": "Ada"}],
        [{"name": "Ada"}],
        [Split.Outputs(name="Ada")],
    ]
    with pytest.raises(ConfigurationError, match="the graph has Price more than once: price, second"):
        run.outputs(Price)
    with pytest.raises(NotFound, match="the graph has no node of the class Join; it has: Price, Split"):
        run.outputs(Join)
    with pytest.raises(NotFound, match="'split' of the graph is Split, not Price: another graph's node"):
        run.outputs(Graph("other", namespace="ns").add(Price, identifier="split", day=DAY, rates=[]))
