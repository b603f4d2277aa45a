"""Whole runs in real processes: the embedded state manager, and a server with workers over TCP."""

from __future__ import annotations

import re
import shlex
import signal
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from exotrio import StateManager
from exotrio._wire.runs import Run
from tests.support.gated import APP, BATCH, ITEMS, NAMESPACE, RESULT, WORKERS, Log, graph, until
from tests.support.helpers import sql
from tests.support.processes import KEY, Ended, Process, Processes, Server, as_printed, ended, printed_command

T = TypeVar("T")

BUFFERED = {"v0": BATCH, "native": BATCH // 2}
"""States that a busy runtime claims ahead; on a native link half of the buffer is for its reports."""


class Place:
    """A folder with the gated app, and the processes started there."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.log = Log(folder)
        self._processes = processes
        (folder / "app.py").write_text(APP, "utf-8")

    def start(self, *arguments: str, **env: str) -> Process:
        return self._processes.start(*arguments, cwd=self.folder, env=env)

    def ended(self, *arguments: str, **env: str) -> Ended:
        return ended(*arguments, cwd=self.folder, env=env)

    def continued(self, text: str, **env: str) -> Ended:
        """Execute the printed command, as it was printed."""
        return as_printed(text, cwd=self.folder, env=env)

    def server(self, *arguments: str) -> Server:
        return self._processes.server(self.folder, "--db", "server.db", *arguments)

    def open(self, *workers: str) -> None:
        """Let the nodes of these workers end."""
        for worker in workers or ("w",):
            (self.folder / f"open-{worker}").touch()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Processes() as processes:
        yield Place(tmp_path, processes)


def ask(server: Server, question: Callable[[StateManager], Awaitable[T]]) -> T:
    """Ask the server over HTTP."""

    async def main() -> T:
        async with StateManager(NAMESPACE, server.uri, KEY) as manager:
            return await question(manager)

    return trio.run(main)


async def trigger(manager: StateManager) -> str:
    await manager.upsert_graph(graph)
    run_id: str = (await manager.trigger(graph.name))["run_id"]
    return run_id


def counts(run: Run) -> Counter[str]:
    """Return how many states of ``work`` have which status."""
    return Counter({str(status): number for status, number in run.nodes[2].counts.items() if number})


# -- run


def test_a_signal_drains_a_run_and_the_printed_command_completes_it(place: Place) -> None:
    with place.start("run", "app.py", "--db", "a b.db") as process:
        running = place.log.until("begin", WORKERS)
        process.signal(signal.SIGTERM)
        process.line("stopping: running nodes may finish")
        place.open()
        interrupted = process.wait(code=130)
    assert interrupted.out == ""
    assert "WARNING" not in interrupted.err, interrupted
    assert place.log.items("begin") == running, "a buffered state was run after the signal"
    assert sorted(place.log.items("end")) == sorted(running)

    continued = place.continued(interrupted.err)
    assert continued.code == 0, continued
    assert f"items: {RESULT}\n" in continued.out
    assert sorted(place.log.items("begin"), key=int) == RESULT.split(), "each once, none lost"


def test_a_second_ctrl_c_cancels_running_nodes_and_the_run_can_be_continued(place: Place) -> None:
    with place.start("run", "app.py", "-v", "-o", "json") as process:
        running = place.log.until("begin", WORKERS)
        process.signal(signal.SIGINT)
        process.line("draining")
        interrupted = process.stop(signal.SIGINT, code=130)
    assert sorted(place.log.items("cancelled")) == sorted(running)
    assert place.log.items("end") == []
    place.open()
    continued = place.continued(interrupted.err)
    assert continued.code == 0, continued
    assert f'"items": "{RESULT}"' in continued.out


def test_a_third_ctrl_c_ends_the_process_though_a_node_ignores_its_cancellation(place: Place) -> None:
    with place.start("run", "app.py", "-v", STUBBORN="yes") as process:
        run_id = process.line(r"run (\S+) of graph")[1]
        place.log.until("begin", WORKERS)
        for sign in ("draining", "cancelling"):
            process.signal(signal.SIGINT)
            process.line(sign)
        interrupted = process.stop(signal.SIGINT, code=128 + signal.SIGINT)
    assert "third signal: exiting without waiting; nodes are cut off, and run again." in interrupted.err
    assert "kept" not in interrupted.err
    assert f"--resume {run_id}\n" in interrupted.err
    place.open()
    continued = place.continued(interrupted.err)
    assert continued.code == 0, continued
    assert f"items: {RESULT}\n" in continued.out


def test_a_killed_run_is_continued_at_once_and_once_finished_its_result_is_printed_again(
    place: Place,
) -> None:
    with place.start("run", "app.py") as process:
        run_id = process.line(r"run (\S+) of graph")[1]
        place.log.until("begin", WORKERS)
        process.kill()
    place.open()
    continued = place.ended("run", "app.py", "--resume", run_id, "-o", "json")
    assert continued.code == 0, continued
    assert f'"items": "{RESULT}"' in continued.out
    # Only what was running ran again.
    assert len(place.log.items("end")) == ITEMS
    assert len(place.log.items("begin")) == ITEMS + WORKERS
    again = place.ended("run", "app.py", "--resume", run_id)
    assert again.code == 0, again
    assert again.out.startswith("SUCCESS: 50 states in ")
    assert f"items: {RESULT}\n" in again.out


def test_a_run_leaves_earlier_ones_alone_and_says_how_to_continue_or_end_them(place: Place) -> None:
    left = []
    for _ in range(2):
        with place.start("run", "app.py", "--db", "a b.db") as process:
            left.append(process.line(r"run (\S+) of graph")[1])
            place.log.until("begin", WORKERS * len(left))
            process.kill()
    place.open()
    begun = len(place.log.items("begin"))
    own = place.ended("run", "app.py", "--db", "a b.db", "-o", "json")
    assert own.code == 0, own
    assert len(place.log.items("begin")) - begun == ITEMS
    (line,) = (line for line in own.err.splitlines() if "not finished earlier" in line)
    assert all(f"{run_id} of 'gated'" in line for run_id in left)
    # Both commands work as they are printed, but for the id where there are several.
    resume, end = (
        shlex.split(re.sub(r"\bRUN\b", run_id, match[1]))
        for run_id, match in zip(left, re.finditer(r"; to \w+: ([^;]+)", line), strict=True)
    )
    for command, code in ((end, 0), (resume, 0)):
        with Process(command, cwd=place.folder) as process:
            process.wait(code=code)
    last = place.ended("run", "app.py", "--db", "a b.db")
    assert last.code == 0, last
    assert "not finished earlier" not in last.err


def test_a_run_begins_no_other_by_a_schedule(place: Place) -> None:
    with (place.folder / "app.py").open("a", encoding="utf-8") as app:
        app.write("\nfrom exotrio import CronTrigger\n")
        app.write("graph.triggers.append(CronTrigger(expression='* * * * *'))\n")
    place.open()
    first = place.ended("run", "app.py")
    assert first.code == 0, first
    state_db = place.folder / ".exotrio/state.db"
    assert len(sql(state_db, "UPDATE cron_triggers SET next_at = 0 RETURNING graph")) == 1
    second = place.ended("run", "app.py", "-v")
    assert second.code == 0, second
    assert sql(state_db, "SELECT count(*) FROM runs") == [(2,)]


def test_an_interrupted_run_in_memory_does_not_claim_to_be_kept(place: Place) -> None:
    with place.start("run", "app.py", "--db", ":memory:") as process:
        place.log.until("begin", WORKERS)
        process.signal(signal.SIGINT)
        place.open()
        interrupted = process.wait(code=130)
    assert "it is gone" in interrupted.err
    assert "--resume" not in interrupted.err


# -- a state manager elsewhere


def test_run_works_through_the_state_manager_of_the_environment_and_continues_there(place: Place) -> None:
    server = place.server()
    with place.start("run", "app.py", **server.env) as process:
        place.log.until("begin", WORKERS)
        process.signal(signal.SIGINT)
        place.open()
        interrupted = process.wait(code=130)
    assert "--db" not in printed_command(interrupted.err)
    continued = place.continued(interrupted.err, **server.env)
    assert continued.code == 0, continued
    assert f"items: {RESULT}\n" in continued.out
    assert not (place.folder / ".exotrio").exists()


def test_ctrl_c_ends_a_run_whose_state_manager_never_answers(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"EXOSPHERE_STATE_MANAGER_URI": uri, "EXOSPHERE_API_KEY": KEY}
        with place.start("run", "app.py", **env) as process:
            silent.settimeout(30)
            silent.accept()[0].close()
            with silent.accept()[0]:
                end = process.stop(signal.SIGINT, code=130)
    assert end.err == "interrupted before the run began: nothing was started\n"


def test_ctrl_c_ends_a_run_whose_state_manager_went_away(place: Place) -> None:
    server = place.server()
    with place.start("run", "app.py", "-v", **server.env) as process:
        running = place.log.until("begin", WORKERS)
        server.process.kill()
        process.signal(signal.SIGINT)
        process.line("draining")
        end = process.stop(signal.SIGINT, code=130)
    assert sorted(place.log.items("cancelled")) == sorted(running)
    assert "is abandoned" in end.err, "what is abandoned is named"
    assert "Traceback" not in end.err


@pytest.mark.parametrize("link", ["native", "v0"])
def test_two_workers_share_a_run_drain_at_a_signal_and_a_third_completes_it(place: Place, link: str) -> None:
    held = WORKERS + BUFFERED[link]
    server = place.server()
    env = {**server.env, "LINK": link}
    with (
        place.start("worker", "app.py", WORKER="a", **env) as a,
        place.start("worker", "app.py", WORKER="b", **env) as b,
    ):
        for worker in (a, b):
            worker.line("is registered")
        run_id = ask(server, trigger)
        running = {name: sorted(place.log.until("begin", WORKERS, name)) for name in "ab"}
        # Both hold all they can: running and buffered states.
        until(
            lambda: counts(ask(server, lambda m: m.status(run_id)))["QUEUED"] == 2 * held,
            f"{2 * held} states are QUEUED",
        )
        a.signal(signal.SIGTERM)
        b.signal(signal.SIGINT)
        # Buffered states go back at once, while the nodes still run.
        until(
            lambda: counts(ask(server, lambda m: m.status(run_id)))["QUEUED"] == 2 * WORKERS,
            "only running states are QUEUED",
        )
        place.open("a", "b")
        ends = [a.wait(), b.wait()]
    for end in ends:
        assert end.code == 0, end
        # How many were released is open: some were given back with an answer to a claim that came too late.
        assert "cancelled 0, unknown 0, abandoned 0" in end.err, end
        assert "WARNING" not in end.err, end
        assert end.out == ""
    for name in "ab":
        assert sorted(place.log.items("begin", name)) == running[name], "a buffered state was run"
        assert sorted(place.log.items("end", name)) == running[name]
    left = counts(ask(server, lambda m: m.status(run_id)))
    assert left == {"SUCCESS": 2 * WORKERS, "CREATED": ITEMS - 2 * WORKERS}

    place.open("c")
    with place.start("worker", "app.py", WORKER="c", **env) as c:
        run = ask(server, lambda m: m.wait(run_id, timeout=30, poll_interval=0.05))
        end = c.stop(code=0)
    assert run.status == "SUCCESS"
    done = [item for name in "abc" for item in place.log.items("end", name)]
    assert sorted(done, key=int) == RESULT.split(), "each once, none lost"
    server.process.signal(signal.SIGTERM)
    assert server.process.wait().code == 0


def test_worker_reads_the_state_manager_and_the_key_from_dot_env(place: Place) -> None:
    server = place.server()
    lines = [f"{name}={value}\n" for name, value in server.env.items()]
    (place.folder / ".env").write_text("".join(lines), "utf-8")
    with place.start("worker", "app.py:runtime") as process:
        process.line("is registered")
        process.signal(signal.SIGTERM)
        assert process.wait().code == 0
