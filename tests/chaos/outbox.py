"""``kill -9`` between finishing nodes and reporting them: the next process reports from the outbox."""

from __future__ import annotations

import signal
from pathlib import Path

import trio

from tests.chaos.cluster import until
from tests.chaos.scene import PATIENCE, Scene, open_scene

STATES = 16
"""The worker holds all of them, so that there is nothing else for the one that takes over."""
FINISHED = 8
"""Nodes that finish without being reported before the worker is killed."""
REPLAY = 40.0
"""Seconds for the one that takes over to start and report them."""


async def survive(folder: Path, *, v0_only: bool, package: Path | None) -> list[str]:
    """Play it in an empty folder and return what went wrong.

    Nothing but the outbox can be of help: leases outlast this, and v0 claims have no end.
    """
    options = ("--v0-only",) if v0_only else ()
    outbox = {"CHAOS_OUTBOX": str(folder / "outbox")}
    async with open_scene(folder, *options, through_proxy=True, worker_env=outbox, package=package) as scene:
        with trio.fail_after(PATIENCE):
            return await _play(scene)


async def _play(scene: Scene) -> list[str]:
    await scene.trigger(STATES)
    # The split is reported; from here on nothing is.
    scene.proxy.closed.add("report")
    await until(lambda: len(scene.finished()) >= FINISHED)
    await trio.sleep(0.2)  # for the last one's way from its node to the disk
    scene.worker.send(signal.SIGKILL)
    await scene.worker.wait()
    finished = scene.finished()
    if reported := (await scene.statuses())["SUCCESS"]:
        return [f"{reported} nodes were reported in spite of the proxy: nothing is proved"]
    scene.proxy.closed.clear()
    other = await scene.cluster.start_worker("other")
    done = 0
    with trio.move_on_after(REPLAY):
        while True:
            done = (await scene.statuses())["SUCCESS"]
            if done >= len(finished):
                break
            await trio.sleep(0.1)
    problems = []
    if done != len(finished):
        problems.append(f"{done} states succeeded, {len(finished)} nodes had finished before the kill")
    other.send(signal.SIGTERM)
    code = await other.wait()
    if code != 0:
        problems.append(f"the worker that took over ended with {code}")
    scene.reading.update()
    again = [key for key in finished if len(scene.reading.by_key[key]) > 1]
    if again:
        problems.append(f"{len(again)} of {len(finished)} finished nodes were executed again")
    return problems
