"""Following runtimes that were asked to drain until they are gone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import trio

from exotrio._util.durations import format_coarse
from exotrio._util.terminal_text import one_line
from exotrio.cli.lookup.runtimes import STOPPED
from exotrio.cli.terminal.output import print_message
from exotrio.client import RuntimeInfo, StateManager

LOOK = 0.5
"""Seconds between two looks."""
UNKNOWN = 30.0
"""Seconds after which a runtime that the state manager does not know is taken to have ended. If it lives,
and the state manager was restarted, it is heard of sooner: heartbeats come every 20 s."""


class Fate(StrEnum):
    """What became of a runtime that was asked to drain."""

    ASKED = "asked"
    """It hears of that with its next heartbeat."""
    STOPPED = "stopped"
    SILENT = "silent"
    """It is not heard of any more, and did not say that it stopped."""
    PRESENT = "present"
    """It was still there when the time was up."""


async def wait_until_gone(
    manager: StateManager, asked: Sequence[RuntimeInfo], timeout: float
) -> dict[str, Fate]:
    """Wait until workers are gone, and tell how far they are; return what became of each, by its id.

    Args:
        timeout: Seconds to wait at most.
    """
    fates = {worker.worker_id: Fate.PRESENT for worker in asked}
    told: dict[str, str] = {}
    missed: dict[str, float] = {}
    with trio.move_on_after(timeout):
        while Fate.PRESENT in fates.values():
            known = {worker.worker_id: worker for worker in (await manager.workers()).workers}
            for worker_id, fate in fates.items():
                if fate is not Fate.PRESENT:
                    continue
                now, worker = trio.current_time(), known.get(worker_id)
                if worker is None:
                    if now - missed.setdefault(worker_id, now) >= UNKNOWN:
                        fates[worker_id] = Fate.STOPPED
                    continue
                missed.pop(worker_id, None)
                if worker.phase == STOPPED:
                    fates[worker_id] = Fate.STOPPED
                    continue
                if not worker.live:
                    fates[worker_id] = Fate.SILENT
                elif worker.phase == "running" and not worker.asked_to_drain:
                    # The state manager was restarted, and does not know any more that it was asked.
                    await manager.drain(worker_id)
                line = _standing(worker)
                if told.get(worker_id) != line:
                    told[worker_id] = line
                    print_message(f"{one_line(worker_id)}: {one_line(line)}")
            await trio.sleep(LOOK)
    return fates


def _standing(worker: RuntimeInfo) -> str:
    """Return how a worker that is asked to drain stands, in a few words."""
    if not worker.live:
        silent = format_coarse(worker.heard_ago)
        return f"silent for {silent}, and it holds {worker.holds} until their leases are over"
    if worker.asked_to_drain:
        return "asked; it hears of it with its next heartbeat"
    return f"{worker.phase}; {worker.busy} running, {worker.holds} held"
