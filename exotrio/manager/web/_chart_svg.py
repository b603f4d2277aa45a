"""The chart of what ended when. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from exotrio.manager.web._format import minute
from exotrio.manager.web._svg import element, join, share

HEIGHT = 96
FOOT = 16
HEAD = 14


def draw_throughput(ended: Sequence[int], failed: Sequence[int], *, last_minute_ms: int) -> Markup:
    """Return bars per minute: failures on top of what ended well.

    Args:
        ended: How many states ended in each minute, the present one last.
        failed: How many of these failed.
        last_minute_ms: When the present minute began, in Unix milliseconds.
    """
    highest = max([1, *ended])
    count = len(ended)
    floor = HEIGHT - FOOT
    parts = [
        element("line", class_="grid", x1="0", x2="100%", y1=HEAD, y2=HEAD),
        element("line", class_="axis", x1="0", x2="100%", y1=floor + 0.5, y2=floor + 0.5),
        element("text", f"{highest:,} a minute" if any(ended) else "nothing ended", class_="tick", y=10),
    ]
    for index, (all_of_them, bad) in enumerate(zip(ended, failed, strict=True)):
        at = last_minute_ms - (count - 1 - index) * 60_000
        x, width = share((index + 0.12) / count), share(0.76 / count)
        if all_of_them:
            high = max(2.0, (floor - HEAD) * all_of_them / highest)
            red = min(high, max(2.0, high * bad / all_of_them)) if bad else 0.0
            drawn = [
                element("title", f"{minute(at)}: {all_of_them:,} ended, {bad:,} of them failed"),
                _bar("success", x, width, floor - high + red, high - red),
                _bar("errored", x, width, floor - high, red) if bad else Markup(""),
            ]
            parts.append(element("g", *drawn))
        if index % 15 == 0:
            parts.append(element("text", minute(at), class_="tick", x=share(index / count), y=HEIGHT - 3))
    return element(
        "svg",
        element("title", "States ended per minute, over the last hour"),
        join(parts),
        class_="chart",
        width="100%",
        height=HEIGHT,
        role="img",
    )


def _bar(kind: str, x: str, width: str, y: float, height: float) -> Markup:
    return element("rect", class_=f"s-{kind}", x=x, width=width, y=y, height=height)
