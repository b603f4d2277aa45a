"""One case of the scenario: how it is looked at while it happens, and what came of it."""

from __future__ import annotations

import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from exotrio import Graph, ManagerError, StateManager
from exotrio._wire.v0 import RunGraph
from tests.chaos.cluster import Child, Cluster, ready, until
from tests.chaos.journal import Reading
from tests.chaos.proxy import Proxy
from tests.support.processes import KEY

NAMESPACE = "scenario"
STATES = 60
PROMPT = 0.3
"""Seconds from the end of the running nodes to the end of the process."""
PATIENCE = 60.0
GRAPH = Graph("scenario", namespace=NAMESPACE)
GRAPH.add("Work", index=GRAPH.add("Split", n=str(STATES)).index)


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
        if self.name in ("SIGTERM", "SIGINT", "SIGHUP"):
            prompt = self.after is not None and self.after <= PROMPT
            return self.code == 0 and prompt and not (self.cut or self.queued or self.unreported)
        told = self.code == (75 if self.counted else 0) and (self.api == "v0" or not self.counted)
        return told and self.unreported == 0 and self.lost <= self.counted

    def __str__(self) -> str:
        after = "" if self.after is None else f"{self.after:.2f} s"
        counts = f"{self.cut:>4} {self.queued:>7} {self.unreported:>11} {self.lost:>5} {self.counted:>8}"
        verdict = "" if self.good else "BROKEN "
        return f"{self.name:<30} {self.api:<7} {self.code!s:>5} {after:>8} {counts}  {verdict}{self.note}"


HEAD = f"{'case':<30} {'api':<7} {'exit':>5} {'after':>8} {'cut':>4} {'QUEUED':>7} {'unreported':>11} " + (
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

    async def trigger(self, states: int) -> None:
        """Start the run, and wait until the first of its states is worked on."""
        async with self._manager() as manager:
            await manager.upsert_graph(GRAPH)
            self.run_id = (await manager.trigger("scenario", {"n": str(states)}))["run_id"]
        await until(self._begun)

    async def ask(self) -> RunGraph:
        """Return the run as the state manager shows it, when that is back."""
        while True:
            try:
                async with self._manager() as manager:
                    return await manager.run(self.run_id)
            except ManagerError:
                await trio.sleep(0.2)

    async def statuses(self) -> Counter[str]:
        return Counter(str(node.status) for node in (await self.ask()).nodes if node.identifier == "work")

    async def until_still(self) -> None:
        """Wait until all is done, or nothing changed for ten seconds."""
        last, since = Counter[str](), time.monotonic()
        while last["SUCCESS"] < STATES and time.monotonic() - since < 10:
            await trio.sleep(0.2)
            now = await self.statuses()
            if now != last:
                last, since = now, time.monotonic()

    def _manager(self) -> StateManager:
        return StateManager(NAMESPACE, f"http://127.0.0.1:{self.cluster.port}", KEY)

    def _begun(self) -> bool:
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
        for why in re.findall(r"a claim of .* its answer is lost: .*", log):
            result.note += f"\n    {why}"
        counted = re.search(r"lost claims (\d+)", result.note)
        result.counted = int(counted[1]) if counted else 0


@asynccontextmanager
async def open_scene(
    folder: Path,
    *server_options: str,
    through_proxy: bool,
    worker_env: Mapping[str, str] | None = None,
    package: Path | None = None,
) -> AsyncIterator[Scene]:
    """Start a state manager, a proxy before it and a worker, in an empty folder; end what is left of them."""
    (folder / "logs").mkdir()
    async with trio.open_nursery() as nursery:
        cluster = Cluster(
            folder,
            nursery,
            Path(__file__).with_name("scenario_nodes.py"),
            server_options=server_options,
            worker_env={"CHAOS_FOLDER": str(folder), **(worker_env or {})},
            package=package,
        )
        proxy = Proxy(cluster.port, random.Random(0))
        await nursery.start(proxy.serve)
        if through_proxy:
            cluster.uri = f"http://127.0.0.1:{proxy.port}"
        try:
            await cluster.start_server()
            worker = await cluster.start_worker("worker")
            with trio.fail_after(PATIENCE):
                await until(lambda: ready(worker))
            yield Scene(cluster, proxy, worker, Reading(folder / "journal"))
        finally:
            with trio.CancelScope(shield=True):
                await cluster.kill_all()
            nursery.cancel_scope.cancel()
