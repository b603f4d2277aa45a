"""Follows runtimes that were asked to drain, until they have stopped."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import trio

from exotrio._util.durations import format_coarse
from exotrio._util.terminal_text import one_line
from exotrio.cli.lookup.runtimes import STOPPED
from exotrio.cli.terminal.output import print_message
from exotrio.client import RuntimeInfo, StateManager

POLL_INTERVAL = 0.5
UNKNOWN = 30.0
"""Seconds after which a runtime that the state manager does not know counts as stopped. If the state manager
was restarted, the next heartbeat of a live runtime comes within 20 s."""


class Fate(StrEnum):
    """What became of a runtime that was asked to drain."""

    ASKED = "asked"
    """It is told with its next heartbeat."""
    STOPPED = "stopped"
    SILENT = "silent"
    """Its heartbeats ended, and it did not report that it stopped."""
    PRESENT = "present"
    """It was still running at the timeout."""


async def wait_until_gone(
    manager: StateManager, asked: Sequence[RuntimeInfo], timeout: float
) -> dict[str, Fate]:
    """Wait until runtimes have stopped, and print their progress; return what became of each, by its id.

    Args:
        timeout: Seconds to wait at most.
    """
    fates = {worker.worker_id: Fate.PRESENT for worker in asked}
    printed: dict[str, str] = {}
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
                    # The state manager was restarted, and does not know that the runtime was asked.
                    await manager.drain(worker_id)
                line = _drain_progress(worker)
                if printed.get(worker_id) != line:
                    printed[worker_id] = line
                    print_message(f"{one_line(worker_id)}: {one_line(line)}")
            await trio.sleep(POLL_INTERVAL)
    return fates


def _drain_progress(worker: RuntimeInfo) -> str:
    """Return the progress of a runtime that was asked to drain, in a few words."""
    if not worker.live:
        silent = format_coarse(worker.heard_ago)
        return f"silent for {silent}, and it holds {worker.holds} states until their leases end"
    if worker.asked_to_drain:
        return "asked; it is told with its next heartbeat"
    return f"{worker.phase}; {worker.busy} running, {worker.holds} held"
