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
    HandOver,
    NoRetry,
    NotFound,
    PruneSignal,
    RequestRefused,
    ReQueueAfterSignal,
    RetryPolicyModel,
)
from exotrio.graph.references import AddedNode
from exotrio.testing import (
    Errored,
    Executed,
    GraphRun,
    HandedOver,
    Released,
    RunStatus,
    StateStatus,
    run_graph,
    run_node,
)


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
            raise ReQueueAfterSignal(timedelta(minutes=1))
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
        retry_policy=RetryPolicyModel(max_retries=1, backoff_factor=60_000),
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
    assert trio.current_time() >= 60


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
    waiting = r"did not end in 30 s: greet is CREATED \(2 states\): waits: Greet is due at 20.*Z$"
    with pytest.raises(trio.TooSlowError, match=waiting):
        await run_graph(graph(), NODES, inputs={"names": "Bob,Mallory"}, store={"word": "x"}, timeout=30)


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


# -- checkpoints


class Steps(BaseNode):
    """Makes five steps of a second each."""

    class Inputs(BaseModel):
        fails_at: int = 9

    class Checkpoint(BaseModel):
        step: int = 0

    class Outputs(BaseModel):
        made: int

    async def execute(self) -> Outputs:
        made = 0
        for step in range(self.checkpoint.step, 5):
            if step == self.inputs.fails_at:
                raise NoRetry("it is worn out")
            await trio.sleep(1)
            made += 1
            self.checkpoint = self.Checkpoint(step=step + 1)
            if self.stopping and self.seconds_left < 5:
                raise HandOver
        return self.Outputs(made=made)


class PlainSteps(Steps):
    def execute(self) -> Steps.Outputs:  # type: ignore[override]
        return self.Outputs(made=5 - self.checkpoint.step)


async def test_a_node_is_run_from_a_checkpoint_and_the_result_says_what_it_saved(
    autojump_clock: MockClock,
) -> None:
    outcome = await run_node(Steps)
    assert outcome == Executed([{"made": "5"}])
    assert outcome.checkpoint_of(Steps) == Steps.Checkpoint(step=5)
    for stored in (Steps.Checkpoint(step=3), {"step": 3}, {"step": "3"}):
        assert await run_node(Steps, checkpoint=stored) == Executed([{"made": "2"}])
    assert (await run_node(Steps, checkpoint={"step": 5})).checkpoint_of(Steps) is None  # nothing was saved
    failed = await run_node(Steps, {"fails_at": 4}, checkpoint={"step": 3})
    assert isinstance(failed, Errored)
    assert failed.checkpoint_of(Steps) == Steps.Checkpoint(step=4)


async def test_a_checkpoint_that_does_not_fit_is_an_error_of_the_node(autojump_clock: MockClock) -> None:
    errored = await run_node(Steps, checkpoint={"row": 3})
    assert isinstance(errored, Errored)
    assert "the stored checkpoint does not fit Steps.Checkpoint:\n  row: it is stored" in errored.error
    with pytest.raises(ConfigurationError, match="Greet has no checkpoint"):
        await run_node(Greet, checkpoint={"row": 3})
    with pytest.raises(ConfigurationError, match=r"an instance of Greet.Inputs, not of Steps.Checkpoint"):
        await run_node(Steps, checkpoint=Greet.Inputs(name="Ada", word="Hi"))


async def test_a_node_is_run_in_a_runtime_that_stops(autojump_clock: MockClock) -> None:
    outcome = await run_node(Steps, grace=7.5)
    assert outcome == HandedOver()
    assert outcome.checkpoint_of(Steps) == Steps.Checkpoint(step=3)
    begin = trio.current_time()
    released = await run_node(Steps, grace=0.5)
    assert released == Released()
    assert released.checkpoint_of(Steps) is None
    assert trio.current_time() - begin == pytest.approx(0.5)


def steps(node: type[Steps]) -> tuple[Graph, AddedNode[Steps.Outputs]]:
    made = Graph("steps", namespace="ns", retry_policy=RetryPolicyModel(max_retries=1))
    return made, made.add(node, identifier="steps")


async def test_a_graph_is_run_from_checkpoints_and_shows_those_of_states_that_failed(
    autojump_clock: MockClock,
) -> None:
    made, added = steps(Steps)
    run = await run_graph(made, [Steps], checkpoints={added: Steps.Checkpoint(step=4)})
    assert run.outputs(added)[0].made == 1
    assert [state.checkpoint for state in run.states] == [None]
    run = await run_graph(made, [Steps], inputs={"fails_at": 4}, checkpoints={"steps": {"step": "3"}})
    assert [state.checkpoint for state in run.states] == [{"step": "4"}]
    with pytest.raises(NotFound, match="no node with the identifier 'step'; did you mean 'steps'"):
        await run_graph(made, [Steps], checkpoints={"step": {"step": "3"}})


async def test_a_graph_is_run_from_the_checkpoint_of_a_node_in_a_thread() -> None:
    made, added = steps(PlainSteps)
    run = await run_graph(made, [PlainSteps], checkpoints={PlainSteps: {"step": 4}})
    assert run.outputs(added)[0].made == 1
