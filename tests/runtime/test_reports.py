"""Claiming and reporting: repeated, refused, held back; nothing is reported as what it was not."""

from __future__ import annotations

import gc
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, NoRetry, PruneSignal
from exotrio._execution.handle import Execution
from tests.support.doubles import (
    Call,
    Delays,
    Fails,
    NativeServer,
    State,
    V0Server,
    reply,
    running,
    runtime,
)


class Says(BaseNode):
    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Any:
        return self.Outputs(text="done")


class Instant(BaseNode):
    async def execute(self) -> None:
        pass


class Prunes(BaseNode):
    async def execute(self) -> None:
        raise PruneSignal({"why": "no"})


class Broken(BaseNode):
    async def execute(self) -> None:
        raise ValueError("broken")


def closed() -> httpx.Response | Exception:
    return httpx.ReadError("test: connection lost")


def html() -> httpx.Response:
    return httpx.Response(502, content=b"<html>bad gateway</html>")


def _executions() -> int:
    return sum(isinstance(each, Execution) for each in gc.get_objects())


@pytest.mark.parametrize("node", [Says, Prunes])
async def test_what_was_reported_is_freed_without_the_garbage_collector(
    autojump_clock: MockClock, node: type[BaseNode]
) -> None:
    # A cycle of references in each state once took a seventh of a runtime's processor time, to be found.
    server = NativeServer()
    for _ in range(20):
        server.add(node.__name__)
    gc.collect()  # what earlier tests left
    before = _executions()
    gc.disable()
    try:
        async with running(server, node, workers=2):
            await server.until(lambda: not server.statuses().keys() & {"CREATED", "QUEUED"})
            await trio.sleep(1)
            kept = _executions() - before
    finally:
        gc.enable()
    assert kept < 10, "the workers and the reporter have their last ones; a cycle would keep all twenty"


@pytest.mark.parametrize(
    "make",
    [
        lambda: httpx.ConnectError("refused"),
        closed,
        html,
        lambda: reply(500),
        lambda: reply(503),
        lambda: reply(429),
    ],
)
async def test_a_report_that_fails_is_repeated_and_never_becomes_an_error(
    autojump_clock: MockClock, make: Any
) -> None:
    server = V0Server()
    server.before = Fails(("executed",), make, times=6)
    server.add("Says")
    async with running(server, Says) as rt:
        await server.until(EXECUTED=1)
    assert not server.routes("errored")
    assert rt.summary.completed == 1


async def test_a_report_whose_answer_was_lost_is_settled_by_the_next_try(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.after = Fails(("executed",), closed, times=1)
    server.add("Says")
    async with running(server, Says) as rt:
        await server.until(lambda: len(server.routes("executed")) == 2)
    assert server.statuses() == {"EXECUTED": 1}
    assert not server.routes("errored", "re-enqueue-after")
    assert rt.summary.exit_code == 0


class Sleeps(BaseNode):
    async def execute(self) -> None:
        await trio.sleep(5)


@pytest.mark.parametrize("make", [lambda: reply(404), lambda: reply(400), lambda: reply(409)])
@pytest.mark.parametrize("kind", [V0Server, NativeServer])
async def test_a_gateway_without_a_route_costs_nothing_but_time(
    autojump_clock: MockClock, kind: type[V0Server], make: Any
) -> None:
    server = kind(Sleeps=3)
    async with running(server, Sleeps, workers=2, registered=True) as rt:
        await server.until(QUEUED=3)
        server.before = Fails((), make)
        await trio.sleep(30)
        server.before = None
        await server.until(EXECUTED=3)
        before = len(server.calls)
        server.add("Sleeps")
        await server.until(EXECUTED=4)
        used = {call.route for call in server.calls[before:]}
    assert ({"claim", "outcomes"} if kind is NativeServer else {"enqueue", "executed"}) <= used
    assert rt.summary.completed == 4
    assert rt.summary.lost_claims == rt.summary.dropped == rt.summary.lost_leases == 0


@pytest.mark.parametrize("kind", [V0Server, NativeServer])
async def test_a_result_that_only_a_gateway_refused_until_the_stop_is_named_and_not_dropped(
    autojump_clock: MockClock, kind: type[V0Server]
) -> None:
    server = kind()
    (state,) = server.add("Sleeps")
    async with running(server, Sleeps, registered=True) as rt:
        await server.until(QUEUED=1)
        server.before = Fails((), lambda: reply(404))
        await trio.sleep(10)
    assert (rt.summary.dropped, rt.summary.left_behind, rt.summary.exit_code) == (0, (state,), 75)


async def test_a_runtime_waits_for_a_state_manager_behind_a_gateway_without_a_route(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.before = Fails((), lambda: reply(404))
    server.add("Says")
    async with running(server, Says):
        await trio.sleep(30)
        server.before = None
        await server.until(EXECUTED=1)
    assert server.routes("outcomes")


@pytest.mark.parametrize(("kind", "status"), [(V0Server, 429), (NativeServer, 503)])
@pytest.mark.parametrize("routes", [("claim", "enqueue"), ("nodes",), ("executed", "outcomes")])
async def test_retry_after_of_a_claim_a_registration_and_a_report_is_honoured(
    autojump_clock: MockClock, kind: type[V0Server], status: int, routes: tuple[str, ...]
) -> None:
    server = kind()
    server.before = Fails(routes, lambda: reply(status, **{"Retry-After": "90"}), times=1)
    server.add("Says")
    async with running(server, Says) as rt:
        await server.until(EXECUTED=1)
    assert trio.current_time() >= 90
    assert rt.summary.lost_claims == 0


@pytest.mark.parametrize("status", [413, 422])
async def test_a_result_that_is_refused_is_reported_as_an_error_once(
    autojump_clock: MockClock, status: int
) -> None:
    server = V0Server()
    server.before = Fails(("executed",), lambda: reply(status))
    (state,) = server.add("Says")
    async with running(server, Says) as rt:
        await server.until(ERRORED=1)
    assert "refused what the node returned" in server.states[state].result
    assert rt.summary.errored == 1


async def test_of_an_error_that_is_refused_the_message_is_reported_once(autojump_clock: MockClock) -> None:
    async def refuse_large(call: Call) -> httpx.Response | None:
        is_large = call.route == "outcomes" and any(len(item["error"]) > 10_000 for item in call.body)
        return reply(413) if is_large else None

    class Declined(BaseNode):
        async def execute(self) -> None:
            raise NoRetry("no such card\n" + "x" * 5_000) from ValueError("y" * 20_000)

    server = NativeServer()
    server.before = refuse_large
    server.add("Declined")
    async with running(server, Declined) as rt:
        await server.until(ERRORED=1)
    item = server.routes("outcomes")[-1].body[0]
    error = item["error"]
    assert "no such card" in error
    assert "refused more of this error" in error
    assert "413" in error
    assert item["retry"] is False
    assert (rt.summary.errored, rt.summary.exit_code) == (1, 0)


async def test_a_state_whose_error_is_refused_too_is_abandoned_and_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    server.before = Fails(("executed", "errored"), lambda: reply(422))
    (state,) = server.add("Says")
    async with running(server, Says) as rt:
        await server.until(lambda: len(server.routes("errored")) == 1)
    assert rt.summary.abandoned == 1
    assert rt.summary.left_behind == (state,)
    assert rt.summary.exit_code == 75
    assert state in caplog.text


@pytest.mark.parametrize("status", [404, 409, 400])
async def test_a_report_for_a_state_that_is_no_longer_ours_is_dropped(
    autojump_clock: MockClock, status: int
) -> None:
    server = V0Server()
    server.before = Fails(("executed",), lambda: reply(status))
    server.add("Says")
    async with running(server, Says) as rt:
        await server.until(lambda: len(server.routes("executed")) == 1)
    assert rt.summary.dropped == 1
    assert rt.summary.exit_code == 0
    assert not server.routes("errored")


async def test_one_item_that_fails_does_not_hold_up_the_others(autojump_clock: MockClock) -> None:
    server = V0Server()
    states = server.add("Says", 40)
    server.before = Fails(
        ("executed",), lambda: reply(503, **{"Retry-After": "3600"}), state_ids=frozenset(states[:1])
    )
    async with running(server, Says, workers=1):
        await server.until(EXECUTED=39)
    assert trio.current_time() < 60


@pytest.mark.parametrize("kind", [V0Server, NativeServer])
async def test_after_an_outage_all_outcomes_are_sent_once_the_first_got_through(
    autojump_clock: MockClock, kind: type[V0Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = iter([1.0])
    monkeypatch.setattr("random.uniform", lambda low, high: high if low else next(first, 9.0))
    server = kind()
    server.before = away = Fails(("executed", "outcomes"))
    server.add("Says", 8)
    async with running(server, Says, batch_size=8, workers=8):
        await trio.sleep(0.9)
        assert away.count
        away.times = 0
        await server.until(EXECUTED=8)
    assert trio.current_time() < 2


async def test_an_outcome_that_fails_while_others_get_through_keeps_to_its_pauses(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Naps(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(0.01)

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server = V0Server()
    states = server.add("Naps", 40)
    server.before = fails = Fails(("executed",), state_ids=frozenset(states[:1]))
    async with running(server, Naps, batch_size=40, workers=1):
        await trio.sleep(0.4)
        assert server.statuses()["EXECUTED"] > 30
        assert fails.count == 2


async def test_outcomes_and_releases_that_alternate_are_delivered_in_few_requests(
    autojump_clock: MockClock,
) -> None:
    begun: list[int] = []

    class Ends(BaseNode):
        async def execute(self) -> None:
            begun.append(len(begun))
            number = begun[-1]
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                with trio.CancelScope(shield=True):
                    await trio.sleep(4 + number / 100)
                if number % 2 == 0:
                    raise

    server = NativeServer(Ends=64)
    server.before = Delays(("outcomes", "release"), 0.1)
    async with running(server, Ends, workers=64, batch_size=64, grace=0) as rt:
        await server.until(lambda: len(begun) == 64)
    assert (rt.summary.completed, rt.summary.cancelled, rt.summary.exit_code) == (32, 32, 0)
    assert len(server.routes("outcomes", "release")) < 16


async def test_twice_as_many_reports_as_workers_are_in_flight_at_once_and_no_more(
    autojump_clock: MockClock,
) -> None:
    in_flight, peak = 0, 0

    async def take_long(call: Call) -> None:
        nonlocal in_flight, peak
        if call.route == "executed":
            in_flight += 1
            peak = max(peak, in_flight)
            await trio.sleep(1)
            in_flight -= 1

    server = V0Server()
    server.before = take_long
    server.add("Instant", 30)
    async with running(server, Instant, workers=3):
        await server.until(EXECUTED=30)
    assert peak == 6


async def test_a_release_whose_answer_is_lost_is_not_repeated_and_is_unknown(
    autojump_clock: MockClock,
) -> None:
    class Waits(BaseNode):
        async def execute(self) -> None:
            await trio.sleep_forever()

    server = V0Server()
    (state,) = server.add("Waits")
    server.before = Fails(("re-enqueue-after",), closed)
    async with running(server, Waits, grace=0) as rt:
        await server.until(QUEUED=1)
    assert len(server.routes("re-enqueue-after")) == 1
    assert rt.summary.unknown == 1
    assert rt.summary.left_behind == (state,)
    assert rt.summary.exit_code == 75


async def test_claiming_stops_while_results_cannot_be_delivered_and_goes_on_afterwards(
    autojump_clock: MockClock,
) -> None:
    server = V0Server(Says=100)
    server.before = Fails(("executed",))
    async with running(server, Says, workers=2, batch_size=4):
        await trio.sleep(100)
        # Undelivered, waiting, running: the last claim may be made before any of the former has failed.
        assert server.statuses()["QUEUED"] <= (4 + 2) + 4 + 2
        server.before = None
        await server.until(EXECUTED=100)


async def test_more_failing_reports_than_workers_stop_the_claims(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.before = Fails(("executed",))
    async with running(server, Says, workers=2):
        for _ in range(10):
            server.add("Says")
            await trio.sleep(20)
        assert server.statuses() == {"QUEUED": 3, "CREATED": 7}
        server.before = None
        await server.until(EXECUTED=10)


async def test_never_more_is_claimed_than_there_is_room_for(autojump_clock: MockClock) -> None:
    class Slow(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(5)

    server = V0Server(Slow=50)
    async with running(server, Slow, workers=3, batch_size=7):
        for _ in range(50):
            await trio.sleep(1)
            assert server.statuses()["QUEUED"] <= 10


async def test_a_full_batch_is_followed_by_the_next_claim_at_once(autojump_clock: MockClock) -> None:
    server = V0Server(Says=200)
    async with running(server, Says, poll_interval=1000):
        await server.until(EXECUTED=200)
    assert trio.current_time() < 1


async def test_states_that_a_report_made_claimable_are_claimed_without_waiting(
    autojump_clock: MockClock,
) -> None:
    server = V0Server()

    async def child(call: Call) -> None:
        if call.route == "executed" and len(server.states) < 10:
            server.add("Says")

    server.after = child
    server.add("Says")
    async with running(server, Says, poll_interval=1000):
        await server.until(EXECUTED=10)
    assert trio.current_time() < 1


async def test_states_that_come_while_a_node_runs_are_claimed_at_once_by_a_long_poll(
    autojump_clock: MockClock,
) -> None:
    begun: list[float] = []

    class Slow(BaseNode):
        async def execute(self) -> None:
            begun.append(trio.current_time())
            await trio.sleep(100)

    server = NativeServer()
    async with running(server, Slow, poll_interval=1000, registered=True):
        for _ in range(3):
            await trio.sleep(7)
            server.add("Slow")
        await server.until(EXECUTED=3)
    assert begun == [7, 14, 21]


async def test_an_idle_v0_poll_asks_for_few_states_until_something_comes(autojump_clock: MockClock) -> None:
    server = V0Server()
    async with running(server, Says, workers=3):
        await trio.sleep(9.5)
        limits = [call.body["batch_size"] for call in server.routes("enqueue")]
        assert limits == [16] + [3] * 9
        server.add("Says", 3)
        await server.until(EXECUTED=3)
        await trio.sleep(0.1)
        assert [call.body["batch_size"] for call in server.routes("enqueue")][10:12] == [3, 16]


async def test_an_outage_of_claims_is_logged_once_and_so_is_its_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="exotrio.poller")
    server = V0Server()
    async with running(server, Says, registered=True):
        server.before = Fails(("enqueue", "discovery"))
        await trio.sleep(120)
        server.before = None
        server.add("Says")
        await server.until(EXECUTED=1)
    lines = [r.getMessage() for r in caplog.records if r.name == "exotrio.poller"]
    assert len(lines) == 2
    assert "claiming states fails" in lines[0]
    assert "works again" in lines[1]


async def test_a_refused_key_keeps_the_results_and_stops_claiming_until_it_is_accepted(
    autojump_clock: MockClock,
) -> None:
    server = V0Server(Says=1)
    server.before = Fails(("executed",), lambda: reply(401))
    async with running(server, Says):
        await server.until(lambda: len(server.routes("executed")) == 1)
        claims = len(server.routes("enqueue"))
        await trio.sleep(100)
        assert len(server.routes("enqueue")) <= claims + 1
        server.before = None
        server.add("Says")
        await server.until(EXECUTED=2)
    assert not server.routes("errored")


async def test_outcomes_travel_in_batches_where_the_link_can(autojump_clock: MockClock) -> None:
    server = NativeServer(Says=48, Prunes=1, Broken=1)
    server.after = Delays(("outcomes",), 1)
    async with running(server, Says, Prunes, Broken) as rt:
        await server.until(lambda: not server.statuses()["CREATED"] and not server.statuses()["QUEUED"])
    assert server.statuses() == {"EXECUTED": 48, "PRUNED": 1, "ERRORED": 1}
    assert len(server.routes("outcomes")) < 25
    assert (rt.summary.completed, rt.summary.pruned, rt.summary.errored) == (48, 1, 1)


@pytest.mark.parametrize("count", [2, 4])
async def test_outcomes_of_nodes_that_end_at_the_same_moment_share_a_request(
    autojump_clock: MockClock, count: int
) -> None:
    server = NativeServer()
    server.add("Sleeps", count, seconds="1")
    async with running(server, Sleeps, workers=4):
        await server.until(EXECUTED=count)
    assert len(server.routes("outcomes")) == 1


async def test_short_nodes_take_few_requests(autojump_clock: MockClock) -> None:
    """At a server that answers at once, too: each request costs more than a state."""
    server = NativeServer(Instant=800)
    async with running(server, Instant):
        await server.until(EXECUTED=800)
    assert len(server.routes("outcomes")) < 800 / 7
    # A busy runtime claims with its reports.
    assert len(server.routes("claim")) < 10


@pytest.mark.parametrize("seconds", [0.1, 20.0])
async def test_outcomes_that_come_while_a_batch_is_under_way_go_into_the_next_one_unless_the_first_hangs(
    autojump_clock: MockClock, seconds: float
) -> None:
    async def take_long(call: Call) -> None:
        if call.route == "outcomes" and len(server.routes("outcomes")) == 1:
            on_its_way.set()
            await trio.sleep(seconds)

    on_its_way = trio.Event()
    server = NativeServer()
    server.before = take_long
    rt = runtime(server, Says, workers=2, batch_size=32)
    server.add("Says")
    async with running(rt):
        await on_its_way.wait()
        began = trio.current_time()
        server.add("Says", 3)
        await server.until(lambda: server.statuses()["EXECUTED"] >= 3)
        assert trio.current_time() - began < 1
        await server.until(EXECUTED=4)
    assert [len(call.body) for call in server.routes("outcomes")] == [1, 3]


async def test_two_batches_that_hang_hold_up_nothing_behind_them(autojump_clock: MockClock) -> None:
    server = NativeServer(Says=1)
    server.before = Delays(("outcomes",), 20, times=2)
    async with running(server, Says, workers=2):
        for number in (2, 3):
            await trio.sleep(3)
            assert len(server.routes("outcomes")) == number - 1
            server.add("Says")
        await trio.sleep(3)
        assert server.statuses() == {"EXECUTED": 1, "QUEUED": 2}
        await server.until(EXECUTED=3)


async def test_a_link_that_breaks_over_one_item_fails_that_item_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exotrio._link.auto import AutoLink

    def breaking(real: Any) -> Any:
        async def broken(self: AutoLink, items: Any, *more: Any) -> Any:
            if any(c.state_id == bad and type(outcome).__name__ == "Executed" for c, outcome in items):
                raise ZeroDivisionError("a defect of the link")
            return await real(self, items, *more)

        return broken

    for name in ("report", "exchange"):
        monkeypatch.setattr(AutoLink, name, breaking(getattr(AutoLink, name)))
    server = NativeServer()
    bad, *good = server.add("Says", 5)
    async with running(server, Says):
        await server.until(lambda: not server.statuses()["QUEUED"] and not server.statuses()["CREATED"])
    assert server.states[bad].status == "ERRORED"
    assert all(server.states[state].status == "EXECUTED" for state in good)


async def test_states_that_were_not_requested_are_released(autojump_clock: MockClock) -> None:
    class Generous(V0Server):
        def take(self, nodes: Any, limit: int) -> list[State]:
            return super().take(nodes, 40 if not self.routes("re-enqueue-after") else limit)

    server = Generous()
    server.add("Says", 40)
    async with running(server, Says, batch_size=4, workers=2) as rt:
        await server.until(lambda: server.statuses() == {"EXECUTED": 40})
    assert rt.summary.completed == 40
    assert rt.summary.released > 0
    assert rt.summary.exit_code == 0


async def test_empty_claims_do_not_prove_that_a_result_is_refused(autojump_clock: MockClock) -> None:
    server = V0Server()
    began = trio.current_time()

    async def outage(call: Call) -> httpx.Response | None:
        down = call.route in {"executed", "errored"} and trio.current_time() < began + 60
        return httpx.Response(500, json={"success": False, "detail": "no"}) if down else None

    server.before = outage
    server.add("Says", 3)
    async with running(server, Says) as rt:
        await server.until(lambda: server.statuses() == {"EXECUTED": 3})
    assert (rt.summary.completed, rt.summary.abandoned) == (3, 0)
