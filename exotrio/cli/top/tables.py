"""The tables of ``top``: nodes, runtimes and runs, each as a head and rows that fit a width. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exotrio._util.durations import format_coarse, format_duration
from exotrio._util.terminal_text import one_line
from exotrio.client import NodeLoad, Overview, RunStatus, RunSummary, RuntimeInfo

BAR = 16
NOBODY = "nobody"
GAP = 2
MIN_NAME = 12
"""Width of a name below which other columns are left out first."""


@dataclass(frozen=True, slots=True)
class Column:
    head: str
    right: bool = True
    """Its cells are aligned to the right."""
    flexible: bool = False
    """It is made narrower first if the table is too wide."""
    missing: int = 0
    """0, or it may be left out: the column with the highest number first."""


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> list[Text]:
    """Return a head and the rows, none wider than ``width``."""
    needed = []
    for index, column in enumerate(columns):
        natural = max(len(column.head), *(row[index].cell_len for row in rows), 0)
        needed.append(min(natural, MIN_NAME) if column.flexible else natural)
    kept = list(range(len(columns)))
    while sum(needed[index] + GAP for index in kept) - GAP > width:
        first = max(kept, key=lambda index: columns[index].missing)
        if not columns[first].missing:
            break
        kept.remove(first)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in (columns[index] for index in kept):
        table.add_column(
            column.head,
            justify="right" if column.right else "left",
            no_wrap=not column.flexible,  # in rich: of fixed width, if there is room
            overflow="ellipsis",
        )
    for row in rows:
        for cell in row:
            cell.no_wrap = True
        table.add_row(*(row[index] for index in kept))
    console = Console(width=width, legacy_windows=False)
    return [
        Text.assemble(*((part.text, part.style or "") for part in line))
        for line in console.render_lines(table, pad=False)
    ]


def node_lines(overview: Overview, width: int) -> list[Text]:
    """Return the registered nodes: stuck ones first, then those with work."""
    columns = (
        Column("NODE", right=False, flexible=True),
        Column("WAITING"),
        Column("DUE", missing=3),
        Column("OLDEST", missing=4),
        Column("RUNNING"),
        Column("ENDED/H", missing=5),
        Column("FAILED", missing=1),
        Column("P50", missing=7),
        Column("P95", missing=6),
        Column("OFFERED", missing=2),
    )
    rows = [_node(node) for node in sorted(overview.nodes, key=_urgency)]
    return table_lines(columns, rows, width) + _none_if(not rows, "no node is registered")


def _urgency(node: NodeLoad) -> tuple[bool, bool, bool, str]:
    # Not by counts: rows that keep moving cannot be read.
    stuck = bool(node.waiting) and not node.offered_by
    return not stuck, not (node.waiting or node.running), not node.ended, node.name


def _node(node: NodeLoad) -> tuple[Text, ...]:
    stuck = bool(node.waiting) and not node.offered_by
    offers = Text(str(len(node.offered_by)) if node.offered_by else NOBODY, style="bold red" if stuck else "")
    return (
        Text(one_line(node.name), style="bold red" if stuck else ""),
        _count(node.waiting),
        _count(node.eligible),
        Text(
            format_coarse(node.oldest_due) if node.eligible else "",
            style="yellow" * (node.oldest_due >= 60),
        ),
        _count(node.running, "blue"),
        _count(node.ended),
        _count(node.failed, "red"),
        Text("" if node.p50 is None else format_duration(node.p50)),
        Text("" if node.p95 is None else format_duration(node.p95)),
        offers,
    )


def runtime_lines(overview: Overview, width: int) -> list[Text]:
    """Return the runtimes, the live ones first."""
    columns = (
        Column("RUNTIME", right=False, flexible=True),
        Column("PROCESS", right=False, flexible=True, missing=3),
        Column("PHASE", right=False),
        Column("BUSY"),
        Column("FREE", missing=2),
        Column("HOLDS", missing=1),
        Column("HEARD"),
    )
    lines = table_lines(columns, [_runtime(runtime) for runtime in overview.runtimes], width)
    if overview.v0_runtimes:
        many = overview.v0_runtimes > 1
        kinds = "kinds of runtimes claim" if many else "runtime claims"
        text = f"{overview.v0_runtimes} {kinds} through v0, which does not name them"
        lines.append(Text(text, style="dim"))
    left = overview.runtime_count - len(overview.runtimes)
    if left > 0:
        lines.append(Text(f"and {left} more", style="dim"))
    return lines + _none_if(
        not overview.runtimes and not overview.v0_runtimes,
        "no runtime is known; start one: python -m exotrio worker FILE",
    )


def _runtime(runtime: RuntimeInfo) -> tuple[Text, ...]:
    silent = not runtime.live and runtime.phase != "stopped"
    phase = "silent" if silent else f"{runtime.phase}, draining" if runtime.asked_to_drain else runtime.phase
    known = runtime.workers > 0
    style = "red" if silent else "" if phase == "running" else "yellow" if runtime.live else "dim"
    return (
        Text(one_line(runtime.runtime)),
        Text(one_line(runtime.worker_id), style="dim"),
        Text(one_line(phase), style=style),
        Text(f"{runtime.busy}/{runtime.workers}" if known else str(runtime.busy)),
        Text(str(max(0, runtime.workers - runtime.busy)) if known else ""),
        _count(runtime.holds),
        Text(format_coarse(runtime.heard_ago), style="red" * silent),
    )


def run_lines(overview: Overview, width: int, *, plain: bool) -> list[Text]:
    """Return the newest runs; ``plain`` ones in ASCII only."""
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
    rows = [_run(run, overview.at, plain=plain) for run in overview.runs]
    return table_lines(columns, rows, width) + _none_if(not rows, "no run yet")


def _run(run: RunSummary, now: datetime, *, plain: bool) -> tuple[Text, ...]:
    began = run.created_at or now
    total = run.total_count - run.retried_count
    status, style = _status(run)
    return (
        Text(one_line(run.run_id[:8])),
        Text(one_line(run.graph_name)),
        Text(status, style=style),
        _bar(run.success_count, run.errored_count, total, plain=plain),
        Text(f"{run.success_count + run.errored_count:,}/{total:,}"),
        _count(run.errored_count, "red"),
        Text(f"{format_coarse((now - began).total_seconds())} ago"),
        Text(format_duration(((run.finished_at or now) - began).total_seconds())),
    )


def _status(run: RunSummary) -> tuple[str, str]:
    if run.cancelled_at is not None:
        return "cancelled", "magenta"
    return {
        RunStatus.PENDING: ("running", "blue"),
        RunStatus.SUCCESS: ("success", "green"),
        RunStatus.FAILED: ("failed", "red"),
    }[run.status]


def _bar(good: int, bad: int, total: int, *, plain: bool) -> Text:
    full, empty = ("#", "-") if plain else ("█", "░")
    bar = Text()
    ended = BAR * (good + bad) // total if total else 0
    # A single failure among thousands is visible.
    failed = -(-BAR * bad // total) if total else 0
    ended = max(ended, failed)
    bar.append(full * (ended - failed), style="green")
    bar.append(full * failed, style="red")
    bar.append(empty * (BAR - ended), style="dim")
    return bar


def _count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}" if number else "", style=style)


def _none_if(condition: bool, text: str) -> list[Text]:
    return [Text(text, style="dim")] if condition else []
