"""What a runtime says of its stop: in its last heartbeats, and in its log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, HandOver
from exotrio.cli.exit_codes import exit_code_after
from tests.support.doubles import Call, Delays, Fails, NativeServer, V0Server, reply, running, runtime


class Works(BaseNode):
    """Runs for so many seconds; with a checkpoint it saves one each second."""

    class Checkpoint(BaseModel):
        second: int = 0

    seconds = 10.0
    saves = False
    hands_over = False

    async def execute(self) -> None:
        for second in range(int(self.seconds)):
            await trio.sleep(1)
            if self.saves:
                self.checkpoint = self.Checkpoint(second=second + 1)
            if self.hands_over and self.stopping:
                raise HandOver


class HasSecrets(BaseNode):
    """Has secrets, which are fetched before it begins."""

    class Secrets(BaseModel):
        key: str

    async def execute(self) -> None:
        pass


@pytest.fixture(autouse=True)
def fresh() -> None:
    Works.seconds, Works.saves, Works.hands_over = 10.0, False, False


def said(server: NativeServer, phase: str = "stopped") -> dict[str, Any]:
    """Return what the last heartbeat of this phase said of the stop."""
    report: dict[str, Any] = [
        call.body for call in server.routes("heartbeat") if call.body["phase"] == phase
    ][-1]["stop"]
    return report


async def test_heartbeats_say_how_the_stop_goes_so_that_a_kill_in_it_hides_nothing(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer(Works=1)
    server.ttl = 3.0
    async with running(server, Works) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(2.5)
        assert server.routes("heartbeat")[-1].body["stop"] is None
        rt.stop(5, why="SIGTERM")
        await trio.sleep(4.4)
        draining = said(server, "draining")
        assert (draining["why"], draining["finished"], draining["cut"]) == ("SIGTERM", 0, 0)
        assert 3_000 < draining["took_ms"] == draining["drain_ms"] < 4_400
        rt.stop(0, why="SIGINT")
    stopped = said(server)
    assert (stopped["why"], stopped["shortened_by"]) == ("SIGTERM", "SIGINT")
    assert (stopped["cut"], round(stopped["work_lost_ms"], -2)) == (1, 6_900)
    assert (round(stopped["drain_ms"], -2), stopped["clean_up_ms"] is not None) == (4_400, True)


async def test_a_checkpoint_whose_release_was_not_delivered_keeps_no_work(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    Works.saves, Works.seconds = True, 60.0
    server = NativeServer(Works=1)
    with caplog.at_level(logging.INFO):
        async with running(server, Works, grace=0) as rt:
            await server.until(QUEUED=1)
            await trio.sleep(7)
            server.before = Fails()
            await trio.sleep(33.5)
    assert rt.summary.abandoned == 1
    (line,) = (line for line in caplog.messages if " stopped after " in line)
    lost = float(line.split(" cut, ")[1].split(" s of work lost")[0])
    assert 34 < lost < 40.5


async def test_a_state_whose_node_has_not_begun_is_released_at_once_though_a_worker_has_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer(Works=1, HasSecrets=2)
    server.secrets = {"key": "a secret"}
    server.before = Delays(("secrets",), seconds=8)
    with caplog.at_level(logging.INFO):
        async with running(server, Works, HasSecrets, workers=3) as rt:
            await server.until(QUEUED=3)
            await trio.sleep(1)
            rt.stop(why="SIGTERM")
            await server.until(CREATED=2)
            assert trio.current_time() < 3, "not once the secrets are there"
    assert "asked to stop by SIGTERM: 1 running, 2 to be released unstarted" in caplog.text
    assert "running 0 ms" not in caplog.text
    assert (rt.summary.released, rt.summary.completed) == (2, 1)
    assert (said(server)["finished"], said(server)["cut"]) == (1, 0)


async def test_the_last_heartbeat_is_not_part_of_the_flush_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    with caplog.at_level(logging.INFO):
        async with running(server, Works):
            await server.until(lambda: server.routes("heartbeat"))
            await trio.sleep(0.5)
            server.before = Delays(("heartbeat",), seconds=0.7)
    (line,) = (line for line in caplog.messages if " stopped after " in line)
    assert "flush" not in line, "there was nothing to deliver"


async def test_any_text_may_name_the_source_of_a_stop(autojump_clock: MockClock) -> None:
    server = NativeServer(Works=1)
    async with running(server, Works) as rt:
        await server.until(QUEUED=1)
        rt.stop(why="file \udc80")
    assert (said(server)["why"], rt.summary.completed) == (r"file \udc80", 1)


@pytest.mark.parametrize(("saves", "lost_ms"), [(False, 4_500), (True, 500)])
async def test_work_that_a_checkpoint_keeps_is_not_lost(
    autojump_clock: MockClock, saves: bool, lost_ms: int
) -> None:
    Works.saves = saves
    server = NativeServer(Works=1)
    async with running(server, Works, grace=0) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(4.5)
    assert rt.summary.cancelled == 1
    stopped = said(server)
    assert (stopped["cut"], round(stopped["work_lost_ms"], -2)) == (1, lost_ms)


async def test_a_node_that_hands_over_is_not_cut(autojump_clock: MockClock) -> None:
    Works.hands_over = True
    server = NativeServer(Works=2)
    async with running(server, Works, workers=2):
        await server.until(QUEUED=2)
        await trio.sleep(0.5)
    stopped = said(server)
    assert [stopped[name] for name in ("finished", "handed_over", "cut", "work_lost_ms")] == [0, 2, 0, 0]


async def test_a_stop_begins_when_it_is_requested_even_if_the_loop_is_blocked_then(
    autojump_clock: MockClock,
) -> None:
    class Blocks(BaseNode):
        async def execute(self) -> None:
            rt.stop(why="SIGTERM")  # as a signal handler does, in the middle of node code
            autojump_clock.jump(7)

    server = NativeServer(Blocks=1)
    rt = runtime(server, Blocks)
    await rt.run()
    stopped = said(server)
    assert stopped["took_ms"] - stopped["drain_ms"] - stopped["flush_ms"] == pytest.approx(7_000, abs=5)


async def test_a_process_that_ends_with_its_runtime_says_its_exit_code(autojump_clock: MockClock) -> None:
    server = NativeServer(Works=1)
    rt = runtime(server, Works)
    rt.adjust(exit_code=exit_code_after)
    async with running(rt):
        await server.until(QUEUED=1)
        await trio.sleep(1)
        server.before = Fails(("outcomes", "release"), lambda: reply(503))
        rt.stop(0)
    stopped = said(server)
    assert (stopped["exit_code"], stopped["abandoned"], stopped["cut"]) == (75, 1, 1)
    assert stopped["work_lost_ms"] > 900


async def test_a_failure_is_named_but_not_quoted(autojump_clock: MockClock) -> None:
    async def fails(call: Call) -> None:
        if call.route == "claim" and server.routes("heartbeat"):
            raise ArithmeticError("a secret of the program")

    server = NativeServer()
    server.before = fails
    rt = runtime(server, Works)
    rt.adjust(exit_code=exit_code_after)
    with pytest.raises(ArithmeticError):
        await rt.run()
    stopped = said(server)
    assert (stopped["why"], stopped["exit_code"]) == ("a failure (ArithmeticError)", 1)


async def test_the_log_has_the_receipt_also_where_it_cannot_be_delivered(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Works.seconds = 4

    async def hangs(call: Call) -> None:
        if call.route == "heartbeat":
            await trio.sleep_forever()

    took = []
    for server in (V0Server(Works=1), NativeServer(Works=1)):
        if isinstance(server, NativeServer):
            server.before = hangs
        async with running(server, Works) as rt:
            await server.until(QUEUED=1)
            await trio.sleep(1)
            began = trio.current_time()
            rt.stop(15, why="x" * 1_000)
        took.append(trio.current_time() - began)
        line = [record.getMessage() for record in caplog.records if " stopped " in record.getMessage()][-1]
        assert "xxx...; drain 3.0 s" in line
        assert line.partition("): ")[2].startswith(
            "1 node finished, 0 handed over, 0 cut, no work lost; completed 1, errored attempts 0, released 0"
        )
    assert took[1] == pytest.approx(took[0], abs=0.5), "it is no reason to wait longer"


async def test_outcomes_that_do_not_arrive_are_not_called_work_that_is_not_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Works.seconds = 1
    server = NativeServer(Works=1)
    server.before = Fails(("outcomes", "release"), lambda: reply(503))
    async with running(server, Works) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(2)
        rt.stop(5)
    line = [record.getMessage() for record in caplog.records if " stopped " in record.getMessage()][-1]
    assert "0 cut, 1 state abandoned, to run again; completed 0" in line
