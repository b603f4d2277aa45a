"""Bars: of states by class, and of the time of a state. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from exotrio._wire.runs import MIN_REPORTING, StateTimes
from exotrio.manager.web.format import CLASS_WORDS
from exotrio.manager.web.svg.elements import element, join, rect

HEIGHT = 6
MIN_SHARE = 0.012
"""Share of the bar that even one state of thousands gets, so that a failure is never too thin to see."""


def bar(counts: Mapping[str, int]) -> Markup:
    """Return a bar of counts by class, in their order, that is as wide as its container."""
    return _bar(counts, summary(counts))


def summary(counts: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{count:,} {CLASS_WORDS.get(name, name)}" for name, count in counts.items()) or "no states"
    )


def split(times: StateTimes, kind: str, label: str) -> Markup:
    """Return a bar of the times of one state that was claimed; ``kind`` is the class of its status."""
    parts = {"waiting": times.waited, "buffered": times.buffered, kind: times.ran}
    if times.buffered is None:
        parts = {"waiting": times.waited, f"{kind} unreported": times.held}
    elif (late := (times.held or 0) - times.buffered - (times.ran or 0)) >= MIN_REPORTING:
        parts["reporting"] = late
    return _bar({name: seconds for name, seconds in parts.items() if seconds}, label)


def _bar(parts: Mapping[str, float], label: str) -> Markup:
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


def pieces(counts: Mapping[str, float]) -> Markup:
    """Return the rectangles of a bar, over the whole width of the picture that contains them."""
    total = sum(counts.values())
    if not total:
        return Markup("")
    widths = [max(MIN_SHARE, count / total) for count in counts.values()]
    scale = 1 / sum(widths)
    parts, x = [], 0.0
    for name, width in zip(counts, widths, strict=True):
        parts.append(rect(f"s-{name}", x, width * scale, height=HEIGHT))
        x += width * scale
    return join(parts)
