"""What stands out at any state manager: graphs, claims through v0, clocks. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from exotrio._util.durations import format_coarse, format_duration
from exotrio._util.terminal_text import one_line
from exotrio._util.words import plural
from exotrio._wire.graphs import ListedGraph
from exotrio._wire.vocabulary import ValidationStatus
from exotrio.cli.doctor.finding import Finding, are, first_of, note
from exotrio.cli.doctor.server import Clock
from exotrio.cli.doctor.v0 import V0Claims

SLOW = 1.0
"""Seconds; of the median answer."""
CLOCK_OFF = 2.0
"""Seconds that clocks may differ."""


def of_graphs(graphs: Sequence[ListedGraph]) -> list[Finding]:
    """Return which graphs cannot be triggered."""
    findings = []
    for graph in graphs:
        if graph.validation_status is ValidationStatus.PENDING:
            findings.append(note(f"graph {one_line(graph.name)} is still being validated"))
        if graph.validation_status is ValidationStatus.INVALID:
            said = first_of([one_line(error) for error in graph.validation_errors], 3)
            what = f"graph {one_line(graph.name)} is INVALID"
            fix = "mend it and `graph apply` it; if nodes are missing, start the runtime that has them first"
            findings.append(Finding(f"{what}: {said}" if said else what, fix))
    return findings


def of_v0(claims: V0Claims, now: datetime, stale: float, *, ours: bool) -> list[Finding]:
    """Return what stands out at a state manager that speaks only v0.

    Args:
        now: By the clock of the state manager.
        stale: Seconds after which a claimed state counts as stuck.
        ours: It is exotrio's.
    """
    findings = []
    if count := claims.claimed.total():
        nodes = first_of([f"{one_line(name)} {n:,}" for name, n in claims.claimed.most_common()])
        ages = {state_id: (now - created).total_seconds() for state_id, created in claims.created.items()}
        what = f"{plural(count, 'state')} {are(count)} QUEUED ({nodes})"
        if ages:
            what += f"; the first of them was created {format_coarse(max(ages.values()))} ago"
        unknown = "v0 does not tell who holds them"
        stuck = [state_id for state_id, age in ages.items() if age >= stale]
        if not stuck:
            findings.append(note(what, f"{unknown}; fine while their runtimes run them"))
        else:
            way = (
                "restart the server with --claim-timeout SECONDS"
                if ours
                else f"`states retry` each of {', '.join(map(one_line, stuck))}"
            )
            findings.append(Finding(what, f"{unknown}. If their runtime is gone they stay so: {way}"))
    if claims.opened < claims.pending_runs:
        what = f"of {claims.pending_runs:,} runs that go on the oldest {claims.opened:,} were looked into"
        findings.append(note(what))
    return findings


def of_clock(clock: Clock) -> list[Finding]:
    """Return whether clocks differ by more than they may."""
    if abs(clock.ahead) - clock.uncertain <= CLOCK_OFF:
        return []
    fix = "set the clocks by NTP. Leases do not depend on them; cron triggers, delays and shown ages do"
    return [Finding(f"the clock of the state manager is {clock_text(clock)}", fix)]


def of_speed(median: float) -> list[Finding]:
    """Return whether answers take long."""
    if median <= SLOW:
        return []
    fix = "look at the network, and at the load of the state manager"
    return [note(f"answers take {format_duration(median)}", fix)]


def clock_text(clock: Clock) -> str:
    """Return how a clock compares with the one here."""
    uncertain = format_duration(clock.uncertain)
    if abs(clock.ahead) <= clock.uncertain:
        return f"that of this machine, give or take {uncertain}"
    way = "ahead of" if clock.ahead > 0 else "behind"
    return f"{format_duration(abs(clock.ahead))} {way} this machine's, give or take {uncertain}"
