"""Findings about any state manager; those about exotrio's are in ``manager.rules.findings``. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from exotrio._util.cron import local_time, parts_of
from exotrio._util.times import format_duration, iso_time, moment_ms
from exotrio._util.words import listed, one_line, plural
from exotrio.cli.doctor.server import Clock
from exotrio.client import GraphInfo, KeyInfo, ValidationStatus
from exotrio.manager.rules.findings import CLOCK_OFF, Finding, info

SOON = timedelta(days=7)
"""A key that expires within this time is reported."""
SLOW = 1.0
"""Seconds; a median response time above this is reported."""


def of_graphs(graphs: Sequence[GraphInfo], limits: Collection[str] | None = None) -> list[Finding]:
    """Return findings about graphs that cannot be triggered, about their schedules, and about limits that
    they name, if ``limits`` has those that exist."""
    findings = []
    for graph in graphs:
        named = {limit.name for node in graph.nodes for limit in node.limits}
        for name in sorted(named - set(named if limits is None else limits)):
            what = f"graph {one_line(graph.name)} names limit {one_line(name)}, which was deleted"
            fix = f"`limits set {one_line(name)} --at-most 1`, or more, makes it again"
            findings.append(Finding(f"{what}: nothing limits it", fix))
        if graph.validation_status is ValidationStatus.PENDING:
            findings.append(info(f"graph {one_line(graph.name)} is still being validated"))
        if graph.validation_status is ValidationStatus.INVALID:
            errors = listed(map(one_line, graph.validation_errors), 3)
            what = f"graph {one_line(graph.name)} is INVALID"
            fix = "fix it and `graph apply` it; if nodes are missing, start the runtime that has them first"
            findings.append(Finding(f"{what}: {errors}" if errors else what, fix))
        findings += _of_zones(graph)
        if graph.paused_at is not None and graph.triggers:
            what = f"the schedule of graph {one_line(graph.name)} is paused since {iso_time(graph.paused_at)}"
            findings.append(info(what, f"`graph resume {one_line(graph.name)}` starts runs by it again"))
    return findings


def _of_zones(graph: GraphInfo) -> Iterator[Finding]:
    """Yield findings about triggers in time zones."""
    name = one_line(graph.name)
    for trigger in graph.triggers:
        zone_name, zone = trigger.value.timezone, parts_of(trigger.schedule)[1]
        if zone_name not in (None, zone):
            what = f"graph {name} has no valid time zone, {one_line(str(zone_name))!r}: its trigger is in UTC"
            yield Finding(what, "correct it and `graph apply` it")
        elif zone != "UTC" and graph.scheduled is None:
            what = f"graph {name} has a trigger in {zone}, and this state manager may ignore time zones"
            yield Finding(what, "write its times in UTC, or use exotrio's server (python -m exotrio server)")
        elif zone != "UTC" and (due := (graph.scheduled or {}).get(trigger.schedule)) is not None:
            there = local_time(moment_ms(due), zone)
            yield info(f"graph {name} is triggered in {zone}, next at {there} ({iso_time(due, 'seconds')})")


def of_keys(keys: Sequence[KeyInfo], held_by_root: int) -> Iterator[Finding]:
    """Yield findings about named keys; ``held_by_root``: states that runtimes hold by the root key."""
    now = datetime.now(UTC)
    for key in (key for key in keys if key.is_valid):
        who = f"the key {key.name} ({key.id})"
        if key.expires_at is not None and key.expires_at - now < SOON:
            fix = f"add another one of that name (`keys add {key.name}`), and replace it where it is used"
            yield Finding(f"{who} expires {iso_time(key.expires_at, 'minutes')}", fix)
        if key.used_at is None:
            yield info(f"{who} was never used", f"if it is not needed: `keys revoke {key.id}`")
    if keys and held_by_root:
        what = f"runtimes that use the root key hold {plural(held_by_root, 'state')}"
        yield Finding(what, "give each a key: `keys add NAME --scope runtime:NAMESPACE`")


def of_clock(clock: Clock) -> list[Finding]:
    if abs(clock.ahead) - clock.uncertain <= CLOCK_OFF:
        return []
    fix = "synchronize the clocks by NTP: cron triggers, delays and ages depend on them; leases do not"
    return [Finding(f"the clock of the state manager is {clock_text(clock)}", fix)]


def of_speed(median: float) -> list[Finding]:
    if median <= SLOW:
        return []
    fix = "check the network, and the load of the state manager"
    return [info(f"responses take {format_duration(median)}", fix)]


def clock_text(clock: Clock) -> str:
    """Return how the clock of a state manager compares with the local one."""
    uncertain = format_duration(max(clock.uncertain, 0.001))
    if abs(clock.ahead) <= clock.uncertain:
        return f"that of this machine, give or take {uncertain}"
    way = "ahead of" if clock.ahead > 0 else "behind"
    return f"{format_duration(abs(clock.ahead))} {way} this machine's, give or take {uncertain}"
