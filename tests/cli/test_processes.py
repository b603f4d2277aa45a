"""``worker --processes``: real processes, real signals, and the fate of the states."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from exotrio import StateManager
from exotrio._runtime.outbox_store import read_totals
from exotrio._wire.runs import Run
from tests.support.gated import APP, ITEMS, NAMESPACE, RESULT, WORKERS, Log, graph, until
from tests.support.processes import (
    EXOTRIO,
    KEY,
    NOWHERE,
    TEST_TIMEOUT,
    Process,
    Processes,
    Server,
    environment,
    is_running,
    server,
    until_gone,
)
from tests.support.scrapes import get, values_in
from tests.support.terminals import Terminal

BOTH = 2 * WORKERS
"""States that two processes run at once."""
OPTIONS = ("worker", "app.py", "--processes", "2")
LATE = """
import sys, threading, time, traceback
from exotrio import Runtime
from exotrio._runtime.heartbeat_thread import HeartbeatThread

def late(function, by):
    def call(*args, **options):
        function(*args, **options)
        main = threading.main_thread().ident
        if main != threading.get_ident():
            while any("trio/_core" in f.f_code.co_filename for f, _ in traceback.walk_stack(frames()[main])):
                time.sleep(0.01)
            time.sleep(by)
    return call

frames = sys._current_frames
HeartbeatThread._run = late(HeartbeatThread._run, 0.1)
Runtime.stop = late(Runtime.stop, 0.3)
"""
"""A module that lets the threads of a runtime end after its loop."""
LEFT_OPEN = """
import atexit, os, time
import late
from tests.support.gated import Work

def end():
    open("ending", "w").close()
    while os.path.exists("linger"):
        time.sleep(0.01)
    Work.file.write("written ")

Work.file = open("left-open", "a")
atexit.register(end)
"""
"""Code that leaves a file open. Python writes it at its end, if nothing but the code refers to it then."""


@dataclass(frozen=True)
class Busy:
    """Two processes whose workers all run a state.

    Attributes:
        running: Its item, for each of these states.
    """

    parent: Process
    pids: tuple[int, int]
    run_id: str
    running: list[str]


class Place:
    """A folder with the gated app, and the processes started there.

    Attributes:
        running: A state manager that the tests of this file share; none finds a run of another one there.
    """

    def __init__(self, folder: Path, processes: Processes, running: Server) -> None:
        self.folder = folder
        self.log = Log(folder)
        self.running = running
        self._processes = processes
        self.app()

    def app(self, more: str = "") -> None:
        (self.folder / "app.py").write_text(more + APP, "utf-8")
        (self.folder / "late.py").write_text(LATE, "utf-8")

    def server(self, *arguments: str) -> Server:
        """Start a state manager for this test alone: with other options, or to be killed."""
        return self._processes.server(self.folder, "--db", "server.db", *arguments)

    @contextmanager
    def start(self, server: Server, *arguments: str, **env: str) -> Iterator[Process]:
        """Start a worker; its children do not outlive the block, whatever happens to the test."""
        env = {**server.env, **env}
        parent = self._processes.start(*(arguments or OPTIONS), cwd=self.folder, env=env)
        try:
            yield parent
        finally:
            parent.kill()
            for pid in {int(pid) for pid in re.findall(r"process \d+ \(pid (\d+)\)", parent.so_far().err)}:
                if is_running(pid) and "--child" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)

    @contextmanager
    def busy(self, *options: str, server: Server | None = None, **env: str) -> Iterator[Busy]:
        """Start a worker of two processes and a run, and wait until all their workers run a state of it."""
        server = server or self.running
        with self.start(server, *OPTIONS, *options, **env) as parent:
            pids = pid_of(parent, 1), pid_of(parent, 2)
            run_id = trigger(server)
            yield Busy(parent, pids, run_id, self.log.until("begin", BOTH))

    def open(self) -> None:
        """Let the nodes end."""
        (self.folder / "open-w").touch()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("running")) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, running: Server) -> Iterator[Place]:
    with Processes() as processes:
        yield Place(tmp_path, processes, running)
    for run in running.ask("GET", f"/v0/namespace/{NAMESPACE}/runs/1/100")["runs"]:
        if run["status"] == "PENDING":
            running.ask("POST", f"/exotrio/v1/namespace/{NAMESPACE}/run/{run['run_id']}/cancel")


def trigger(server: Server) -> str:
    async def main() -> str:
        async with StateManager(NAMESPACE, server.uri, KEY) as manager:
            await manager.upsert_graph(graph)
            return str((await manager.trigger(graph.name))["run_id"])

    return trio.run(main)


def finished(server: Server, run_id: str) -> Run:
    async def main() -> Run:
        async with StateManager(NAMESPACE, server.uri, KEY) as manager:
            return await manager.wait(run_id, timeout=30, poll_interval=0.05)

    return trio.run(main)


def pid_of(process: Process, number: int, nth: int = 1) -> int:
    """Return the process id of a child, once it works; ``nth``: that of the one that replaced it."""
    return int(process.line(rf"process {number} \(pid (\d+)\) works as", number=nth)[1])


def kill(*pids: int) -> None:
    """As when the machine fails: no process can react, and its locks are free."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until_gone(*pids)


def complete(place: Place, run_id: str) -> None:
    """Let another process do the rest of a run: each state has to have run once, none twice."""
    place.open()
    with place.start(place.running, "worker", "app.py") as rest:
        run = finished(place.running, run_id)
        rest.stop(code=0)
    assert run.status == "SUCCESS"
    assert sorted(place.log.items("end"), key=int) == RESULT.split(), "each once, none lost"


# -- the stop


def test_a_signal_that_every_process_of_a_service_gets_drains_all_once_and_nothing_is_lost(
    place: Place,
) -> None:
    """As systemd sends it, by default."""
    with place.busy() as busy:
        for pid in (*busy.pids, busy.parent.pid):
            os.kill(pid, signal.SIGTERM)
        busy.parent.line("all processes are ordered to drain: SIGTERM")
        for child in (1, 2):
            busy.parent.line(rf"\[{child}\] .*asked to stop by SIGTERM: {WORKERS} running")
        place.open()
        end = busy.parent.wait(code=0)
    assert sorted(place.log.items("end")) == sorted(busy.running)
    assert sorted(place.log.items("begin")) == sorted(busy.running), "a state was begun after the signal"
    assert "cancelled 0, unknown 0, abandoned 0" in end.err
    assert not any(map(is_running, busy.pids))
    complete(place, busy.run_id)


def test_a_second_signal_cancels_the_nodes_of_all(place: Place) -> None:
    with place.busy() as busy:
        for order in ("drain", "cancel"):
            busy.parent.signal(signal.SIGINT)
            busy.parent.line(f"all processes are ordered to {order}: SIGINT")
        busy.parent.wait(code=0)
    assert sorted(place.log.items("cancelled")) == sorted(busy.running)
    complete(place, busy.run_id)


def test_the_grace_of_the_command_is_one_for_all(place: Place) -> None:
    with place.busy("--grace", "0.2") as busy:
        end = busy.parent.stop(code=0)
    assert end.err.count("the grace is over; ") == 2, end
    assert sorted(place.log.items("cancelled")) == sorted(busy.running)


def test_ctrl_c_in_a_terminal_counts_once_for_each_process_and_the_third_ends_all_at_once(
    place: Place,
) -> None:
    env = {**place.running.env, "STUBBORN": "1"}
    with Terminal([*EXOTRIO, *OPTIONS], cwd=place.folder, env=env) as terminal:
        terminal.until("process 2 (pid")
        trigger(place.running)
        place.log.until("begin", BOTH)
        for order in ("drain", "cancel"):
            assert f": w: {order}" not in terminal.screen
            terminal.type("\x03")
            terminal.until(f"all processes are ordered to {order}: SIGINT")
            for child in (1, 2):
                terminal.until(f"[{child}] exotrio.runtime: w: {order}")
        assert "third signal" not in terminal.screen
        terminal.type("\x03")
        assert terminal.wait() == 130, terminal.screen
    for child in (1, 2):
        (pid,) = map(int, re.findall(rf"process {child} \(pid (\d+)\) works as", terminal.screen))
        until_gone(pid)
    assert place.log.items("end") == place.log.items("cancelled") == []
    assert terminal.screen.count("third signal") == 1, terminal.screen


def test_a_signal_while_the_code_is_loaded_ends_all(place: Place) -> None:
    place.app("import time\nopen('loading', 'w').close()\ntime.sleep(600)\n")
    with place.start(NOWHERE) as parent:
        until((place.folder / "loading").exists, "the code is loaded")
        end = parent.stop(code=0)
    assert "Traceback" not in end.err


# -- processes that end by themselves


def test_a_process_that_is_killed_is_replaced_and_its_states_run_elsewhere(place: Place) -> None:
    server = place.server("--lease-ttl", "1")
    with place.busy(server=server) as busy:
        first = busy.pids[1]
        os.kill(first, signal.SIGKILL)
        assert busy.parent.line(r"ERROR .*process 2 \(pid (\d+)\) was killed by SIGKILL")[1] == str(first)
        assert pid_of(busy.parent, 2, nth=2) != first
        place.open()
        assert finished(server, busy.run_id).status == "SUCCESS"
        busy.parent.stop(code=0)
    assert sorted(set(place.log.items("end")), key=int) == RESULT.split(), "none is lost"
    assert len(place.log.items("begin")) == ITEMS + WORKERS, "only its states ran again"


def test_code_that_cannot_be_loaded_is_reported_once(place: Place) -> None:
    place.app("import nothing_like_it\n")
    with place.start(NOWHERE) as parent:
        end = parent.wait(code=3)
    assert end.err.count("No module named 'nothing_like_it'") == 1, end


def test_a_process_that_cannot_be_replaced_ends_all_and_they_drain(place: Place) -> None:
    with place.busy() as busy:
        place.app("import nothing_like_it\n")
        os.kill(busy.pids[1], signal.SIGKILL)
        busy.parent.line(r"\[1\] .*asked to stop by exit code 3 of process 2")
        place.open()
        busy.parent.wait(code=3)
    assert len(place.log.items("end")) == WORKERS


def test_a_signal_to_the_parent_drains_all_and_a_process_that_dies_meanwhile_abandons_its_states(
    place: Place,
) -> None:
    with place.busy() as busy:
        busy.parent.signal(signal.SIGTERM)
        for child in (1, 2):
            busy.parent.line(rf"\[{child}\] .*asked to stop by SIGTERM: {WORKERS} running")
        os.kill(busy.pids[1], signal.SIGKILL)
        busy.parent.line("was killed by SIGKILL; .* while it stopped")
        place.open()
        busy.parent.wait(code=75)


def test_the_exit_code_is_75_if_one_process_abandons_something(place: Place) -> None:
    server = place.server()
    with place.busy(server=server) as busy:
        server.process.kill()
        busy.parent.signal(signal.SIGTERM)
        busy.parent.line(r"\[2\] .*asked to stop by SIGTERM")
        busy.parent.stop(code=75)


def test_no_process_outlives_a_parent_that_is_killed(place: Place) -> None:
    place.app(LEFT_OPEN)
    with place.busy() as busy:
        busy.parent.kill()
        for child in (1, 2):
            busy.parent.line(rf"\[{child}\] .*asked to stop by the end of the parent process")
        place.open()
        until_gone(*busy.pids)
    assert sorted(place.log.items("end")) == sorted(busy.running), "they drained"
    assert (place.folder / "left-open").read_text() == "written " * 2, "they ended as Python does"
    complete(place, busy.run_id)


def test_a_process_that_loads_its_code_does_not_outlive_its_parent_either(place: Place) -> None:
    place.app("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    file = place.folder / "pid"
    with place.start(place.running) as parent:
        pid = int(str(until(lambda: file.exists() and file.read_text(), "the code is loaded")))
        parent.kill()
        until_gone(pid)


# -- health and metrics


def health_of(parent: Process) -> str:
    return parent.line(r"health is served on (http://[\d.:]+)")[1]


def metrics(url: str) -> dict[str, float]:
    status, text = get(f"{url}/metrics")
    assert status == 200
    return values_in(text)


HEALTH = ("--health-port", "0", "--health-tasks")
COMPLETED = 'exotrio_states_total{node="Work",outcome="completed"}'
WORKED = 'exotrio_state_duration_seconds_count{node="Work"}'


def test_health_metrics_and_log_are_those_of_all_through_a_kill_a_hang_and_a_stop(place: Place) -> None:
    server = place.running
    with place.start(server, *OPTIONS, *HEALTH, "--log-format", "json") as parent:
        url, pid = health_of(parent), pid_of(parent, 2)
        pid_of(parent, 1)
        ids = {
            re.sub(r".*works as ([^\"]+).*", r"\1", parent.line("works as", number=n).string) for n in (1, 2)
        }
        assert len(ids) == 2
        assert get(f"{url}/livez") == (200, "ok\n")
        assert get(f"{url}/readyz") == (200, "ok\n")
        until(lambda: get(f"{url}/tasks")[1].count("Poller.claim (") == 2, "both wait for states")
        tree = get(f"{url}/tasks")[1]
        assert all(f"process {number} (pid " in tree for number in (1, 2))

        run_id = trigger(server)
        place.log.until("begin", BOTH)
        busy = metrics(url)
        assert busy["exotrio_workers"] == busy["exotrio_workers_busy"] == BOTH
        assert busy['exotrio_phase{phase="running"}'] == 2
        assert busy["exotrio_processes"] == busy["exotrio_processes_ready"] == 2
        assert [value for name, value in busy.items() if name.startswith("exotrio_build_info")] == [1]
        place.open()
        finished(server, run_id)
        until(lambda: metrics(url)[COMPLETED] == ITEMS, "all are counted")
        done = metrics(url)
        assert done[WORKED] == ITEMS

        os.kill(pid, signal.SIGKILL)
        pid = pid_of(parent, 2, nth=2)
        after = metrics(url)
        assert after["exotrio_process_restarts_total"] == 1
        assert after["exotrio_workers"] == BOTH
        counters = [name for name in done if re.search(r"_(total|count|sum|created|bucket)($|{)", name)]
        assert counters
        assert [name for name in counters if after[name] < done[name]] == [], "none goes backwards"

        os.kill(pid, signal.SIGSTOP)
        try:
            # Not at once: a process may go on for a moment after the signal was sent.
            hangs = (503, f"process 2 (pid {pid}) does not answer\n")
            until(lambda: get(f"{url}/livez") == hangs, "it hangs")
            assert get(f"{url}/readyz") == (200, "ok\n")
            assert metrics(url)["exotrio_processes_ready"] == 1
            parent.signal(signal.SIGTERM)
            parent.line("all processes are ordered to drain")
        finally:
            os.kill(pid, signal.SIGCONT)
        end = parent.wait(code=0)
    lines = [json.loads(line) for line in end.err.splitlines()]
    assert {line.get("process") for line in lines if line["message"].endswith(": running")} == {1, 2}
    assert all("process" not in line for line in lines if line["logger"] == "exotrio.cli")


def test_a_process_that_was_drained_by_itself_is_not_replaced_and_what_it_counted_stays(place: Place) -> None:
    place.app(LEFT_OPEN)
    with place.busy(*HEALTH) as busy:
        url = health_of(busy.parent)
        os.kill(busy.pids[1], signal.SIGTERM)
        busy.parent.line(r"\[2\] .*asked to stop by SIGTERM")
        place.open()
        busy.parent.line(r"process 2 \(pid \d+\) drained, as it was asked to; it is not replaced")
        assert finished(place.running, busy.run_id).status == "SUCCESS"
        until(lambda: metrics(url)[COMPLETED] == ITEMS, "those of both are counted")
        assert metrics(url)["exotrio_workers"] == WORKERS
        (place.folder / "linger").touch()
        (place.folder / "ending").unlink()
        os.kill(busy.pids[0], signal.SIGTERM)
        until((place.folder / "ending").exists, "it is at its end")
        busy.parent.signal(signal.SIGTERM)
        busy.parent.line("all processes are ordered to drain")
        (place.folder / "linger").unlink()
        busy.parent.wait(code=0)
    assert (place.folder / "left-open").read_text() == "written " * 2


WITHOUT_FILES = """
import os, resource, threading, time

class Seconds(float):
    pass

def limit():
    while not os.path.exists("limit"):
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # no other file can be opened
    os.mkdir(f"limited-{os.getpid()}")

threading.Thread(target=limit, daemon=True).start()
while os.path.exists("loading"):
    time.sleep(0.01)
"""


def test_the_task_tree_is_shown_once_it_can_be_and_a_process_without_files_follows_orders(
    place: Place,
) -> None:
    place.app(WITHOUT_FILES)
    app = (place.folder / "app.py").read_text()
    (place.folder / "app.py").write_text(app.replace("shutdown_grace=600", "shutdown_grace=Seconds(600)"))
    (place.folder / "loading").touch()
    with place.start(place.running, "worker", "app.py", "--processes", "1", *HEALTH) as parent:
        url = health_of(parent)
        until(lambda: "the runtime does not run" in get(f"{url}/tasks")[1], "its code is being loaded")
        (place.folder / "loading").unlink()
        pid = pid_of(parent, 1)
        until(lambda: "Poller.claim (" in get(f"{url}/tasks")[1], "it waits for states")
        (place.folder / "limit").touch()
        until((place.folder / f"limited-{pid}").exists, "no other file can be opened")
        until(lambda: "Too many open files" in get(f"{url}/tasks")[1], "it says why there is no task tree")
        parent.signal(signal.SIGTERM)
        assert "was killed" not in parent.wait(code=0).err


HUNG = """
import time
import exotrio.monitoring
from exotrio import BaseNode, Runtime

exotrio.monitoring.MAX_LAG = 0.3

class Hang(BaseNode):
    async def execute(self):
        time.sleep(600)

runtime = Runtime("hung", "h", [Hang], poll_interval=0.05)
"""


def test_a_process_whose_loop_is_blocked_is_hung_and_so_are_all(place: Place) -> None:
    (place.folder / "app.py").write_text(HUNG, "utf-8")
    server = place.running
    with place.start(server, *OPTIONS, *HEALTH) as parent:
        url = health_of(parent)
        pid_of(parent, 2)
        node = {"node_name": "Hang", "namespace": "hung", "identifier": "it", "inputs": {}, "next_nodes": []}
        server.ask("PUT", "/v0/namespace/hung/graph/g", {"secrets": {}, "nodes": [node]})
        server.ask("POST", "/v0/namespace/hung/graph/g/trigger", {})
        until(lambda: get(f"{url}/livez")[0] == 503, "it is hung")
        assert re.match(r"process \d \(pid \d+\): the loop is .* late", get(f"{url}/livez")[1])
        assert get(f"{url}/readyz")[0] == 200, "the other one works"
        for order in ("drain", "cancel"):
            parent.signal(signal.SIGTERM)
            parent.line(f"all processes are ordered to {order}")
        parent.signal(signal.SIGTERM)
        assert parent.wait().code == 128 + signal.SIGTERM


def test_they_live_but_are_not_ready_while_there_is_no_state_manager(place: Place) -> None:
    with place.start(NOWHERE, *OPTIONS, *HEALTH) as parent:
        url = health_of(parent)
        parent.line("registering at")
        assert get(f"{url}/livez") == (200, "ok\n")
        status, text = get(f"{url}/readyz")
        assert status == 503
        assert "starting: its nodes are not registered yet" in text
        parent.signal(signal.SIGTERM)
        assert parent.wait().code == 0


def test_a_health_port_that_is_taken_starts_no_process(place: Place) -> None:
    place.app("open('loaded', 'w').close()\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with place.start(NOWHERE, *OPTIONS, "--health-port", port) as parent:
            parent.wait(code=7)
    assert not (place.folder / "loaded").exists()


# -- outboxes and state managers


OUTBOX = """
import exotrio, functools
exotrio.Runtime = functools.partial(exotrio.Runtime, outbox="out.db")
"""


def test_each_has_an_outbox_and_that_of_an_absent_one_is_named_then_delivered(
    place: Place,
) -> None:
    place.app(OUTBOX)
    server = place.server()
    port = server.uri.rpartition(":")[2]
    with place.busy("-v", server=server) as busy:
        server.process.kill()
        place.open()
        for child in (1, 2):
            busy.parent.line(rf"\[{child}\] .*Work as work.* is in the outbox", number=WORKERS)
        kill(busy.parent.pid, *busy.pids)
    second = place.folder / "out.2.db"
    assert {file.name for file in place.folder.glob("out*.db")} == {"out.db", second.name}
    held = read_totals(second).outcomes
    with place.start(server, "worker", "app.py") as alone:
        alone.line(r"ERROR .*out\.2\.db holds outcomes of --processes,.*: worker --processes 1")
    place._processes.start("server", "--port", port, "--key", KEY, "--db", "server.db", cwd=place.folder)
    with place.start(server, "worker", "app.py", "--processes", "1") as parent:
        parent.line(rf"\[2\] .*: {held} outcomes of an earlier process are sent from {second}")
        parent.line(r"process 2 \(pid \d+\) ended; its outbox is empty")
        parent.stop(code=0)
    assert held >= WORKERS
    assert read_totals(second).outcomes == 0
    began = place.log.items("begin")
    assert len(began) == len(set(began)), "none ran twice"


def test_a_state_manager_within_the_process_is_refused(place: Place) -> None:
    place.app(
        "import exotrio, functools, httpx\n"
        "exotrio.Runtime = functools.partial(exotrio.Runtime, transport=httpx.ASGITransport(app=None))\n"
    )
    with place.start(NOWHERE) as parent:
        end = parent.wait(code=2)
    assert "several processes cannot share the state manager that is in this one" in end.err


def test_a_signal_while_python_ends_does_not_replace_the_exit_code_of_a_complete_stop(tmp_path: Path) -> None:
    at_exit = "atexit.register(lambda: (print('ending', flush=True), sys.stdin.readline()))"
    (tmp_path / "app.py").write_text(f"import atexit, sys\n{at_exit}\n{APP}", "utf-8")
    pipe = subprocess.PIPE
    with (
        server(tmp_path, "--db", ":memory:") as running,
        subprocess.Popen(
            [*EXOTRIO, "worker", "app.py"],
            cwd=tmp_path,
            env=environment(tmp_path, running.env),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert worker.stderr is not None
        try:
            while b"is registered" not in (line := worker.stderr.readline()):
                assert line, "it ended early"
            worker.send_signal(signal.SIGTERM)
            assert worker.stdout.readline() == b"ending\n"
            worker.send_signal(signal.SIGTERM)
            worker.stdin.close()
            assert worker.wait(TEST_TIMEOUT) == 0
        finally:
            worker.kill()
