"""Prints a line for each run that begins or ends while ``dev`` runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import trio

from exotrio._util.words import plural
from exotrio.cli.terminal.output import print_message
from exotrio.client import RunStatus, RunSummary, StateManager
from exotrio.errors import ManagerError, NotFound

POLL_INTERVAL = 0.5
NEWEST = 20
"""Newest runs that are asked for each time, and older unfinished ones at most."""
MAX_COUNTED = 1_000


async def unfinished(manager: StateManager) -> str:
    """Return how many runs of the namespace are not finished, ``3 runs``; empty if none are."""
    found = await manager.find_runs(status=RunStatus.PENDING, limit=MAX_COUNTED)
    count = len(found.runs)
    if not count:
        return ""
    return f"{'more than ' if found.next else ''}{plural(count, 'run')}"


async def print_run_events(
    manager: StateManager, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print a line for each run that begins or ends from now on. Never returns."""
    known: dict[str, RunStatus] | None = None
    while True:
        try:
            runs = await _fetch(manager, known or {})
        except ManagerError:
            runs = []  # it runs in this process, and has logged why
        if known is None:
            known = {run.run_id: run.status for run in runs}
            task_status.started()
        for run in reversed(runs):
            before = known.get(run.run_id)
            if before is None:
                print_message(f"run {run.run_id} of graph {run.graph_name!r} began")
            if run.status is not RunStatus.PENDING and before in (None, RunStatus.PENDING):
                print_message(_ended(run))
        if runs:
            known = {run.run_id: run.status for run in runs}
        await trio.sleep(POLL_INTERVAL)


async def _fetch(manager: StateManager, known: Mapping[str, RunStatus]) -> list[RunSummary]:
    """Return the newest runs, and some older ones that are not finished."""
    runs = (await manager.find_runs(limit=NEWEST)).runs
    listed = {run.run_id for run in runs}
    older = [run for run, status in known.items() if status is RunStatus.PENDING and run not in listed]
    for run_id in older[:NEWEST]:
        with suppress(NotFound):
            runs.append(await manager.status(run_id))
    return runs


def _ended(run: RunSummary) -> str:
    status = f"{run.status.value} (cancelled)" if run.cancelled_at else run.status.value
    failed = f", {run.errored_count} of them failed" if run.errored_count else ""
    count = plural(run.total_count, "state")
    return f"run {run.run_id} of graph {run.graph_name!r}: {status}, {count}{failed}{_duration(run)}"


def _duration(run: RunSummary) -> str:
    if run.finished_at is None or run.created_at is None:
        return ""
    took = run.finished_at - run.created_at
    return f" in {took.total_seconds():.1f} s"
