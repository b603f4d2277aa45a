"""The screen of ``top`` as lines of text that fit a terminal: a head, then tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.text import Text

from exotrio._util.times import format_coarse, format_duration, format_quantile
from exotrio._util.words import one_line, percent
from exotrio.cli.terminal.table import Column, table_lines
from exotrio.client import NodeLoad, Overview, RunSummary, RuntimeInfo

MIN_ROWS = 3
"""Rows of each table, if the terminal is high enough."""
COUNT_ROOM = 10
"""Width of how many rows are shown, such as ``  6 of 40``."""
MINUTES, MIN_MINUTES = 30, 10
"""Width of the small chart, one minute each; it is left out if there is less than the minimum."""
BAR = 16
NONE = "none"
PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Screen:
    """The contents of the screen."""

    overview: Overview
    where: str
    """The address of the state manager."""
    rate: float | None = None
    """States that ended per second, if known."""
    problem: str = ""
    """Why there is no newer overview."""
    live: bool = False
    """The screen is updated until a key is pressed."""


def screen_lines(screen: Screen, width: int, height: int | None) -> list[Text]:
    """Return at most ``height`` lines, none wider than ``width``."""
    lines = [
        _title(screen, width),
        Text(one_line(screen.problem), style="bold red"),
        _now(screen.overview),
        _lately(screen, width),
    ]
    parts = [node_lines, runtime_lines, run_lines]
    if any(limit.waiting or limit.stops for limit in screen.overview.limits):
        parts.insert(1, limit_lines)
    tables = [lines_of(screen.overview, width) for lines_of in parts]
    row_counts = _row_counts([len(table) - 1 for table in tables], height, used=len(lines))
    for lines_of, table, row_count in zip(parts, tables, row_counts, strict=True):
        if row_count and row_count < len(table) - 1:
            # Narrower, so that its head has room for how many rows it has.
            table = _shorten(lines_of(screen.overview, max(1, width - COUNT_ROOM)), row_count)
        lines += [Text(), *table] if row_count else []
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
    counts = [0] * len(needed)
    # The table with the fewest rows first, so that the others share what it leaves.
    for done, index in enumerate(sorted(range(len(needed)), key=lambda index: needed[index])):
        counts[index] = min(needed[index], left // (len(needed) - done))
        left -= counts[index]
    return counts


def _shorten(table: Sequence[Text], row_count: int) -> list[Text]:
    head, *rows = table
    head = head.copy()
    head.append(f"  {row_count} of {len(rows)}", style="dim")
    return [head, *rows[:row_count]]


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
    for_limits = sum(limit.waiting for limit in overview.limits)
    line = _figures(
        (f"{overview.running:,}", "running", "blue"),
        *([(f"{overview.buffered:,}", "buffered", "")] if overview.buffered else []),
        *([(f"{overview.reporting:,}", "reporting", "")] if overview.reporting else []),
        (f"{overview.waiting:,}{more}", "waiting", ""),
        *([(f"{for_limits:,}", "of them for limits", "")] if for_limits else []),
        *([(f"{overview.for_event:,}", "waiting for events or runs", "")] if overview.for_event else []),
        (f"{overview.errored:,}", "errored within 24 h", "red" if overview.errored else ""),
    )
    if overview.oldest is not None:
        style = "yellow" if overview.oldest.due >= 60 else ""
        line.append("   oldest due for ")
        line.append(format_duration(overview.oldest.due), style=f"bold {style}")
        line.append(f" ({one_line(overview.oldest.node)})")
    return line


def _lately(screen: Screen, width: int) -> Text:
    overview = screen.overview
    lately = overview.throughput
    ended, failed = sum(lately.ended), sum(lately.failed)
    line = _figures(
        (f"{ended:,}", f"{'attempt' if ended == 1 else 'attempts'} ended in the last hour", ""),
        (f"{failed:,}", "failed", "red" * bool(failed)),
    )
    if failed:
        line.append(f" ({percent(failed, ended)})")
    if screen.rate is not None:
        line.append("   now ")
        line.append(f"{screen.rate:,.{0 if screen.rate >= 10 else 1}f}", style="bold")
        line.append("/s")
    runs = Text()
    if overview.run_throughput is not None:
        runs_ended, runs_failed = sum(overview.run_throughput.ended), sum(overview.run_throughput.failed)
        runs = Text("   ") + _figures(
            (f"{runs_ended:,}", "run ended" if runs_ended == 1 else "runs ended", ""),
            (f"{runs_failed:,}", "failed", "red" * bool(runs_failed)),
        )
    room = min(MINUTES, width - line.cell_len - runs.cell_len - 3)
    # Next to the attempts, which it shows by minute.
    if room >= MIN_MINUTES and any(minutes := lately.ended[-room:]):
        line.append("   ")
        line.append(_sparks(minutes), style="green")
    return line + runs


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


# -- tables: nodes, runtimes and runs, each as a head and rows


def node_lines(overview: Overview, width: int) -> list[Text]:
    """Return the registered nodes: stuck ones first, then those with work."""
    columns = (
        Column("NODE", right=False, flexible=True),
        Column("WAITING"),
        Column("DUE", missing=3),
        Column("OLDEST", missing=4),
        Column("BUFFERED", missing=3),
        Column("RUNNING"),
        Column("ENDED/H", missing=5),
        Column("FAILED", missing=1),
        Column("WAITED P95", missing=6),
        Column("RAN P50", missing=8),
        Column("RAN P95", missing=7),
        Column("OFFERED", missing=2),
    )
    rows = [_node(node) for node in sorted(overview.nodes, key=_urgency)]
    return table_lines(columns, rows, width, if_empty="no node is registered")


def _is_stuck(node: NodeLoad) -> bool:
    unserved = not node.offered_by if node.unserved is None else node.unserved
    return bool(node.waiting) and bool(unserved or node.paused_at is not None)


def _urgency(node: NodeLoad) -> tuple[bool, bool, bool, str]:
    # Not by counts: rows that keep moving cannot be read.
    stuck = _is_stuck(node)
    has_work = node.waiting or node.buffered or node.running or node.reporting
    return not stuck, not has_work, not node.ended, node.name


def _node(node: NodeLoad) -> tuple[Text, ...]:
    stuck = _is_stuck(node)
    offers = Text(str(len(node.offered_by)) if node.offered_by else NONE, style="bold red" if stuck else "")
    if node.paused_at is not None:
        offers = Text(PAUSED, style="bold red" if stuck else "yellow")
    return (
        Text(one_line(node.name), style="bold red" if stuck else ""),
        _count(node.waiting),
        _count(node.eligible),
        Text(
            format_duration(node.oldest_due) if node.eligible else "",
            style="yellow" * (node.oldest_due >= 60),
        ),
        _count(node.buffered),
        _count(node.running, "blue"),
        _count(node.ended),
        _count(node.failed, "red"),
        _quantile(node, node.waited_p95, 95),
        _quantile(node, node.p50, 50, is_bound=node.unreported > 0),
        _quantile(node, node.p95, 95, is_bound=node.unreported > 0),
        offers,
    )


def _quantile(node: NodeLoad, seconds: float | None, percent: int, *, is_bound: bool = False) -> Text:
    return Text("" if seconds is None else format_quantile(seconds, percent, node.ended, is_bound=is_bound))


def limit_lines(overview: Overview, width: int) -> list[Text]:
    """Return the limits for which states wait, and those that stop all."""
    columns = (
        Column("LIMIT", right=False, flexible=True),
        Column("ALLOWS", right=False, missing=1),
        Column("HELD"),
        Column("WAITING"),
    )
    rows = [
        (
            Text(one_line(limit.name)),
            Text(limit.text(), style="bold red" if limit.stops else ""),
            Text(limit.held_text() if limit.held else "", style="blue"),
            _count(limit.waiting),
        )
        for limit in overview.limits
        if limit.waiting or limit.stops
    ]
    return table_lines(columns, rows, width)


def runtime_lines(overview: Overview, width: int) -> list[Text]:
    """Return the runtimes, the live ones first."""
    columns = (
        Column("RUNTIME", right=False, flexible=True),
        Column("PROCESS", right=False, flexible=True, missing=3),
        Column("PHASE", right=False),
        Column("BUSY"),
        Column("FREE", missing=2),
        Column("BUFFERED", missing=1),
        Column("AT RISK", missing=4),
        Column("HEARTBEAT"),
    )
    none = "" if overview.v0_runtimes else "no runtime is known; start one: python -m exotrio worker FILE"
    lines = table_lines(columns, list(map(_runtime, overview.runtimes)), width, if_empty=none)
    if overview.v0_runtimes:
        many = overview.v0_runtimes > 1
        kinds = "kinds of runtimes claim" if many else "runtime claims"
        text = f"{overview.v0_runtimes} {kinds} through v0, which does not name them"
        lines.append(Text(text, style="dim"))
    left = overview.runtime_count - len(overview.runtimes)
    if left > 0:
        lines.append(Text(f"and {left} more", style="dim"))
    return lines


def _runtime(runtime: RuntimeInfo) -> tuple[Text, ...]:
    silent = not runtime.live and runtime.phase != "stopped"
    phase = "silent" if silent else f"{runtime.phase}, draining" if runtime.asked_to_drain else runtime.phase
    style = "red" if silent else "" if phase == "running" else "yellow" if runtime.live else "dim"
    return (
        Text(one_line(runtime.runtime)),
        Text(one_line(runtime.worker_id), style="dim"),
        Text(one_line(phase), style=style),
        Text(f"{runtime.busy}/{runtime.workers}" if runtime.workers else str(runtime.busy)),
        Text("" if runtime.free is None else str(runtime.free)),
        _count(runtime.buffered),
        Text(runtime.at_risk),
        Text(format_coarse(runtime.heard_ago), style="red" * silent),
    )


def run_lines(overview: Overview, width: int) -> list[Text]:
    columns = (
        Column("RUN", right=False),
        Column("GRAPH", right=False, flexible=True),
        Column("STATUS", right=False),
        Column("PROGRESS", right=False, missing=2),
        Column("DONE"),
        Column("FAILED", missing=1),
        Column("BEGAN", missing=3),
        Column("TOOK", missing=4),
    )
    rows = [_run(run, overview.at) for run in overview.runs]
    return table_lines(columns, rows, width, if_empty="no run yet")


def _run(run: RunSummary, now: datetime) -> tuple[Text, ...]:
    total = run.total_count - run.retried_count
    status, style = _status(run)
    return (
        Text(one_line(run.run_id[:8])),
        Text(one_line(run.graph_name) + _parent(run)),
        Text(status, style=style),
        _bar(run.success_count, run.errored_count, total),
        Text(f"{run.success_count + run.errored_count:,}/{total:,}"),
        _count(run.errored_count, "red"),
        Text(f"{format_duration((now - run.created_at).total_seconds())} ago" if run.created_at else ""),
        Text(format_duration(run.duration_until(now))),
    )


def _parent(run: RunSummary) -> str:
    """Return which run started a run, if one did."""
    return f" (of {one_line(run.parent_run_id[:8])})" if run.parent_run_id else ""


def _status(run: RunSummary) -> tuple[str, str]:
    colours = {
        "cancelled": "magenta",
        "cancelling": "magenta",
        "waiting": "",
        "running": "blue",
        "success": "green",
        "failed": "red",
    }
    return run.word, colours[run.word]


def _bar(good: int, bad: int, total: int) -> Text:
    bar = Text()
    ended = BAR * (good + bad) // total if total else 0
    # A single failure among thousands is visible.
    failed = -(-BAR * bad // total) if total else 0
    ended = max(ended, failed)
    bar.append("█" * (ended - failed), style="green")
    bar.append("█" * failed, style="red")
    bar.append("░" * (BAR - ended), style="dim")
    return bar


def _count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}" if number else "", style=style)
