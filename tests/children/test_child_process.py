"""Child processes: their interpreter, the messages in both directions, and their end."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

import exotrio
from exotrio._children.child_process import SOCKET, ChildProcess
from exotrio._children.parent_process import ParentProcess, unpack
from tests.support.helpers import eventually
from tests.support.processes import ROOT, TEST_TIMEOUT, Process, is_running, until_gone

HOSTILE = """
open({mark!r}, "a").close()
raise SystemExit("hostile code runs")
"""
APP = """
from exotrio import BaseNode, Graph, GraphNodeModel, Runtime

class Says(BaseNode):
    runs_in = "process"

    def execute(self):
        return None

graph = Graph("g", nodes=[GraphNodeModel(node_name="Says", namespace="ns", identifier="n", inputs={})])
runtime = Runtime("ns", "rt", [Says])
"""
COMMAND = "from exotrio.cli import main; main()"
"""As the script ``exotrio`` of an environment: its folder is on the path, the working directory is not."""


def test_a_child_loads_no_code_from_a_working_directory_that_its_parent_loads_none_from(
    tmp_path: Path,
) -> None:
    own, shared, mark = tmp_path / "own", tmp_path / "shared", tmp_path / "hostile code ran"
    own.mkdir()
    shared.mkdir()
    (own / "app.py").write_text(APP)
    (own / "exotrio-command.py").write_text(COMMAND)
    for name in ("json", "socket", "logging", "subprocess"):
        (shared / f"{name}.py").write_text(HOSTILE.format(mark=str(mark)))
    command = [sys.executable, str(own / "exotrio-command.py"), "run", str(own / "app.py")]
    with Process([*command, "--db", ":memory:"], cwd=shared) as process:
        process.wait(code=0)
    assert not mark.exists()


PARENT = """
import subprocess, sys
from exotrio._children.child_process import child_python

subprocess.run(child_python("-c", "import sys; print(sys.warnoptions, sys.stdout.write_through)"))
"""


@pytest.mark.parametrize("options", [["-u", "-W", "error"], []], ids=["options", "defaults"])
def test_the_options_of_the_interpreter_are_passed_on(tmp_path: Path, options: list[str]) -> None:
    variables = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "", "PYTHONWARNINGS": ""}
    with Process([sys.executable, *options, "-c", PARENT], cwd=tmp_path, env=variables) as process:
        assert process.wait(code=0).out == ("['error'] True\n" if options else "[] False\n")


BEGIN = f"""
import os, signal, subprocess, sys, time
sys.path.insert(0, {str(Path(exotrio.__file__).parents[1])!r})
from exotrio._children.parent_process import ParentProcess, unblock_signals
parent = ParentProcess(int(sys.argv[1]))
"""
ECHO = "for message in parent.messages(): parent.send(message)"


@asynccontextmanager
async def child(code: str) -> AsyncIterator[ChildProcess]:
    process = ChildProcess(["-c", BEGIN + code, SOCKET])
    try:
        with trio.fail_after(TEST_TIMEOUT):
            yield process
    finally:
        await process.end()


async def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    messages = ["small", {"large": b"x" * 3_000_000}, ("small", 2)]
    async with child(ECHO) as process, trio.open_nursery() as nursery:
        for message in messages[:2]:
            nursery.start_soon(process.send, message)
            assert await process.receive() == message
        process.send_now(messages[2])
        assert await process.receive() == messages[2]


async def test_a_large_message_arrives_whole_if_the_parent_has_a_default_timeout_of_sockets() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    try:
        async with child("parent.send(b'x' * 3_000_000); parent.send('end')") as process:
            assert await process.receive() == b"x" * 3_000_000
            assert await process.receive() == "end"
    finally:
        socket.setdefaulttimeout(before)


async def test_a_signal_handler_sends_while_the_code_that_it_interrupts_does(tmp_path: Path) -> None:
    code = f"""
import select, threading

def handle(number, frame):
    open({str(tmp_path / "handled")!r}, "x").close()
    parent.send("of the handler")

def interrupt():
    while select.select([], [int(sys.argv[1])], [], 0)[1]:
        time.sleep(0.001)  # until the connection is full, so that the main thread waits in send
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

signal.signal(signal.SIGUSR1, handle)
threading.Thread(target=interrupt).start()
parent.send(b"x" * 3_000_000)
parent.send("end")
"""

    async def handled() -> None:
        assert (tmp_path / "handled").exists()

    async with child(code) as process:
        await eventually(handled)
        assert await process.receive() == b"x" * 3_000_000
        assert await process.receive() == "of the handler"
        assert await process.receive() == "end"


def test_a_message_that_is_sent_at_any_line_of_another_call_arrives() -> None:
    """As a signal handler does that logs."""
    lines, _ = interrupted_send(0)
    assert lines > 5
    for line in range(1, lines + 1):
        _, received = interrupted_send(line)
        messages = {unpack(received), unpack(received)}
        assert messages == {"interrupted", "of the handler"}, f"interrupted before line {line}"


def interrupted_send(interrupted_at: int) -> tuple[int, bytearray]:
    """Send a message, and another one before this line of that call is run.

    Return how many lines it ran, and what arrived.
    """
    ours, theirs = socket.socketpair()
    parent, lines = ParentProcess(theirs.detach()), 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        if frame.f_code is ParentProcess.send.__code__ and event == "line":
            lines += 1
            if lines == interrupted_at:
                parent.send("of the handler")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parent.send("interrupted")
    finally:
        sys.settrace(before)
    parent._disconnect()
    with ours:
        return lines, bytearray(ours.recv(4096))


async def test_a_parent_with_many_open_files_exchanges_messages_too() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        async with child(ECHO) as process:
            await process.send("it reads")
            assert await process.receive() == "it reads"
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_child_starts_after_the_working_directory_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    async with child(ECHO) as process:
        await process.send("it runs")
        assert await process.receive() == "it runs"


async def test_a_child_whose_time_is_over_is_killed_with_what_it_started() -> None:
    code = "parent.send(subprocess.Popen(['sleep', '600']).pid); time.sleep(600)"
    async with child(code) as process:
        pid = await process.receive()
        process.end_within(60)
        process.end_within(0.01)
        await process.wait()
        assert (process.was_killed, process.code, process.ending) == (True, -9, "was killed by SIGKILL")
    assert not is_running(process.pid)
    until_gone(pid)


async def test_a_signal_before_a_child_can_handle_it_waits_until_then() -> None:
    code = """
parent.send("started")
next(parent.messages())
signal.signal(signal.SIGTERM, lambda number, frame: parent.send("handled"))
unblock_signals()
"""
    async with child(code) as process:
        assert await process.receive() == "started"
        os.kill(process.pid, signal.SIGTERM)
        await process.send("go on")
        assert await process.receive() == "handled"


async def test_a_process_that_a_child_forked_does_not_hold_the_connection_open() -> None:
    code = """
pid = os.fork()
if pid == 0:
    time.sleep(600)
parent.send(pid)
"""
    async with child(code) as process:
        pid = await process.receive()
        try:
            with pytest.raises(EOFError):
                await process.receive()
            assert is_running(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
        await process.wait()
        assert process.ending == "ended with exit code 0"
