"""Events in ``run_graph``: places and nodes that wait, without any time passing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import AwaitedEvent, BaseNode, ExotrioError, FieldsInvalid, Graph, WaitForEvent
from exotrio.testing import CrashRun, Errored, Executed, Fault, Waiting, explore, run_graph, run_node

DAY = timedelta(days=1)


class Approval(BaseModel):
    by: str
    ok: bool = True


class Item(BaseModel):
    id: int


class Plan(BaseNode):
    Outputs = Item

    async def execute(self) -> list[Item]:
        return [Item(id=n) for n in range(3)]


class Ship(BaseNode):
    class Inputs(BaseModel):
        id: int
        by: str
        ok: bool

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        return self.Outputs(text=f"{self.inputs.id} {self.inputs.by} {self.inputs.ok}")


class Sum(BaseModel):
    sum: int


class Pay(BaseNode):
    """Submits a job, and waits for its callback."""

    class Checkpoint(BaseModel):
        job: int = 0

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        if self.event is None:
            self.checkpoint = self.Checkpoint(job=7)
            raise WaitForEvent("paid", timeout=3 * DAY)
        sum = "nothing" if self.event.timed_out else self.event.read(Sum).sum
        return self.Outputs(text=f"{self.checkpoint.job} {self.event.name} {sum} {bool(self.run_id)}")


class PayInThread(Pay):
    def execute(self) -> Any:
        if self.event is None:
            raise WaitForEvent("paid")
        return self.Outputs(text=str(self.event.value))


class PayTwice(Pay):
    """Waits again for what it has."""

    executions = 0

    async def execute(self) -> Any:
        type(self).executions += 1
        if self.executions > 2:
            return self.Outputs(text="")
        raise WaitForEvent("paid", timeout=DAY)


def approvals(**on_timeout: Any) -> tuple[Graph, Any]:
    graph = Graph("approvals", namespace="tests")
    plan = graph.add(Plan)
    approved = graph.wait(f"approved-{plan.id}", Approval, timeout=3 * DAY, **on_timeout)
    return graph, graph.add(Ship, id=plan.id, by=approved.by, ok=approved.ok)


async def test_three_days_take_no_time_and_each_item_has_its_event(autojump_clock: MockClock) -> None:
    graph, ship = approvals(on_timeout=Approval(by="-", ok=False))
    events: dict[str, Any] = {"approved-0": Approval(by="ada"), "approved-2": {"by": "bob", "ok": False}}
    run = await run_graph(graph, [Plan, Ship], events=events)
    assert run.status == "SUCCESS"
    assert sorted(each.text for each in run.outputs(ship)) == ["0 ada True", "1 - False", "2 bob False"]
    assert trio.current_time() < 60


async def test_a_deadline_passes_at_once_with_a_real_clock_too() -> None:
    graph, ship = approvals()
    run = await run_graph(graph, [Plan, Ship], events={"approved-1": {"by": "ada"}})
    assert run.status == "FAILED"
    assert [each.text for each in run.outputs(ship)] == ["1 ada True"]
    assert run.errors == [f"no event 'approved-{n}' was sent within 3 d" for n in (0, 2)]


async def test_a_run_that_can_only_wait_for_what_is_not_sent_is_an_error(autojump_clock: MockClock) -> None:
    graph = Graph("g", namespace="tests")
    graph.wait("approved", after=graph.add(Plan))
    with pytest.raises(trio.TooSlowError, match="waits for 'approved': give it in events="):
        await run_graph(graph, [Plan])


@pytest.mark.parametrize(
    ("events", "text"), [({"paid": Sum(sum=12)}, "7 paid 12 True"), ({}, "7 paid nothing True")]
)
async def test_a_node_waits_and_goes_on_with_its_checkpoint(
    autojump_clock: MockClock, events: dict[str, Any], text: str
) -> None:
    graph = Graph("g", namespace="tests")
    pay = graph.add(Pay)
    run = await run_graph(graph, [Pay], events=events)
    assert [each.text for each in run.outputs(pay)] == [text]
    assert len(run.states) == 1, "no attempt was used up"


async def test_a_node_that_waits_for_what_it_has_is_an_error_and_not_run_without_end() -> None:
    graph = Graph("g", namespace="tests")
    graph.add(PayTwice)
    run = await run_graph(graph, [PayTwice], events={"paid": {}})
    (error,) = run.errors
    assert error.startswith("PayTwice waits for the event 'paid', which self.event has\nnot to be retried")


async def test_a_node_in_a_thread_waits_as_others_do() -> None:
    graph = Graph("g", namespace="tests")
    pay = graph.add(PayInThread)
    run = await run_graph(graph, [PayInThread], events={"paid": {"sum": "1"}})
    assert [each.text for each in run.outputs(pay)] == ["{'sum': '1'}"]


async def test_one_node_is_run_with_the_event_that_it_waited_for() -> None:
    assert await run_node(Pay) == Waiting("paid", 259_200.0)
    paid = await run_node(Pay, event=AwaitedEvent("paid", {"sum": "12"}))
    assert paid == Executed([{"text": "0 paid 12 False"}])
    wrong = await run_node(Pay, event=AwaitedEvent("paid", {"sum": "dozen"}))
    assert isinstance(wrong, Errored)
    assert "sum" in wrong.error


def test_an_event_that_was_not_sent_has_no_fields() -> None:
    with pytest.raises(ExotrioError, match="was not sent in time"):
        AwaitedEvent("paid").read(Sum)
    with pytest.raises(FieldsInvalid):
        AwaitedEvent("paid", {}).read(Sum)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty, or has blanks at its ends"),
        (" paid", "is empty, or has blanks at its ends"),
        ("x" * 257, "has 257 characters"),
        ("pa\nid", "contains a control character"),  # the state manager would refuse the outcome
    ],
)
def test_the_name_of_an_event_is_checked_where_it_is_raised(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"WaitForEvent: the name .* {problem}"):
        WaitForEvent(name)
    with pytest.raises(ValueError, match="a timeout above zero"):
        WaitForEvent("paid", timeout=timedelta(0))


async def test_explore_sends_events_early_late_twice_and_not_at_all(autojump_clock: MockClock) -> None:
    graph, ship = approvals(on_timeout=Approval(by="-", ok=False))
    seen: dict[str, list[str]] = {}

    def check(run: CrashRun[None]) -> None:
        seen[str(run.point)] = sorted(each.text for each in run.outputs(ship))

    events = {f"approved-{number}": Approval(by="ada") for number in range(3)}
    faults = [fault for fault in Fault if fault.name.startswith("EVENT")]
    result = await explore(graph, [Plan, Ship], check=check, events=events, faults=faults)
    assert len(result.tried) == len(result.points) == 3 * 4
    sent = ["0 ada True", "1 ada True", "2 ada True"]
    for how in (
        "was sent before anything waited for it",
        "was sent just before its deadline",
        "was sent twice",
    ):
        assert seen[f"the event approved-1 {how}"] == sent
    assert seen["the event approved-1 was not sent"] == ["0 ada True", "1 - False", "2 ada True"]


async def test_explore_kills_a_node_that_waits_and_it_still_gets_its_event_once(
    autojump_clock: MockClock,
) -> None:
    graph = Graph("g", namespace="tests")
    graph.add(Pay)
    result = await explore(graph, [Pay], events={"paid": Sum(sum=12)})
    assert result.tried == result.points
    assert {point.fault for point in result.points} >= {Fault.KILLED, Fault.ANSWER_LOST, Fault.EVENT_LATE}
