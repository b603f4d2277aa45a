"""What the public client asks about workers, and of them."""

from __future__ import annotations

import anyio

from exotrio._http.event_loop import event_loop
from exotrio._wire.runtimes import CommandReply, RuntimeList, TasksReply
from exotrio.client._calls import Calls
from exotrio.client._runs import OURS

LOOK = 0.25
"""Seconds between two looks for a task tree that was asked for."""


async def workers(calls: Calls) -> RuntimeList:
    """Return who works in the namespace."""
    return await calls.prefer_native(
        lambda: calls.fetch(RuntimeList, "GET", calls.native("workers")),
        lambda: calls.refuse_v0("runtimes cannot be listed", OURS),
    )


async def drain(calls: Calls, worker_id: str) -> None:
    """Ask a worker to drain."""
    path = calls.native("worker", worker_id, "drain")
    await calls.prefer_native(
        lambda: calls.fetch(CommandReply, "POST", path),
        lambda: calls.refuse_v0(
            f"the runtime {worker_id} cannot be drained from here", f"send its process SIGTERM; or {OURS}"
        ),
    )


async def tasks(calls: Calls, worker_id: str, timeout: float) -> str:
    """Ask a worker for its task tree and wait until it comes."""
    path = calls.native("worker", worker_id, "tasks")
    with event_loop().fail_after(timeout):
        await calls.prefer_native(
            lambda: calls.fetch(CommandReply, "POST", path),
            lambda: calls.refuse_v0(
                f"the tasks of runtime {worker_id} cannot be seen", f"see its --health-port; or {OURS}"
            ),
        )
        while True:
            found = await calls.fetch(TasksReply, "GET", path)
            if not found.asked and found.tasks is not None:
                return found.tasks
            await anyio.sleep(LOOK)
