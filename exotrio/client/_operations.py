"""What only exotrio's own state manager can do for the public client: overviews, pages of runs, runtimes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from exotrio._http.event_loop import event_loop
from exotrio._wire.checkup import Checkup
from exotrio._wire.overview import EXPORT_TYPE, ExportQuery, Overview, OverviewQuery
from exotrio._wire.runtimes import CommandReply, RuntimeList, TasksReply
from exotrio.client._calls import Calls
from exotrio.errors import NotFound, RequestRefused

T = TypeVar("T")

TASKS_POLL = 0.25
"""Seconds between two requests for a task tree that is to come."""
UNKNOWN_ROUTE = "answered 404: Not Found"
"""The error of a server without such a route."""
EXPORT_TIMEOUT = 120.0
"""Seconds the state manager may take for the page of a large run before it begins to send."""


async def overview(calls: Calls, query: OverviewQuery) -> Overview:
    """Return what happens in the namespace."""
    path = calls.native("overview", query=query.model_dump())
    return await _native_only(calls, lambda: calls.fetch(Overview, "GET", path), "no overview can be shown")


async def checkup(calls: Calls) -> Checkup:
    """Return the condition of the state manager."""
    path = calls.native("checkup")
    return await _native_only(calls, lambda: calls.fetch(Checkup, "GET", path), "no checkup can be made")


async def export(calls: Calls, run_id: str, query: ExportQuery) -> bytes:
    """Return a run as a page."""
    path = calls.native("run", run_id, "export", query={"values": str(query.values).lower()})

    async def fetch() -> bytes:
        chunks: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            chunks.append(chunk)

        await calls.http.download(path, keep, timeout=EXPORT_TIMEOUT, media_type=EXPORT_TYPE)
        return b"".join(chunks)

    return await _native_only(calls, lambda: calls.repeat(fetch), f"the run {run_id} cannot be exported")


async def workers(calls: Calls) -> RuntimeList:
    """Return the runtimes of the namespace."""
    return await calls.prefer_native(
        lambda: calls.fetch(RuntimeList, "GET", calls.native("workers")),
        lambda: calls.refuse_v0("runtimes cannot be listed"),
    )


async def drain(calls: Calls, worker_id: str) -> None:
    """Ask a runtime to drain."""
    path = calls.native("worker", worker_id, "drain")
    await calls.prefer_native(
        lambda: calls.fetch(CommandReply, "POST", path),
        lambda: calls.refuse_v0(
            f"the runtime {worker_id} cannot be drained from here", "send its process SIGTERM"
        ),
    )


async def tasks(calls: Calls, worker_id: str, timeout: float) -> str:
    """Ask a runtime for its task tree and wait until it comes."""
    path = calls.native("worker", worker_id, "tasks")
    with event_loop().fail_after(timeout):
        await calls.prefer_native(
            lambda: calls.fetch(CommandReply, "POST", path),
            lambda: calls.refuse_v0(
                f"the tasks of runtime {worker_id} cannot be seen", "see its --health-port"
            ),
        )
        while True:
            found = await calls.fetch(TasksReply, "GET", path)
            if not found.asked and found.tasks is not None:
                return found.tasks
            await anyio.sleep(TASKS_POLL)


async def _native_only(calls: Calls, native: Callable[[], Awaitable[T]], what: str) -> T:
    """Make a native call; raise RequestRefused at a server that lacks it."""
    try:
        return await calls.prefer_native(native, lambda: calls.refuse_v0(what))
    except NotFound as error:
        if not error.what.endswith(UNKNOWN_ROUTE):
            raise
        raise RequestRefused(
            f"{what}: {calls.http.endpoint.name} is an exotrio too old for that",
            status=error.status,
            where=error.where,
            fix="upgrade it",
        ) from error
