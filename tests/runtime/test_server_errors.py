"""Answers 500: an outage turns no outcome into an error, and an outcome that alone fails is settled soon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, PruneSignal, Runtime
from exotrio._runtime.server_errors import MAX_SERVER_ERRORS, ItemFailures, ServerErrors
from tests.support.doubles import Call, NativeServer, V0Server, reply, running
from tests.support.stock import GATEWAY_FAILS, Fate, State, Stock, StockTransport

MAX_DOCUMENT = 64 * 1024
"""Bytes that the database can store here; MongoDB takes 16 MiB, of which each attempt would take a second."""

began: Counter[str] = Counter()
"""How often each piece of work was begun, by its number."""


class Work(BaseNode):
    class Inputs(BaseModel):
        n: str

    async def execute(self) -> None:
        began[self.inputs.n] += 1
        await trio.sleep(1 + int(self.inputs.n) % 7 * 0.37)


class Large(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Any:
        return self.Outputs(text="x" * (MAX_DOCUMENT + 1))


class Prunes(BaseNode):
    async def execute(self) -> None:
        raise PruneSignal({"number": 2**70})


class Says(BaseNode):
    async def execute(self) -> None:
        pass


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Stock:
    began.clear()
    monkeypatch.setattr("tests.support.stock.MAX_DOCUMENT", MAX_DOCUMENT)
    stock = Stock()
    stock.proxy_answer = GATEWAY_FAILS
    return stock


class Distant(StockTransport):
    """A way on which the answers of the state manager take longer than those of the gateway before it."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if response.headers["content-type"] != "text/html":
            await trio.sleep(3)
        return response


def runtime(stock: Stock, transport: type[StockTransport] = StockTransport, **options: Any) -> Runtime:
    return Runtime("n", "r", [Work, Large, Prunes, Says], transport=transport(stock), **options)


# -- the rule

ERROR, OTHER, PROBE, FAILURE = "500", "another delivery", "a probe", "another failure"


@pytest.mark.parametrize(
    ("events", "counted", "needs_probe"),
    [
        ([], 0, False),
        ([FAILURE], 0, False),
        ([FAILURE, FAILURE], 0, False),
        ([ERROR], 1, True),
        ([FAILURE, ERROR], 1, True),
        ([ERROR, ERROR, ERROR], 1, True),
        ([ERROR, PROBE], 1, False),
        ([ERROR, OTHER], 1, False),
        ([ERROR, OTHER, ERROR], 2, True),
        ([ERROR, OTHER, PROBE, OTHER, ERROR], 2, True),
        ([ERROR, PROBE, ERROR, ERROR, OTHER, ERROR], 3, True),
        ([ERROR, PROBE, FAILURE], 1, True),
        ([ERROR, PROBE, FAILURE, ERROR], 1, True),
        ([OTHER, PROBE, ERROR, ERROR], 1, True),
    ],
)
def test_a_server_error_counts_if_something_else_got_through_since_the_last_failure(
    events: list[str], counted: int, needs_probe: bool
) -> None:
    rule, item = ServerErrors(), ItemFailures()
    for event in events:
        if event == ERROR:
            assert not rule.count_server_error(item)
        elif event == FAILURE:
            rule.failed(item)
        else:
            rule.passed(rule.begin())
    assert (item.server_errors, rule.needs_probe(item)) == (counted, needs_probe)


def test_a_delivery_that_began_before_a_server_error_proves_nothing() -> None:
    rule, item = ServerErrors(), ItemFailures()
    in_flight = rule.begin()
    rule.count_server_error(item)
    rule.passed(in_flight)
    assert rule.needs_probe(item)
    rule.count_server_error(item)
    assert item.server_errors == 1


def test_a_delivery_proves_something_once_for_each_item() -> None:
    rule, first, second = ServerErrors(), ItemFailures(), ItemFailures()
    rule.count_server_error(first)
    rule.count_server_error(second)
    rule.passed(rule.begin())
    for item in (first, first, second, second):
        rule.count_server_error(item)
    assert (first.server_errors, second.server_errors) == (2, 2)


async def test_only_a_delivery_that_began_after_a_failure_ends_the_pause_of_what_failed() -> None:
    rule, item = ServerErrors(), ItemFailures()
    in_flight = rule.begin()
    rule.failed(item)
    pause = item.new_pause(9, may_end_early=True)
    rule.passed(in_flight, [item])
    assert not pause.cancel_called
    rule.passed(rule.begin(), [item])
    assert pause.cancel_called


def test_the_last_of_the_counted_server_errors_is_a_rejection() -> None:
    rule, item = ServerErrors(), ItemFailures()
    rejections = []
    for _ in range(MAX_SERVER_ERRORS):
        rejections.append(rule.count_server_error(item))
        rule.passed(rule.begin())
    assert rejections == [False] * (MAX_SERVER_ERRORS - 1) + [True]


# -- an outage


def during(start: float, seconds: float, fate: Fate, *routes: str) -> Callable[[str, str], Fate]:
    """Return a proxy that does this to all requests, or to those of some routes, in a period."""
    begin = trio.current_time() + start

    def proxy(method: str, path: str) -> Fate:
        route = path.rstrip("/").rpartition("/")[2]
        is_hit = begin <= trio.current_time() < begin + seconds and (not routes or route in routes)
        return fate if is_hit else ""

    return proxy


@pytest.mark.parametrize("fate", ["away", "lost"])
@pytest.mark.parametrize("routes", [(), ("executed", "errored")], ids=["everything", "outcomes"])
async def test_a_gateway_that_answers_500_for_a_minute_turns_no_success_into_an_error(
    stock: Stock, autojump_clock: MockClock, routes: tuple[str, ...], fate: Fate
) -> None:
    states = [state for n in range(120) for state in stock.add("Work", n=str(n))]
    async with running(runtime(stock, Distant, workers=8), registered=True) as rt:
        # In the middle of the work: some deliveries are in flight, and arrive; others follow.
        stock.proxy = during(10, 60, fate, *routes)
        await trio.sleep(200)
    stranded = [state for state in states if state.status == "QUEUED"]
    assert {state.status for state in states if state not in stranded} == {"SUCCESS"}
    # What a claim took whose answer was lost cannot be known on v0.
    assert len(stranded) <= rt.summary.lost_claims
    assert began == {state.inputs["n"]: 1 for state in states if state not in stranded}
    assert rt.summary.errored == rt.summary.abandoned == 0


async def test_results_are_kept_while_the_state_manager_itself_fails_with_all_of_them(
    stock: Stock, autojump_clock: MockClock
) -> None:
    """Other deliveries are in flight when its database goes away, and arrive: that proves nothing."""
    for n in range(60):
        stock.add("Work", n=str(n))
    async with running(runtime(stock, workers=8), registered=True) as rt:
        for _ in range(20):
            await trio.sleep(3)
            stock.database_away = not stock.database_away
        await trio.sleep(100)
    assert stock.statuses() == {"SUCCESS": 60}
    assert set(began.values()) == {1}
    assert rt.summary.errored == 0


async def test_a_500_of_a_gateway_is_no_evidence_against_an_outcome(
    stock: Stock, autojump_clock: MockClock
) -> None:
    """Also if the gateway passes everything else on, as one does that dislikes large bodies."""
    (state,) = stock.add("Says")
    healthy_at = trio.current_time() + 150
    stock.proxy = lambda _, path: (
        "away" if path.endswith(f"{state.id}/executed") and trio.current_time() < healthy_at else ""
    )
    async with running(runtime(stock), registered=True) as rt:
        await trio.sleep(200)
    assert state.status == "SUCCESS"
    assert rt.summary.completed == 1


async def test_outcomes_that_fail_together_share_their_probes(
    stock: Stock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    stock.add("Work", 16, n="0")
    async with running(runtime(stock, workers=16), registered=True):
        await trio.sleep(0.5)
        stock.database_away = True
        # After 0.25, 0.75, 1.75, 3.75, 7.75 s, and then every 10 s. Claims ask what the server is, too.
        await trio.sleep(60)
        probes = stock.times("GET v1")
        stock.database_away = False
        await trio.sleep(20)
    assert probes < 40
    assert stock.statuses() == {"SUCCESS": 16}


@pytest.mark.parametrize("kind", [V0Server, NativeServer])
async def test_a_database_that_can_only_be_read_turns_no_success_into_an_error(
    autojump_clock: MockClock, kind: type[V0Server]
) -> None:
    """Registrations fail as outcomes do; lists, and outcomes of states that do not exist, do not."""
    server = kind(Says=1)
    healthy_at = trio.current_time() + 150

    async def before(call: Call) -> Any:
        writes = call.body is not None and call.route in ("executed", "outcomes", "nodes")
        exists = call.route == "nodes" or call.state_id in server.states
        if call.route == "outcomes":
            exists = call.body[0]["state_id"] in server.states
        return reply(500) if writes and exists and trio.current_time() < healthy_at else None

    async with running(server, Says, registered=True) as rt:
        server.before = before
        await trio.sleep(200)
    assert server.statuses() == {"EXECUTED": 1}
    assert rt.summary.completed == 1


# -- one outcome that fails alone


async def test_an_outcome_that_failed_is_not_sent_along_with_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(call: Call) -> Any:
        if call.route != "outcomes":
            return None
        executed = {item["state_id"] for item in call.body if item["outcome"] == "executed"}
        if not executed & bad:
            return None
        sent.append(executed)
        server.add("Says", 5)
        return reply(500)

    monkeypatch.setattr("random.uniform", lambda low, high: high)  # so that they are repeated together
    sent: list[set[str]] = []
    server = NativeServer()
    bad = set(server.add("Says", 3))
    server.before = before
    async with running(server, Says):
        await server.until(lambda: all(server.states[each].status == "ERRORED" for each in bad))
    for state_id in bad:
        attempts = [len(batch) for batch in sent if state_id in batch]
        assert attempts[attempts.index(1) :] == [1] * MAX_SERVER_ERRORS


LONE = [("Large", "executed"), ("Prunes", "prune")]


@pytest.mark.parametrize(("node", "route"), LONE)
async def test_a_lone_outcome_that_the_database_cannot_store_is_reported_as_errored(
    stock: Stock, autojump_clock: MockClock, node: str, route: str
) -> None:
    (state,) = stock.add(node)
    async with running(runtime(stock), registered=True) as rt:
        await trio.sleep(60)
        assert state.status == "RETRY_CREATED"
    assert state.error is not None
    assert "refused what the node returned: 8 times 500 while other requests worked" in state.error
    assert stock.answered.count((f"POST {route}", 500)) == MAX_SERVER_ERRORS * len(left(stock, node))
    assert rt.summary.exit_code == 0


def left(stock: Stock, node: str) -> list[State]:
    return [state for state in stock.states.values() if state.node_name == node and state.error]


@pytest.mark.parametrize(("node", "route"), LONE)
@pytest.mark.parametrize("grace", [20.0, 0.0], ids=["drain", "flush"])
async def test_a_stop_settles_a_lone_outcome_that_fails_within_seconds(
    stock: Stock, autojump_clock: MockClock, node: str, route: str, grace: float
) -> None:
    (state,) = stock.add(node)
    async with running(runtime(stock), registered=True) as rt:
        await trio.sleep(0.01)
        assert (f"POST {route}", 500) in stock.answered
        stopped_at = trio.current_time()
        rt.stop(grace)
    assert trio.current_time() - stopped_at < 2.5
    assert state.status == "RETRY_CREATED"
    assert (rt.summary.errored, rt.summary.exit_code) == (1, 0)


async def test_a_stop_ends_the_pause_of_an_outcome_that_fails(
    stock: Stock, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state,) = stock.add("Prunes")
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    async with running(runtime(stock), registered=True) as rt:
        await trio.sleep(20)  # in a pause of ten seconds
        assert state.status == "QUEUED"
        stopped_at = trio.current_time()
        rt.stop()
    assert trio.current_time() - stopped_at < 2
    assert state.status == "RETRY_CREATED"


async def test_a_drain_waits_for_a_database_that_is_away(stock: Stock, autojump_clock: MockClock) -> None:
    """Its answers are its own, and 500. The drain takes its time, and asks no more often than it has to."""
    stock.add("Work", n="0")
    async with running(runtime(stock), registered=True) as rt:
        await trio.sleep(0.5)
        stock.database_away = True
        await trio.sleep(5)
        rt.stop(20)
        await trio.sleep(15)
        probes = len(stock.answered)
        stock.database_away = False
    assert probes < 100
    assert rt.summary.completed == 1
    assert began == {"0": 1}


@pytest.mark.parametrize("kind", [V0Server, NativeServer])
async def test_a_drain_waits_for_a_state_manager_that_fails_with_every_outcome(
    autojump_clock: MockClock, kind: type[V0Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what it is, and registers nodes. It is sent no more while it fails than before the drain."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server, healthy_at = kind(Says=1), trio.current_time() + 20

    async def before(call: Call) -> Any:
        fails = call.route in ("executed", "outcomes") and trio.current_time() < healthy_at
        return reply(500) if fails else None

    server.before = before
    async with running(server, Says, registered=True) as rt:
        await trio.sleep(5)
        rt.stop(20)
        sent = len(server.calls)
        await trio.sleep(14)
        assert len(server.calls) - sent < 60
    assert rt.summary.completed == 1
