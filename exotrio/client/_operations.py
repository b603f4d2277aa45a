"""What the public client asks of a state manager as a whole: how a namespace is,
how it is itself, and runs as pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from exotrio._wire.checkup import Checkup
from exotrio._wire.overview import EXPORT_TYPE, ExportQuery, Overview, OverviewQuery
from exotrio.client._calls import Calls
from exotrio.client._runs import OURS
from exotrio.errors import NotFound, RequestRefused

T = TypeVar("T")

UNKNOWN_ROUTE = "answered 404: Not Found"
"""How a server answers that has no such route at all."""
DRAWING = 120.0
"""Seconds the state manager may take for the page of a large run before it begins to send."""


async def overview(calls: Calls, query: OverviewQuery) -> Overview:
    """Return what happens in the namespace."""
    path = calls.native("overview", query=query.model_dump())
    return await _look(calls, lambda: calls.fetch(Overview, "GET", path), "no overview can be shown")


async def checkup(calls: Calls) -> Checkup:
    """Return how the state manager is."""
    path = calls.native("checkup")
    return await _look(calls, lambda: calls.fetch(Checkup, "GET", path), "it says nothing of itself")


async def export(calls: Calls, run_id: str, query: ExportQuery) -> bytes:
    """Return a run as a page."""
    path = calls.native("run", run_id, "export", query={"values": str(query.values).lower()})

    async def fetch() -> bytes:
        chunks: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            chunks.append(chunk)

        await calls.http.download(path, keep, timeout=DRAWING, media_type=EXPORT_TYPE)
        return b"".join(chunks)

    return await _look(calls, lambda: calls.repeat(fetch), f"the run {run_id} cannot be exported")


async def _look(calls: Calls, native: Callable[[], Awaitable[T]], what: str) -> T:
    """Ask our server, one that knows the question; say of any other that it cannot be asked that."""
    try:
        return await calls.prefer_native(native, lambda: calls.refuse_v0(what, OURS))
    except NotFound as error:
        if not error.what.endswith(UNKNOWN_ROUTE):
            raise
        raise RequestRefused(
            f"{what}: {calls.http.endpoint.name} is an exotrio too old for that",
            status=error.status,
            where=error.where,
            fix="upgrade it",
        ) from error
