"""What ``doctor`` reports, and its checks that fit any state manager: graphs, clocks, speed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exotrio._util.durations import format_duration
from exotrio._util.terminal_text import one_line
from exotrio._util.words import listed
from exotrio.cli.doctor.server import Clock
from exotrio.client import GraphInfo, ValidationStatus

SLOW = 1.0
"""Seconds of the median response."""
CLOCK_OFF = 2.0
"""Seconds by which clocks may differ."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in one line, what to do about it, and whether it needs attention or is information."""

    what: str
    fix: str = ""
    attention: bool = True


def info(what: str, fix: str = "") -> Finding:
    """Return a finding that needs no attention."""
    return Finding(what, fix, attention=False)


def are(count: int, *, past: bool = False) -> str:
    """Return ``is`` or ``are``, or ``was`` or ``were``."""
    if past:
        return "was" if count == 1 else "were"
    return "is" if count == 1 else "are"


def bytes_text(count: int) -> str:
    """Return a number of bytes such as ``1.5 MB``."""
    size = float(count)
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def of_graphs(graphs: Sequence[GraphInfo]) -> list[Finding]:
    """Return which graphs cannot be triggered."""
    findings = []
    for graph in graphs:
        if graph.validation_status is ValidationStatus.PENDING:
            findings.append(info(f"graph {one_line(graph.name)} is still being validated"))
        if graph.validation_status is ValidationStatus.INVALID:
            errors = listed(map(one_line, graph.validation_errors), 3)
            what = f"graph {one_line(graph.name)} is INVALID"
            fix = "fix it and `graph apply` it; if nodes are missing, start the runtime that has them first"
            findings.append(Finding(f"{what}: {errors}" if errors else what, fix))
    return findings


def of_clock(clock: Clock) -> list[Finding]:
    """Return a finding if the clocks differ too much."""
    if abs(clock.ahead) - clock.uncertain <= CLOCK_OFF:
        return []
    fix = "synchronize the clocks by NTP: cron triggers, delays and ages depend on them; leases do not"
    return [Finding(f"the clock of the state manager is {clock_text(clock)}", fix)]


def of_speed(median: float) -> list[Finding]:
    """Return a finding if responses are slow."""
    if median <= SLOW:
        return []
    fix = "check the network, and the load of the state manager"
    return [info(f"responses take {format_duration(median)}", fix)]


def clock_text(clock: Clock) -> str:
    """Return how the clock of a state manager compares with the local one."""
    uncertain = format_duration(clock.uncertain)
    if abs(clock.ahead) <= clock.uncertain:
        return f"that of this machine, give or take {uncertain}"
    way = "ahead of" if clock.ahead > 0 else "behind"
    return f"{format_duration(abs(clock.ahead))} {way} this machine's, give or take {uncertain}"
