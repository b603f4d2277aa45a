"""The scenario of the guarantees: ``python -m tests.chaos.scenario [--v0-only | --native] [NAME ...]``.

Four worker tasks, batches of 16, nodes of half a second; two seconds into the work something happens:
a signal to the worker, or an outage of the state manager. Each line is one case on real processes.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from exotrio import Graph, GraphNodeModel, ManagerError, StateManager
from exotrio._wire import RunGraphReply
from tests.chaos.cluster import Child, Cluster, ready, until
from tests.chaos.journal import Reading
from tests.chaos.proxy import Proxy
from tests.processes import KEY

NAMESPACE = "scenario"
STATES = 60
LEAD = 2.0
"""Seconds of work before anything happens."""
OUTAGE = 10.0
RESTART = 2.0
LEASE_TTL = 5.0
"""Where the worker is killed; also the claim timeout of v0 then."""
PROMPT = 0.3
"""Seconds from the end of the running nodes to the end of the process."""
PATIENCE = 60.0
GRAPH = Graph(
    "scenario",
    nodes=[
        GraphNodeModel(
            node_name="Split",
            namespace=NAMESPACE,
            identifier="split",
            inputs={"n": str(STATES)},
            next_nodes=["work"],
        ),
        GraphNodeModel(
            node_name="Work",
            namespace=NAMESPACE,
            identifier="work",
            inputs={"index": "${{ split.outputs.index }}"},
        ),
    ],
)


@dataclass(slots=True)
class Result:
    """How one case ended.

    Attributes:
        code: Exit code of the worker.
        after: Seconds from the end of its last node to its own.
        cut: Nodes that were begun and not finished by it.
        queued: States left QUEUED when it had ended.
        unreported: Finished nodes whose states are not SUCCESS when it had ended.
        lost: States that did not succeed in the end, others having taken over if any did.
        counted: States that claims with lost answers may have taken, as the worker says.
        note: What else there is to say.
    """

    name: str
    api: str
    code: int | None = None
    after: float | None = None
    cut: int = 0
    queued: int = 0
    unreported: int = 0
    lost: int = 0
    counted: int = 0
    note: str = ""

    @property
    def good(self) -> bool:
        """Whether the promises are kept."""
        if self.name == "SIGKILL":
            return self.lost == 0
        if self.name in ("SIGTERM", "SIGINT"):
            prompt = self.after is not None and self.after <= PROMPT
            return self.code == 0 and prompt and not (self.cut or self.queued or self.unreported)
        return self.unreported == 0 and self.lost <= self.counted and self.code in (0, 75)

    def __str__(self) -> str:
        after = "" if self.after is None else f"{self.after:.2f} s"
        counts = f"{self.cut:>4} {self.queued:>7} {self.unreported:>11} {self.lost:>5} {self.counted:>8}"
        verdict = "" if self.good else "BROKEN "
        return f"{self.name:<18} {self.api:<7} {self.code!s:>5} {after:>8} {counts}  {verdict}{self.note}"


HEAD = f"{'case':<18} {'api':<7} {'exit':>5} {'after':>8} {'cut':>4} {'QUEUED':>7} {'unreported':>11} " + (
    f"{'lost':>5} {'counted':>8}"
)


@dataclass(slots=True)
class Scene:
    """One case while it happens."""

    cluster: Cluster
    proxy: Proxy
    worker: Child
    reading: Reading
    run_id: str = ""

    async def ask(self) -> RunGraphReply:
        """Return the run as the state manager shows it, when that is back."""
        while True:
            try:
                uri = f"http://127.0.0.1:{self.cluster.port}"
                async with StateManager(NAMESPACE, uri, KEY) as manager:
                    return await manager.run(self.run_id)
            except ManagerError:
                await trio.sleep(0.2)

    async def statuses(self) -> Counter[str]:
        return Counter(node.status.value for node in (await self.ask()).nodes if node.identifier == "work")

    async def until_still(self) -> None:
        """Wait until all is done, or nothing changed for ten seconds."""
        last, since = Counter[str](), time.monotonic()
        while last["SUCCESS"] < STATES and time.monotonic() - since < 10:
            await trio.sleep(0.2)
            now = await self.statuses()
            if now != last:
                last, since = now, time.monotonic()

    def begun(self) -> bool:
        """Whether any node was begun."""
        self.reading.update()
        return bool(self.reading.executions)

    def finished(self) -> list[str]:
        """Return the keys of the nodes that finished."""
        self.reading.update()
        return [each.key for each in self.reading.executions.values() if each.end == "done"]

    async def end(self, result: Result, number: signal.Signals) -> None:
        """End the worker by a signal and note how it went."""
        with trio.fail_after(PATIENCE):
            self.worker.send(number)
            result.code = await self.worker.wait()
        self.reading.update()
        last = self.reading.last_end(self.worker.pid)
        if number is not signal.SIGKILL and last is not None and self.worker.ended is not None:
            result.after = self.worker.ended - last
        mine = [each for each in self.reading.executions.values() if each.pid == self.worker.pid]
        done = sum(each.end == "done" for each in mine)
        statuses = await self.statuses()
        result.cut = len(mine) - done
        result.queued = statuses["QUEUED"]
        result.unreported = max(0, done - statuses["SUCCESS"])
        log = self.worker.log.read_text()
        summary = re.search(r"stopped: (.*)", log)
        result.note = summary[1] if summary else ""
        counted = re.search(r"lost claims (\d+)", result.note)
        result.counted = int(counted[1]) if counted else 0


Happening = Callable[[Scene, Result], Awaitable[None]]


def by_signal(number: signal.Signals) -> Happening:
    """The worker gets a signal; if that kills it, another one takes over."""

    async def happen(scene: Scene, result: Result) -> None:
        await scene.end(result, number)
        if number is signal.SIGKILL:
            began = time.monotonic()
            other = await scene.cluster.start_worker("other")
            await scene.until_still()
            result.lost = STATES - (await scene.statuses())["SUCCESS"]
            result.note = f"another worker had finished all {time.monotonic() - began:.1f} s later"
            other.send(signal.SIGTERM)
            await other.wait()

    return happen


def by_outage(
    begin: Callable[[Scene], Awaitable[None]], finish: Callable[[Scene], Awaitable[None]], seconds: float
) -> Happening:
    """The state manager is away for a while; the worker goes on, and is stopped when all is done."""

    async def happen(scene: Scene, result: Result) -> None:
        await begin(scene)
        await trio.sleep(seconds)
        await finish(scene)
        with trio.move_on_after(PATIENCE):
            await scene.until_still()
        if scene.worker.ended is not None:
            result.note = "the runtime died"
        await scene.end(result, signal.SIGTERM)
        result.after = None  # it was idle
        result.lost = STATES - (await scene.statuses())["SUCCESS"]

    return happen


async def _kill(scene: Scene) -> None:
    assert scene.cluster.server is not None
    scene.cluster.server.send(signal.SIGKILL)
    await scene.cluster.server.wait()


async def _start(scene: Scene) -> None:
    await scene.cluster.start_server()


async def _stop(scene: Scene) -> None:
    assert scene.cluster.server is not None
    scene.cluster.server.send(signal.SIGSTOP)


async def _continue(scene: Scene) -> None:
    assert scene.cluster.server is not None
    scene.cluster.server.send(signal.SIGCONT)


async def _close(scene: Scene) -> None:
    scene.proxy.closed.add("any")


async def _open(scene: Scene) -> None:
    scene.proxy.closed.clear()


CASES: dict[str, Happening] = {
    "SIGTERM": by_signal(signal.SIGTERM),
    "SIGINT": by_signal(signal.SIGINT),
    "SIGKILL": by_signal(signal.SIGKILL),
    "restart": by_outage(_kill, _start, RESTART),
    "outage: kill -9": by_outage(_kill, _start, OUTAGE),
    "outage: SIGSTOP": by_outage(_stop, _continue, OUTAGE),
    "outage: 502": by_outage(_close, _open, OUTAGE),
}


async def play(name: str, v0_only: bool, folder: Path) -> Result:
    """Play one case in an empty folder."""
    (folder / "logs").mkdir()
    options = ["--v0-only"] if v0_only else []
    if name == "SIGKILL":  # a v0 server without a claim timeout would keep its states QUEUED for ever
        options += ["--claim-timeout" if v0_only else "--lease-ttl", str(LEASE_TTL)]
    result = Result(name, "v0" if v0_only else "native")
    async with trio.open_nursery() as nursery:
        cluster = Cluster(
            folder,
            nursery,
            Path(__file__).with_name("scenario_nodes.py"),
            server_options=tuple(options),
            worker_env={"CHAOS_FOLDER": str(folder)},
        )
        proxy = Proxy(cluster.port, random.Random(0))
        await nursery.start(proxy.serve)
        if name == "outage: 502":
            cluster.uri = f"http://127.0.0.1:{proxy.port}"
        try:
            await cluster.start_server()
            scene = Scene(cluster, proxy, await cluster.start_worker("worker"), Reading(folder / "journal"))
            with trio.fail_after(PATIENCE):
                await until(lambda: ready(scene.worker))
            async with StateManager(NAMESPACE, f"http://127.0.0.1:{cluster.port}", KEY) as manager:
                await manager.upsert_graph(GRAPH)
                scene.run_id = (await manager.trigger("scenario"))["run_id"]
            with trio.fail_after(PATIENCE):
                await until(scene.begun)
            await trio.sleep(LEAD)
            await CASES[name](scene, result)
        finally:
            with trio.CancelScope(shield=True):
                await cluster.kill_all()
            nursery.cancel_scope.cancel()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.scenario", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--v0-only", action="store_true", help="only on a state manager without native API")
    only.add_argument("--native", action="store_true", help="only on the native API")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    good = True
    print(HEAD, flush=True)
    for v0_only in (False, True):
        if (options.native and v0_only) or (options.v0_only and not v0_only):
            continue
        for name in options.names or CASES:
            with tempfile.TemporaryDirectory() as folder:
                result = trio.run(play, name, v0_only, Path(folder))
            print(result, flush=True)
            good = good and result.good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
