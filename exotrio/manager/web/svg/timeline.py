"""The timeline of a run: a lane for each node of its graph, with waiting, buffered and running apart. Pure.

In a run of up to ``MAX_BARS`` states each is a bar: thin while it waits, higher in the buffer of a runtime,
thick while it runs. It is thin, too, before it was given back, and while its outcome is reported, if that
takes a second. If its begin is not reported, it is pale from its claim to its outcome. In a larger run a lane
shows how many waited, were buffered and ran at a time. Times are shares of the width, so that the picture is
as wide as its page and its text stays legible.

Where a run had ended and waited to be retried, that time is left out: a line breaks the axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from exotrio._util.times import format_duration
from exotrio.manager.queries.run_detail import Lane, Span, Spans
from exotrio.manager.queries.state_times import HELD
from exotrio.manager.web.format import FOR_EVENT, SHOWN_STATUS, status_class, times_of
from exotrio.manager.web.svg.elements import LABEL_ROOM, element, fit, join, rect, share

MAX_IN_LANE = 14
"""States of one lane that are bars even if the run has more than ``MAX_BARS``."""
MAX_ROWS = 14
"""Rows of one lane; further overlapping bars lie on the last row."""
SLICES = 160
MAX_LABEL = 42
"""Characters of the name and the count of a lane, which fit on a phone."""
HEAD = 22
LABEL = 18
ROW = 9
AREA = 44
TICKS = 6
FOOT = 16
"""Height of the line that says how long the breaks are."""
LABEL_SHARE = 0.3
"""Part of the width between the labels of two breaks, so that they do not overlap."""
HEIGHTS = {
    "earlier": (2, 3),
    "waits": (2, 3),
    "awaits": (2, 3),
    "buffered": (4, 2),
    "runs": (7, 0),
    "unreported": (7, 0),
    "s-reporting": (2, 3),
}
"""Of the parts of a bar, each with its distance from the top of the row."""


def draw_timeline(spans: Spans, href: Callable[[str], str]) -> Markup:
    """Return the picture of a run, with its lanes from the top; ``href`` returns the link of a state."""
    until, each = max(spans.until, 1), spans.each
    by_lane: list[list[Span]] = [[] for _ in spans.lanes]
    for span in spans.spans:
        by_lane[span.place].append(span)
    few = each == 1 and not spans.many
    parts: list[Markup] = []
    y = HEAD
    for lane, members in zip(spans.lanes, by_lane, strict=True):
        # States that neither waited nor ran, such as most of a fan-out, are not bars. A few others among
        # thousands are.
        lasting = [
            span
            for span in members
            if span.at.claimed is not None or span.at.earlier or span.at.finished != span.at.waits
        ]
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
    for index in range(int(LABEL_ROOM * until / step) + 1):
        at = index * step / until
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
            element("tspan", fit(lane.name, MAX_LABEL - len(count)), class_="name"),
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
        ends = until if span.at.finished is None else span.at.finished
        begins = span.at.earlier[0].begin if span.at.earlier else span.at.waits
        row = next((index for index, since in enumerate(free) if since <= begins), len(free))
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
    kind = status_class(span.status, span.cancelled)
    times = times_of(span.at, until)
    label = f"{lane} {span.state_id[-6:]}" if span.state_id else lane
    # What is buffered, or reported, is claimed, and does not run.
    word = SHOWN_STATUS[span.at.stage or span.status] if span.at.stage or kind == FOR_EVENT else kind
    parts = [element("title", f"{label}: {word}, {times}")]
    for name, begin, end in _phases(span, until):
        height, low = HEIGHTS[name]
        if name in ("runs", "unreported"):
            # At least as wide as can be seen and clicked.
            width = max((end - begin) / until, 0.003)
            name = f"s-{kind}" if name == "runs" else f"s-{kind} unreported"
            parts.append(rect(name, min(begin / until, 1 - width), width, y=y + low, height=height, rx=1.5))
        elif end > begin:
            parts.append(rect(name, begin / until, (end - begin) / until, y=y + low, height=height))
    return join(parts)


def _phases(span: Span, until: int) -> Iterator[tuple[str, int, int]]:
    """Yield the parts of a state's time: the name, the begin and the end of each."""
    at = span.at
    finished = until if at.finished is None else at.finished
    # A clock that was set back may have put them in another order.
    claimed = finished if at.claimed is None else min(max(at.claimed, at.waits), finished)
    for name, begin, end in at.earlier:
        yield "earlier" if name == HELD else "awaits", begin, end
    yield "awaits" if at.waits_for else "waits", at.waits, claimed
    if at.claimed is None:
        return
    if at.begun is None:
        yield "buffered" if at.is_buffered else "unreported", claimed, finished
        return
    begun = min(max(at.begun, claimed), finished)
    yield "buffered", claimed, begun
    ended = finished if at.ended is None else min(max(at.ended, begun), finished)
    yield "runs", begun, ended
    if at.is_reported_late(until):
        yield "s-reporting", ended, finished


# -- areas


def _areas(spans: Sequence[Span], until: int, each: int) -> tuple[Markup, int]:
    waiting, failed = [0.0] * SLICES, [0] * SLICES
    running, buffered = [0.0] * SLICES, [0.0] * SLICES
    for span in spans:
        for name, begin, end in _phases(span, until):
            if name in ("waits", "awaits"):
                waiting[_slice(begin, until)] += 1
                waiting[_slice(end, until)] -= 1
            elif name not in ("earlier", "s-reporting"):
                area = buffered if name == "buffered" else running
                _spread(area, begin / until * SLICES, end / until * SLICES)
        if status_class(span.status, span.cancelled) == "errored":
            failed[_slice(until if span.at.finished is None else span.at.finished, until)] += 1
    level = 0.0
    for index, change in enumerate(waiting):
        level += change
        waiting[index] = max(0.0, level)
    claimed = [sum(both) for both in zip(running, buffered, strict=True)]
    max_waiting, max_claimed = max([1.0, *waiting]), max([0.01, *claimed])
    half = AREA // 2
    parts = [element("title", f"peak: {round(max_waiting * each):,} waited at once")]
    for index in range(SLICES):
        x, width = index / SLICES, 1.04 / SLICES
        if waiting[index]:
            high = max(1.0, half * waiting[index] / max_waiting)
            parts.append(rect("waits", x, width, y=float(half - high), height=high))
        # Buffered ones below those that run.
        for name, number in (("buffered", claimed[index]), ("s-running", running[index])):
            if number and (name == "s-running" or buffered[index]):
                high = max(1.0, (half - 4) * number / max_claimed)
                parts.append(rect(name, x, width, y=half + 1, height=high))
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
