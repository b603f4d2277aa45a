"""``worker --processes``: real processes, real signals, and what becomes of the states."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from exotrio import StateManager
from exotrio._runtime.outbox_store import read_totals
from exotrio._wire.native import Run
from tests.support.gated import APP, ITEMS, NAMESPACE, RESULT, WORKERS, Log, graph, until
from tests.support.processes import EXOTRIO, KEY, Process, Processes, Server
from tests.support.scrapes import get, values_in
from tests.support.terminals import Terminal

BOTH = 2 * WORKERS
"""States that two processes run at once."""
OPTIONS = ("worker", "app.py", "--processes", "2")


class Place:
    """A folder with the gated app, and the processes started there."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.log = Log(folder)
        self._processes = processes
        self.app()

    def app(self, more: str = "") -> None:
        (self.folder / "app.py").write_text(more + APP, "utf-8")

    def server(self, *arguments: str) -> Server:
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
                if runs(pid) and "--child" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)

    def open(self) -> None:
        """Let the nodes end."""
        (self.folder / "open-w").touch()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Processes() as processes:
        yield Place(tmp_path, processes)


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


def runs(pid: int) -> bool:
    """Whether a process runs; not whether somebody has asked for its exit code."""
    # Each thread: what the process holds is free when the last one has ended.
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            if thread.read_text().rpartition(")")[2].split()[0] not in "ZX":
                return True
    return False


def is_gone(pid: int) -> bool:
    return not runs(pid)


def kill(*pids: int) -> None:
    """As the end of the machine does it: nobody can do anything about it, and locks are free then."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        until(lambda pid=pid: is_gone(pid), f"process {pid} ends")


def complete(place: Place, server: Server, run_id: str) -> None:
    """Let other processes do the rest of a run: each state has to have run once, none twice."""
    place.open()
    with place.start(server) as rest:
        run = finished(server, run_id)
        rest.signal(signal.SIGTERM)
        end = rest.wait()
    assert end.code == 0, end
    assert run.status == "SUCCESS"
    assert sorted(place.log.items("end"), key=int) == RESULT.split(), "each once, none lost"


# -- the stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_parent_drains_all_and_nothing_is_lost(place: Place, number: signal.Signals) -> None:
    server = place.server()
    with place.start(server) as parent:
        pids = [pid_of(parent, 1), pid_of(parent, 2)]
        run_id = trigger(server)
        running = place.log.until("begin", BOTH)
        parent.signal(number)
        for child in (1, 2):
            parent.line(rf"\[{child}\] .*asked to stop by {number.name}: {WORKERS} running")
        place.open()
        end = parent.wait()
    assert end.code == 0, end
    assert sorted(place.log.items("end")) == sorted(running)
    assert sorted(place.log.items("begin")) == sorted(running), "a state was begun after the signal"
    assert "cancelled 0, unknown 0, abandoned 0" in end.err
    assert not any(map(runs, pids))
    complete(place, server, run_id)


def test_a_second_signal_cancels_the_nodes_of_all(place: Place) -> None:
    server = place.server()
    with place.start(server) as parent:
        pid_of(parent, 2)
        run_id = trigger(server)
        running = place.log.until("begin", BOTH)
        for nth in (1, 2):
            parent.signal(signal.SIGTERM)
            parent.line("all processes are ordered to", number=nth)
        end = parent.wait()
    assert end.code == 0, end
    assert sorted(place.log.items("cancelled")) == sorted(running)
    complete(place, server, run_id)


def test_the_grace_of_the_command_is_one_for_all(place: Place) -> None:
    server = place.server()
    with place.start(server, *OPTIONS, "--grace", "0.2") as parent:
        pid_of(parent, 2)
        trigger(server)
        running = place.log.until("begin", BOTH)
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, end
    assert end.err.count("the grace is over; ") == 2, end
    assert sorted(place.log.items("cancelled")) == sorted(running)


def test_a_third_signal_ends_all_at_once(place: Place) -> None:
    server = place.server()
    with place.start(server, STUBBORN="1") as parent:
        pids = [pid_of(parent, 1), pid_of(parent, 2)]
        trigger(server)
        place.log.until("begin", BOTH)
        for nth in (1, 2):
            parent.signal(signal.SIGTERM)
            parent.line("all processes are ordered to", number=nth)
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 128 + signal.SIGTERM, end
    for pid in pids:
        until(lambda pid=pid: is_gone(pid), f"process {pid} ends")
    assert place.log.items("end") == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_ctrl_c_in_a_terminal_counts_once_for_each_process(place: Place, times: int) -> None:
    server = place.server()
    env = {**server.env, "STUBBORN": "1" if times == 3 else ""}
    with Terminal([*EXOTRIO, *OPTIONS], cwd=place.folder, env=env) as terminal:
        terminal.until("process 2 (pid")
        trigger(server)
        running = place.log.until("begin", BOTH)
        for order in ("drain", "cancel")[:times]:
            terminal.type("\x03")
            terminal.until(f"all processes are ordered to {order}: SIGINT")
            for child in (1, 2):
                terminal.until(f"[{child}] exotrio.runtime: w: {order}")
        if times == 3:
            terminal.type("\x03")
        else:
            place.open()
        assert terminal.wait() == (130 if times == 3 else 0), terminal.screen
    assert sorted(place.log.items("end")) == (sorted(running) if times == 1 else [])
    assert sorted(place.log.items("cancelled")) == (sorted(running) if times == 2 else [])
    assert terminal.screen.count("third signal") == (times == 3), terminal.screen


def test_a_signal_that_every_process_of_a_service_gets_counts_once(place: Place) -> None:
    """As systemd sends it, by default."""
    server = place.server()
    with place.start(server) as parent:
        pids = [pid_of(parent, 1), pid_of(parent, 2)]
        trigger(server)
        running = place.log.until("begin", BOTH)
        for pid in (*pids, parent.pid):
            os.kill(pid, signal.SIGTERM)
        parent.line("all processes are ordered to drain: SIGTERM")
        for child in (1, 2):
            parent.line(rf"\[{child}\] .*asked to stop by SIGTERM")
        place.open()
        end = parent.wait()
    assert end.code == 0, end
    assert sorted(place.log.items("end")) == sorted(running)


def test_a_signal_while_the_code_is_loaded_ends_all(place: Place) -> None:
    place.app("import time\nopen('loading', 'w').close()\ntime.sleep(600)\n")
    with place.start(Server(None, "http://127.0.0.1:9")) as parent:  # type: ignore[arg-type]
        until((place.folder / "loading").exists, "the code is loaded")
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, end
    assert "Traceback" not in end.err


# -- processes that end by themselves


def test_a_process_that_is_killed_is_replaced_and_its_states_run_elsewhere(place: Place) -> None:
    server = place.server("--lease-ttl", "1")
    with place.start(server) as parent:
        first = pid_of(parent, 2)
        run_id = trigger(server)
        place.log.until("begin", BOTH)
        os.kill(first, signal.SIGKILL)
        assert parent.line(r"ERROR .*process 2 \(pid (\d+)\) was killed by SIGKILL")[1] == str(first)
        assert pid_of(parent, 2, nth=2) != first
        place.open()
        assert finished(server, run_id).status == "SUCCESS"
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, f"who was replaced does not count; {end}"
    assert sorted(set(place.log.items("end")), key=int) == RESULT.split(), "none is lost"
    assert len(place.log.items("begin")) == ITEMS + WORKERS, "only its states ran again"


def test_a_process_that_was_drained_by_itself_is_not_replaced(place: Place) -> None:
    server = place.server()
    with place.start(server) as parent:
        os.kill(pid_of(parent, 2), signal.SIGTERM)
        parent.line(r"process 2 \(pid \d+\) drained, as it was asked to; it is not replaced")
        run_id = trigger(server)
        place.open()
        assert finished(server, run_id).status == "SUCCESS"
        os.kill(pid_of(parent, 1), signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, end


def test_code_that_cannot_be_loaded_is_told_once(place: Place) -> None:
    place.app("import nothing_like_it\n")
    with place.start(Server(None, "http://127.0.0.1:9")) as parent:  # type: ignore[arg-type]
        end = parent.wait()
    assert end.code == 3, end
    assert end.err.count("No module named 'nothing_like_it'") == 1, end


def test_a_refused_key_ends_all(place: Place) -> None:
    server = place.server()
    with place.start(server, EXOSPHERE_API_KEY="another-key-for-tests") as parent:
        end = parent.wait()
    assert end.code == 5, end


def test_a_process_that_cannot_be_replaced_ends_all_and_they_drain(place: Place) -> None:
    server = place.server()
    with place.start(server) as parent:
        pid = pid_of(parent, 2)
        trigger(server)
        place.log.until("begin", BOTH)
        place.app("import nothing_like_it\n")
        os.kill(pid, signal.SIGKILL)
        parent.line(r"\[1\] .*asked to stop by exit code 3 of process 2")
        place.open()
        end = parent.wait()
    assert end.code == 3, end
    assert len(place.log.items("end")) == WORKERS


def test_a_process_that_dies_while_it_stops_leaves_something_behind(place: Place) -> None:
    server = place.server()
    with place.start(server) as parent:
        pid = pid_of(parent, 2)
        trigger(server)
        place.log.until("begin", BOTH)
        parent.signal(signal.SIGTERM)
        parent.line(r"\[2\] .*asked to stop by SIGTERM")
        os.kill(pid, signal.SIGKILL)
        parent.line("was killed by SIGKILL; .* while it stopped")
        place.open()
        end = parent.wait()
    assert end.code == 75, end


def test_what_one_process_abandons_is_the_exit_code_of_all(place: Place) -> None:
    server = place.server()
    with place.start(server) as parent:
        pid_of(parent, 2)
        trigger(server)
        place.log.until("begin", BOTH)
        server.process.kill()
        parent.signal(signal.SIGTERM)
        parent.line(r"\[2\] .*asked to stop by SIGTERM")
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 75, end


@pytest.mark.parametrize("state", ["idle", "busy", "loading"])
def test_no_process_outlives_a_parent_that_is_killed(place: Place, state: str) -> None:
    server = place.server()
    if state == "loading":
        place.app("import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    with place.start(server) as parent:
        if state == "loading":
            file = place.folder / "pid"
            pids = [int(until(lambda: file.exists() and file.read_text(), "the code is loaded"))]
        else:
            pids = [pid_of(parent, 1), pid_of(parent, 2)]
        if state == "busy":
            run_id = trigger(server)
            running = place.log.until("begin", BOTH)
        parent.kill()
        if state == "busy":
            for child in (1, 2):
                parent.line(rf"\[{child}\] .*asked to stop by the end of the parent process")
            place.open()
        for pid in pids:
            until(lambda pid=pid: is_gone(pid), f"process {pid} ends")
    if state == "busy":
        assert sorted(place.log.items("end")) == sorted(running), "they drained"
        complete(place, server, run_id)


# -- health and metrics


def health_of(parent: Process) -> str:
    return parent.line(r"health is served on (http://[\d.:]+)")[1]


def metrics(url: str) -> dict[str, float]:
    status, text = get(f"{url}/metrics")
    assert status == 200
    return values_in(text)


WITH_HEALTH = (*OPTIONS, "--health-port", "0", "--health-tasks")
COMPLETED = 'exotrio_states_total{node="Work",outcome="completed"}'
WORKED = 'exotrio_state_duration_seconds_count{node="Work"}'


def test_metrics_are_those_of_all_and_never_go_backwards(place: Place) -> None:
    server = place.server("--lease-ttl", "1")
    with place.start(server, *WITH_HEALTH) as parent:
        url, pid = health_of(parent), pid_of(parent, 2)
        pid_of(parent, 1)
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
        pid_of(parent, 2, nth=2)
        after = metrics(url)
        assert after["exotrio_process_restarts_total"] == 1
        assert after["exotrio_workers"] == BOTH
        fallen = [
            name
            for name in done
            if name.endswith(("_total", "_count", "_sum", "_created")) or "_bucket{" in name
            if after[name] < done[name]
        ]
        assert not fallen
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, end


def test_what_a_process_counted_in_its_drain_stays(place: Place) -> None:
    server = place.server()
    with place.start(server, *WITH_HEALTH) as parent:
        url, pid = health_of(parent), pid_of(parent, 2)
        pid_of(parent, 1)
        trigger(server)
        place.log.until("begin", BOTH)
        os.kill(pid, signal.SIGTERM)
        parent.line(r"\[2\] .*asked to stop by SIGTERM")
        place.open()
        parent.line(r"process 2 \(pid \d+\) drained")
        place.log.until("end", ITEMS)
        until(lambda: metrics(url)[COMPLETED] == ITEMS, "those of both are counted")
        assert metrics(url)["exotrio_workers"] == WORKERS


def test_all_are_ready_if_one_is_and_hung_if_one_is(place: Place) -> None:
    server = place.server()
    with place.start(server, *WITH_HEALTH) as parent:
        url, pid = health_of(parent), pid_of(parent, 2)
        pid_of(parent, 1)
        assert get(f"{url}/livez") == (200, "ok\n")
        assert get(f"{url}/readyz") == (200, "ok\n")
        tree = get(f"{url}/tasks")[1]
        assert all(f"process {number} (pid " in tree for number in (1, 2))
        assert tree.count("Poller.claim (") == 2
        os.kill(pid, signal.SIGSTOP)
        try:
            assert get(f"{url}/livez") == (503, f"process 2 (pid {pid}) does not answer\n")
            assert get(f"{url}/readyz") == (200, "ok\n")
            assert metrics(url)["exotrio_processes_ready"] == 1
            parent.signal(signal.SIGTERM)
            parent.line("all processes are ordered to drain")
        finally:
            os.kill(pid, signal.SIGCONT)
        end = parent.wait()
    assert end.code == 0, end


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
    server = place.server()
    with place.start(server, *WITH_HEALTH) as parent:
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
    nowhere = Server(None, "http://127.0.0.1:9")  # type: ignore[arg-type]
    with place.start(nowhere, *WITH_HEALTH) as parent:
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
        nowhere = Server(None, "http://127.0.0.1:9")  # type: ignore[arg-type]
        with place.start(nowhere, *OPTIONS, "--health-port", port) as parent:
            end = parent.wait()
    assert end.code == 7, end
    assert not (place.folder / "loaded").exists()


# -- what they have of their own


OUTBOX = """
import exotrio, functools
exotrio.Runtime = functools.partial(exotrio.Runtime, outbox="out.db")
"""


def test_each_has_an_outbox_and_that_of_an_absent_one_is_delivered(place: Place) -> None:
    place.app(OUTBOX)
    server = place.server()
    port = server.uri.rpartition(":")[2]
    with place.start(server, *OPTIONS, "-v") as parent:
        pids = [pid_of(parent, 1), pid_of(parent, 2)]
        trigger(server)
        place.log.until("begin", BOTH)
        server.process.kill()
        place.open()
        for child in (1, 2):
            parent.line(rf"\[{child}\] .*Work as work.* is in the outbox", number=WORKERS)
        kill(parent.pid, *pids)
    second = place.folder / "out.2.db"
    assert {file.name for file in place.folder.glob("out*.db")} == {"out.db", second.name}
    held = read_totals(second).outcomes
    place._processes.start("server", "--port", port, "--key", KEY, "--db", "server.db", cwd=place.folder)
    with place.start(server, "worker", "app.py", "--processes", "1") as parent:
        parent.line(rf"\[2\] .*: {held} outcomes of an earlier process are sent from {second}")
        parent.line(r"process 2 \(pid \d+\) ended; its outbox is empty")
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert end.code == 0, end
    assert held >= WORKERS
    assert read_totals(second).outcomes == 0
    began = place.log.items("begin")
    assert len(began) == len(set(began)), "none ran twice"


def test_one_process_alone_names_the_outboxes_that_it_does_not_send(place: Place) -> None:
    place.app(OUTBOX)
    server = place.server()
    with place.start(server, *OPTIONS, "-v") as parent:
        pids = [pid_of(parent, 1), pid_of(parent, 2)]
        trigger(server)
        place.log.until("begin", BOTH)
        server.process.kill()
        place.open()
        parent.line(r"\[2\] .*Work as work.* is in the outbox")
        kill(parent.pid, *pids)
    with place.start(server, "worker", "app.py") as worker:
        worker.line(r"ERROR .*out\.2\.db holds outcomes of --processes,.*: worker --processes 1")


def test_a_state_manager_within_the_process_is_refused(place: Place) -> None:
    place.app(
        "import exotrio, functools, httpx\n"
        "exotrio.Runtime = functools.partial(exotrio.Runtime, transport=httpx.ASGITransport(app=None))\n"
    )
    with place.start(Server(None, "http://127.0.0.1:9")) as parent:  # type: ignore[arg-type]
        end = parent.wait()
    assert end.code == 2, end
    assert "several processes cannot share the state manager that is in this one" in end.err


def test_each_has_an_id_and_a_number_in_the_log(place: Place) -> None:
    server = place.server()
    with place.start(server, *OPTIONS, "--log-format", "json") as parent:
        ids = {
            re.sub(r".*works as ([^\"]+).*", r"\1", parent.line("works as", number=n).string) for n in (1, 2)
        }
        parent.signal(signal.SIGTERM)
        end = parent.wait()
    assert len(ids) == 2
    lines = [json.loads(line) for line in end.err.splitlines()]
    assert {line.get("process") for line in lines if line["message"].endswith(": running")} == {1, 2}
    assert all("process" not in line for line in lines if line["logger"] == "exotrio.cli")
