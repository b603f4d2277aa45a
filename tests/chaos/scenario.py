"""The scenario of the guarantees: ``python -m tests.chaos.scenario [--v0-only | --native] [NAME ...]``.

Four worker tasks, batches of 16, nodes of half a second; two seconds into the work something happens:
a signal to the worker, or an outage of the state manager. Each line is one case on real processes.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from tests.chaos.scene import HEAD, PATIENCE, STATES, Result, Scene, open_scene

LEAD = 2.0
"""Seconds of work before anything happens."""
OUTAGE = 10.0
LONG_OUTAGE = 15.0
"""Some outcomes meet eight 500s in it."""
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


def by_outage(outage: Callable[[Scene], AbstractAsyncContextManager[None]], seconds: float) -> Happening:
    """The state manager is away for a while; the worker goes on, and is stopped when all is done."""

    async def happen(scene: Scene, result: Result) -> None:
        async with outage(scene):
            await trio.sleep(seconds)
        with trio.move_on_after(PATIENCE):
            await scene.until_still()
        if scene.worker.ended is not None:
            result.note = "the runtime died"
        await scene.end(result, signal.SIGTERM)
        result.after = None  # it was idle
        result.lost = STATES - (await scene.statuses())["SUCCESS"]

    return happen


@asynccontextmanager
async def killed(scene: Scene) -> AsyncIterator[None]:
    server = scene.cluster.servers[0]
    server.send(signal.SIGKILL)
    await server.wait()
    yield
    await scene.cluster.start_server()


@asynccontextmanager
async def suspended(scene: Scene) -> AsyncIterator[None]:
    scene.cluster.servers[0].send(signal.SIGSTOP)
    yield
    scene.cluster.servers[0].send(signal.SIGCONT)


@asynccontextmanager
async def closed(scene: Scene) -> AsyncIterator[None]:
    scene.proxy.closed.add("any")
    yield
    scene.proxy.closed.clear()


def failing(form: str) -> Callable[[Scene], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def outage(scene: Scene) -> AsyncIterator[None]:
        with scene.proxy.failing("report", form):
            yield

    return outage


CASES: dict[str, Happening] = {
    "SIGTERM": by_signal(signal.SIGTERM),
    "SIGINT": by_signal(signal.SIGINT),
    "SIGHUP": by_signal(signal.SIGHUP),
    "SIGKILL": by_signal(signal.SIGKILL),
    "restart": by_outage(killed, RESTART),
    "outage: kill -9": by_outage(killed, OUTAGE),
    "outage: SIGSTOP": by_outage(suspended, OUTAGE),
    "outage: 502": by_outage(closed, OUTAGE),
    "outage of reports: 500 in HTML": by_outage(failing("HTML"), LONG_OUTAGE),
    "outage of reports: 500 in JSON": by_outage(failing("JSON"), LONG_OUTAGE),
}


async def play(name: str, v0_only: bool, folder: Path, package: Path | None = None) -> Result:
    """Play one case in an empty folder."""
    options = ["--v0-only"] if v0_only else []
    if name == "SIGKILL":  # a v0 server without a claim timeout would keep its states QUEUED for ever
        options += ["--claim-timeout" if v0_only else "--lease-ttl", str(LEASE_TTL)]
    result = Result(name, "v0" if v0_only else "native")
    through_proxy = "50" in name
    async with open_scene(folder, *options, through_proxy=through_proxy, package=package) as scene:
        with trio.fail_after(PATIENCE):
            await scene.trigger(STATES)
        await trio.sleep(LEAD)
        await CASES[name](scene, result)
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
