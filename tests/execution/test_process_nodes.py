"""Nodes with ``runs_in = "process"``: the same outcomes as elsewhere, and an end at any moment."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from exotrio import BaseNode, ConfigurationError, Stopping
from exotrio._execution import process_worker, processes
from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._execution.messages import Job, News
from exotrio._execution.processes import WorkerProcess
from exotrio._link.port import Claim
from exotrio._nodes.importing import target_of
from exotrio._nodes.outcome import AwaitedEvent, Report
from exotrio._nodes.progress import Progress
from exotrio._runtime import checkpoint_queue
from exotrio._shared import deadlines
from exotrio.cli.terminal.json_logs import JsonFormatter
from exotrio.testing import Errored, Executed, Pruned, Waiting, run_node
from tests.support import process_nodes as nodes
from tests.support.doubles import Fails, NativeServer, V0Server, running, runtime
from tests.support.helpers import eventually
from tests.support.processes import TEST_TIMEOUT, Process, is_running, until_gone

SECRET = "sesame-4711"


class Bench:
    """Runs single states, as a runtime does."""

    def __init__(self, *classes: type[BaseNode]) -> None:
        self.executor = Executor(nodes={each.__name__: each for each in classes}, fetch_secrets=self.secrets)

    async def secrets(self, claim: Claim) -> Mapping[str, str]:
        return {"key": SECRET}

    async def run(self, name: str, execution: Execution | None = None, **inputs: str) -> Report:
        with trio.fail_after(60):
            return await self.executor.run(execution or execution_of(name, **inputs))


def execution_of(name: str, **inputs: str) -> Execution:
    return Execution(Claim(state_id="s", node_name=name, identifier=name.lower(), inputs=inputs, run_id="r"))


@asynccontextmanager
async def bench(*classes: type[BaseNode]) -> AsyncIterator[Bench]:
    made = Bench(*classes)
    try:
        yield made
    finally:
        await made.executor.aclose()


async def pids(execution: Execution) -> list[int]:
    """Return the processes that the progress names."""

    async def reported() -> list[int]:
        assert execution.progress.last is not None
        return [int(pid) for pid in execution.progress.last.text.split()]

    return await eventually(reported)


SAME: dict[type[BaseNode], dict[str, str]] = {
    nodes.Typed: {"count": "3"},
    nodes.OnLoop: {},
    nodes.Decorated: {},
    nodes.Secretive: {},
    nodes.Exits: {},
    nodes.WrongType: {},
    nodes.Prunes: {},
    nodes.Requeues: {},
    nodes.WithoutAsyncio: {},
}


async def test_a_node_ends_in_a_process_as_it_does_in_the_runtime() -> None:
    here = [type(each.__name__, (each,), {"runs_in": None}) for each in SAME]
    cases: list[tuple[Any, Any]] = [*SAME.items(), (nodes.Typed, {"count": "many"}), (nodes.Typed, {})]
    async with bench(*SAME) as there, bench(*here) as twins:
        for each, inputs in cases:
            outcome = await there.run(each.__name__, **inputs)
            assert outcome == await twins.run(each.__name__, **inputs), each
            assert SECRET not in str(outcome)
        pruned = await twins.run("Prunes")
        assert isinstance(pruned, Pruned)
        assert {type(reason) for reason in pruned.data["why"]} == {str}
        error = await there.run("Secretive")
        assert isinstance(error, Errored)
        assert "nodes.Locked: refused: ***" in error.error
        assert "process_worker" not in error.error


DEATHS = {
    "crash": "its process was killed by SIGSEGV",
    "exit": "its process ended with exit code 3",
    "kill": "its process was killed by SIGKILL, perhaps by the kernel for want of memory",
    "close": "its process closed the connection to the runtime",
    "lock": "what Dies ended with cannot leave its process: TypeError: cannot pickle '_thread.lock' object",
}


async def test_a_node_in_a_process_waits_for_an_event_and_gets_it() -> None:
    async with bench(nodes.Waits) as there:
        assert await there.run("Waits") == Waiting("paid", 60.0)
        event = AwaitedEvent("paid", {"sum": "12"})
        claim = Claim(state_id="s", node_name="Waits", identifier="it", inputs={}, event=event)
        assert await there.run("Waits", Execution(claim)) == Executed([{"text": "12"}])


async def test_a_node_knows_its_run_wherever_it_runs() -> None:
    class TellsItsRunHere(BaseNode):
        class Outputs(nodes.Text):
            pass

        def execute(self) -> Any:
            return self.Outputs(text=self.run_id)

    async with bench(nodes.TellsItsRun, TellsItsRunHere) as there:
        for name in ("TellsItsRun", "TellsItsRunHere"):
            assert await there.run(name) == Executed([{"text": "r"}])
        unknown = Execution(Claim(state_id="s", node_name="TellsItsRunHere", identifier="it", inputs={}))
        assert await there.run("TellsItsRunHere", unknown) == Executed([{"text": ""}]), "v0 does not tell it"


async def test_a_process_gets_no_lease_token() -> None:
    claim = Claim(state_id="s", node_name="FindsClaims", identifier="it", inputs={}, token="t0ken")
    async with bench(nodes.FindsClaims) as there:
        assert await there.run("FindsClaims", Execution(claim)) == Executed([{"text": "[None]"}])


async def test_a_process_that_dies_is_an_error_of_its_state_alone() -> None:
    async with bench(nodes.Dies) as there:
        for how, why in DEATHS.items():
            outcome = await there.run("Dies", how=how)
            assert isinstance(outcome, Errored)
            assert why in outcome.error
            assert isinstance(await there.run("Dies", how="not"), Executed)


async def test_a_process_that_hangs_after_its_node_returned_fails_no_other_state(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(nodes.Leaves) as there:
        stopped: set[int] = set()

        async def run() -> int:
            outcome = await there.run("Leaves")
            assert isinstance(outcome, Executed)
            return int(str(outcome.outputs[0]["text"]))

        async def stop() -> None:
            stopped.add(pid := await run())
            os.kill(pid, signal.SIGSTOP)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            nursery.start_soon(stop)
        monkeypatch.setattr(processes, "MAX_BEGIN", 0.1)
        assert len(stopped) == 2
        assert await run() not in stopped
        # It waited for one of them, not for each.
        (left,) = [pid for pid in stopped if is_running(pid)]
        os.kill(left, signal.SIGCONT)
    assert caplog.text.count("gets another process: its process did not begin it within 0.1 s") == 1


async def test_a_process_that_ends_before_it_begins_its_next_node_fails_no_other_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    execution, ended = execution_of("Leaves"), []
    async with bench(nodes.Leaves) as there, trio.open_nursery() as nursery:

        async def run() -> None:
            ended.append(await there.run("Leaves", execution))

        first = await there.run("Leaves")
        assert isinstance(first, Executed)
        pid = int(str(first.outputs[0]["text"]))
        os.kill(pid, signal.SIGSTOP)  # so that it does not begin it
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGKILL)
    assert [type(each) for each in ended] == [Executed]
    assert "gets another process: its process was killed by SIGKILL" in caplog.text


async def test_a_process_is_used_again_and_ends_in_order_with_the_runtime(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(deadlines, "WORKER_PROCESSES", 20.0)
    async with bench(nodes.Leaves) as there:
        first, second = [await there.run("Leaves") for _ in range(2)]
        assert first == second
        assert isinstance(first, Executed)
        (pid,) = [int(each["text"]) for each in first.outputs]
        assert is_running(pid)
    assert not is_running(pid)
    assert capfd.readouterr().err == "in order\nin order\n"


async def test_settings_of_a_worker_process_are_restored_after_each_node(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caplog.set_level("DEBUG", "exotrio.worker")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/user")
    async with bench(nodes.Changes) as runtime:
        outputs = []
        for remove in ("", str(here), ""):
            outcome = await runtime.run("Changes", folder=str(there), remove=remove)
            assert isinstance(outcome, Executed)
            outputs += outcome.outputs
            here.mkdir(exist_ok=True)
            monkeypatch.chdir(here)
    first, second, third = outputs
    assert first == second
    # A working directory that is gone cannot be restored.
    assert "the process of Changes is replaced: its working directory is gone" in caplog.text
    assert third["settings"] == first["settings"]
    assert third["pid"] != first["pid"]
    until_gone(int(first["pid"]))


async def test_a_process_that_does_not_end_by_itself_is_killed_soon_after_the_stop() -> None:
    async with bench(nodes.Stays) as there:
        outcome = await there.run("Stays")
    assert isinstance(outcome, Executed)
    until_gone(int(outcome.outputs[0]["text"]))


async def test_a_node_that_holds_the_interpreter_in_c_is_timed_out_with_all_that_it_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As long as the node may take: the start of the process does not count.
    monkeypatch.setattr(processes, "BEGIN", f"import time; time.sleep(1)\n{processes.BEGIN}")
    execution = execution_of("HangsBriefly")
    async with bench(nodes.HangsBriefly) as there:
        outcome = await there.run("HangsBriefly", execution)
        assert outcome == Errored("timed out after 1 s (timeout of HangsBriefly)")
        gone = await pids(execution)
        await eventually(lambda: _gone(*gone), within=15)


@pytest.mark.parametrize("mark", ["lost", "cancelled"])
async def test_a_lost_lease_and_a_cancelled_run_end_the_process(mark: str) -> None:
    server = NativeServer()
    (state_id,) = server.add("Hangs")
    async with running(server, nodes.Hangs) as rt:
        running_pids = await pids(await _execution(rt))
        getattr(server, mark).add(state_id)
        with trio.fail_after(60):
            await eventually(lambda: _gone(*running_pids), within=15)
    assert rt.summary.completed == rt.summary.errored == 0


async def test_a_stop_releases_a_state_that_hangs_in_a_process() -> None:
    server = V0Server(Hangs=1)
    async with running(server, nodes.Hangs, grace=0) as rt:
        running_pids = await pids(await _execution(rt))
    assert server.statuses() == {"CREATED": 1}
    assert (rt.summary.cancelled, rt.summary.exit_code) == (1, 0)
    await _gone(*running_pids)


async def test_a_node_in_a_process_learns_that_the_runtime_drains_and_no_signal_ends_it() -> None:
    server = V0Server(Drains=1)
    async with running(server, nodes.Drains) as rt:
        (pid,) = await pids(await _execution(rt))
        # A service manager sends it to every process; the runtime alone says when this one ends.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    assert [state.result for state in server.states.values()] == [[{"text": Stopping.DRAINING.value}]]


async def test_progress_is_sent_from_time_to_time_and_the_last_one_always() -> None:
    execution = execution_of("Reports")
    reports: list[object] = []
    say = execution.progress.say

    class Counting(type(execution.progress)):  # type: ignore[misc]
        __slots__ = ()

        def say(self, fraction: object, text: object) -> None:
            reports.append(text)
            say(fraction, text)
            super().say(fraction, text)

    execution.progress = Counting()
    async with bench(nodes.Reports) as there, trio.open_nursery() as nursery:
        nursery.start_soon(there.run, "Reports", execution)
        await eventually(lambda: _progress(execution, "step 10000"), within=20)
        execution.drain(math.inf)
    assert len(reports) < 200


async def test_checkpoints_pass_between_the_processes_in_both_directions() -> None:
    server = NativeServer()
    (state_id,) = server.add("Keeps")
    for first in (0, 10):
        async with running(server, nodes.Keeps, grace=30, within=30) as rt:

            async def is_waiting() -> None:
                assert [str(run.progress) for run in rt.vitals.running] == ["inf"]

            await eventually(is_waiting)
            stored = server.states[state_id].checkpoint
            assert stored is not None, "the node waited for it"
            assert stored["value"] == f'{{"step":"{first + 1}"}}'
        stored = server.states[state_id].checkpoint
        assert stored == {"number": 3 if first == 0 else 6, "value": f'{{"step":"{first + 10}"}}'}
        assert rt.summary.handed_over == 1


async def test_a_coroutine_in_a_process_waits_for_its_checkpoint() -> None:
    server = NativeServer()
    server.add("KeepsOnLoop")
    async with running(server, nodes.KeepsOnLoop, within=30):
        await server.until(EXECUTED=1)
    assert any(item.get("checkpoint") for call in server.routes("heartbeat") for item in call.body["states"])


@pytest.mark.parametrize("how", ["sync", "trio", "asyncio"])
@pytest.mark.parametrize("node", [nodes.LeavesThread, nodes.LeavesThreadHere])
async def test_a_thread_that_outlives_its_node_does_not_wait_for_a_checkpoint_without_a_limit(
    node: type[BaseNode], how: str, tmp_path: Path
) -> None:
    file = tmp_path / "raised"
    server = NativeServer()
    server.add(node.__name__, file=str(file), how=how)
    server.before = Fails(("heartbeat",))

    async def has_ended() -> None:
        assert file.exists()
        assert file.read_text() == f"{node.__name__} ended before its checkpoint was stored"

    async with running(server, node, within=30):
        await server.until(EXECUTED=1)
        await eventually(has_ended)


async def test_the_time_that_is_left_is_known_in_a_process() -> None:
    execution = execution_of("KeepsOnLoop")
    async with bench(nodes.KeepsOnLoop) as there:
        assert await there.run("KeepsOnLoop", execution) == Executed([])
    assert execution.progress.last is not None
    assert 55 < float(execution.progress.last.text) <= 60
    execution = execution_of("Keeps")
    async with bench(nodes.Keeps) as there, trio.open_nursery() as nursery:
        nursery.start_soon(there.run, "Keeps", execution)
        await eventually(lambda: _progress(execution, "inf"), within=20)
        execution.drain(trio.current_time() + 8)
    assert execution.progress.last is not None
    assert 5 < float(execution.progress.last.text) <= 8


async def test_a_process_that_is_killed_leaves_its_newest_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint_queue, "CHECKPOINT_INTERVAL", 0.2)
    server = NativeServer()
    (state_id,) = server.add("KeepsOn")
    async with running(server, nodes.KeepsOn, grace=0, within=30) as rt:
        await server.until(QUEUED=1)

        await server.until(lambda: server.states[state_id].checkpoint)
        server.before = Fails(("heartbeat",))
        first = server.states[state_id].checkpoint or {}
        await trio.sleep(2 * process_worker.NEWS_INTERVAL)
    (released,) = server.routes("release")[-1].body["states"]
    assert released["checkpoint"]["number"] > first["number"]
    assert rt.summary.cancelled == 1


def test_a_signal_handler_of_a_node_reports_progress_while_the_last_one_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sending waits while the runtime does not read."""

    class Worker:
        def send(self, message: News) -> None:
            sent.append(message.progress)
            if len(sent) == 1:
                running_job.say(1, "of the handler")

    monkeypatch.setattr(process_worker, "NEWS_INTERVAL", 0.0)
    sent: list[Progress | None] = []
    job = Job(
        number=1,
        target=target_of(nodes.Reports),
        claim=Claim("id", "Reports", "place", {}),
        secrets={},
        trace=None,
        captures=True,
    )
    running_job = process_worker._Running(job, Worker())  # type: ignore[arg-type]
    thread = threading.Thread(target=running_job.say, args=(0, "interrupted"), daemon=True)
    thread.start()
    thread.join(TEST_TIMEOUT)
    assert sent == [Progress(0, "interrupted"), Progress(1, "of the handler")]


async def test_a_node_logs_and_prints_to_where_the_runtime_does(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        async with bench(nodes.Logs) as there:
            assert await there.run("Logs") == Executed([])
            assert await there.run("Logs") == Executed([])
    finally:
        root.removeHandler(handler)
    assert SECRET not in stream.getvalue()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ours = [line for line in lines if line["logger"] == nodes.log.name]
    masked = [line for line in ours if line["message"] == "no number, but ***"]
    assert len(masked) == 2
    assert "not wanted" not in stream.getvalue()
    assert all((line["run"], line["state"], line["node"]) == ("r", "s", "Logs") for line in masked)
    assert "ValueError: invalid literal" in masked[0]["exception"]
    assert any(line["logger"] == "py.warnings" and "a warning" in line["message"] for line in lines)
    # Not that of the state: it has no context of it in a runtime either.
    assert not any("state" in line for line in ours if line["message"] == "of a thread")
    out, err = capfd.readouterr()
    assert out == ""
    assert "printed\nwritten to the descriptor\n" in err


SPAWNING = """
from __future__ import annotations
import multiprocessing
from pydantic import BaseModel
from exotrio import BaseNode, Graph
from exotrio.testing import run_graph

class Text(BaseModel):
    text: str

class Spawns(BaseNode):
    runs_in = "process"
    timeout = 30.0

    class Outputs(Text):
        pass

    def execute(self):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return self.Outputs(text=pool.map(text_of, [1])[0].text)

def text_of(number):
    return Text(text=str(number))

graph = Graph("g", namespace="ns")
first = graph.add(Spawns)
graph.add(Spawns, identifier="second", after=first)

async def main():
    run = await run_graph(graph, [Spawns])
    print(run.outputs("spawns"), run.outputs("second"))

if __name__ == "__main__":
    import trio
    trio.run(main)
"""


def test_nodes_of_a_program_spawn_processes_with_multiprocessing(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWNING)
    with Process([sys.executable, "program.py"], cwd=tmp_path) as program:
        end = program.wait(code=0)
    assert end.out == "[{'text': '1'}] [{'text': '1'}]\n", end


PROGRAM = """
import enum, logging, trio
from exotrio import BaseNode
from exotrio.testing import run_node

class Kind(enum.StrEnum):
    A = "a"

class Level(enum.IntEnum):
    HIGH = 45

class Thing:
    def __repr__(self):
        return "a thing"

class Logs(BaseNode):
    runs_in = "process"

    def execute(self):
        logging.getLogger("x").log(Level.HIGH, "logged", extra={"kind": Kind.A, "things": [Thing()]})

if __name__ == "__main__":
    logging.basicConfig(format="%(levelno)d %(kind)s %(things)s: %(message)s")
    logging.getLogger("x").setLevel(Level.HIGH)
    print(trio.run(run_node, Logs))
"""


def test_a_log_record_with_objects_of_the_program_reaches_it_as_text(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with Process([sys.executable, "program.py"], cwd=tmp_path) as program:
        end = program.wait(code=0)
    assert (end.out, end.err) == ("Executed(outputs=[])\n", "45 a [a thing]: logged\n")


def test_a_program_without_standard_error_runs_nodes_in_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "program.py"]
    with Process(command, cwd=tmp_path) as program:
        assert program.wait(code=0).out == "Executed(outputs=[])\n"


CLOSING = """
import os

class Closes(BaseNode):
    async def execute(self):
        os.closerange(0, 3)

async def main():
    await run_node(Closes)
    outcome = await run_node(Logs)
    open("outcome", "w").write(str(outcome))
    os._exit(0)  # without a flush

if __name__ == "__main__":
    trio.run(main)
"""


def test_a_program_whose_nodes_closed_the_standard_streams_runs_others_in_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(f"{PROGRAM.partition('if __name__')[0]}{CLOSING}")
    with Process([sys.executable, "program.py"], cwd=tmp_path) as program:
        program.wait(code=0)
    assert (tmp_path / "outcome").read_text() == "Executed(outputs=[])"


async def test_a_forked_child_of_a_node_is_not_a_worker_process() -> None:
    async with bench(nodes.Forks) as there:
        assert await there.run("Forks") == Executed([{"text": "-15"}])


async def test_a_process_that_does_not_load_its_node_in_time_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "MAX_START", 0.2)
    monkeypatch.setattr(processes, "BEGIN", "import time; time.sleep(600)")
    outcome = await run_node(nodes.OnLoop)
    assert outcome == Errored("OnLoop: its process did not load its code within 0.2 s")


async def test_a_node_may_run_for_longer_than_its_process_may_take_to_start(mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    execution, ended = execution_of("Drains"), []
    async with bench(nodes.Drains) as there, trio.open_nursery() as nursery:

        async def run() -> None:
            ended.append(await there.executor.run(execution))

        nursery.start_soon(run)
        await pids(execution)  # it is running
        mock_clock.jump(processes.MAX_START + 1)
        await trio.testing.wait_all_tasks_blocked()
        execution.drain(math.inf)
    assert ended == [Executed([{"text": "draining"}])]


async def test_a_node_ran_for_as_long_as_it_did_though_its_runtime_was_busy_when_it_began() -> None:
    class BeginsLate(Execution):
        def begin(self, timeout: float | None) -> None:
            time.sleep(0.1)
            super().begin(timeout)

    execution = BeginsLate(execution_of("Sleeps").claim)
    async with bench(nodes.Sleeps) as there:
        await there.run("Sleeps", execution)
    assert execution.ended_at - execution.begun_at >= 0.05


async def test_a_node_goes_on_that_began_while_its_runtime_was_busy_for_longer_than_that_may_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class OpensGate(Execution):
        def begin(self, timeout: float | None) -> None:
            super().begin(timeout)
            gate.touch()

    async def send(process: WorkerProcess, message: object) -> None:
        await really_send(process, message)
        time.sleep(0.5)  # noqa: ASYNC251 - as a node in the loop does

    gate, really_send = tmp_path / "gate", WorkerProcess.send
    gate.touch()
    async with bench(nodes.Gated) as there:
        await there.run("Gated", path=str(gate))
        gate.unlink()
        monkeypatch.setattr(processes, "MAX_BEGIN", 0.1)
        monkeypatch.setattr(WorkerProcess, "send", send)
        outcome = await there.run("Gated", OpensGate(execution_of("Gated", path=str(gate)).claim))
        assert isinstance(outcome, Executed), outcome


async def test_a_process_that_cannot_be_started_is_an_error_of_the_state(monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    outcome = await run_node(nodes.OnLoop)
    assert outcome == Errored("OnLoop: no process can be started: No such file or directory")


async def test_a_process_that_no_thread_can_wait_for_is_ended_and_an_error_of_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def popen(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        started.append(really_start(*args, **options))
        return started[-1]

    def start_thread_soon(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    really_start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", start_thread_soon)
    async with bench(nodes.OnLoop) as there:
        outcome = await there.run("OnLoop")
    assert outcome == Errored("OnLoop: no process can be started: can't start new thread")
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_class_that_no_other_process_can_import_is_refused() -> None:
    class Local(BaseNode):
        runs_in = "process"

        def execute(self) -> None: ...

    other = type("Typed", (nodes.Typed,), {"__module__": nodes.__name__})
    typed = type("Cell", (nodes.Typed,), {"__module__": "a_notebook"})
    with pytest.raises(ConfigurationError) as caught:
        runtime(V0Server(), Local, other, typed)
    local, renamed, cell = caught.value.problems
    assert local.startswith(
        'Local.runs_in is "process", but no other process can import it: it is defined in a func'
    )
    assert "has another object, or none, named Typed" in renamed
    assert (
        "a_notebook, which is not a file (a notebook, an interactive session): write it into a file" in cell
    )


async def _execution(rt: Any) -> Execution:
    async def running_one() -> Execution:
        executions: list[Execution] = [held.execution for held in rt._ledger.snapshot() if held.execution]
        assert executions, "nothing runs"
        return executions[0]

    return await eventually(running_one, within=20)


async def _gone(*running_pids: int) -> None:
    for pid in running_pids:
        assert not is_running(pid)


async def _progress(execution: Execution, text: str) -> None:
    assert execution.progress.last is not None
    assert execution.progress.last.text == text
