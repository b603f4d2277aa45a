"""Nodes that call graphs, in ``run_graph`` and ``explore``: no time passes; each child is started once."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ChildFailed, Graph, ReQueueAfterSignal, WaitForEvent
from exotrio.testing import CrashRun, Fault, RunStatus, explore, run_graph

DAY = timedelta(days=1)


class Number(BaseModel):
    number: int


class Tree(BaseNode):
    """Sums the numbers from 1, each half by a child that runs the same graph."""

    class Inputs(BaseModel):
        first: int
        last: int

    Outputs = Number

    async def execute(self) -> Number:
        first, last = self.inputs.first, self.inputs.last
        if first == last:
            return Number(number=first)
        middle = (first + last) // 2
        halves = [
            self.call("tree", {"first": a, "last": b}) for a, b in ((first, middle), (middle + 1, last))
        ]
        return Number(number=sum(half.outputs(Number).number for half in halves))


def tree() -> Graph:
    graph = Graph("tree", namespace="tests")
    summed = graph.add(Tree, first=graph.store("first", default=1), last=graph.store("last"))
    graph.output("number", summed.number)
    return graph


async def test_a_graph_runs_itself_without_time_passing(autojump_clock: MockClock) -> None:
    graph, begin = tree(), trio.current_time()
    run = await run_graph(graph, [Tree], store={"last": 20})
    assert run.outputs(Tree) == [Number(number=210)]
    assert len(run.states) == 1, "the others are of other runs"
    assert trio.current_time() - begin < 60


class Effects:
    """What the nodes below did."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.asked = 0


class Pay(BaseNode):
    effects = Effects()

    class Inputs(BaseModel):
        sum: int

    Outputs = Number

    async def execute(self) -> Number:
        await trio.lowlevel.checkpoint()
        self.effects.paid.append(self.inputs.sum)
        return Number(number=self.inputs.sum)


class Order(BaseNode):
    """Decides once, by a model that answers differently each time, then calls what it decided."""

    class Checkpoint(BaseModel):
        sums: list[int] = []

    Outputs = Number

    async def execute(self) -> Number:
        if not self.checkpoint.sums:
            await trio.lowlevel.checkpoint()
            Pay.effects.asked += 1
            self.checkpoint = self.Checkpoint(sums=[10 * Pay.effects.asked, 1])
        children = [self.call(pay(), {"sum": each}) for each in self.checkpoint.sums]
        await trio.lowlevel.checkpoint()
        return Number(number=sum(child.outputs(Number).number for child in children))


def pay() -> Graph:
    graph = Graph("pay", namespace="tests")
    paid = graph.add(Pay, sum=graph.store("sum"))
    graph.output("number", paid.number)
    return graph


def order() -> Graph:
    graph = Graph("order", namespace="tests")
    graph.add(Order)
    return graph


def fresh() -> Effects:
    Pay.effects = Effects()
    return Pay.effects


async def test_whatever_crashes_each_child_is_started_once(autojump_clock: MockClock) -> None:
    def check(run: CrashRun[Effects]) -> None:
        assert run.status is RunStatus.SUCCESS
        (total,) = run.outputs(Order)
        # Payments are made again if a fault strikes the runtime that makes both; no child is started again.
        assert sorted(set(run.world.paid)) == [1, total.number - 1]
        again = 2 if run.point is not None and run.point.place.node == "pay" else 0
        assert len(run.world.paid) <= 2 + again

    result = await explore(order(), [Order, Pay], graphs=[pay()], setup=fresh, check=check)
    assert result.tried == result.points
    places = {(point.place.node, point.fault) for point in result.points}
    for fault in (Fault.KILLED, Fault.STOPPED, Fault.SUSPENDED, Fault.ANSWER_LOST):
        assert {("order", fault), ("pay", fault)} <= places


class Fails(BaseNode):
    async def execute(self) -> None:
        raise ValueError("broken")


class Tolerant(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        missing, broken = self.call("missing"), self.call("fails")
        try:
            broken.outputs()
        except ChildFailed as error:
            return self.Outputs(text=f"{missing.error} / {error}")
        raise AssertionError("it failed")


async def test_the_error_of_a_child_is_that_of_its_first_state(autojump_clock: MockClock) -> None:
    fails, graph = Graph("fails", namespace="tests"), Graph("tolerant", namespace="tests")
    fails.add(Fails)
    tolerant = graph.add(Tolerant)
    run = await run_graph(graph, [Fails, Tolerant], graphs=[fails])
    (outputs,) = run.outputs(tolerant)
    assert outputs.text.startswith("graph 'missing' cannot be run: it does not exist / run ")
    assert "of graph 'fails' failed: fails: " in outputs.text
    assert "ValueError: broken" in outputs.text


class Approved(BaseNode):
    async def execute(self) -> None:
        if self.event is None:
            raise WaitForEvent("approved", timeout=3 * DAY)
        assert not self.event.timed_out


class Polls(BaseNode):
    class Checkpoint(BaseModel):
        polls: int = 0

    async def execute(self) -> None:
        self.checkpoint = self.Checkpoint(polls=self.checkpoint.polls + 1)
        if self.checkpoint.polls < 3:
            raise ReQueueAfterSignal(timedelta(minutes=1))


class Asks(BaseNode):
    async def execute(self) -> None:
        children = [self.call("approved"), self.call("polls")]
        assert [child.error for child in children] == [None, None]


@pytest.mark.parametrize("sent", [True, False])
async def test_children_wait_for_days_and_events_in_no_time(autojump_clock: MockClock, sent: bool) -> None:
    graphs = [Graph(name, namespace="tests") for name in ("approved", "polls", "asks")]
    for graph, node in zip(graphs, (Approved, Polls, Asks), strict=True):
        graph.add(node)
    events: dict[str, dict[str, object]] = {"approved": {}} if sent else {}
    run = await run_graph(graphs[2], [Approved, Polls, Asks], graphs=graphs[:2], events=events)
    assert run.status is (RunStatus.SUCCESS if sent else RunStatus.FAILED)


class AskedTwice(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        children = [self.call("answer", key=str(number)) for number in range(2)]
        return self.Outputs(text=", ".join(child.outputs(Answer.Outputs).text for child in children))


class Answer(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        if self.event is None:
            await trio.lowlevel.checkpoint()
            raise WaitForEvent("approved", timeout=3 * DAY)
        return self.Outputs(text="late" if self.event.timed_out else "in time")


async def test_explore_lets_faults_strike_the_events_of_children(autojump_clock: MockClock) -> None:
    answer, graph = Graph("answer", namespace="tests"), Graph("asks", namespace="tests")
    answer.output("text", answer.add(Answer).text)
    asks = graph.add(AskedTwice)
    seen = dict[str, str]()

    def check(run: CrashRun[None]) -> None:
        seen[str(run.point)] = ", ".join(each.text for each in run.outputs(asks))

    faults = [fault for fault in Fault if fault.name.startswith("EVENT")]
    settings = {"graphs": [answer], "events": {"approved": dict[str, object]()}, "faults": faults}
    result = await explore(graph, [AskedTwice, Answer], check=check, **settings)  # type: ignore[arg-type]
    assert len(result.points) == 2 * 4
    assert not result.missed
    for run in (2, 3):
        event = f"the event approved of run {run}"
        for how in ("before anything waited for it", "just before its deadline", "twice"):
            assert seen[f"{event} was sent {how}"] == "in time, in time"
        assert sorted(seen[f"{event} was not sent"].split(", ")) == ["in time", "late"]


async def test_a_child_that_waits_for_an_event_without_a_limit_is_named(autojump_clock: MockClock) -> None:
    class WaitsAlways(BaseNode):
        async def execute(self) -> None:
            raise WaitForEvent("never")

    class Calls(BaseNode):
        async def execute(self) -> None:
            self.call("waits").outputs()

    waits, graph = Graph("waits", namespace="tests"), Graph("calls", namespace="tests")
    waits.add(WaitsAlways)
    graph.add(Calls)
    with pytest.raises(trio.TooSlowError, match="waits for 'never': give it in events="):
        await run_graph(graph, [WaitsAlways, Calls], graphs=[waits])
