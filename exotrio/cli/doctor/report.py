"""The report of ``doctor`` as text and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from exotrio._util.times import format_duration
from exotrio._util.words import bytes_text, listed, one_line, plural
from exotrio.cli.doctor.findings import clock_text
from exotrio.cli.doctor.server import Kind, Server
from exotrio.cli.doctor.settings import Settings, versions
from exotrio.cli.terminal.output import table
from exotrio.client import Checkup, DatabaseState, Overview, PostgresState
from exotrio.errors import ExotrioError
from exotrio.manager.rules.findings import Finding


@dataclass(slots=True)
class Report:
    """The results of ``doctor``; None for what was not examined."""

    settings: Settings
    where: str = ""
    """The state manager, for people."""
    namespace: str | None = None
    """That is examined: the one that was given, or was chosen."""
    server: Server | None = None
    error: ExotrioError | None = None
    """Why the database could not be opened."""
    overview: Overview | None = None
    checkup: Checkup | None = None
    findings: list[Finding] = field(default_factory=list)
    examined: list[str] = field(default_factory=lambda: ["the settings"])

    @property
    def urgent(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.attention]


def as_text(report: Report) -> str:
    rows = [
        (setting.name, "not set" if setting.value is None else setting.value, setting.source)
        for setting in report.settings.shown
    ]
    parts = [
        _section("settings", list(table(("", "", ""), rows))[1:]),
        _section("versions", list(table(("", ""), versions().items()))[1:]),
    ]
    if report.server is not None:
        parts.append(_section(f"state manager {one_line(report.where)}", _server(report, report.server)))
    if lines := list(_namespace(report)):
        parts.append(_section(f"namespace {one_line(report.namespace or '')}", lines))
    parts.append("\n".join(_findings(report)))
    return "\n\n".join(parts)


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([title, *(f"  {one_line(line)}".rstrip() for line in lines)])


def _server(report: Report, server: Server) -> list[str]:
    lines = []
    if server.failed is not None:
        return ["it is not known to be one: see below"]
    if server.times:
        times = f"median of {len(server.times)}; {_ms(server.times[0])} to {_ms(server.times[-1])}"
        lines.append(f"answers in {_ms(server.median)} ({times})")
    if server.kind is not None:
        about = f" ({one_line(server.about)})" if server.about else ""
        ours = f" {report.checkup.version}" if report.checkup is not None else ""
        lines.append(f"kind: {server.kind.value}{ours}{about}")
    if server.clock is not None:
        lines.append(f"clock: {clock_text(server.clock)}")
    if report.checkup is not None:
        lines += _database(report.checkup)
    if server.namespaces is not None:
        lines.append(f"namespaces: {listed(map(one_line, server.namespaces))}")
    return lines


def _database(checkup: Checkup) -> Iterator[str]:
    database = checkup.database
    if database is None:
        yield "database: hidden from this key"
    elif database.postgres is None:
        free = "" if database.free_disk is None else f", {bytes_text(database.free_disk)} free on its disk"
        where = ", in memory" if database.in_memory else f", write-ahead log {bytes_text(database.log_size)}"
        yield f"database: {bytes_text(database.size)}{where}, schema {database.schema_version}{free}"
    else:
        yield from _postgres(database, database.postgres)
    timeout = checkup.claim_timeout
    ends = "never end by themselves" if timeout is None else f"end after {format_duration(timeout)}"
    lease_ttl = format_duration(checkup.lease_ttl)
    yield f"leases: {lease_ttl} without a heartbeat; claims through v0 {ends}"


def _postgres(database: DatabaseState, postgres: PostgresState) -> Iterator[str]:
    size = f"{bytes_text(database.size)}, schema {database.schema_version}"
    used = f"{postgres.connections} of {postgres.max_connections} connections"
    yield f"database: PostgreSQL {postgres.version}, {size}, {used} in use"
    yield f"dead rows: {', '.join(f'{table.name} {table.dead:,}' for table in postgres.tables) or 'unknown'}"
    versions = Counter(manager.version for manager in postgres.managers)
    each = ", ".join(f"{version} ({count})" for version, count in sorted(versions.items()))
    yield f"{plural(len(postgres.managers), 'state manager')}: exotrio {each}"


def _namespace(report: Report) -> Iterator[str]:
    if (overview := report.overview) is not None:
        more = "+" if overview.waiting_is_more else ""
        buffered = f"{overview.buffered:,} buffered, " if overview.buffered else ""
        reporting = f"{overview.reporting:,} reporting, " if overview.reporting else ""
        events = f", {overview.for_event:,} waiting for events or runs" if overview.for_event else ""
        yield f"{overview.running:,} running, {buffered}{reporting}{overview.waiting:,}{more} waiting{events}"
        live = sum(runtime.live for runtime in overview.runtimes)
        through_v0 = f", and {overview.v0_runtimes} through v0" if overview.v0_runtimes else ""
        yield f"{plural(live, 'live runtime')}{through_v0}; {plural(len(overview.nodes), 'node')}"


def _findings(report: Report) -> Iterator[str]:
    # Urgent ones last, where a terminal shows them.
    for finding in sorted(report.findings, key=lambda finding: finding.attention):
        yield f"{'! ' if finding.attention else '- '}{one_line(finding.what)}"
        if finding.fix:
            yield f"    {one_line(finding.fix)}"
    count = len(report.urgent)
    needs = f"{plural(count, 'thing')} {'needs' if count == 1 else 'need'} attention"
    notes = plural(len(report.findings) - count, "note")
    only = "" if f"namespace {report.namespace}" in report.examined else "only "
    *others, last = map(one_line, report.examined)
    examined = f"{', '.join(others)} and {last}" if others else last
    yield f"examined {only}{examined}: {needs if count else 'nothing urgent'}, {notes}"


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.1f} ms" if ms < 10 else format_duration(ms / 1000)


def as_json(report: Report) -> dict[str, Any]:
    return {
        "ok": not report.urgent,
        "examined": report.examined,
        "settings": [asdict(setting) for setting in report.settings.shown],
        "versions": versions(),
        "state_manager": None if report.server is None else _server_json(report, report.server),
        "namespace": report.namespace,
        "overview": report.overview,
        "checkup": report.checkup,
        "findings": [
            {"what": each.what, "fix": each.fix, "attention": each.attention} for each in report.findings
        ],
    }


def _server_json(report: Report, server: Server) -> dict[str, Any]:
    clock = server.clock
    return {
        "uri": report.where,
        "reachable": server.failed is None,
        "kind": None if server.kind is None else server.kind.name.lower(),
        "native": server.kind is Kind.NATIVE,
        "about": server.about,
        "latency_ms": [took * 1000 for took in server.times],
        "clock": clock and {"ahead_ms": clock.ahead * 1000, "uncertain_ms": clock.uncertain * 1000},
        "namespaces": server.namespaces,
    }
