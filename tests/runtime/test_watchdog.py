"""A process that belongs to a runtime ends in time, whatever node code keeps its stop from ending."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from exotrio._runtime.outbox_store import read_totals
from exotrio._shared import deadlines
from tests.support.processes import TEST_TIMEOUT, Ended, Process, Processes, Server

SHORT = """
from exotrio._shared import deadlines

deadlines.CLEAN_UP = deadlines.FLUSH = 0.2
"""
NODES = (
    SHORT
    + """
import anyio, sqlite3, threading, time, trio
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime

def ready():
    print("ready", flush=True)

class AwaitsThread(BaseNode):
    async def execute(self):
        ready()
        await anyio.to_thread.run_sync(time.sleep, 1000)

class Shields(BaseNode):
    async def execute(self):
        ready()
        with trio.CancelScope(shield=True):
            await trio.sleep(1000)

class Blocks(BaseNode):
    async def execute(self):
        ready()
        while True:
            time.sleep(0.01)

class BlocksInC(BaseNode):
    async def execute(self):
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with sqlite3.connect(":memory:") as db:
            ready()
            db.execute(endless).fetchone()

class LeavesThread(BaseNode):
    async def execute(self):
        threading.Thread(target=time.sleep, args=(1000,)).start()
        ready()
"""
)
PROGRAM = (
    NODES
    + """
import logging, sys
from tests.support.doubles import V0Server

logging.basicConfig(format="%(message)s")
server = V0Server()
server.add(sys.argv[1])
nodes = [AwaitsThread, Shields, Blocks, BlocksInC]
Runtime("ns", "rt", nodes, transport=server, shutdown_grace=0.2).start()
print("start() returned", flush=True)
"""
)


@contextmanager
def program(code: str, *arguments: str | Path) -> Iterator[Process]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with Process(command, cwd=Path.cwd()) as process:
        process.line("ready")
        yield process


def stopped_in_time(process: Process) -> Ended:
    """Send SIGTERM, and return how the process ended; without a watchdog it does not."""
    return process.stop(code=75)


@pytest.mark.parametrize("node", ["AwaitsThread", "Shields"])
def test_a_node_that_cannot_be_cancelled_does_not_keep_the_process_and_its_state_is_released(
    node: str,
) -> None:
    with program(PROGRAM, node) as process:
        end = stopped_in_time(process)
    assert "releasing state " in end.err
    assert "exiting with code 75: the time for the stop is over" in end.err
    assert "abandoned" not in end.err


@pytest.mark.parametrize("node", ["Blocks", "BlocksInC"])
def test_a_node_that_blocks_the_loop_does_not_keep_the_process_and_its_state_is_logged_as_abandoned(
    node: str,
) -> None:
    with program(PROGRAM, node) as process:
        end = stopped_in_time(process)
    assert f"({node} as " in end.err
    assert "is abandoned, it stays claimed: no time was left for its release" in end.err


def test_the_third_signal_ends_a_process_whose_main_thread_hangs_in_c() -> None:
    with program(PROGRAM.replace("shutdown_grace=0.2", "shutdown_grace=1000"), "BlocksInC") as process:
        for _ in range(3):
            process.signal(signal.SIGTERM)
            time.sleep(0.1)  # two pending signals of one kind would be one
        # Two of them end it, too, but not with this code.
        end = process.wait(code=128 + signal.SIGTERM)
    assert "third signal" in end.err


LOGGED = PROGRAM.replace('"%(message)s"', '"%(message)s", level="INFO"')


def test_a_grace_of_weeks_can_be_shortened_by_a_second_signal() -> None:
    with program(LOGGED.replace("shutdown_grace=0.2", "shutdown_grace=3e6"), "AwaitsThread") as process:
        process.signal(signal.SIGTERM)
        process.line("asked to stop by SIGTERM")
        stopped_in_time(process)


# By itself, so that it is at this moment, however busy the machine is.
SUSPENDED = {
    "before the watchdog is awake": """
import os, signal
from exotrio._runtime.watchdog import Watchdog

def wake(self, *why, wake=Watchdog._wake):
    if len(self._deadlines) == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    wake(self, *why)

Watchdog._wake = wake
""",
    "while the watchdog is awake": """
import signal, threading
from exotrio._runtime.watchdog import Watchdog

times = []

def now(self, now=Watchdog._now):
    if threading.current_thread() is self._thread and self._deadlines and self._armed is None and not times:
        times.append(now(self))
        signal.raise_signal(signal.SIGSTOP)  # of this thread, so that it is at this line
    return now(self)

Watchdog._now = now
""",
    "when the drain begins": """
import logging, os, signal

class Suspends(logging.Handler):
    def emit(self, record):
        if record.msg.startswith("asked to stop"):
            os.kill(os.getpid(), signal.SIGSTOP)

logging.getLogger("exotrio.runtime").addHandler(Suspends())
""",
}


def until_suspended(process: Process) -> None:
    deadline = time.monotonic() + TEST_TIMEOUT
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, process.so_far()
        time.sleep(0.01)


def test_a_stop_during_which_the_process_is_suspended_goes_on_where_it_was() -> None:
    # A busy machine needs more time to deliver the release.
    code = LOGGED.replace("FLUSH = 0.2", "FLUSH = 0.2; deadlines.FLUSH = 2")
    with ExitStack() as stack:
        # All at once, since it takes a while.
        processes = {
            when: stack.enter_context(program(suspended + code, "AwaitsThread"))
            for when, suspended in SUSPENDED.items()
        }
        for process in processes.values():
            process.signal(signal.SIGTERM)
            until_suspended(process)
        time.sleep(4)  # longer than the whole stop may take
        for process in processes.values():
            process.signal(signal.SIGCONT)
        for when, process in processes.items():
            end = process.wait(code=75)
            assert "releasing state " in end.err, when
            assert "abandoned" not in end.err, when


OUTBOX = (
    NODES
    + """
import logging, sys
from tests.support.doubles import NativeServer

logging.basicConfig(format="%(message)s")

class Quick(BaseNode):
    async def execute(self): ...

class BlocksOnceQuickIsReported(Blocks):
    async def execute(self):
        await reported.wait()
        await super().execute()

async def hang(call):
    if call.route == "outcomes":
        reported.set()
        await trio.sleep_forever()

reported = trio.Event()
server = NativeServer(Quick=1, BlocksOnceQuickIsReported=1)
server.before = hang
nodes = [Quick, BlocksOnceQuickIsReported]
Runtime("ns", "rt", nodes, transport=server, shutdown_grace=0.2, outbox=sys.argv[1]).start()
"""
)


def test_an_outcome_in_the_outbox_is_kept(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox.db"
    with program(OUTBOX, outbox) as process:
        end = stopped_in_time(process)
    assert "(Quick as " in end.err
    assert "is in the outbox and is sent at the next start" in end.err
    assert "(BlocksOnceQuickIsReported as " in end.err
    assert read_totals(outbox).outcomes == 1


APP = (
    NODES
    + """
node = {node}
graph = Graph("g", nodes=[GraphNodeModel(node_name=node, namespace="ns", identifier="n", inputs={{}})])
runtime = Runtime("ns", "rt", [globals()[node]], shutdown_grace=0.2)
"""
)


@pytest.mark.parametrize(
    ("node", "command"),
    [
        ("AwaitsThread", ["run", "app.py"]),
        ("Blocks", ["run", "app.py"]),
        ("AwaitsThread", ["dev", "app.py", "--trigger", "--port", "0"]),
        ("AwaitsThread", ["worker", "app.py"]),
        ("LeavesThread", ["worker", "app.py"]),
    ],
    ids=["run", "blocked run", "dev", "worker", "thread"],
)
def test_each_command_that_runs_nodes_ends_in_time(tmp_path: Path, node: str, command: list[str]) -> None:
    (tmp_path / "app.py").write_text(APP.format(node=repr(node)))
    with Processes() as processes:
        if command[0] != "worker":
            process = processes.start(*command, cwd=tmp_path)
        else:
            server = processes.server(tmp_path, "--db", ":memory:")
            process = worker_of(processes, server, tmp_path, node)
        process.line("ready")
        stopped_in_time(process)


def worker_of(processes: Processes, server: Server, folder: Path, node: str) -> Process:
    """Start a worker, and a run that it executes."""
    process = processes.start("worker", "app.py", cwd=folder, env=server.env)
    process.line("is registered in ns")
    place = {"node_name": node, "namespace": "ns", "identifier": "n", "inputs": {}, "next_nodes": []}
    server.ask("PUT", "/v0/namespace/ns/graph/g", {"secrets": {}, "nodes": [place]})
    server.ask("POST", "/v0/namespace/ns/graph/g/trigger", {})
    return process


@pytest.mark.parametrize("node", ["AwaitsThread", "Blocks"])
def test_the_receipt_says_what_asked_for_the_stop_and_that_the_watchdog_ended_the_process(
    tmp_path: Path, node: str
) -> None:
    (tmp_path / "app.py").write_text(APP.format(node=repr(node)))
    with Processes() as processes:
        server = processes.server(tmp_path, "--db", ":memory:", "--lease-ttl", "2")
        process = worker_of(processes, server, tmp_path, node)
        process.line("ready")
        stopped_in_time(process)
        deadline = time.monotonic() + TEST_TIMEOUT
        while not (receipts := server.ask("GET", "/exotrio/v1/namespace/ns/stops")["receipts"]):
            assert time.monotonic() < deadline, server.process.so_far()
            time.sleep(0.1)
    (receipt,) = receipts
    assert (receipt["why"], receipt["shortened_by"]) == ("SIGTERM", "its watchdog")
    assert (receipt["vanished"], receipt["exit_code"], receipt["cut"]) == (True, 75, 1)


def test_the_process_ends_within_a_second_of_the_max_stop() -> None:
    assert deadlines.max_exit() == deadlines.max_stop() + 1
    assert deadlines.max_exit() < 30
    assert deadlines.LAST_LINES < deadlines.EXIT
    assert deadlines.IDLE_PROCESSES < deadlines.EXIT < TEST_TIMEOUT
