"""Leases and checkpoints between real processes: workers and state managers that block, freeze and die."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from exotrio import Graph, StateManager
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager import serve
from exotrio.manager.engine.leases import Terms
from tests.support import postgres
from tests.support.manager import ENGINES
from tests.support.processes import (
    EXOTRIO,
    KEY,
    NOWHERE,
    TEST_TIMEOUT,
    Process,
    Processes,
    Server,
    environment,
)

TTL = "1"

APP = """
import os, sys, time
import trio
from exotrio import BaseNode, HandOver, Runtime
from pydantic import BaseModel

NAME = os.environ["WORKER"]

def note(what, node):
    with open("log", "a") as log:
        log.write(f"{what} {type(node).__name__} {NAME}\\n")

async def gate():
    while not os.path.exists(f"open-{NAME}"):
        await trio.sleep(0.02)

class Says(BaseNode):
    class Outputs(BaseModel):
        by: str

    async def execute(self):
        note("begin", self)
        try:
            await self.work()
        finally:
            note(self.stopping or "end", self)
        return self.Outputs(by=NAME)

class Waits(Says):
    async def work(self):
        await gate()

class Stubborn(Says):
    async def work(self):
        with trio.CancelScope(shield=True):
            await gate()

class Blocks(Says):
    async def work(self):
        time.sleep(2.5)

class Counts(Says):
    class Checkpoint(BaseModel):
        step: int = 0

    async def work(self):
        note(f"from {self.checkpoint.step}", self)
        if NAME != "b":
            await self.save_checkpoint(self.Checkpoint(step=self.checkpoint.step + 1))
            self.checkpoint = self.Checkpoint(step=7)
            note("saved", self)
            while not self.stopping:
                await trio.sleep(0.01)
            raise HandOver

class Writes(Says):
    runs_in = "process"

    async def work(self):
        while True:
            note("still", self)
            time.sleep(0.01)

class FillsTheLog(Says):
    async def work(self):
        if NAME == "unread":
            while True:
                print("x" * 65536, file=sys.stderr)

runtime = Runtime(
    namespace=os.environ["NAMESPACE"],
    name=NAME,
    nodes=[Waits, Stubborn, Blocks, Counts, Writes, FillsTheLog],
    workers=2,
    batch_size=2,
    poll_interval=0.05,
)
"""


class Place:
    """A namespace with its workers, and what their nodes did, line by line."""

    def __init__(self, folder: Path, namespace: str, server: Server, processes: Processes) -> None:
        self.folder = folder
        self.namespace = namespace
        self.server = server
        self.manager = StateManager(namespace, server.uri, KEY)
        self._processes = processes
        (folder / "app.py").write_text(APP, "utf-8")

    def worker(self, name: str) -> Process:
        env = {**self.server.env, "WORKER": name, "NAMESPACE": self.namespace}
        process = self._processes.start("worker", "app.py", cwd=self.folder, env=env)
        process.line("is registered in")
        return process

    async def trigger(self, node: str, *, is_limited: bool = False) -> str:
        graph = Graph(node.lower(), namespace=self.namespace)
        graph.add(node, limits=[graph.limit("service", at_most=1)] if is_limited else [])
        await self.manager.upsert_graph(graph)
        run_id: str = (await self.manager.trigger(graph.name))["run_id"]
        return run_id

    def open(self, name: str) -> None:
        (self.folder / f"open-{name}").touch()

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    async def until(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + TEST_TIMEOUT
        while not condition():
            assert time.monotonic() < give_up, f"it did not come; so far: {self.log}"
            await trio.sleep(0.02)

    async def until_heard(self, name: str) -> None:
        """Wait until a heartbeat said that nodes of a runtime run, which is not its first one."""
        heard: set[str] = set()
        with trio.fail_after(TEST_TIMEOUT):
            while name not in heard:
                await trio.sleep(0.05)
                runtimes = (await self.manager.workers()).workers
                heard = {each.runtime for each in runtimes if each.work_at_risk}

    async def finished(self, run_id: str) -> str:
        """Wait until a run succeeded and return which worker's output was accepted."""
        run = await self.manager.wait(run_id, timeout=TEST_TIMEOUT, poll_interval=0.1)
        assert run.status is RunStatus.SUCCESS
        (state,) = (await self.manager.run(run_id)).nodes
        return (await self.manager.state(run.graph_name, run_id, state.id)).outputs["by"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Processes() as processes:
        yield processes.server(tmp_path_factory.mktemp("server"), "--lease-ttl", TTL)


@pytest.fixture
async def place(shared: Server, tmp_path: Path) -> AsyncIterator[Place]:
    with Processes() as processes:
        here = Place(tmp_path, tmp_path.name, shared, processes)
        async with here.manager:
            yield here


async def test_a_node_that_blocks_the_loop_for_longer_than_its_lease_keeps_it(place: Place) -> None:
    first = place.worker("a")
    run_id = await place.trigger("Blocks")
    await place.until(lambda: place.log == ["begin Blocks a"])
    place.worker("b")
    assert await place.finished(run_id) == "a"
    assert place.log == ["begin Blocks a", "end Blocks a"], "it ran once"
    end = first.stop(code=0)
    assert "its lease is lost" not in end.err


async def test_a_runtime_whose_standard_error_is_not_read_loses_its_leases_and_ends_at_the_third_signal(
    place: Place,
) -> None:
    with unread_worker(place) as unread:
        run_id = await place.trigger("FillsTheLog")
        await place.until(lambda: place.log == ["begin FillsTheLog unread"])
        place.worker("b")
        assert await place.finished(run_id) == "b"
        for _ in range(3):
            unread.send_signal(signal.SIGTERM)
            await trio.sleep(0.2)  # two pending signals of one kind would be one
        assert await trio.to_thread.run_sync(unread.wait, TEST_TIMEOUT) == 128 + signal.SIGTERM


@contextmanager
def unread_worker(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker, with short limits, whose standard error is not read once its nodes are registered."""
    (place.folder / "hung.py").write_text(
        "from exotrio._runtime import heartbeat\nheartbeat.MAX_LAG = 2\nfrom app import runtime\n"
    )
    env = environment(place.folder, {**place.server.env, "WORKER": "unread", "NAMESPACE": place.namespace})
    command = [*EXOTRIO, "worker", "hung.py"]
    with subprocess.Popen(command, cwd=place.folder, env=env, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            while b"is registered in" not in process.stderr.readline():
                assert process.poll() is None
            yield process
        finally:
            process.kill()


async def test_states_of_a_frozen_worker_run_elsewhere_and_its_nodes_are_cancelled_when_it_thaws(
    place: Place,
) -> None:
    zombie = place.worker("a")
    runs = [await place.trigger(node) for node in ("Waits", "Stubborn")]
    await place.until(lambda: len(place.log) == 2)
    zombie.signal(signal.SIGSTOP)
    place.worker("b")
    await place.until(lambda: {"begin Waits b", "begin Stubborn b"} <= {*place.log})
    zombie.signal(signal.SIGCONT)
    await place.until(lambda: "lease lost Waits a" in place.log)
    place.open("a")
    zombie.line(r"dropping the outcome Executed of .*\(Stubborn as stubborn\): .* no longer .*: stale")
    place.open("b")
    assert [await place.finished(run_id) for run_id in runs] == ["b", "b"]
    end = zombie.stop(code=0)
    assert "lost leases 1" in end.err
    assert "dropped 1" in end.err


@pytest.mark.parametrize("engine", ENGINES)
async def test_states_of_a_killed_worker_run_elsewhere_before_their_leases_end_those_of_a_frozen_one_not(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Terms, "silence_ms", 300)
    monkeypatch.setattr(Terms, "sweep_interval", 0.1)
    with ExitStack() as stack:
        processes = stack.enter_context(Processes())
        db = tmp_path / "db" if engine == "SQLite" else stack.enter_context(postgres.database()).url
        async with trio.open_nursery() as nursery:
            run = partial(serve, port=0, db=db, key=KEY, lease_ttl=2 * TEST_TIMEOUT, grace=0.1)
            (uri,) = await nursery.start(run)
            here = Place(tmp_path, "ns", replace(NOWHERE, uri=uri), processes)
            async with here.manager:
                killed = await trio.to_thread.run_sync(here.worker, "killed")
                runs = [await here.trigger("Waits") for _ in range(4)]
                await here.until(lambda: here.log == ["begin Waits killed"] * 2)
                frozen = await trio.to_thread.run_sync(here.worker, "frozen")
                runs += [await here.trigger("Waits") for _ in range(2)]
                await here.until(lambda: here.log.count("begin Waits frozen") == 2)
                for name in ("frozen", "killed"):
                    await here.until_heard(name)
                frozen.signal(signal.SIGSTOP)
                await trio.to_thread.run_sync(killed.kill)
                here.open("b")
                await trio.to_thread.run_sync(here.worker, "b")
                await here.until(lambda: here.log.count("end Waits b") >= 2)
                here.open("frozen")
                frozen.signal(signal.SIGCONT)
                ended = Counter([await here.finished(run_id) for run_id in runs])
                assert ended["b"] + ended["frozen"] == 6
                assert here.log.count("begin Waits frozen") == ended["frozen"] >= 2
                (receipt,) = (await here.manager.stops()).receipts
                assert (receipt.runtime, receipt.vanished) == ("killed", True)
                # Its last heartbeat may have come before a node began.
                assert receipt.cut <= 2 <= receipt.cut + receipt.perhaps_cut
            nursery.cancel_scope.cancel()


async def test_a_worker_that_is_stopped_hands_over_its_work_with_its_state(place: Place) -> None:
    first = place.worker("a")
    run_id = await place.trigger("Counts")
    await place.until(lambda: "saved Counts a" in place.log)
    end = first.stop(code=0)
    assert "handed over 1" in end.err
    place.worker("b")
    assert await place.finished(run_id) == "b"
    assert "from 7 Counts b" in place.log
    (state,) = (await place.manager.run(run_id)).nodes
    events = (await place.manager.history(state.id)).events
    assert [each.kind for each in events if "over" in each.kind] == ["handed over"]


async def test_after_a_kill_the_work_continues_from_what_was_saved(place: Place) -> None:
    first = place.worker("a")
    run_id = await place.trigger("Counts")
    await place.until(lambda: "saved Counts a" in place.log)
    first.kill()
    place.worker("b")
    assert await place.finished(run_id) == "b"
    assert {"from 1 Counts b", "from 7 Counts b"} & {*place.log}, place.log


async def test_nodes_outlive_a_state_manager_that_is_away_for_longer_than_their_leases(
    tmp_path: Path,
) -> None:
    with Processes() as processes:
        first = processes.server(tmp_path, "--lease-ttl", TTL)
        here = Place(tmp_path, "ns", first, processes)
        async with here.manager:
            here.worker("a")
            runs = [await here.trigger("Waits") for _ in range(4)]
            await here.until(lambda: here.log == ["begin Waits a"] * 2)
            first.process.kill()
            await trio.sleep(1.5)
            here.open("a")
            await here.until(lambda: here.log.count("end Waits a") == 2)
            await trio.sleep(0.3)
            assert here.log.count("begin Waits a") == 2, "what was buffered is not begun without a lease"
            processes.server(tmp_path, "--lease-ttl", TTL, "--port", first.uri.rpartition(":")[2])
            assert [await here.finished(run_id) for run_id in runs] == ["a"] * 4
            assert here.log.count("begin Waits a") == 4, "each ran once"


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_slot_is_free_once_the_process_of_a_cancelled_node_has_ended_or_the_lease_of_a_killed_runtime(
    is_killed: bool, tmp_path: Path
) -> None:
    with Processes() as processes:
        server = processes.server(tmp_path, "--lease-ttl", "4")
        here = Place(tmp_path, "ns", server, processes)
        async with here.manager:
            first = here.worker("a")
            cancelled = await here.trigger("Writes", is_limited=True)
            await here.until(lambda: "still Writes a" in here.log)
            here.worker("b")
            for name in ("a", "b"):
                here.open(name)
            await here.manager.cancel(cancelled)
            if is_killed:
                first.kill()
            by = await here.finished(await here.trigger("Waits", is_limited=True))
            began = here.log.index(f"begin Waits {by}")
            assert here.log[began:] == [f"begin Waits {by}", f"end Waits {by}"]
            assert (await here.manager.run(cancelled)).nodes[0].status == "ERRORED"
