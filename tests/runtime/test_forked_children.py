"""Processes that nodes fork keep neither the database, nor a port, nor our signal handlers, also if they
outlive us; and none goes on as a copy of us."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from exotrio.manager import embedded
from tests.support.processes import TEST_TIMEOUT

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""For a child each."""
FORK = f"""
        for _ in range({len(SIGNALS)}):
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            with open("children", "a") as file:
                print(child, file=file)
"""
MULTIPROCESSING = f"""
        for _ in range({len(SIGNALS)}):
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            process.start()
            with open("children", "a") as file:
                print(process.pid, file=file)
            multiprocessing.process._children.discard(process)  # or Python waits for it at its exit
"""
FILE = """
import multiprocessing, os, time, warnings
from pathlib import Path
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime

warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: Python 3.12 warns

class Forks(BaseNode):
    {kind} execute(self) -> None:{body}

graph = Graph("g", nodes=[GraphNodeModel(node_name="Forks", namespace="ns", identifier="forks", inputs={{}})])
runtime = Runtime(namespace="ns", name="rt", nodes=[Forks])
"""


async def opened(db: Path) -> None:
    async with embedded(db=db):
        pass


@pytest.mark.parametrize("kind", ["def", "async def", "multiprocessing"])
def test_children_that_live_on_do_not_keep_the_database_and_any_signal_ends_one(
    tmp_path: Path, kind: str
) -> None:
    body = MULTIPROCESSING if kind == "multiprocessing" else FORK
    (tmp_path / "forks.py").write_text(FILE.format(kind=kind.replace("multiprocessing", "def"), body=body))
    alive, theirs = os.pipe()
    command = [sys.executable, "-m", "exotrio", "run", "forks.py", "--db", "state.db"]
    with open(tmp_path / "out", "wb") as out:
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            pass_fds=(theirs,),
            stdout=out,
            stderr=out,
            timeout=TEST_TIMEOUT,
            check=False,
        )
    os.close(theirs)
    pids = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    try:
        assert ended.returncode == 0, (tmp_path / "out").read_text()
        for pid in pids:
            os.kill(pid, 0)
        trio.run(opened, tmp_path / "state.db")
        for pid, number in zip(pids, SIGNALS, strict=True):
            os.kill(pid, number)
        readable, _, _ = select.select([alive], [], [], TEST_TIMEOUT)
        assert readable, "some process has the other end still"
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.close(alive)


COMES_OUT = """
import asyncio, os, sys, time
from exotrio import BaseNode, Graph, NoRetry, Runtime

def exit_code(child):
    for _ in range(500):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise NoRetry("the child goes on")

def fork_twice():
    for leave in (lambda: None, lambda: sys.exit(3)):
        child = os.fork()
        if child == 0:
            return leave()
        print("ended with", exit_code(child), file=sys.stderr)

class OnTrio(BaseNode):
    async def execute(self) -> None:
        fork_twice()

class OnAsyncio(OnTrio):
    runs_in = "asyncio"

class InExecutor(OnAsyncio):
    async def execute(self) -> None:
        await asyncio.to_thread(fork_twice)

class InThread(BaseNode):
    def execute(self) -> None:
        fork_twice()

class InProcess(InThread):
    runs_in = "process"

NODES = [OnTrio, OnAsyncio, InExecutor, InThread, InProcess]
graph = Graph("g", namespace="ns")
last = graph.add(OnTrio)
for node in NODES[1:]:
    last = graph.add(node, after=last)
runtime = Runtime(namespace="ns", name="rt", nodes=NODES, workers=1)
"""


def test_a_child_that_comes_out_of_execute_ends_and_does_not_go_on_as_a_copy(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(COMES_OUT)
    command = [sys.executable, "-W", "ignore", "-m", "exotrio", "run", "forks.py", "--db", "state.db"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=TEST_TIMEOUT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    for node in ("OnTrio", "OnAsyncio", "a thread of nodes in asyncio", "InThread", "InProcess"):
        assert f", which {node} forked, returned: it ends here, without a result" in ended.stderr
    assert [ended.stderr.count(f"ended with {code}\n") for code in (1, 3)] == [5, 5]


LISTEN_AND_FORK = """
import os, time, trio
from exotrio._httpd import open_listeners

async def main():
    (listener,) = await open_listeners("127.0.0.1", 0)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    print(child, listener.socket.getsockname()[1], flush=True)

trio.run(main)
"""


def test_a_child_that_lives_on_does_not_keep_a_port(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", LISTEN_AND_FORK], stdout=out, timeout=TEST_TIMEOUT, check=True)
    child, port = map(int, (tmp_path / "out").read_text().split())
    try:
        socket.create_server(("127.0.0.1", port)).close()
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
