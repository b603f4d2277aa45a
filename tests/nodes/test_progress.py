"""The progress that a node reports: checked, and shown where operators look."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, GraphNodeModel, StateManager
from exotrio._wire.heartbeats import HeartbeatProgress
from exotrio.manager import open_service
from exotrio.manager.queries.runtimes import progress_of, runtimes_of
from exotrio.monitoring import Progress
from exotrio.testing import Executed, run_node
from tests.support.doubles import NativeServer, V0Server, running, runtime
from tests.support.manager import NO_SETTINGS, embedded_in


class Pages(BaseNode):
    """Says what it is told to, then waits."""

    class Inputs(BaseModel):
        fraction: str
        text: str

    async def execute(self) -> None:
        self.progress(float(self.inputs.fraction), self.inputs.text)
        await trio.sleep(60)


class Threaded(BaseNode):
    """The same in a thread."""

    reported = threading.Event()
    leave = threading.Event()

    def execute(self) -> None:
        self.progress(None, "in a thread")
        self.reported.set()
        assert self.leave.wait(100)


class Says(BaseNode):
    what: tuple[Any, ...] = ()

    async def execute(self) -> None:
        self.progress(*self.what)


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        ((0.4, "12 of 30 pages"), Progress(0.4, "12 of 30 pages")),
        ((0, ""), Progress(0.0, "")),
        ((1,), Progress(1.0, "")),
        ((None, "looking"), Progress(None, "looking")),
        ((0.5, "two\nlines\tand \x1b[31mred\x00"), Progress(0.5, "two lines and [31mred")),
        ((0.5, "to the \u202eleft \udcff"), Progress(0.5, "to the left")),
        ((0.5, "Größe 3 µm ✓"), Progress(0.5, "Größe 3 µm ✓")),
        ((0.5, "x" * 10_000_000), Progress(0.5, "x" * 200)),
    ],
)
async def test_progress_is_one_bounded_line_that_can_be_printed(
    reported: tuple[Any, ...], shown: Progress, autojump_clock: MockClock
) -> None:
    class Once(BaseNode):
        async def execute(self) -> None:
            self.progress(*reported)
            await trio.sleep(1)

    server = NativeServer(Once=1)
    async with running(server, Once) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(0.5)
        (state,) = rt.vitals.running
        assert state.progress == shown


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0.29, "29 of 100 pages"), "29 %: 29 of 100 pages"),
        (Progress(0.999), "99 %"),
        (Progress(1.0, "done"), "100 %: done"),
        (Progress(None, "looking"), "looking"),
    ],
)
def test_progress_is_shown_in_whole_percent_and_is_100_only_at_the_end(progress: Progress, text: str) -> None:
    assert str(progress) == text


@pytest.mark.parametrize(
    ("reported", "error"),
    [
        ((-0.1,), ValueError),
        ((1.5,), ValueError),
        ((math.nan,), ValueError),
        ((math.inf,), ValueError),
        (("half",), TypeError),
        ((True,), TypeError),
        ((0.5, 12), TypeError),
    ],
)
async def test_progress_that_makes_no_sense_is_an_error_of_the_node(
    reported: tuple[Any, ...], error: type[Exception]
) -> None:
    node = Says()
    node.what = reported
    with pytest.raises(error, match=r"progress: the (fraction|text)"):
        await node.execute()


async def test_secrets_are_masked_in_progress(autojump_clock: MockClock) -> None:
    reported: list[Progress | None] = []

    class Tells(BaseNode):
        class Secrets(BaseModel):
            token: str
            long: str

        async def execute(self) -> None:
            assert self._progress_view is not None
            self.progress(0.5, "x" * 390 + self.secrets.token)
            reported.append(self._progress_view.last)
            self.progress(0.5, self.secrets.long * 100)
            reported.append(self._progress_view.last)
            self.progress(0.5, f"with {self.secrets.token}")
            await trio.sleep(1)

    server = NativeServer()
    server.secrets = {"token": "sesame-4711-open", "long": "S" * 997}
    server.add("Tells")
    async with running(server, Tells) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(0.5)
        assert [state.progress for state in rt.vitals.running] == [Progress(0.5, "with ***")]
        assert not any("S" in str(progress) for progress in reported), "half of a secret"


async def test_a_node_outside_of_a_runtime_may_report_progress() -> None:
    class Alone(Says):
        what = (0.5, "half")

    await Alone().execute()
    assert await run_node(Alone) == Executed([])


async def test_heartbeats_carry_the_last_progress_of_what_runs(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.add("Pages", 2, fraction="0.25", text="a quarter")
    async with running(server, Pages, workers=1, grace=0, registered=True):
        await server.until(QUEUED=2)
        await trio.sleep(5)
        begun, waiting = server.routes("heartbeat")[-1].body["states"]
        assert begun["progress"] == {"fraction": 0.25, "text": "a quarter"}
        assert waiting["progress"] is None


async def test_a_thread_says_it_too() -> None:
    async with running(V0Server(Threaded=1), Threaded, registered=True, within=60) as rt:
        try:
            assert await trio.to_thread.run_sync(Threaded.reported.wait, 60)
            (state,) = rt.vitals.running
            assert state.progress == Progress(None, "in a thread")
            assert (state.node, state.identifier, state.run_id) == ("Threaded", "it", None)
        finally:
            Threaded.leave.set()
    assert rt.vitals.running == ()


async def test_the_state_manager_knows_the_progress_of_what_runs_and_forgets_it_afterwards(
    autojump_clock: MockClock,
) -> None:
    async with open_service(":memory:", settings=NO_SETTINGS) as service:

        async def known(namespace: str) -> dict[str, HeartbeatProgress]:
            return await service.store.read(lambda view: progress_of(view, runtimes_of(view, namespace)))

        transport = embedded_in(service)
        rt = runtime(transport, Pages)
        async with running(rt, registered=True), StateManager("ns", transport=transport) as manager:
            inputs = {"fraction": "0.5", "text": "half"}
            place = GraphNodeModel(node_name="Pages", namespace="ns", identifier="it", inputs=inputs)
            await manager.upsert_graph(Graph("g", nodes=[place]))
            run_id = (await manager.trigger("g"))["run_id"]
            await trio.sleep(5)
            (state,) = (await manager.run(run_id)).nodes
            (progress,) = (await known("ns")).items()
            assert (progress[0], progress[1].fraction, progress[1].text) == (state.id, 0.5, "half")
            assert await known("other") == {}
            await manager.wait(run_id)
            await trio.sleep(5)
            assert await known("ns") == {}


async def test_the_drain_logs_its_source_and_what_it_waits_for(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    server.add("Pages", 9, fraction="0.4", text="12 of 30 pages")
    rt = runtime(server, Pages, workers=7)
    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            await server.until(QUEUED=9)
            await trio.sleep(12)
            rt.stop(why="SIGTERM")
    first = next(iter(server.states))
    assert "asked to stop by SIGTERM: 7 running, 2 to be released unstarted" in caplog.text
    assert "; 20.0 s at most" in caplog.text
    at_risk = "waiting for 7 nodes, 1 min 24 s of work at risk"
    assert f"{at_risk}: state {first} (Pages as it) running 12.0 s, 40 %: 12 of 30 pages; " in caplog.text
    waiting = [message for message in caplog.messages if message.startswith("waiting for 7 nodes")]
    assert all(message.count("(Pages as it)") == 5 and " and 2 more" in message for message in waiting)
    assert 4 <= len(waiting) <= 5, "one now and then, for as long as it takes"
    at_risk = "waiting for 7 nodes, 3 min 44 s of work at risk"
    assert f"the grace is over; {at_risk}: state {first} (Pages as it) running 32.0 s" in caplog.text


async def test_a_cancelled_scope_is_logged_as_the_reason_for_no_drain(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    server.add("Pages", fraction="0", text="")
    rt = runtime(server, Pages)
    with caplog.at_level(logging.INFO):
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            await server.until(QUEUED=1)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    assert (
        "no time to drain: the cancellation of the scope around it; waiting for 1 node, 1.0 s of work"
        in caplog.text
    )
