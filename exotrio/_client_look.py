"""What the public client asks of a state manager as a whole: how a namespace is,
and runs as pages."""

from __future__ import annotations

from exotrio._client_calls import Calls
from exotrio._client_runs import OURS
from exotrio._wire_overview import EXPORT_TYPE, ExportQuery, Overview, OverviewQuery

DRAWING = 120.0
"""Seconds the state manager may take for the page of a large run before it begins to send."""


async def overview(calls: Calls, query: OverviewQuery) -> Overview:
    """Return what happens in the namespace."""
    path = calls.native("overview", query=query.model_dump())
    return await calls.prefer_native(
        lambda: calls.fetch(Overview, "GET", path),
        lambda: calls.refuse_v0("no overview can be shown", OURS),
    )


async def export(calls: Calls, run_id: str, query: ExportQuery) -> bytes:
    """Return a run as a page."""
    path = calls.native("run", run_id, "export", query={"values": str(query.values).lower()})

    async def fetch() -> bytes:
        pieces: list[bytes] = []

        async def keep(piece: bytes) -> None:
            pieces.append(piece)

        await calls.http.download(path, keep, patience=DRAWING, media_type=EXPORT_TYPE)
        return b"".join(pieces)

    return await calls.prefer_native(
        lambda: calls.repeat(fetch),
        lambda: calls.refuse_v0(f"the run {run_id} cannot be exported", OURS),
    )
