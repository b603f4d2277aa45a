"""Charts over time: how many attempts ended and failed in each slot, and how long they took. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log

from markupsafe import Markup

from exotrio._util.times import format_duration
from exotrio.manager.web.format import day, minute
from exotrio.manager.web.svg.elements import LABEL_ROOM, element, join, rect, share

HEAD, PLOT, DOWN, FOOT = 14, 114, 22, 16
"""Heights in pixels, from the top: the scale, the bars, of these the bars of failed attempts, the times."""
HEIGHT = HEAD + PLOT + FOOT
"""Of every chart, so that the times of two that are side by side are on one line."""
MINUTE_MS, DAY_MS = 60_000, 86_400_000


def draw_counts(ended: Sequence[int], failed: Sequence[int], *, first_ms: int, width_ms: int) -> Markup:
    """Return two bars for each slot: upwards the attempts that did not fail, downwards those that did.

    Both have separate scales, so that one failure among thousands can be seen.

    The first slot began at ``first_ms`` of Unix time, and each lasts ``width_ms``.
    """
    good = [total - bad for total, bad in zip(ended, failed, strict=True)]
    highest, worst = max([1, *good]), max([0, *failed])
    up_to = PLOT - (DOWN if worst else 0)
    axis = HEAD + up_to
    slot = "a minute" if width_ms == MINUTE_MS else f"in {format_duration(width_ms / 1000)}"
    scale = f"peak {slot}: {highest:,} ended well" if any(good) else "" if any(ended) else "no attempts ended"
    parts = _frame(scale, axis, len(ended), first_ms, width_ms)
    if worst:
        text = f"{worst:,} failed" if any(good) else f"peak {slot}: {worst:,} failed"
        parts.append(element("text", text, class_="tick bad", x="100%", y=10, text_anchor="end"))
    for index, (total, bad) in enumerate(zip(ended, failed, strict=True)):
        if not total:
            continue
        at = first_ms + index * width_ms
        up = max(2.0, up_to * good[index] / highest) if good[index] else 0.0
        drawn = [
            element("title", f"{_when(at, width_ms)} UTC: {total:,} ended, {bad:,} of them failed"),
            # The title shows wherever the pointer is within the slot.
            _bar("whole", index, len(ended), HEAD, PLOT),
            _bar("s-success", index, len(ended), axis - up, up),
        ]
        if bad:
            down = max(3.0, (DOWN - 2) * bad / worst)
            drawn.append(_bar("s-errored", index, len(ended), axis + 1.0, down))
        parts.append(element("g", *drawn))
    return _chart("Attempts that ended well, and those that failed, over time", parts)


def draw_times(
    medians: Sequence[float | None], longest: Sequence[float | None], *, first_ms: int, width_ms: int
) -> Markup:
    """Return a mark for the median of each slot, and a bar from it to the longest. The scale is logarithmic.

    Durations are in ms; slots as for ``draw_counts``.
    """
    axis = HEAD + PLOT
    known = [ms for ms in (*medians, *longest) if ms is not None]
    low, high = max(1.0, min(known, default=1.0)) / 2, max(known, default=1.0)

    def height(ms: float) -> float:
        return max(2.0, PLOT * log(max(1.0, ms) / low) / log(max(high / low, 2.0)))

    scale = f"longest: about {format_duration(high / 1000)}" if known else "nothing ended"
    parts = _frame(scale, axis, len(medians), first_ms, width_ms)
    for index, (median, slow) in enumerate(zip(medians, longest, strict=True)):
        if median is None or slow is None:
            continue
        at = first_ms + index * width_ms
        texts = format_duration(median / 1000), format_duration(slow / 1000)
        middle, top = axis - height(median), axis - height(slow)
        parts.append(
            element(
                "g",
                element("title", f"{_when(at, width_ms)} UTC: median {texts[0]}, longest {texts[1]}"),
                _bar("whole", index, len(medians), HEAD, PLOT),
                _bar("longest", index, len(medians), top, max(1.0, middle - top)),
                _bar("median", index, len(medians), middle - 1.5, 3),
            )
        )
    return _chart("Median and longest time, over time, on a logarithmic scale", parts)


def _chart(title: str, parts: list[Markup]) -> Markup:
    drawn = (element("title", title), join(parts))
    return element("svg", *drawn, class_="chart", width="100%", height=HEIGHT, role="img")


def _frame(scale: str, axis: int, count: int, first_ms: int, width_ms: int) -> list[Markup]:
    """Return what a chart of any span has besides its bars: ``scale``, the axis, and times below it."""
    lines = [_line("grid", HEAD), _line("axis", axis), element("text", scale, class_="tick", y=10)]
    return [*_times(count, first_ms, width_ms), *lines]


def _times(count: int, first_ms: int, width_ms: int) -> Iterator[Markup]:
    """Yield about 8 round times, each next to a line where it is."""
    span = count * width_ms
    step = next(step for step in (15, 240, 1_440) if span <= 8 * step * MINUTE_MS) * MINUTE_MS
    zone = " UTC"  # after the first one
    for index in range(count):
        at = first_ms + index * width_ms
        if at % step == 0 and index / count < LABEL_ROOM:
            text = (minute(at) if step < DAY_MS else day(at)) + zone
            zone = ""
            x = share(index / count)
            yield element("line", class_="grid", x1=x, x2=x, y1=HEAD, y2=HEIGHT)
            yield element("text", text, class_="tick", x=x, y=HEIGHT - 3, dx=3)


def _when(at: int, width_ms: int) -> str:
    if width_ms < 60 * MINUTE_MS:
        return minute(at)
    return f"{day(at)}, {minute(at)} to {minute(at + width_ms)}"


def _line(kind: str, y: int) -> Markup:
    return element("line", class_=kind, x1="0", x2="100%", y1=y + 0.5, y2=y + 0.5)


def _bar(kind: str, index: int, count: int, y: float, height: float) -> Markup:
    return rect(kind, (index + 0.12) / count, 0.76 / count, y=float(y), height=float(height))
