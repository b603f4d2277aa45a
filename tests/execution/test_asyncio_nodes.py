"""Nodes with ``runs_in = "asyncio"``: one asyncio loop next to that of Trio, and how a node in it ends.

In real time, since threads are involved; where a timeout has to be over, the clock is advanced."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from itertools import chain, repeat
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio
from pydantic import BaseModel
from trio.testing import MockClock, wait_all_tasks_blocked

from exotrio import BaseNode, PruneSignal, ReQueueAfterSignal, Stopping
from exotrio._shared import deadlines
from exotrio.testing import Errored, Executed, Pruned, Requeued, run_node
from tests.support.doubles import NativeServer, V0Server, running, runtime
from tests.support.helpers import eventually

THREAD = "exotrio asyncio"
Jump = Callable[[float], None]


class Text(BaseModel):
    text: str


def node(execute: Any, name: str = "Node", **parts: Any) -> type[BaseNode]:
    return type(name, (BaseNode,), {"execute": execute, "Outputs": Text, "runs_in": "asyncio", **parts})


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.fixture(autouse=True)
def _no_loop_is_left() -> Iterator[None]:
    yield
    for thread in loop_threads():  # one that was not waited for, since this machine was busy
        thread.join(60)
    assert not loop_threads()


def jumping(mock_clock: MockClock) -> Jump:
    """Return a function that advances the clock of Trio, from any thread. It also follows real time."""
    mock_clock.rate = 1
    token = trio.lowlevel.current_trio_token()
    return lambda seconds: token.run_sync_soon(mock_clock.jump, seconds)


class Began:
    """An event for the Trio loop: node code was entered."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        self._token.run_sync_soon(self._event.set)

    async def wait(self) -> None:
        with trio.fail_after(600):
            await self._event.wait()


# -- running


async def test_a_node_runs_on_asyncio_with_its_inputs_secrets_and_context() -> None:
    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")

    class Inputs(BaseModel):
        name: str

    class Secrets(BaseModel):
        token: str

    async def execute(self: Any) -> Any:
        await asyncio.sleep(0)
        await anyio.lowlevel.checkpoint()  # anyio finds asyncio too
        assert not self.stopping
        seen = (sniffio.current_async_library(), threading.current_thread().name, place.get())
        return Text(text=f"{seen} {self.inputs.name} {self.secrets.token}")

    tested = node(execute, Inputs=Inputs, Secrets=Secrets)
    outcome = await run_node(tested, {"name": "Ada"}, secrets={"token": "abc"})
    assert outcome == Executed([{"text": "('asyncio', 'exotrio asyncio', 'here') Ada abc"}])


def test_a_loop_entered_through_anyio_does_not_pass_its_name_on() -> None:
    async def execute(self: BaseNode) -> Any:
        return Text(text=sniffio.current_async_library())

    outcome = anyio.run(run_node, node(execute), backend="trio")
    assert outcome == Executed([{"text": "asyncio"}])


async def test_a_node_talks_over_sockets_in_task_groups_within_timeouts() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def ask(port: int, word: str) -> str:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(f"{word}\n".encode())
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return line.decode().strip()

    async def execute(self: BaseNode) -> Any:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, asyncio.timeout(100), asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(port, word)) for word in ("one", "two")]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(100)
        process = await asyncio.create_subprocess_exec("true")
        assert await process.wait() == 0
        assert await asyncio.to_thread(sum, [1, 2]) == 3
        return Text(text=" ".join(task.result() for task in tasks))

    assert await run_node(node(execute)) == Executed([{"text": "ONE TWO"}])


async def test_nodes_run_at_once_in_one_loop_as_far_as_their_concurrency_allows() -> None:
    now: dict[str, int] = {"Free": 0, "Limited": 0}
    peak = dict(now)
    loops: set[int] = set()
    all_here = asyncio.Event()

    async def execute(self: BaseNode) -> None:
        name = type(self).__name__
        loops.add(id(asyncio.get_running_loop()))
        now[name] += 1
        peak[name] = max(peak[name], now[name])
        if peak["Free"] == 4:
            all_here.set()
        if name == "Free":
            await all_here.wait()
        await asyncio.sleep(0.001)
        now[name] -= 1

    server = V0Server(Free=8, Limited=6)
    async with running(
        server, node(execute, "Free"), node(execute, "Limited", concurrency=2), workers=6, within=60
    ):
        await server.until(EXECUTED=14)
    assert len(loops) == 1
    assert peak["Free"] >= 4
    assert peak["Limited"] <= 2


def test_asyncio_is_not_loaded_for_nodes_on_trio() -> None:
    code = (
        "import sys, trio, exotrio, exotrio.testing\n"
        "class N(exotrio.BaseNode):\n"
        "    async def execute(self): pass\n"
        "trio.run(exotrio.testing.run_node, N)\n"
        "print('asyncio' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout == "False\n"


@pytest.mark.parametrize("what", [lambda: asyncio.sleep(1), lambda: asyncio.sleep(0)])
async def test_an_asyncio_node_that_does_not_declare_it_gets_a_note(what: Any) -> None:
    async def execute(self: BaseNode) -> None:
        await what()

    outcome = await run_node(node(execute, runs_in="trio"))
    assert isinstance(outcome, Errored)
    hint = 'Node needs asyncio, but runs on Trio: give its class runs_in = "asyncio"'
    assert outcome.error.splitlines()[-1] == hint


# -- results


async def test_a_decorated_coroutine_function_is_awaited_in_the_loop() -> None:
    import functools

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def inner(self: BaseNode) -> Any:
            return function(self)

        return inner

    @decorate
    async def execute(self: BaseNode) -> Any:
        return Text(text=sniffio.current_async_library())

    assert await run_node(node(execute)) == Executed([{"text": "asyncio"}])


async def test_signals_are_outcomes_also_out_of_a_task_group() -> None:
    async def prunes(self: BaseNode) -> None:
        async with asyncio.TaskGroup():
            raise PruneSignal({"why": "old"})

    async def requeues(self: BaseNode) -> None:
        raise ReQueueAfterSignal(timedelta(seconds=9))

    assert await run_node(node(prunes)) == Pruned({"why": "old"})
    assert await run_node(node(requeues)) == Requeued(9.0)


async def test_the_error_text_has_the_frames_of_the_node_and_nothing_of_the_loops() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        int("x")

    async def execute(self: BaseNode) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            group.create_task(asyncio.sleep(100))
            await asyncio.sleep(100)

    outcome = await run_node(node(execute))
    assert isinstance(outcome, Errored)
    assert "ValueError: invalid literal" in outcome.error
    assert 'int("x")' in outcome.error
    assert "in execute" in outcome.error
    for foreign in ("asyncio_thread.py", "asyncio/", "trio/_core", "Cancelled"):
        assert foreign not in outcome.error


async def fails_by_itself() -> None:
    raise asyncio.CancelledError


async def exits() -> None:
    raise SystemExit(3)


async def exits_in_a_task() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())


async def stops_the_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    raise ValueError("the loop goes on")


@pytest.mark.parametrize("what", [fails_by_itself, exits, exits_in_a_task, stops_the_loop])
async def test_any_error_of_a_node_is_its_own_and_other_nodes_continue(what: Any) -> None:
    both_here = asyncio.Event()

    async def execute(self: BaseNode) -> Any:
        both_here.set()
        await what()

    async def goes_on(self: BaseNode) -> Any:
        await both_here.wait()
        await asyncio.sleep(0.005)
        return Text(text="fine")

    server = V0Server(Bad=1, Good=1)
    async with running(server, node(execute, "Bad"), node(goes_on, "Good"), within=60):
        await server.until(lambda: server.statuses() == {"ERRORED": 1, "EXECUTED": 1})


async def test_a_broken_loop_fails_its_nodes_and_the_next_node_gets_a_new_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise OSError("broken")

    async def execute(self: BaseNode) -> Any:
        asyncio.get_running_loop()._run_once = fail  # type: ignore[attr-defined]
        await asyncio.sleep(100)

    async def fine(self: BaseNode) -> None: ...

    server = V0Server(Breaks=1)
    async with running(server, node(execute, "Breaks"), node(fine, "Fine"), poll_interval=0.01, within=60):
        await server.until(lambda: server.statuses() == {"ERRORED": 1})
        server.add("Fine")
        await server.until(lambda: server.statuses() == {"ERRORED": 1, "EXECUTED": 1})
    assert "the asyncio loop ended while the node ran" in server.states["0" * 24].result
    assert "the asyncio loop failed" in caplog.text


# -- cancellation


class Cleaning:
    """A node that is cancelled and takes its time to clean up, as code for asyncio does it."""

    def __init__(self) -> None:
        self.began = Began()
        self.events: list[Any] = []
        cleaning = self

        async def execute(self: BaseNode) -> None:
            cleaning.began.set()
            try:
                async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                    group.create_task(asyncio.sleep(60))
            except asyncio.CancelledError as error:
                for _ in range(3):  # each of them would raise if it were cancelled again and again
                    await asyncio.sleep(0.002)
                cleaning.events.append((type(error), self.stopping))
                raise
            finally:
                await asyncio.to_thread(str)
                cleaning.events.append("clean")

        self.execute = execute

    async def jump_once_begun(self, jump: Jump) -> None:
        await self.began.wait()
        jump(30)

    async def ended(self) -> None:
        assert "clean" in self.events

    def learnt(self, why: Stopping) -> bool:
        return self.events == [(asyncio.CancelledError, why), "clean"]


async def test_when_the_drain_is_over_a_node_is_cancelled_once_and_cleans_up() -> None:
    cleaning = Cleaning()
    server = V0Server(Node=1)
    async with running(server, node(cleaning.execute), grace=0.05) as rt:
        await cleaning.began.wait()
    assert cleaning.learnt(Stopping.CANCELLING)
    assert server.statuses() == {"CREATED": 1}
    assert rt.summary.cancelled == 1
    assert rt.summary.exit_code == 0


async def test_a_node_that_ends_within_the_drain_is_reported() -> None:
    began = Began()

    async def execute(self: BaseNode) -> Any:
        began.set()
        while not self.stopping:  # noqa: ASYNC110 (this is how a node looks)
            await asyncio.sleep(0.001)
        return Text(text=self.stopping)

    server = V0Server(Node=1)
    async with running(server, node(execute)):
        await began.wait()
    assert server.states["0" * 24].result == [{"text": "draining"}]


async def test_a_timeout_cancels_the_node(mock_clock: MockClock) -> None:
    jump = jumping(mock_clock)
    cleaning = Cleaning()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cleaning.jump_once_begun, jump)
        outcome = await run_node(node(cleaning.execute, timeout=30))
    assert outcome == Errored("timed out after 30 s (timeout of Node)")
    assert cleaning.learnt(Stopping.TIMED_OUT)


@pytest.mark.parametrize(
    ("mark", "why"), [("lost", Stopping.LEASE_LOST), ("cancelled", Stopping.RUN_CANCELLED)]
)
async def test_a_lost_lease_and_a_cancelled_run_cancel_the_node(mark: str, why: Stopping) -> None:
    cleaning = Cleaning()
    server = NativeServer()
    server.ttl = 0.3
    (state,) = server.add("Node")
    async with running(server, node(cleaning.execute), within=60):
        await cleaning.began.wait()
        getattr(server, mark).add(state)
        await eventually(cleaning.ended)
    assert cleaning.learnt(why)


async def test_a_cancelled_scope_around_cancels_the_node() -> None:
    cleaning = Cleaning()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_node, node(cleaning.execute))
        await cleaning.began.wait()
        nursery.cancel_scope.cancel()
    assert [cleaning.events[0][0], cleaning.events[1]] == [asyncio.CancelledError, "clean"]


async def test_a_cancellation_before_the_first_step_runs_nothing() -> None:
    ran: list[str] = []

    async def execute(self: BaseNode) -> None:
        ran.append("a step")

    with trio.CancelScope() as scope:
        scope.cancel()
        await run_node(node(execute))
    assert scope.cancelled_caught
    assert not ran


async def test_a_value_returned_in_spite_of_the_cancellation_is_the_outcome(mock_clock: MockClock) -> None:
    jump = jumping(mock_clock)

    async def execute(self: BaseNode) -> Any:
        jump(30)
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return Text(text=self.stopping)

    assert await run_node(node(execute, timeout=30)) == Executed([{"text": "timed out"}])


# -- what does not end


class Swallowing:
    """A node that ignores its cancellation until it is released. The clock is advanced so that its timeout
    of 30 s, if it has one, is over, and then the time for its clean-up."""

    def __init__(self, jump: Jump) -> None:
        self.began = Began()
        self.release = False
        swallowing = self

        async def execute(self: BaseNode) -> Any:
            after = chain([5], repeat(0))  # no further at the end of the loop, which cancels too
            swallowing.began.set()
            jump(30 if self.timeout else 0)
            while not swallowing.release:
                try:
                    await asyncio.sleep(0.002)
                except asyncio.CancelledError:
                    jump(next(after))
            return Text(text="too late")

        self.execute = execute


async def test_a_node_that_ignores_its_cancellation_is_stuck_and_the_loop_continues(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    jump = jumping(mock_clock)
    swallowing = Swallowing(jump)

    async def late_end_is_logged() -> None:
        assert "(Node), stuck until now, returned in the asyncio loop; its result" in caplog.text

    async def quick(self: BaseNode) -> None: ...

    server = V0Server(Node=1)
    async with running(
        server, node(swallowing.execute, timeout=30), node(quick, "Quick"), poll_interval=0.01, within=600
    ) as rt:
        await server.until(lambda: server.statuses() == {"ERRORED": 1})
        server.add("Quick", 3)
        await server.until(lambda: server.statuses() == {"ERRORED": 1, "EXECUTED": 3})
        swallowing.release = True
        await eventually(late_end_is_logged)
    assert "(Node) is stuck: it goes on in the asyncio loop" in caplog.text
    assert "blocked" not in caplog.text
    assert rt.summary.completed == 3


async def test_too_many_stuck_nodes_keep_asyncio_nodes_from_being_begun_and_no_others(
    mock_clock: MockClock,
) -> None:
    jump = jumping(mock_clock)
    swallowing = Swallowing(jump)

    async def on_trio(self: BaseNode) -> None:
        await trio.lowlevel.checkpoint()

    server = V0Server(Node=6)
    async with running(
        server,
        node(swallowing.execute, timeout=30),
        node(on_trio, "OnTrio", runs_in="trio"),
        workers=1,
        batch_size=1,
        poll_interval=0.01,
        within=600,
    ):
        await server.until(ERRORED=4)
        server.add("OnTrio", 3)
        await server.until(lambda: server.statuses() == {"ERRORED": 4, "EXECUTED": 3, "CREATED": 2})
        assert server.routes("enqueue")[-1].body["nodes"] == ["OnTrio"]
        swallowing.release = True
        await server.until(EXECUTED=5)


async def test_a_stop_abandons_a_node_that_does_not_end_and_releases_its_state(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    jump = jumping(mock_clock)
    swallowing = Swallowing(jump)
    server = V0Server(Node=1)
    async with running(server, node(swallowing.execute), grace=0, within=600):
        await swallowing.began.wait()
    assert server.statuses() == {"CREATED": 1}
    assert "(Node), stuck until now, was ended with its loop in the asyncio loop" in caplog.text


async def test_a_blocked_loop_blocks_neither_trio_nor_the_stop(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    jump = jumping(mock_clock)
    release, began = threading.Event(), Began()

    async def blocks(self: BaseNode) -> None:
        began.set()
        release.wait(100)

    async def waits(self: BaseNode) -> None:
        raise AssertionError("this must not be begun")

    async def on_trio(self: BaseNode) -> None:
        await trio.lowlevel.checkpoint()

    server = V0Server(Blocks=1)
    on_asyncio = {"timeout": 30}
    async with running(
        server,
        node(blocks, "Blocks", **on_asyncio),
        node(waits, "Waits", **on_asyncio),
        node(on_trio, "OnTrio", runs_in="trio"),
        poll_interval=0.01,
        within=600,
    ):
        await began.wait()
        server.add("OnTrio", 3)
        server.add("Waits")
        await server.until(lambda: server.statuses() == {"EXECUTED": 3, "QUEUED": 2})
        for seconds in (30, 5):  # the timeouts, and the time for a clean-up
            await wait_all_tasks_blocked()
            jump(seconds)
        await server.until(lambda: server.statuses() == {"EXECUTED": 3, "ERRORED": 2})
        server.add("Waits")  # by now the loop is known to be blocked
        server.add("OnTrio")
        await server.until(EXECUTED=4)
        assert server.statuses() == {"EXECUTED": 4, "ERRORED": 2, "CREATED": 1}
    assert "the asyncio loop is blocked, by state 000000000000000000000000 (Blocks)" in caplog.text
    assert "its thread is left running" in caplog.text
    assert caplog.text.count("it goes on in the asyncio loop") == 1, "a node that was not begun is not stuck"
    release.set()


async def test_nodes_are_begun_again_once_the_loop_is_no_longer_blocked(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    jump = jumping(mock_clock)
    release, began, ran = threading.Event(), Began(), []

    async def blocks(self: BaseNode) -> None:
        began.set()
        release.wait(100)
        await asyncio.sleep(100)

    async def late(self: BaseNode) -> None:
        ran.append("although its time was over before it could begin")

    async def fine(self: BaseNode) -> None: ...

    server = V0Server(Blocks=1)
    rt = runtime(
        server,
        node(blocks, "Blocks", timeout=30),
        node(late, "Late", timeout=30),
        node(fine, "Fine"),
        poll_interval=0.01,
    )
    with caplog.at_level(logging.INFO), trio.fail_after(600):
        async with running(rt):
            await began.wait()
            server.add("Late")
            await server.until(lambda: server.statuses() == {"QUEUED": 2})
            for seconds in (30, 5):
                await wait_all_tasks_blocked()
                jump(seconds)
            await server.until(lambda: server.statuses() == {"ERRORED": 2})
            server.add("Fine")
            release.set()
            await server.until(lambda: server.statuses() == {"ERRORED": 2, "EXECUTED": 1})
    assert not ran
    assert "the asyncio loop runs again" in caplog.text
    assert "raised CancelledError in the asyncio loop; its result" in caplog.text


# -- the end of the loops


async def test_tasks_and_generators_that_nodes_left_end_with_the_loop() -> None:
    ended: list[str] = []
    kept: list[Any] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def goes_on() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("task")

    async def execute(self: BaseNode) -> None:
        kept.append(asyncio.create_task(goes_on()))
        kept.append(numbers())
        await kept[-1].__anext__()

    assert await run_node(node(execute)) == Executed([])
    assert ended == ["task", "generator"]


def test_a_loop_outlives_the_trio_loop_that_left_it_without_harm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(deadlines, "CLEAN_UP", 0)
    release = threading.Event()
    began: Any = None

    async def execute(self: BaseNode) -> None:
        began.set()
        release.wait(100)

    async def main() -> None:
        nonlocal began
        began = Began()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_node, node(execute))
            await began.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert "its thread is left running" in caplog.text
    release.set()


SCRIPT = """
import asyncio, sys, time
import trio
from exotrio import BaseNode
from exotrio._shared import deadlines
from exotrio.testing import run_node

deadlines.CLEAN_UP = 0.1

class Blocks(BaseNode):
    runs_in, timeout = "asyncio", 0.2

    async def execute(self):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        time.sleep(60)

print(trio.run(run_node, Blocks).error)
"""


def test_neither_a_blocked_loop_nor_a_hanging_thread_of_it_keeps_the_interpreter_from_exiting() -> None:
    began = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=50
    )
    assert out.stdout == "timed out after 0.2 s (timeout of Blocks)\n"
    assert time.monotonic() - began < 40
