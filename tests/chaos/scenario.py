"""The scenario of the guarantees: ``python -m tests.chaos.scenario [--v0-only | --native] [NAME ...]``.

Four worker tasks, batches of 16, nodes of half a second; two seconds into the work something happens:
a signal to the worker, or an outage of the state manager. Each line is one case on real processes.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from exotrio import StateManager
from tests.chaos.cluster import Cluster, ready, until
from tests.chaos.journal import Reading
from tests.chaos.proxy import Proxy
from tests.chaos.scene import GRAPH, HEAD, NAMESPACE, PATIENCE, STATES, Result, Scene
from tests.support.processes import KEY

LEAD = 2.0
"""Seconds of work before anything happens."""
OUTAGE = 10.0
RESTART = 2.0
LEASE_TTL = 5.0
"""Where the worker is killed; also the claim timeout of v0 then."""


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
    "SIGHUP": by_signal(signal.SIGHUP),
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
