"""What the public client asks of a state manager as a whole: how a namespace is."""

from __future__ import annotations

from exotrio._client_calls import Calls
from exotrio._client_runs import OURS
from exotrio._wire_overview import Overview, OverviewQuery


async def overview(calls: Calls, query: OverviewQuery) -> Overview:
    """Return what happens in the namespace."""
    path = calls.native("overview", query=query.model_dump())
    return await calls.prefer_native(
        lambda: calls.fetch(Overview, "GET", path),
        lambda: calls.refuse_v0("no overview can be shown", OURS),
    )
