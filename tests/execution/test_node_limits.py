"""``timeout`` and ``concurrency`` of node classes: what they do, and what they never do."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    ConfigurationError,
    Graph,
    GraphNodeModel,
    PruneSignal,
    ReQueueAfterSignal,
    RetryPolicyModel,
    Stopping,
)
from exotrio.monitoring import Health
from exotrio.testing import Errored, Executed, run_graph, run_node
from tests.support.doubles import NativeServer, V0Server, reply, running, runtime
from tests.support.helpers import eventually


class Text(BaseModel):
    text: str


def node(execute: Any, name: str = "Digest", **parts: Any) -> type[BaseNode]:
    return type(name, (BaseNode,), {"execute": execute, "Outputs": Text, **parts})


class Left(BaseNode):
    timeout = 60

    class Outputs(BaseModel):
        seconds: float

    async def execute(self) -> Any:
        return self.Outputs(seconds=self.seconds_left)


class LeftOnAsyncio(Left):
    runs_in = "asyncio"


class LeftInThread(Left):
    def execute(self) -> Any:
        return self.Outputs(seconds=self.seconds_left)


@pytest.mark.parametrize("node", [Left, LeftOnAsyncio, LeftInThread])
async def test_the_time_that_is_left_is_known_wherever_a_node_runs(node: type[Left]) -> None:
    for grace, least in ((None, 50), (20.0, 15)):
        (outputs,) = (await run_node(node, grace=grace)).outputs_of(node)
        assert least < outputs.seconds <= (grace or 60)
    unlimited = type(node.__name__, (node,), {"timeout": None})
    (outputs,) = (await run_node(unlimited)).outputs_of(node)
    assert outputs.seconds == math.inf


async def sleeps(self: BaseNode) -> None:
    await trio.sleep(100)


# -- what may be declared


class NotShown:
    def __repr__(self) -> str:
        raise ValueError("this object has no text")


@pytest.mark.parametrize(
    "timeout", [0, -1, math.nan, math.inf, 10**400, True, "30", timedelta(seconds=3), NotShown()]
)
def test_a_timeout_that_is_not_a_number_of_seconds_is_named(timeout: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Digest\.timeout is .*finite number of seconds above zero"):
        runtime(V0Server(), node(sleeps, timeout=timeout))


@pytest.mark.parametrize("concurrency", [0, -1, 1.0, True, "2"])
def test_a_concurrency_that_is_not_a_whole_number_is_named(concurrency: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Digest\.concurrency is .*at least 1"):
        runtime(V0Server(), node(sleeps, concurrency=concurrency))


# -- timeout


async def test_a_node_that_takes_longer_than_its_timeout_is_cancelled_and_errored(
    autojump_clock: MockClock,
) -> None:
    outcome = await run_node(node(sleeps, timeout=30))
    assert outcome == Errored("timed out after 30 s (timeout of Digest)")


@pytest.mark.parametrize(
    ("of_class", "of_graph", "limit"),
    [
        (None, {"timeout_minutes": 1}, "60 s (timeout_minutes of slow in its graph)"),
        (90, {"timeout_minutes": 1}, "60 s (timeout_minutes of slow in its graph)"),
        (30, {"timeout_minutes": 1}, "30 s (timeout of Slow)"),
        (90, {}, "90 s (timeout of Slow)"),
        (30, {"timeout": 60}, "60 s (timeout of slow in its graph)"),
        (90, {"timeout": 0.5}, "0.5 s (timeout of slow in its graph)"),
    ],
)
async def test_the_smaller_of_class_and_timeout_minutes_counts_or_the_timeout_in_the_graph(
    autojump_clock: MockClock, of_class: float | None, of_graph: dict[str, Any], limit: str
) -> None:
    slow = GraphNodeModel(node_name="Slow", namespace="n", identifier="slow", **of_graph)
    graph = Graph("g", [slow], retry_policy=RetryPolicyModel(max_retries=0))
    run = await run_graph(graph, [node(sleeps, "Slow", timeout=of_class)])
    (failed,) = run.errors
    assert failed == f"timed out after {limit}"


async def test_a_node_within_its_timeout_is_not_told_to_stop(autojump_clock: MockClock) -> None:
    async def execute(self: BaseNode) -> Any:
        await trio.sleep(29.9)
        return Text(text=str(bool(self.stopping)))

    assert await run_node(node(execute, timeout=30)) == Executed([{"text": "False"}])


async def test_a_timed_out_node_learns_why_and_cleans_up(autojump_clock: MockClock) -> None:
    learnt: list[Any] = []

    async def execute(self: BaseNode) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            learnt.append(self.stopping)

    assert isinstance(await run_node(node(execute, timeout=30)), Errored)
    assert learnt == [Stopping.TIMED_OUT]


async def test_a_value_returned_after_the_timeout_counts(autojump_clock: MockClock) -> None:
    async def execute(self: BaseNode) -> Any:
        with trio.CancelScope(shield=True):
            await trio.sleep(31)
        return Text(text="late")

    assert await run_node(node(execute, timeout=30)) == Executed([{"text": "late"}])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ValueError("broken"), "ValueError: broken"),
        (lambda: PruneSignal(), "PruneSignal"),
        (lambda: ReQueueAfterSignal(timedelta(1)), "ReQueueAfterSignal"),
    ],
)
async def test_anything_raised_after_the_timeout_is_reported_with_the_timeout(
    autojump_clock: MockClock, make: Any, text: str
) -> None:
    async def execute(self: BaseNode) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise make()

    outcome = await run_node(node(execute, timeout=0.5))
    assert isinstance(outcome, Errored)
    assert outcome.error.startswith("timed out after 0.5 s (timeout of Digest); it then raised\n")
    assert text in outcome.error


async def test_secrets_are_masked_in_what_a_timed_out_node_raises(autojump_clock: MockClock) -> None:
    class Secrets(BaseModel):
        token: str

    async def execute(self: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError(self.secrets.token)

    outcome = await run_node(node(execute, timeout=1, Secrets=Secrets), secrets={"token": "canary-secret"})
    assert isinstance(outcome, Errored)
    assert "canary-secret" not in outcome.error


async def test_a_cancellation_from_outside_is_not_a_timeout(autojump_clock: MockClock) -> None:
    outcome = None
    with trio.move_on_after(10) as scope:
        outcome = await run_node(node(sleeps, timeout=30))
    assert scope.cancelled_caught
    assert outcome is None


async def test_waiting_for_secrets_does_not_use_the_timeout_up(autojump_clock: MockClock) -> None:
    class Secrets(BaseModel):
        token: str

    async def slow(call: Any) -> None:
        if call.route == "secrets":
            await trio.sleep(20)

    async def execute(self: BaseNode) -> None:
        await trio.sleep(20)

    server = V0Server()
    server.secrets, server.before = {"token": "abc"}, slow
    server.add("Digest")
    async with running(server, node(execute, timeout=30, Secrets=Secrets)) as rt:
        await server.until(EXECUTED=1)
    assert rt.summary.completed == 1


async def run_and_stop_at(rt: Any, time: float, grace: float) -> None:
    """Stop ``time`` seconds after the start. Starting and claiming take no virtual time."""
    async with running(rt, grace=grace):
        await trio.sleep(time)


async def test_the_timeout_still_counts_while_draining(autojump_clock: MockClock) -> None:
    server = V0Server(Digest=1)
    rt = runtime(server, node(sleeps, timeout=30))
    await run_and_stop_at(rt, 20, grace=20)
    assert server.statuses() == {"ERRORED": 1}
    assert (rt.summary.errored, rt.summary.cancelled) == (1, 0)


@pytest.mark.parametrize(("stop_at", "status"), [(29.999, "CREATED"), (30, "ERRORED"), (30.001, "ERRORED")])
async def test_the_clock_decides_whether_the_stop_or_the_timeout_was_first(
    autojump_clock: MockClock, stop_at: float, status: str
) -> None:
    async def execute(self: BaseNode) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)  # the other reason comes during the clean-up

    server = V0Server(Digest=1)
    rt = runtime(server, node(execute, timeout=30))
    await run_and_stop_at(rt, stop_at, grace=0)
    assert server.statuses() == {status: 1}


@pytest.mark.parametrize("seed", range(10))
async def test_a_stop_in_the_very_moment_of_the_timeout_is_always_a_timeout(
    autojump_clock: MockClock, seed: int
) -> None:
    # Which task runs first in that moment is up to the scheduler.
    server = V0Server(Digest=4)
    rt = runtime(server, node(sleeps, timeout=30))
    await run_and_stop_at(rt, 30, grace=0)
    assert server.statuses() == {"ERRORED": 4}


# -- timeout of plain def nodes, in real time since threads are involved


class Hanging:
    """A plain ``def`` node that hangs until released, then returns."""

    def __init__(self, timeout: float = 0.05) -> None:
        self.release = threading.Event()
        self.reasons: list[Stopping] = []
        hanging = self

        def execute(self: BaseNode) -> Any:
            hanging.release.wait(100)
            hanging.reasons.append(self.stopping)
            return Text(text="too late")

        self.node = node(execute, timeout=timeout)


async def test_a_plain_node_learns_of_its_timeout_and_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    hanging = Hanging()
    server = V0Server(Digest=1)
    rt = runtime(server, hanging.node)

    async def late_end_is_logged() -> None:
        assert "(Digest), stuck until now, returned in its thread; its result is dropped" in caplog.text

    with caplog.at_level(logging.WARNING), trio.fail_after(60):
        async with running(rt):
            await server.until(ERRORED=1)
            hanging.release.set()
            await eventually(late_end_is_logged)
    assert hanging.reasons == [Stopping.TIMED_OUT]
    assert server.states["0" * 24].result == "timed out after 0.05 s (timeout of Digest)"
    assert (rt.summary.errored, rt.summary.completed) == (1, 0)


async def test_stuck_threads_occupy_no_worker() -> None:
    hanging = Hanging()
    server = V0Server(Digest=3, Quick=5)
    async with running(server, hanging.node, node(lambda self: None, "Quick"), workers=1, within=60):
        await server.until(lambda: server.statuses() == {"ERRORED": 3, "EXECUTED": 5})
    hanging.release.set()


async def test_too_many_stuck_threads_keep_plain_nodes_from_being_begun_and_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def quick(self: BaseNode) -> None:
        await trio.lowlevel.checkpoint()

    hanging = Hanging()
    server = V0Server(Digest=9)
    rt = runtime(server, hanging.node, node(quick, "Quick"), workers=1, batch_size=2, poll_interval=0.1)
    health = Health(rt)
    with caplog.at_level(logging.INFO), trio.fail_after(60):
        async with running(rt):
            await server.until(lambda: server.statuses() == {"ERRORED": 4, "CREATED": 5})
            server.add("Quick", 3)
            await server.until(EXECUTED=3)
            claimed_nodes = [call.body["nodes"] for call in server.routes("enqueue")]
            assert claimed_nodes[-1] == ["Quick"]
            assert server.statuses() == {"ERRORED": 4, "CREATED": 5, "EXECUTED": 3}
            assert health.ready() == "4 plain def nodes are stuck: no such node is begun"
            assert health.alive() == ""
            # The others return at once, which takes a busy machine longer than those were given.
            hanging.node.timeout = 60
            hanging.release.set()
            await server.until(lambda: server.statuses() == {"ERRORED": 4, "EXECUTED": 8})
            assert health.ready() == ""
    assert caplog.text.count("no such node is begun") == 1
    assert "plain def nodes are begun again" in caplog.text


async def test_a_plain_node_that_is_cancelled_before_its_timeout_has_time_to_return() -> None:
    began = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def execute(self: BaseNode) -> Any:
        token.run_sync_soon(began.set)
        wait = threading.Event()
        while self.stopping is not Stopping.CANCELLING:
            wait.wait(0.005)
        wait.wait(0.8)  # past the timeout
        return Text(text=str(self.stopping))

    server = V0Server(Digest=1)
    async with running(server, node(execute, timeout=0.6), grace=0, within=60):
        await began.wait()
    assert server.states["0" * 24].result == [{"text": "cancelling"}]


# -- concurrency


class LimitingServer(NativeServer):
    """Applies the limit of each node in a claim, and waits for a state of one of them."""

    async def _claim(self, body: Any) -> list[Any]:
        with trio.move_on_after(body["wait_ms"] / 1000):
            while not any(
                s.status == "CREATED" and s.node_name in body["limits"] for s in self.states.values()
            ):
                await self.changed.wait()
        return await super()._claim({**body, "wait_ms": 0})

    def take(self, nodes: Any, limit: int) -> list[Any]:
        taken: list[Any] = []
        for name, room in nodes.items():
            taken += super().take([name], min(room, limit - len(taken)))
        return taken


class Counting:
    """A node that counts how many of it run at once."""

    def __init__(self, name: str, concurrency: int | None, seconds: float = 1.0) -> None:
        self.running = self.peak = 0
        counting = self

        async def execute(self: BaseNode) -> None:
            counting.running += 1
            counting.peak = max(counting.peak, counting.running)
            try:
                await trio.sleep(seconds)
            finally:
                counting.running -= 1

        self.node = node(execute, name, concurrency=concurrency)


@pytest.mark.parametrize("make", [V0Server, LimitingServer])
async def test_no_more_than_its_concurrency_of_a_class_is_held_at_once(
    autojump_clock: MockClock, make: type[V0Server]
) -> None:
    limited, free = Counting("Limited", 2), Counting("Free", None)
    server = make()
    held: Counter[str] = Counter()

    async def count(call: Any) -> None:
        queued = Counter(state.node_name for state in server.states.values() if state.status == "QUEUED")
        held["peak"] = max(held["peak"], queued["Limited"])

    server.after = count
    server.add("Limited", 20)
    server.add("Free", 20)
    async with running(server, limited.node, free.node, workers=8, batch_size=16):
        await server.until(EXECUTED=40)
    assert limited.peak == 2
    assert free.peak >= 6
    # On the server a state is held until its report is in; the place here is free once the node ended.
    assert held["peak"] <= 4
    assert trio.current_time() < 16, "a place that was freed is filled at once"


@pytest.mark.parametrize("make", [V0Server, LimitingServer])
async def test_no_claim_is_made_while_no_class_has_room(
    autojump_clock: MockClock, make: type[V0Server]
) -> None:
    limited = Counting("Limited", 1, seconds=1000)
    server = make(Limited=3)
    async with running(server, limited.node, grace=0):
        await trio.sleep(900)
        assert len(server.routes("claim", "enqueue")) == 1
    assert server.statuses() == {"CREATED": 3}


async def test_a_class_that_has_room_again_does_not_wait_for_a_long_poll_to_end(
    autojump_clock: MockClock,
) -> None:
    limited, free = Counting("Limited", 1, seconds=3), Counting("Free", None)
    server = LimitingServer(Limited=2)
    rt = runtime(server, limited.node, free.node)
    # The free class has nothing to do, so its long poll would last 15 s.
    async with running(rt):
        await server.until(EXECUTED=2)
    assert trio.current_time() < 8


@pytest.mark.parametrize("make", [V0Server, LimitingServer])
async def test_a_full_class_and_an_idle_one_do_not_make_the_poller_spin(
    autojump_clock: MockClock, make: type[V0Server]
) -> None:
    limited, free = Counting("Limited", 1, seconds=100), Counting("Free", None)
    server = make(Limited=1)
    async with running(server, limited.node, free.node, poll_interval=1, grace=0):
        await trio.sleep(50)
        assert len(server.routes("claim", "enqueue")) <= 55


async def test_a_released_state_makes_room_for_another(autojump_clock: MockClock) -> None:
    class Secrets(BaseModel):
        token: str

    ran: list[str] = []

    async def execute(self: Any) -> None:
        ran.append(self.inputs.name)
        await trio.lowlevel.checkpoint()

    class Inputs(BaseModel):
        name: str

    async def no_secrets(call: Any) -> Any:
        return reply(500) if call.route == "secrets" and call.state_id == first else None

    server = V0Server()
    server.secrets = {"token": "abc"}
    server.before = no_secrets
    [first] = server.add("Digest", name="first")
    server.add("Digest", name="second")
    rt = runtime(server, node(execute, concurrency=1, Inputs=Inputs, Secrets=Secrets))
    # The first is released again and again, since its secrets cannot be fetched; each time the place is free.
    async with running(rt):
        await server.until(lambda: server.states[first].deliveries >= 2)
        server.states[first].status = "EXECUTED"
        await server.until(lambda: server.statuses() == {"EXECUTED": 2})
    assert ran == ["second"]
