"""The timeline of a run: a lane for each node of its graph, with waiting apart from running. Pure.

In a run of up to ``MAX_BARS`` states each is a bar: thin while it waits, thick while it runs. In a larger one
a lane shows how many waited and ran at a time. Times are shares of the width, so that the picture is as
wide as its page and its text stays legible.

Where a run had ended and waited to be retried, that time is left out: a line breaks the axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

from exotrio._util.times import format_duration
from exotrio.manager.queries.run_detail import MAX_BARS, Span, Spans
from exotrio.manager.web.format import status_class
from exotrio.manager.web.svg.elements import element, fit, join, rect, share

MAX_IN_LANE = 14
"""States of one lane that are bars even if the run has more than ``MAX_BARS``."""
MAX_ROWS = 14
"""Rows of one lane; further overlapping bars lie on the last row."""
SLICES = 160
MAX_NAME = 36
"""Characters of the name of a lane, which fit on a phone."""
HEAD = 22
LABEL = 18
ROW = 9
AREA = 44
TICKS = 6
FOOT = 16
"""Height of the line that says how long the breaks are."""
LABEL_SHARE = 0.3
"""Part of the width between the labels of two breaks, so that they do not overlap."""


class Lane(NamedTuple):
    """A node of the graph; ``further`` of its ``states`` are further outputs of others."""

    name: str
    states: int
    further: int = 0


def draw_timeline(lanes: Sequence[Lane], spans: Spans, href: Callable[[str], str]) -> Markup:
    """Return the picture of a run, with its lanes from the top; ``href`` returns the link of a state."""
    until, each = max(spans.until, 1), spans.each
    by_lane: list[list[Span]] = [[] for _ in lanes]
    for span in spans.spans:
        by_lane[span.place].append(span)
    few = each == 1 and len(spans.spans) <= MAX_BARS
    parts: list[Markup] = []
    y = HEAD
    for lane, members in zip(lanes, by_lane, strict=True):
        # States that neither waited nor ran, such as most of a fan-out, are not bars. A few others among
        # thousands are.
        lasting = [span for span in members if span.runs is not None or span.ends != span.waits]
        as_bars = few or (
            len(lasting) <= MAX_IN_LANE and (len(members) == lane.states or 10 * len(lasting) < len(members))
        )
        drawn, height = _bars(lane.name, lasting, until, href) if as_bars else _areas(members, until, each)
        parts.append(_lane(lane, drawn, y, height))
        y += LABEL + height + 8
    breaks = _breaks(spans.breaks, until, y)
    y += FOOT if breaks else 0
    return element(
        "svg",
        element("title", f"Timeline over {format_duration(until / 1000)}"),
        join(_axis(until, y)),
        join(parts),
        join(breaks),
        class_="timeline",
        width="100%",
        height=y,
        role="group",
        aria_label="Timeline",
    )


def _axis(until: int, height: int) -> list[Markup]:
    step = nice_step(until / TICKS)
    parts = []
    for index in range(int(until / step) + 1):
        at = index * step / until
        if at > 0.94 and index:
            # Its text would not fit.
            continue
        parts.append(element("line", class_="grid", x1=share(at), x2=share(at), y1=HEAD - 6, y2=height))
        text = "0" if index == 0 else format_duration(index * step / 1000).removesuffix(".0 s")
        text = text if text.endswith(("s", "h", "d", "n")) or text == "0" else f"{text} s"
        kind, dx = "tick odd" if index % 2 else "tick", 0 if index == 0 else 3
        parts.append(element("text", text, class_=kind, x=share(at), y=11, dx=dx))
    return parts


def _breaks(breaks: Sequence[tuple[int, int]], until: int, height: int) -> list[Markup]:
    """Return a line for each break, and below it for how long the run was idle."""
    parts = []
    labelled = -LABEL_SHARE
    for at, idle in breaks:
        x = min(at / until, 1.0)
        text = f"{format_duration(idle / 1000)} left out"
        title = element("title", f"{text}: the run had ended, and was then retried")
        line = element("line", class_="break", x1=share(x), x2=share(x), y1=HEAD - 6, y2=height + 4)
        parts.append(element("g", title, line))
        if x - labelled >= LABEL_SHARE:
            labelled = x
            anchor, dx = ("end", -3) if x > 1 - LABEL_SHARE else ("start", 3)
            parts.append(
                element("text", text, class_="tick", x=share(x), y=height + 12, dx=dx, text_anchor=anchor)
            )
    return parts


def nice_step(at_least: float) -> int:
    """Return the next round duration in milliseconds."""
    seconds = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400)
    steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, *(each * 1000 for each in seconds)]
    for step in steps:
        if step >= at_least:
            return step
    return math.ceil(at_least / 86_400_000) * 86_400_000


def _lane(lane: Lane, drawn: Markup, y: int, height: int) -> Markup:
    count = f" {lane.states - lane.further:,}" if lane.states else ""
    if lane.further:
        count += f" with {lane.states:,} outputs"
    return element(
        "g",
        element(
            "text",
            element("tspan", fit(lane.name, MAX_NAME), class_="name"),
            element("tspan", count, class_="tick") if count else "",
            x=0,
            y=12,
        ),
        element("svg", drawn, y=LABEL, width="100%", height=height),
        transform=f"translate(0 {y})",
    )


# -- bars


def _bars(lane: str, spans: Sequence[Span], until: int, href: Callable[[str], str]) -> tuple[Markup, int]:
    free: list[int] = []
    parts = []
    for span in spans:
        ends = until if span.ends is None else span.ends
        row = next((index for index, since in enumerate(free) if since <= span.waits), len(free))
        if row == len(free) and row < MAX_ROWS:
            free.append(ends)
        row = min(row, MAX_ROWS - 1)
        free[row] = max(free[row], ends)
        bar = _bar(lane, span, until, row * ROW)
        # Not in the tab order: the table below has the same links, and 500 would be too many to tab through.
        to = href(span.state_id) if span.state_id else None
        parts.append(element("a", bar, href=to, tabindex="-1") if to else element("g", bar))
    return join(parts), max(1, len(free)) * ROW


def _bar(lane: str, span: Span, until: int, y: int) -> Markup:
    begins, ends = _running(span, until)
    kind = status_class(span.status, span.cancelled)
    label = f"{lane} {span.state_id[-6:]}" if span.state_id else lane
    label += f": {kind}, waited {format_duration((begins - span.waits) / 1000)}"
    if span.runs is not None:
        label += f", ran {format_duration((ends - begins) / 1000)}"
    parts = [element("title", label)]
    if begins > span.waits:
        waits = "waited" if span.runs is not None or kind != "waiting" else "waits"
        parts.append(rect(waits, span.waits / until, (begins - span.waits) / until, y=y + 3, height=2))
    if span.runs is not None:
        # At least as wide as can be seen and clicked.
        width = max((ends - begins) / until, 0.003)
        x = min(begins / until, 1 - width)
        parts.append(rect(f"s-{kind}", x, width, y=y, height=7, rx=1.5))
    return join(parts)


def _running(span: Span, until: int) -> tuple[int, int]:
    """Return start and end of the time that a state ran; its end twice if it never did."""
    ends = until if span.ends is None else span.ends
    return ends if span.runs is None else min(max(span.runs, span.waits), ends), ends


# -- areas


def _areas(spans: Sequence[Span], until: int, each: int) -> tuple[Markup, int]:
    waiting, running, failed = [0.0] * SLICES, [0.0] * SLICES, [0] * SLICES
    for span in spans:
        begins, ends = _running(span, until)
        waiting[_slice(span.waits, until)] += 1
        waiting[_slice(begins, until)] -= 1
        if span.runs is not None:
            _spread(running, begins / until * SLICES, ends / until * SLICES)
        if status_class(span.status, span.cancelled) == "errored":
            failed[_slice(ends, until)] += 1
    level = 0.0
    for index, change in enumerate(waiting):
        level += change
        waiting[index] = max(0.0, level)
    max_waiting, max_running = max([1.0, *waiting]), max([0.01, *running])
    half = AREA // 2
    parts = [element("title", f"peak: {round(max_waiting * each):,} waited at once")]
    for index in range(SLICES):
        x, width = index / SLICES, 1.04 / SLICES
        if waiting[index]:
            high = max(1.0, half * waiting[index] / max_waiting)
            parts.append(rect("waits", x, width, y=float(half - high), height=high))
        if running[index]:
            high = max(1.0, (half - 4) * running[index] / max_running)
            parts.append(rect("s-running", x, width, y=half + 1, height=high))
        if failed[index]:
            parts.append(rect("s-errored", x, width, y=AREA - 3, height=3))
    return join(parts), AREA


def _slice(at: int, until: int) -> int:
    return min(SLICES - 1, max(0, at * SLICES // until))


def _spread(slices: list[float], begin: float, end: float) -> None:
    """Add 1 to the slices within a span, and to those at its ends the part that it covers."""
    first, last = min(SLICES - 1, int(begin)), min(SLICES - 1, int(end))
    if first == last:
        slices[first] += max(end - begin, 0.001)
        return
    slices[first] += first + 1 - begin
    for index in range(first + 1, last):
        slices[index] += 1
    slices[last] += min(end, SLICES) - last
