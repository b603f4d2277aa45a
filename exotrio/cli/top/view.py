"""The screen of ``top`` as lines of text that fit a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from exotrio._util.durations import format_duration
from exotrio._util.terminal_text import one_line
from exotrio._util.words import percent
from exotrio.cli.top.tables import node_lines, run_lines, runtime_lines
from exotrio.client import Overview

MIN_ROWS = 3
"""Rows of each table, if the terminal is high enough."""
MINUTES, MIN_MINUTES = 30, 10
"""Width of the small chart, which is left out if it would be narrower."""


@dataclass(frozen=True, slots=True)
class Screen:
    """What the screen shows."""

    overview: Overview
    where: str
    """The address of the state manager."""
    rate: float | None = None
    """States that ended per second, if that is known."""
    problem: str = ""
    """Why there is no newer overview."""
    live: bool = False
    """The screen is updated until a key is pressed."""


def screen_lines(screen: Screen, width: int, height: int | None, *, plain: bool = False) -> list[Text]:
    """Return at most ``height`` lines, none wider than ``width``; ``plain`` ones in ASCII only."""
    lines = [
        _title(screen, width),
        Text(one_line(screen.problem), style="bold red"),
        _now(screen.overview),
        _lately(screen, width, plain=plain),
    ]
    tables = [
        node_lines(screen.overview, width),
        runtime_lines(screen.overview, width),
        run_lines(screen.overview, width, plain=plain),
    ]
    rooms = _row_counts([len(table) - 1 for table in tables], height, used=len(lines))
    for table, room in zip(tables, rooms, strict=True):
        if room:
            lines += [Text(), *_shorten(table, room)]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def _row_counts(needed: Sequence[int], height: int | None, *, used: int) -> list[int]:
    """Return how many rows each table gets. Each also has a head and an empty line before it."""
    if height is None:
        return list(needed)
    left = height - used - 2 * len(needed)
    if left < len(needed) * MIN_ROWS:
        # Not enough rows for all of them: only the first one.
        return [max(0, height - used - 2), *(0 for _ in needed[1:])]
    rooms = dict.fromkeys(range(len(needed)), 0)
    # The shortest first: the others get the rest.
    for count, index in enumerate(sorted(rooms, key=lambda index: needed[index])):
        rooms[index] = min(needed[index], left // (len(needed) - count))
        left -= rooms[index]
    return [rooms[index] for index in range(len(needed))]


def _shorten(table: Sequence[Text], room: int) -> list[Text]:
    head, *rows = table
    if len(rows) > room:
        head = head.copy()
        head.append(f"  {room} of {len(rows)}", style="dim")
    return [head, *rows[:room]]


# -- the head


def _title(screen: Screen, width: int) -> Text:
    right = f"{screen.overview.at:%H:%M:%S} UTC"
    if screen.live:
        right += "  q quits"
    left = Text(no_wrap=True)
    left.append("exotrio", style="bold")
    left.append(f"  {one_line(screen.overview.namespace)}", style="bold cyan")
    left.append(f" at {one_line(screen.where)}", style="dim")
    left.truncate(max(0, width - len(right) - 1), overflow="ellipsis", pad=True)
    left.append(f" {right}", style="dim")
    return left


def _now(overview: Overview) -> Text:
    more = "+" if overview.waiting_is_more else ""
    line = _figures(
        (f"{overview.running:,}", "running", "blue"),
        (f"{overview.waiting:,}{more}", "waiting", ""),
        (f"{overview.errored:,}", "errored within 24 h", "red" if overview.errored else ""),
    )
    if overview.oldest is not None:
        style = "yellow" if overview.oldest.due >= 60 else ""
        line.append("   oldest due for ")
        line.append(format_duration(overview.oldest.due), style=f"bold {style}")
        line.append(f" ({one_line(overview.oldest.node)})")
    return line


def _lately(screen: Screen, width: int, *, plain: bool) -> Text:
    lately = screen.overview.throughput
    ended, failed = sum(lately.ended), sum(lately.failed)
    line = _figures(
        (f"{ended:,}", "ended in the last hour", ""), (f"{failed:,}", "failed", "red" * bool(failed))
    )
    if failed:
        line.append(f" ({percent(failed, ended)})")
    if screen.rate is not None:
        line.append("   now ")
        line.append(f"{screen.rate:,.{0 if screen.rate >= 10 else 1}f}", style="bold")
        line.append("/s")
    minutes = lately.ended[-max(0, min(MINUTES, width - line.cell_len - 3)) :]
    if not plain and len(minutes) >= MIN_MINUTES and any(minutes):
        line.append("   ")
        line.append(_sparks(minutes), style="green")
    return line


def _figures(*figures: tuple[str, str, str]) -> Text:
    line = Text(no_wrap=True)
    for number, (figure, label, style) in enumerate(figures):
        line.append("   " if number else "")
        line.append(figure, style=f"bold {style}".strip())
        line.append(f" {label}")
    return line


def _sparks(values: Sequence[int]) -> str:
    highest = max(values)
    # Only zero is shown as a blank.
    return "".join(" ▁▂▃▄▅▆▇█"[-(-value * 8 // highest)] for value in values)
