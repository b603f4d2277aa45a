"""The limits that a graph declares and names, as they are now, and what storing the graph did to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exotrio._wire.graphs import GraphBody, GraphReply
from exotrio._wire.limits import limit_text
from exotrio.client import LimitInfo, StateManager
from exotrio.errors import KeyRefused, RequestRefused
from exotrio.graph import LimitModel


async def limits_of(
    manager: StateManager, body: GraphBody | GraphReply | None
) -> dict[str, LimitInfo] | None:
    """Return the limits that a graph declares or names, by name; without those that do not exist. None if it
    has none, or if they cannot be read: the key may store graphs and not read."""
    if body is None or not (names := _names(body)):
        return None
    try:
        return {each.name: each for each in await manager.limits() if each.name in names}
    except (KeyRefused, RequestRefused):
        return None


def _names(body: GraphBody | GraphReply) -> dict[str, None]:
    named = [limit.name for node in body.nodes for limit in node.limits]
    return dict.fromkeys([limit.name for limit in body.limits] + named)


def changes_of_limits(
    graph: str,
    limits: Sequence[LimitModel],
    before: dict[str, LimitInfo] | None,
    now: dict[str, LimitInfo] | None,
) -> Iterator[str]:
    """Yield what a graph made or changed, or left as it was although the graph declares it otherwise."""
    if before is None or now is None:
        return
    for limit in limits:
        if (shown := now.get(limit.name)) is None:
            continue
        declared, new = limit_text(limit), limit_text(shown)
        old = limit_text(before[limit.name]) if limit.name in before else None
        if old is None:
            also = ", also for states of earlier runs that name it" if shown.held or shown.waiting else ""
            yield f"limit {limit.name} is made by graph {graph}: {new}{also}"
        elif old != new:
            yield f"limit {limit.name} is changed by graph {graph}: from {old} to {new}"
        elif new != declared:
            declares = f"graph {graph} declares {declared}, as before"
            yield f"limit {limit.name} stays as it was set: {new}; {declares}"


def lines_of_limits(body: GraphReply, limits: dict[str, LimitInfo] | None) -> Iterator[str]:
    """Yield the limits that a graph declares, with what they are now, and those that were deleted."""
    now = None if limits is None else {name: limit_text(limit) for name, limit in limits.items()}
    declared = {limit.name: limit_text(limit) for limit in body.limits}
    for name in _names(body):
        text = declared.get(name)
        if now is not None and name not in now:
            of_graph = "" if text is None else f"{text} declared here, but "
            yield f"limit {name}: {of_graph}it was deleted: nothing limits the states that name it"
        elif text is not None and now is not None and now[name] != text:
            yield f"limit {name}: set to {now[name]}; {text} is declared here"
        elif text is not None:
            yield f"limit {name}: {text}, as declared here"
