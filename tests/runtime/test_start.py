"""From plain code: ``start()``, its signals in a real process, threads, and loops that are in the way."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from exotrio import BaseNode, LifecycleError, Runtime
from exotrio._http.endpoint import Endpoint
from exotrio._runtime.entry import StopRequests, stop_signals
from exotrio._runtime.options import Options
from tests.support.doubles import Call, V0Server, runtime
from tests.support.processes import KEY, TEST_TIMEOUT, Process, Server, server

PROGRAM = """
import logging, signal, sys, threading, time
import trio
from exotrio import BaseNode, Runtime
from tests.support.doubles import V0Server

class Sleeps(BaseNode):
    class Inputs(BaseNode.Inputs):
        seconds: str

    async def execute(self):
        print("ready", flush=True)
        await trio.sleep(float(self.inputs.seconds))

class Blocks(BaseNode):
    async def execute(self):
        print("ready", flush=True)
        while True:
            time.sleep(0.01)

class Threads(BaseNode):
    def execute(self):
        print("ready", flush=True)
        while not self.stopping:
            time.sleep(0.01)
        print("saw", self.stopping, flush=True)

server = V0Server()
server.add(sys.argv[1], seconds=sys.argv[2])
before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
nodes = [Sleeps, Blocks, Threads]
summary = Runtime("ns", "rt", nodes, transport=server, shutdown_grace=float(sys.argv[3])).start()
assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
print(summary, dict(server.statuses()), flush=True)
sys.exit(summary.exit_code)
"""


IN_TRIO = (
    PROGRAM.replace(".start()", "").replace("summary =", "rt =").partition("assert before")[0]
    + """
try:
    trio.run(rt.run)
except KeyboardInterrupt:
    print(rt.summary, dict(server.statuses()), flush=True)
"""
)


@contextmanager
def program_runs(node: str, seconds: float, grace: float, program: str = PROGRAM) -> Iterator[Process]:
    """Run the program above, for one state of one node, which has begun."""
    command = [sys.executable, "-c", program, node, str(seconds), str(grace)]
    with Process(command, cwd=Path.cwd()) as process:
        process.line("ready")
        yield process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_lets_the_running_node_end(number: signal.Signals) -> None:
    with program_runs("Sleeps", 0.3, 15) as process:
        end = process.stop(number)
    assert (end.code, end.err) == (0, "")
    assert "completed 1" in end.out


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
        (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM),
    ],
)
def test_signals_that_are_sent_together_are_one_request(numbers: tuple[signal.Signals, ...]) -> None:
    with program_runs("Sleeps", 0.5, 15) as process:
        for number in numbers:
            process.signal(number)
        end = process.wait()
    assert (end.code, end.err) == (0, "")
    assert "completed 1" in end.out


def test_another_signal_after_a_second_is_a_separate_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    requests = StopRequests()
    assert requests.add(signal.SIGTERM)
    now += 0.9
    assert not requests.add(signal.SIGINT)
    now += 0.2
    assert requests.add(signal.SIGINT)
    assert requests.add(signal.SIGINT), "pressed twice"
    assert requests.count == 3


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stop_signals() == [signal.SIGTERM, signal.SIGINT]
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGHUP in stop_signals()


def test_the_server_answers_what_is_in_flight_at_a_first_signal_and_cuts_it_off_at_a_second(
    tmp_path: Path,
) -> None:
    with server(tmp_path, "--db", ":memory:", "--grace", "1000") as running_server, ExitStack() as stack:
        first, second = (stack.enter_context(in_flight(running_server)) for _ in range(2))
        running_server.process.signal(signal.SIGINT)
        running_server.process.line("SIGINT: stopping")
        for number in (signal.SIGTERM, signal.SIGHUP):  # of the same request
            running_server.process.signal(number)
        first.sendall(b"{}")
        assert first.recv(4096).startswith(b"HTTP/1.1 4")
        running_server.process.signal(signal.SIGINT)
        assert running_server.process.wait().code == 0
        assert second.recv(4096) == b""


@contextmanager
def in_flight(running_server: Server) -> Iterator[socket.socket]:
    """Have a request whose body the server waits for."""
    host, port = running_server.uri.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=TEST_TIMEOUT) as client:
        client.sendall(
            b"POST /v0/namespace/n/graph/g/trigger HTTP/1.1\r\nhost: 127.0.0.1\r\nx-api-key: %s\r\n"
            b"content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
            % KEY.encode()
        )
        assert b"100" in client.recv(4096)
        yield client


def test_the_second_signal_cancels_the_running_node_and_its_state_is_handed_back() -> None:
    with program_runs("Sleeps", 1000, 1000) as process:
        process.signal(signal.SIGTERM)
        time.sleep(0.1)  # two pending signals of one kind would be one
        end = process.stop(code=0)
    assert "cancelled 1" in end.out
    assert "'CREATED': 1" in end.out


def test_the_third_signal_ends_the_process_even_if_node_code_blocks_the_loop() -> None:
    with program_runs("Blocks", 0, 1000) as process:
        for _ in range(3):
            process.signal(signal.SIGINT)
            time.sleep(0.2)
        end = process.wait(code=128 + signal.SIGINT)
    assert "third signal" in end.err


def test_a_ctrl_c_of_an_application_that_owns_its_signals_loses_nothing() -> None:
    with program_runs("Sleeps", 1000, 1000, IN_TRIO) as process:
        end = process.stop(signal.SIGINT)
    assert (end.code, end.err) == (0, "")
    assert "cancelled 1" in end.out
    assert "'CREATED': 1" in end.out


def test_a_node_in_a_thread_sees_the_drain() -> None:
    with program_runs("Threads", 0, 15) as process:
        end = process.stop(code=0)
    assert "saw draining" in end.out
    assert "completed 1" in end.out


class Quick(BaseNode):
    async def execute(self) -> None: ...


def test_garbage_is_collected_rarely_while_start_owns_the_process() -> None:
    class Looks(BaseNode):
        async def execute(self) -> None:
            seen.append(gc.get_threshold())

    def run(threshold: tuple[int, int, int], *, in_thread: bool = False) -> None:
        gc.set_threshold(*threshold)
        server = V0Server(Looks=1)
        rt = runtime(server, Looks)
        server.after = lambda call: _stop_after_report(rt, call)
        if in_thread:
            thread = threading.Thread(target=rt.start)
            thread.start()
            thread.join(60)
        else:
            rt.start()
        assert gc.get_threshold() == threshold

    before, python, own, seen = gc.get_threshold(), (700, 10, 10), (900, 9, 9), list[object]()
    try:
        run(python)
        run(own)
        run(python, in_thread=True)
    finally:
        gc.set_threshold(*before)
    assert seen == [(2_000, 20, 20), own, python]


async def _stop_after_report(rt: Runtime, call: Call) -> None:
    if call.route == "executed":
        rt.stop()


def test_start_in_another_thread_is_ended_by_stop_from_this_one() -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = V0Server(Quick=1)
    rt = runtime(server, Quick)
    thread = threading.Thread(target=rt.start, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.statuses()["EXECUTED"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) is before
    rt.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert rt.summary.completed == 1


def test_a_stop_from_another_thread_is_never_lost_however_it_meets_the_start() -> None:
    for _ in range(30):
        rt = runtime(V0Server(), Quick)
        stopper = threading.Thread(target=rt.stop)
        ended = threading.Thread(target=rt.start, daemon=True)
        ended.start()
        stopper.start()
        ended.join(60)
        stopper.join()
        assert not ended.is_alive()


def test_start_after_stop_returns_at_once() -> None:
    rt = runtime(V0Server(), Quick)
    rt.stop()
    assert rt.start().exit_code == 0
    with pytest.raises(LifecycleError, match="started before"):
        rt.start()


def test_of_two_threads_that_start_it_at_the_same_moment_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, resolve = threading.Barrier(2), Options.resolve_endpoint

    def resolve_together(options: Options) -> Endpoint:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return resolve(options)

    monkeypatch.setattr(Options, "resolve_endpoint", resolve_together)
    rt = runtime(V0Server(), Quick)
    rt.stop()
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(rt.start).exception for _ in range(2)]
    assert {type(end()) for end in ends} == {LifecycleError, type(None)}


async def test_start_inside_trio_names_what_to_do_instead() -> None:
    with pytest.raises(LifecycleError, match=r"nursery\.start"):
        runtime(V0Server(), Quick).start()


def test_start_inside_asyncio_names_what_to_do_instead() -> None:
    async def main(rt: Runtime) -> None:
        rt.start()

    with pytest.raises(LifecycleError, match="Thread"):
        asyncio.run(main(runtime(V0Server(), Quick)))
