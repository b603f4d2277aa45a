"""The chart of the states that ended in the last hour. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from exotrio.manager.web.format import minute
from exotrio.manager.web.svg.elements import element, join, share

HEAD, UP, DOWN, FOOT = 14, 92, 22, 16
"""Heights in pixels, from the top: the scale, bars of ended states, bars of failed ones, the times."""
HEIGHT = HEAD + UP + DOWN + FOOT


def draw_throughput(ended: Sequence[int], failed: Sequence[int], *, last_minute_ms: int) -> Markup:
    """Return two bars a minute: upwards the states that ended, and downwards, with a scale of its own, how
    many of them failed. So one failure among thousands is as tall as a failure alone.

    Args:
        ended: How many states ended in each minute, the present one last.
        failed: How many of these failed.
        last_minute_ms: When the present minute began, in Unix milliseconds.
    """
    highest, worst = max([1, *ended]), max([0, *failed])
    count = len(ended)
    axis = HEAD + UP
    scale = f"at most {highest:,} a minute" if any(ended) else "no states ended"
    parts = [
        element("line", class_="grid", x1="0", x2="100%", y1=HEAD + 0.5, y2=HEAD + 0.5),
        element("line", class_="axis", x1="0", x2="100%", y1=axis + 0.5, y2=axis + 0.5),
        element("text", scale, class_="tick", y=10),
    ]
    if worst:
        text = f"at most {worst:,} failed a minute"
        parts.append(element("text", text, class_="tick bad", x="100%", y=10, text_anchor="end"))
    for index, (total, bad) in enumerate(zip(ended, failed, strict=True)):
        at = last_minute_ms - (count - 1 - index) * 60_000
        x, width = share((index + 0.12) / count), share(0.76 / count)
        if total:
            up = max(2.0, UP * total / highest)
            drawn = [
                element("title", f"{minute(at)} UTC: {total:,} ended, {bad:,} of them failed"),
                # The title shows wherever the pointer is within the minute.
                element("rect", class_="whole", x=x, width=width, y=HEAD, height=UP + DOWN),
                _bar("success", x, width, axis - up, up),
            ]
            if bad:
                drawn.append(_bar("errored", x, width, axis + 1.0, max(3.0, (DOWN - 2) * bad / worst)))
            parts.append(element("g", *drawn))
        if index % 15 == 0:
            parts.append(element("text", minute(at), class_="tick", x=share(index / count), y=HEIGHT - 3))
    return element(
        "svg",
        element("title", "States ended and failed per minute, over the last hour"),
        join(parts),
        class_="chart",
        width="100%",
        height=HEIGHT,
        role="img",
    )


def _bar(kind: str, x: str, width: str, y: float, height: float) -> Markup:
    return element("rect", class_=f"s-{kind}", x=x, width=width, y=y, height=height)
