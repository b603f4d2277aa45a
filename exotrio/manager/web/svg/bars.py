"""Bars: of states by class, of the time of a state, and of the minutes of the last hour. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from exotrio._util.durations import format_duration
from exotrio.manager.web.format import CANCELLED, minute
from exotrio.manager.web.svg.elements import element, join, share

HEIGHT = 6
MIN_SHARE = 0.012
"""Share of the bar that even one state of thousands gets, so that a failure is never too thin to see."""
HEAD, UP, DOWN, FOOT = 14, 92, 22, 16
"""Heights in pixels, from the top: the scale, bars of ended states, bars of failed ones, the times."""
CHART_HEIGHT = HEAD + UP + DOWN + FOOT


def bar(counts: Mapping[str, int]) -> Markup:
    """Return a bar of counts by class, in their order, that is as wide as its container."""
    return _bar(counts, summary(counts))


def summary(counts: Mapping[str, int]) -> str:
    """Return counts by class in words."""
    named = {**counts}
    if CANCELLED in named:
        named["errored or cancelled"] = named.pop(CANCELLED)
    return ", ".join(f"{count:,} {name}" for name, count in named.items()) or "no states"


def split(waited: int, ran: int, kind: str) -> Markup:
    """Return a bar of the milliseconds that one state waited and ran; ``kind`` is the class of its status."""
    parts = {name: ms for name, ms in (("waiting", waited), (kind, ran)) if ms}
    return _bar(parts, f"waited {format_duration(waited / 1000)}, ran {format_duration(ran / 1000)}")


def _bar(parts: Mapping[str, int], label: str) -> Markup:
    return element(
        "svg",
        element("title", label),
        element("rect", class_="track", width="100%", height=HEIGHT),
        pieces(parts),
        class_="bar",
        width="100%",
        height=HEIGHT,
        role="img",
    )


def pieces(counts: Mapping[str, int]) -> Markup:
    """Return the rectangles of a bar, over the whole width of the picture that contains them."""
    total = sum(counts.values())
    if not total:
        return Markup("")
    widths = [max(MIN_SHARE, count / total) for count in counts.values()]
    scale = 1 / sum(widths)
    parts, x = [], 0.0
    for name, width in zip(counts, widths, strict=True):
        parts.append(
            element("rect", class_=f"s-{name}", x=share(x), width=share(width * scale), height=HEIGHT)
        )
        x += width * scale
    return join(parts)


def draw_throughput(ended: Sequence[int], failed: Sequence[int], *, last_minute_ms: int) -> Markup:
    """Return two bars a minute: upwards the states that ended, and downwards, with a scale of its own, how
    many of them failed. So one failure among thousands is as tall as a failure alone.

    The present minute is the last, and began at ``last_minute_ms`` of Unix time.
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
                _minute("success", x, width, axis - up, up),
            ]
            if bad:
                drawn.append(_minute("errored", x, width, axis + 1.0, max(3.0, (DOWN - 2) * bad / worst)))
            parts.append(element("g", *drawn))
        if index % 15 == 0:
            parts.append(
                element("text", minute(at), class_="tick", x=share(index / count), y=CHART_HEIGHT - 3)
            )
    return element(
        "svg",
        element("title", "States ended and failed per minute, over the last hour"),
        join(parts),
        class_="chart",
        width="100%",
        height=CHART_HEIGHT,
        role="img",
    )


def _minute(kind: str, x: str, width: str, y: float, height: float) -> Markup:
    return element("rect", class_=f"s-{kind}", x=x, width=width, y=y, height=height)
