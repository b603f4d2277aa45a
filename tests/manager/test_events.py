"""Events of runs: what waits for them, what they wake, and what happens at the deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from exotrio._util.times import timestamp
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.engine.sending import handle_waits
from exotrio.manager.queries.load import Performance, performance
from exotrio.manager.service import Service
from exotrio.manager.store.tallies import MINUTE_MS, bucket_of, of_node
from exotrio.manager.web.format import quantile
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim, claim_one, executed_item, item_for, report
from tests.support.due import handle_due
from tests.support.helpers import (
    DAY_MS,
    DECIDED,
    FAST_RETRY,
    NO_RETRY,
    SettableClock,
    eventually,
    node_name,
    ok,
    place,
    refused,
    wait_place,
)
from tests.support.manager import both_engines, open_two, recount

U = node_name("u")
Z = node_name("z")
BY = {"by": "ada", "ok": "true"}


@dataclass
class Waiting:
    """Two state managers on one database, whose clock is set."""

    service: Service
    api: Api
    other: Api
    clock: SettableClock
    write: Callable[..., Awaitable[Any]]
    read: Callable[..., Awaitable[Any]]

    async def pass_time(self, ms: int) -> int:
        """Let time pass, and return how many waits that ended."""
        self.clock.advance(ms)
        ended: int = await handle_due(self.service, Step.WAIT)
        assert not ended or await handle_due(self.service, Step.WAIT) == 0
        return ended

    async def run(self, flow: Flow) -> dict[str, dict[str, int]]:
        """Return the numbers of states by place and status; the stored ones are right."""
        await self.write(recount)
        nodes = ok(await self.other.native_run(flow.run_id))["nodes"]
        return {node["identifier"]: node["counts"] for node in nodes if node["counts"]}


@pytest.fixture
async def two(engine: str) -> AsyncIterator[Waiting]:
    clock = SettableClock()
    async with open_two(engine, clock=clock) as (one, other):
        store = one.service.store
        yield Waiting(one.service, one.api, other.api, clock, store.write, store.read)


async def approval(two: Waiting, event: str = "approved", **fields: Any) -> Flow:
    """Start a run in which b follows a place that waits."""
    places = [
        place("a", "w"),
        wait_place("w", "b", event=event, **fields),
        place("b", inputs={"x": "${{ w.outputs.by }} ${{ w.outputs.ok }}"}),
    ]
    await two.api.register_for([places[0], places[2]])
    flow = await Flow.put(two.api, "graph", two.api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    return flow


async def send(api: Api, flow: Flow, name: str = "approved", **value: str) -> tuple[bool, int]:
    body = {"name": name, "value": value or BY}
    sent = ok(await api.native("POST", f"run/{flow.run_id}/events", json=body))
    return sent["created"], sent["woken"]


async def refusal(two: Waiting, flow: Flow, status: int, **value: str) -> str:
    body = {"name": "approved", "value": value or BY}
    return refused(await two.api.native("POST", f"run/{flow.run_id}/events", json=body), status)


async def test_a_place_waits_for_its_event_and_what_follows_gets_its_fields(two: Waiting) -> None:
    flow = await approval(two, timeout_ms=DAY_MS)
    await flow.run("a")
    assert await two.run(flow) == {"a": {"SUCCESS": 1}, "w": {"WAITING": 1}}
    assert (await flow.shown())["execution_summary"]["CREATED"] == 1, "v0 knows no other status"
    (waits,) = ok(await two.other.native("GET", f"run/{flow.run_id}/events"))["waiting"]
    assert (waits["name"], waits["identifier"], waits["states"]) == ("approved", "w", 1)
    assert waits["fields"] == DECIDED
    assert await send(two.other, flow, by="ada") == (True, 1)
    assert [state["no_event"] for state in ok(await two.api.states())["states"]] == [False] * 3
    state = await claim_one(two.api, limits={B: 1})
    assert state["inputs"] == {"x": "ada false"}
    await report(two.api, executed_item(state))
    assert ok(await two.api.native_run(flow.run_id))["status"] == "SUCCESS"
    shown = ok(await two.other.native("GET", f"run/{flow.run_id}/events"))
    assert [(each["name"], each["value"]) for each in shown["sent"]] == [("approved", {"by": "ada"})]
    assert shown["waiting"] == []


async def test_an_event_that_comes_early_is_kept(two: Waiting) -> None:
    flow = await approval(two)
    assert await send(two.other, flow) == (True, 0)
    await flow.run("a")
    assert (await two.run(flow))["w"] == {"SUCCESS": 1}
    assert (await flow.inputs("b")) == {"x": "ada true"}


async def test_the_first_value_wins_and_the_same_one_is_accepted_again(two: Waiting) -> None:
    flow = await approval(two)
    await flow.run("a")
    assert await send(two.api, flow) == (True, 1)
    assert await send(two.other, flow) == (False, 0)
    assert await send(two.other, flow, by="ada", ok="true") == (False, 0)
    assert "with another value" in await refusal(two, flow, 409, by="bob")
    assert await flow.inputs("b") == {"x": "ada true"}
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    assert await send(two.other, flow) == (False, 0), "its sender did not get the first answer"


async def test_the_same_value_may_name_defaults_or_leave_them_out(two: Waiting) -> None:
    flow = await approval(two)
    assert await send(two.api, flow, by="ada") == (True, 0)
    assert await send(two.api, flow, by="ada", ok="false") == (False, 0)
    assert "with another value" in await refusal(two, flow, 409, by="ada", ok="true")


async def test_a_run_that_has_ended_takes_no_events(two: Waiting) -> None:
    flow = await approval(two)
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    assert "has ended" in await refusal(two, flow, 409)
    refused(await two.api.native("POST", "run/none/events", json={"name": "approved"}), 404)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"ok": "true"}, "the field 'by' for 'w' is missing"),
        ({"by": "ada", "of": "true"}, "there is no field 'of' for 'w'"),
        ({"by": "ada", "ok": "perhaps"}, "the field 'ok' for 'w' must be true or false"),
        ({"by": "a" * 20_000}, "at most 16,384 are allowed"),
        ({"by": "\0"}, "the character NUL"),
    ],
)
async def test_an_event_that_does_not_fit_is_refused_before_it_is_kept(
    two: Waiting, value: dict[str, str], problem: str
) -> None:
    flow = await approval(two)
    assert problem in await refusal(two, flow, 400, **value)
    assert await send(two.api, flow) == (True, 0)


@pytest.mark.parametrize(
    ("on_timeout", "status", "follows"),
    [
        ("error", "ERRORED", None),
        ("prune", "PRUNED", None),
        ({"by": "-", "ok": "false"}, "SUCCESS", "- false"),
    ],
)
async def test_at_its_deadline_a_place_ends_as_its_graph_says(
    two: Waiting, on_timeout: object, status: str, follows: str | None
) -> None:
    flow = await approval(two, timeout_ms=DAY_MS, on_timeout=on_timeout)
    await flow.run("a")
    assert await two.pass_time(DAY_MS - 1) == 0
    assert await two.pass_time(1) == 1
    counts = {"a": {"SUCCESS": 1}, "w": {status: 1}} | ({"b": {"CREATED": 1}} if follows else {})
    assert await two.run(flow) == counts
    states = {state["identifier"]: state for state in ok(await two.other.states())["states"]}
    assert (states["w"]["no_event"], states["w"]["for_event_ms"]) == (True, DAY_MS)
    shown = ok(await two.other.history(states["w"]["id"]))
    assert (shown["no_event"], shown["deadline"]) == (True, shown["finished_at"])
    assert states["a"]["no_event"] is False
    if follows is None:
        assert ok(await two.api.native_run(flow.run_id))["status"] != "PENDING"
    else:
        assert await flow.inputs("b") == {"x": follows}


@both_engines
async def test_a_failure_at_a_deadline_says_when_that_was_although_a_sweep_comes_late(two: Waiting) -> None:
    flow = await approval(two, timeout_ms=MINUTE_MS)
    await flow.run("a")
    deadline = two.clock() + MINUTE_MS
    assert await two.pass_time(3 * MINUTE_MS) == 1
    states = {state["identifier"]: state for state in ok(await two.other.states())["states"]}
    shown = ok(await two.other.history(states["w"]["id"]))
    assert (shown["status"], shown["deadline"]) == ("ERRORED", timestamp(deadline))
    assert shown["finished_at"] == timestamp(deadline + 2 * MINUTE_MS)
    assert (shown["for_event_ms"], states["a"]["for_event_ms"]) == (MINUTE_MS, None)
    two.clock.advance(1_000)
    await two.write(lambda tx: None)  # what ended is written with a commit of the next second
    node = "SELECT id FROM nodes WHERE name = 'wait for event'"
    took = await two.read(lambda view: of_node(view, view.one(node)["id"], 60).took)
    assert list(took) == [bucket_of(MINUTE_MS - 1)], "the page of its node says the same"


@pytest.mark.parametrize(
    ("on_timeout", "follows"), [("error", None), ("prune", None), ({"by": "-", "ok": "false"}, "- false")]
)
async def test_an_event_that_is_sent_after_the_deadline_is_too_late_also_before_a_sweep_comes_to_that(
    two: Waiting, on_timeout: object, follows: str | None
) -> None:
    flow = await approval(two, timeout_ms=DAY_MS, on_timeout=on_timeout)
    await flow.run("a")
    two.clock.advance(DAY_MS + 5_000)
    if follows is None:
        deadline = timestamp(two.clock() - 5_000)
        answer = await refusal(two, flow, 409)
        assert f"is too late: the wait for it ended at {deadline}, and no other state waits" in answer
        assert ok(await two.api.native_run(flow.run_id))["status"] == "PENDING"
        assert await two.pass_time(0) == 1
        assert "has ended" in await refusal(two, flow, 409)
    else:
        assert await send(two.other, flow) == (True, 0), "it is kept, and nothing waits for it any more"
        assert await two.pass_time(0) == 0
        assert await two.run(flow) == {"a": {"SUCCESS": 1}, "w": {"SUCCESS": 1}, "b": {"CREATED": 1}}
        assert await flow.inputs("b") == {"x": follows}
        states = {state["identifier"]: state for state in ok(await two.other.states())["states"]}
        assert (states["w"]["no_event"], states["w"]["for_event_ms"]) == (True, DAY_MS)
        assert ok(await two.other.history(states["w"]["id"]))["late_ms"] == 5_000


async def test_of_two_waits_for_an_event_only_the_one_whose_deadline_has_not_passed_gets_it(
    two: Waiting,
) -> None:
    waits: dict[str, Any] = {"event": "approved", "timeout_ms": DAY_MS, "on_timeout": "prune"}
    places = [place("a", "w1", "b"), wait_place("w1", **waits), place("b", "w2"), wait_place("w2", **waits)]
    await two.api.register_for([places[0], places[2]])
    flow = await Flow.put(two.api, "graph", two.api.body(places))
    await flow.trigger()
    await flow.run("a")
    two.clock.advance(DAY_MS - 1)
    await flow.run("b")
    two.clock.advance(1)
    assert await send(two.other, flow) == (True, 1)
    statuses = {"a": {"SUCCESS": 1}, "w1": {"PRUNED": 1}, "b": {"SUCCESS": 1}, "w2": {"SUCCESS": 1}}
    assert await two.run(flow) == statuses


async def test_a_wait_without_a_limit_has_no_deadline(two: Waiting) -> None:
    flow = await approval(two)
    await flow.run("a")
    assert await two.pass_time(10_000 * DAY_MS) == 0
    (waits,) = ok(await two.api.native("GET", f"run/{flow.run_id}/events"))["waiting"]
    assert waits["until"] is None
    assert await send(two.api, flow) == (True, 1)


async def test_each_state_of_a_fan_out_waits_for_its_event_and_a_join_waits_for_all(two: Waiting) -> None:
    places = [
        place("r", "a"),
        place("a", "w"),
        wait_place("w", "u", event="approved-${{ a.outputs.v }}", timeout_ms=DAY_MS, on_timeout="prune"),
        place("u", inputs={"x": "${{ w.outputs.by }}"}, unites="r"),
    ]
    await two.api.register_for([places[0], places[1], places[3]])
    flow = await Flow.put(two.api, "graph", two.api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    await flow.run("r")
    assert await send(two.other, flow, "approved-2", by="early") == (True, 0)
    await flow.run("a", *({"v": str(number), "w": ""} for number in range(4)))
    assert (await two.run(flow))["w"] == {"WAITING": 3, "SUCCESS": 1}
    assert await send(two.other, flow, "approved-1", by="ada") == (True, 1)
    await flow.none_ready("u")
    assert await two.pass_time(DAY_MS) == 2
    assert await flow.inputs("u") == {"x": '["ada","early"]'}
    assert (await two.run(flow))["w"] == {"PRUNED": 2, "SUCCESS": 2}


async def test_waits_in_a_row_whose_events_came_early_all_end_at_once(two: Waiting) -> None:
    places = [wait_place("w1", "w2", event="one"), wait_place("w2", "b", event="two"), place("b")]
    await two.api.register_for([places[2]])
    flow = await Flow.put(two.api, "graph", two.api.body(places))
    await flow.trigger()
    assert await send(two.api, flow, "two") == (True, 0)
    assert await send(two.api, flow, "one") == (True, 1)
    assert await two.run(flow) == {"w1": {"SUCCESS": 1}, "w2": {"SUCCESS": 1}, "b": {"CREATED": 1}}


async def test_a_wait_that_ended_as_an_error_waits_again_when_it_is_retried(two: Waiting) -> None:
    flow = await approval(two, timeout_ms=DAY_MS)
    await flow.run("a")
    assert await two.pass_time(DAY_MS) == 1
    ok(await two.api.retry_run(flow.run_id))
    assert (await two.run(flow))["w"] == {"RETRY_CREATED": 1, "WAITING": 1}
    assert await two.pass_time(DAY_MS - 1) == 0
    assert await send(two.api, flow) == (True, 1)
    assert await flow.inputs("b") == {"x": "ada true"}


async def test_a_cancelled_run_waits_for_nothing(two: Waiting) -> None:
    flow = await approval(two, timeout_ms=DAY_MS)
    await flow.run("a")
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    assert (await two.run(flow))["w"] == {"ERRORED": 1}
    assert await two.pass_time(DAY_MS) == 0
    assert "has ended" in await refusal(two, flow, 409)


@pytest.mark.parametrize(
    ("event", "fits", "differs"),
    [
        ("${{ a.outputs.v }}", ["x"], []),
        ("go-${{ a.outputs.v }}", ["go-", "go-1"], ["no-go-1", "og-1"]),
        ("${{ a.outputs.v }}-go", ["-go", "1-go-go"], ["1-go-1"]),
        ("a${{ a.outputs.v }}a", ["aa", "aba"], ["a", "ab"]),
        ("a${{ a.outputs.v }}b${{ a.outputs.w }}a", ["aba", "a1b2ba"], ["aa", "a1ba1"]),
        ("go", ["go"], ["gogo", "g"]),
        ("${{ a.outputs.v }}a" * 30 + "${{ a.outputs.v }}b", ["a" * 200 + "b"], ["a" * 256]),
    ],
)
async def test_an_event_is_checked_by_the_places_that_may_wait_for_it(
    two: Waiting, event: str, fits: list[str], differs: list[str]
) -> None:
    flow = await approval(two, event=event)
    for name in fits:
        body = {"name": name, "value": {"unknown": ""}}
        refused(await two.api.native("POST", f"run/{flow.run_id}/events", json=body), 400)
    for name in differs:
        await send(two.api, flow, name, unknown="")


@both_engines
async def test_a_list_of_waits_is_not_as_large_as_the_fields_of_all_of_them(two: Waiting) -> None:
    fields = {"by": {"type": "string", "description": "x" * 200_000}, "ok": {"type": "string"}}
    flow = await approval(two, event="go-${{ a.outputs.v }}", outputs=fields)
    await flow.run("a", *({"v": f"{number:02}", "w": ""} for number in range(20)))
    waiting = ok(await two.other.native("GET", f"run/{flow.run_id}/events"))["waiting"]
    assert [wait["name"] for wait in waiting] == [f"go-0{number}" for number in range(5)]


# -- a node that waits


async def waiting_node(two: Waiting, timeout_ms: int | None = DAY_MS) -> tuple[Flow, dict[str, Any]]:
    """Start a run whose only state waits for "paid", and return its claim."""
    flow = await Flow.start(two.api, place("a"), retry_policy=FAST_RETRY)
    state = await claim_one(two.api)
    item = item_for(
        state,
        outcome="waiting",
        event="paid",
        timeout_ms=timeout_ms,
        checkpoint={"number": 1, "value": '{"job": "7"}'},
    )
    assert await report(two.api, item) == ["ok"]
    assert await report(two.other, item) == ["duplicate"]
    return flow, state


async def test_a_node_that_waits_runs_again_with_the_event_and_its_checkpoint(two: Waiting) -> None:
    flow, state = await waiting_node(two)
    assert await claim(two.other) == []
    assert await report(two.api, executed_item(state)) == ["stale"], "it holds the state no more"
    assert await two.run(flow) == {"a": {"WAITING": 1}}
    assert await send(two.other, flow, "paid", sum="12") == (True, 1)
    again = await claim_one(two.api)
    assert again["event"] == {"name": "paid", "value": {"sum": "12"}}
    assert again["checkpoint"]["value"] == '{"job": "7"}'
    assert (again["lease"]["attempt"], again["waited_ms"]) == (1, 0), "time in which it waits is no backlog"
    # Its runtime is lost, or hands it over: the next one gets the event, too. So does the next attempt.
    ok(await two.api.release(states=[item_for(again)]))
    again = await claim_one(two.other)
    assert again["event"]["value"] == {"sum": "12"}
    await report(two.api, item_for(again, outcome="errored", error="no"))
    two.clock.advance(1_000)
    again = await claim_one(two.other)
    assert (again["event"]["value"], again["lease"]["attempt"]) == ({"sum": "12"}, 2)
    await report(two.api, item_for(again, outcome="requeued", delay_ms=1))
    two.clock.advance(1)
    assert "event" not in await claim_one(two.other)


async def test_a_cancelled_node_waited_from_the_end_of_its_execution(two: Waiting) -> None:
    flow = await Flow.start(two.api, place("a"))
    state = await claim_one(two.api)
    two.clock.advance(800)
    await report(two.api, item_for(state, outcome="waiting", event="paid", timeout_ms=DAY_MS))
    two.clock.advance(5_200)
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    shown = ok(await two.other.history(state["state_id"]))
    assert (shown["for_event_ms"], shown["waited_ms"], shown["no_event"]) == (5_200, None, False)


async def test_a_node_that_is_cancelled_once_its_event_is_there_waited_for_a_runtime(two: Waiting) -> None:
    flow, claimed = await waiting_node(two)
    two.clock.advance(5_000)
    assert await send(two.other, flow, "paid", sum="12") == (True, 1)
    two.clock.advance(300)
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    shown = ok(await two.other.history(claimed["state_id"]))
    assert (shown["for_event_ms"], shown["waited_ms"]) == (5_000, 300)


async def test_the_waits_of_a_node_are_separate_numbers_once_it_is_executed_again(two: Waiting) -> None:
    """Also after a lost claim, and before the next wait; a late sweep does not make a wait longer."""
    flow = await Flow.start(two.api, place("a"))
    state = await claim_one(two.api)
    two.clock.advance(800)
    await report(two.api, item_for(state, outcome="waiting", event="paid", timeout_ms=5_000))
    two.clock.advance(3_700)
    assert await send(two.other, flow, "paid", sum="12") == (True, 1)
    two.clock.advance(40)
    state = await claim_one(two.api)
    ok(await two.api.release(states=[item_for(state)]))
    two.clock.advance(60)
    state = await claim_one(two.other)

    async def times() -> tuple[int | None, ...]:
        (shown,) = ok(await two.api.states())["states"]
        history = ok(await two.other.history(state["state_id"]))
        names = ("for_event_ms", "earlier_ms", "waited_ms")
        assert [shown[name] for name in names] == [history[name] for name in names]
        return tuple(shown[name] for name in names)

    assert await times() == (3_700, 840, 60)
    await report(two.api, item_for(state, outcome="waiting", event="more", timeout_ms=1_000))
    assert await two.pass_time(2_500) == 1
    state = await claim_one(two.api)
    assert await times() == (4_700, 900, 1_500)
    reported = {**executed_item(state), "buffered_ms": 0, "ran_ms": 0}
    assert await report(two.other, reported) == ["ok"]
    assert await times() == (4_700, 900, 1_500)
    run = ok(await two.api.native_run(flow.run_id))
    assert (run["for_event_ms"], run["earlier_ms"], run["waited_ms"]) == (4_700, 900, 1_500)
    history = ok(await two.other.history(state["state_id"]))
    assert [event["kind"] for event in history["events"]] == [
        *("began to wait for an event", "the event came", "released"),
        *("began to wait for an event", "no event came in time"),
    ]


@both_engines
async def test_how_long_nodes_waited_for_events_is_counted_by_node(two: Waiting) -> None:
    flow, _ = await waiting_node(two, timeout_ms=MINUTE_MS)
    two.clock.advance(8_000)
    assert await send(two.api, flow, "paid", sum="12") == (True, 1)
    two.clock.advance(1_000)
    await two.write(lambda tx: None)  # it is written with a commit of the next second
    node = "SELECT node_id FROM states"

    async def counted() -> Performance:  # in a transaction after it
        recent: Performance = await two.read(lambda view: performance(view, view.one(node)["node_id"], 60))
        assert (recent.waits, recent.ended, recent.waited[95]) == (1, 0, None)
        return recent

    recent = await eventually(counted)
    assert recent.awaited[95] == pytest.approx(8_000, rel=0.15)
    assert quantile(recent, "awaited", 95).endswith(" s of 1")


async def test_a_node_that_waits_learns_that_its_deadline_has_passed(two: Waiting) -> None:
    flow, _ = await waiting_node(two)
    assert await two.pass_time(DAY_MS) == 1
    state = await claim_one(two.other)
    assert state["event"] == {"name": "paid", "value": None}
    await report(two.api, executed_item(state))
    assert await two.run(flow) == {"a": {"SUCCESS": 1}}


async def test_a_node_that_was_woken_before_its_deadline_was_handled_goes_on(two: Waiting) -> None:
    await waiting_node(two)
    two.clock.advance(DAY_MS)
    (due,) = (await two.read(due_work, (Step.WAIT,))).values()
    assert await handle_due(two.service, Step.WAIT) == 1
    assert await two.write(handle_waits, due) == 0
    assert (await claim_one(two.other))["event"] == {"name": "paid", "value": None}


async def test_a_node_that_waits_for_runs_before_its_deadline_was_handled_gets_them(two: Waiting) -> None:
    two.service.store.on_deliveries = lambda: None
    flow, _ = await waiting_node(two)
    two.clock.advance(DAY_MS)
    (due,) = (await two.read(due_work, (Step.WAIT,))).values()
    assert await handle_due(two.service, Step.WAIT) == 1
    calls = [{"id": "one", "graph": "child", "inputs": {}}]
    state = await claim_one(two.api)
    assert await report(two.api, item_for(state, outcome="calling", calls=calls)) == ["ok"]
    assert await two.write(handle_waits, due) == 0
    assert await two.run(flow) == {"a": {"WAITING": 1}}


@both_engines
async def test_a_node_that_calls_graphs_after_its_event_has_it_again(two: Waiting) -> None:
    flow, _ = await waiting_node(two)
    assert await send(two.other, flow, "paid", sum="12") == (True, 1)
    state = await claim_one(two.other)
    calls = [{"id": "one", "graph": "missing", "inputs": {}}]
    assert await report(two.api, item_for(state, outcome="calling", calls=calls)) == ["ok"]
    assert (await flow.states("a"))[0].get("data") is None
    state = await claim_one(two.api, wait_ms=5_000)
    assert "missing" in state["children"]["one"]["error"]
    assert state["event"] == {"name": "paid", "value": {"sum": "12"}}
    await report(two.api, executed_item(state))
    assert await two.run(flow) == {"a": {"SUCCESS": 1}}


async def test_the_next_attempt_gets_an_event_that_was_sent_after_the_deadline_of_the_one_before(
    two: Waiting,
) -> None:
    flow, _ = await waiting_node(two)
    assert await two.pass_time(DAY_MS) == 1
    late = await claim_one(two.api)
    assert late["event"] == {"name": "paid", "value": None}
    assert await send(two.other, flow, "paid", sum="12") == (True, 0)
    await report(two.api, item_for(late, outcome="errored", error="no event"))
    two.clock.advance(1_000)
    assert (await claim_one(two.other))["event"] == {"name": "paid", "value": {"sum": "12"}}


async def test_a_node_that_waits_for_an_event_that_came_runs_again_at_once(two: Waiting) -> None:
    flow = await Flow.start(two.api, place("a"))
    state = await claim_one(two.api)
    assert await send(two.other, flow, "paid", sum="12") == (True, 0)
    await report(two.api, item_for(state, outcome="waiting", event="paid"))
    assert (await claim_one(two.other))["event"]["value"] == {"sum": "12"}


async def test_a_waiting_node_takes_no_room_of_its_limit_and_waits_for_it_when_it_is_woken(
    two: Waiting,
) -> None:
    body = two.api.body([place("a", limits=[{"name": "one"}])], limits=[{"name": "one", "at_most": 1}])
    await two.api.register_for([place("a")])
    flow = await Flow.put(two.api, "graph", body)
    await flow.trigger()
    first = await claim_one(two.api)
    await report(two.api, item_for(first, outcome="waiting", event="paid"))
    second = Flow(two.api, "graph")
    await second.trigger()
    held = await claim_one(two.other)
    assert await send(two.other, flow, "paid", sum="1") == (True, 1)
    assert await claim(two.api) == []
    await report(two.api, executed_item(held))
    assert (await claim_one(two.api))["run_id"] == flow.run_id


# -- limits and names


async def test_a_graph_that_waits_is_checked(two: Waiting) -> None:
    for problem, places in {
        "has no output 'who'": [
            wait_place("w", "b", event="go"),
            place("b", inputs={"x": "${{ w.outputs.who }}"}),
        ],
        "is not before 'w' on every path": [place("b", "w"), wait_place("w", event="x-${{ c.outputs.v }}")],
        "has the name of places that wait, 'wait for event', but no wait": [
            place("w", node_name="wait for event")
        ],
        "a place that waits has the node_name 'wait for event'": [
            {**wait_place("w", event="go"), "node_name": "b"}
        ],
        "a place that waits runs no node": [{**wait_place("w", event="go"), "inputs": {"x": "1"}}],
        "on_timeout needs a text for each output": [wait_place("w", event="go", on_timeout={"by": "ada"})],
    }.items():
        await two.api.register_for(
            [each for each in places if "wait" not in each and each["identifier"] == "b"]
        )
        response = await two.api.put_graph("g", two.api.body(places))
        assert problem in response.text, response.text
    declared = {"name": "wait for event", "inputs_schema": {}, "outputs_schema": {}, "secrets": []}
    assert "give the node another one" in refused(await two.api.register([declared]), 400)


async def test_what_follows_an_event_may_have_a_name_that_cannot_be_built(two: Waiting) -> None:
    places = [place("a", "w"), wait_place("w", event="${{ a.outputs.v }}")]
    await two.api.register_for([places[0]])
    flow = await Flow.put(two.api, "graph", two.api.body(places))
    await flow.trigger()
    await flow.run("a", {"v": " ", "w": ""})
    assert await two.run(flow) == {"a": {"NEXT_CREATED_ERROR": 1}}
