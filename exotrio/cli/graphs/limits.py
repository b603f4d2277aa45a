"""What storing a graph did to the limits that it declares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from exotrio._wire.graphs import GraphBody
from exotrio._wire.limits import limit_text
from exotrio.client import StateManager
from exotrio.errors import KeyRefused, RequestRefused


async def limits_of(manager: StateManager, body: GraphBody | None) -> dict[str, str]:
    """Return what the limits limit that a graph declares, by name; without those that do not exist."""
    if body is None or not body.limits:
        return {}
    with suppress(KeyRefused, RequestRefused):  # the key may store graphs and not read
        limits = {each.name: limit_text(each) for each in await manager.limits()}
        return {each.name: limits[each.name] for each in body.limits if each.name in limits}
    return {}


def changes_of_limits(
    graph: str, body: GraphBody | None, before: dict[str, str], now: dict[str, str]
) -> Iterator[str]:
    """Yield what a graph changed, or left as it was although the graph declares it otherwise."""
    for limit in [] if body is None else body.limits:
        declared = limit_text(limit)
        old, new = before.get(limit.name), now.get(limit.name)
        if old is None or new is None:
            continue
        if old != new:
            yield f"limit {limit.name} is changed by graph {graph}: from {old} to {new}"
        elif new != declared:
            declares = f"graph {graph} declares {declared}, as before"
            yield f"limit {limit.name} stays as it was set: {new}; {declares}"
