"""Processes that nodes fork keep neither the database, nor a port, nor our signal handlers, also if they
outlive us."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from exotrio.manager import embedded
from tests.support.processes import PATIENCE

FORK = """
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
        Path("child").write_text(str(child))
"""
MULTIPROCESSING = """
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        Path("child").write_text(str(process.pid))
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


@dataclass
class Child:
    """A child that outlived its parent.

    Attributes:
        pid: Its process.
        alive: Readable to its end once it has ended.
        db: The database that its parent had.
    """

    pid: int
    alive: int
    db: Path


@pytest.fixture(params=["def", "async def", "multiprocessing"])
def child(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Child]:
    body = MULTIPROCESSING if request.param == "multiprocessing" else FORK
    kind = "async def" if request.param == "async def" else "def"
    (tmp_path / "forks.py").write_text(FILE.format(kind=kind, body=body))
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "exotrio", "run", "forks.py", "--db", "state.db"]
    with open(tmp_path / "out", "wb") as out:
        ended = subprocess.run(
            command, cwd=tmp_path, pass_fds=(theirs,), stdout=out, stderr=out, timeout=PATIENCE, check=False
        )
    os.close(theirs)
    pid = int((tmp_path / "child").read_text())
    try:
        assert ended.returncode == 0, (tmp_path / "out").read_text()
        yield Child(pid, ours, tmp_path / "state.db")
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.close(ours)


async def test_a_child_that_lives_on_does_not_keep_the_database(child: Child) -> None:
    os.kill(child.pid, 0)
    async with embedded(db=child.db):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_child(child: Child, number: signal.Signals) -> None:
    os.kill(child.pid, number)
    ended, _, _ = select.select([child.alive], [], [], PATIENCE)
    assert ended, "no process has the other end any more"


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
        subprocess.run([sys.executable, "-c", LISTEN_AND_FORK], stdout=out, timeout=PATIENCE, check=True)
    child, port = map(int, (tmp_path / "out").read_text().split())
    try:
        socket.create_server(("127.0.0.1", port)).close()
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
