"""The examination of ``doctor``: settings, the state manager and its problems, outboxes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio

from exotrio._http.endpoint import Endpoint
from exotrio._runtime.outbox_store import read_totals
from exotrio._util.words import one_line, plural
from exotrio._version import VERSION
from exotrio.cli.doctor import findings
from exotrio.cli.doctor.report import Report
from exotrio.cli.doctor.server import Clock, Kind, Server, examine_server
from exotrio.cli.doctor.settings import Settings
from exotrio.cli.doctor.v0 import find_v0_claims, v0_findings
from exotrio.cli.exit_codes import bare_errors
from exotrio.client import StateManager
from exotrio.errors import ConfigurationError, DatabaseBusy, ManagerError
from exotrio.manager.rules.findings import Finding, checkup_findings, info, overview_findings, python_findings


def examine(settings: Settings, outboxes: Sequence[Path], *, stale: float) -> Report:
    """Examine everything; a claim without a lease counts as stuck after ``stale`` seconds."""
    report = Report(settings)
    report.findings += [*settings.findings, *python_findings(sys.version_info[:3]), *settings.problems]
    if settings.endpoint is not None:
        with bare_errors():
            trio.run(_examine, report, settings.endpoint, stale)
    report.findings += [examine_outbox(path) for path in outboxes]
    return report


async def _examine(report: Report, endpoint: Endpoint, stale: float) -> None:
    server = report.server = await examine_server(endpoint.uri, endpoint.key, report.settings.namespace)
    if server.failed is not None:
        what = f"the state manager cannot be reached: {server.failed}"
        report.findings.append(Finding(what, server.failed.fix))
        return
    if endpoint.plaintext:
        what = f"the API key is sent unencrypted to {endpoint.shown}"
        report.findings.append(info(what, "use https:// to other machines"))
    if server.key_refused is not None:
        fix = "give the server's key with --key-file FILE, or set EXOSPHERE_API_KEY"
        report.findings.append(Finding(f"the key is refused: it {server.key_refused}", fix))
        return
    if server.kind is Kind.OTHER:
        fix = "check the URI, and proxies in between"
        report.findings.append(Finding(f"the server is not a state manager: {server.about}", fix))
        return
    if server.kind is not None:
        await _examine_further(report, server, endpoint, stale)
    report.findings += findings.of_speed(server.median)
    report.findings += [] if server.clock is None else findings.of_clock(server.clock)


async def _examine_further(report: Report, server: Server, endpoint: Endpoint, stale: float) -> None:
    namespace = report.settings.namespace
    try:
        async with StateManager(namespace or "default", endpoint.uri, endpoint.key) as manager:
            if server.kind is Kind.NATIVE:
                await _examine_native(report, server, manager, stale)
            elif namespace is not None:
                await _examine_v0(report, server, manager, stale)
            if namespace is not None:
                report.findings += findings.of_graphs(await manager.graphs())
    except ManagerError as error:
        report.findings.append(Finding(f"it could not be examined further: {error.what}", error.fix))
    if namespace is None:
        report.findings.append(info("no namespace is given, so none was examined", "give --namespace NAME"))


async def _examine_native(report: Report, server: Server, manager: StateManager, stale: float) -> None:
    await manager.checkup()  # opens the connection, so that the next request is timed without that
    sent = time.time()
    checkup = await manager.checkup()
    received = time.time()
    # More precise than Date headers, which have whole seconds.
    half_trip = (received - sent) / 2
    server.clock = Clock(checkup.at.timestamp() - sent - half_trip, half_trip, "its own time")
    if report.settings.namespace is None:
        checkup = checkup.model_copy(update={"claims": []})
    else:
        report.overview = await manager.overview(runs=0)
        report.findings += overview_findings(report.overview, checkup.lease_ttl)
    report.checkup = checkup
    report.findings += checkup_findings(checkup, VERSION, stale)


async def _examine_v0(report: Report, server: Server, manager: StateManager, stale: float) -> None:
    report.v0_claims = await find_v0_claims(manager)
    clock = server.clock
    now = datetime.now(UTC) + timedelta(seconds=0 if clock is None else clock.ahead)
    ours = server.kind is Kind.OURS_V0
    report.findings += v0_findings(report.v0_claims, now, stale, ours=ours)


def examine_outbox(path: Path) -> Finding:
    """Return a finding about an outbox, without sending or changing anything in it."""
    if not path.is_file():
        fix = "check the path: it is outbox=... of the Runtime, relative to the folder that was started in"
        return Finding(f"there is no outbox {path}", fix)
    try:
        totals = read_totals(path)
    except DatabaseBusy as error:
        return info(error.what)
    except ConfigurationError as error:
        return Finding(error.what, error.fix)
    target = f"namespace {one_line(totals.namespace)} at {one_line(totals.uri)}"
    if not totals.outcomes:
        return info(f"the outbox {path}, for {target}, is empty: nothing is left over")
    unknown = f", {totals.begun} of which may have arrived" if totals.begun else ""
    holds = f"holds {plural(totals.outcomes, 'outcome')} for {target}{unknown}"
    return Finding(
        f"the outbox {path} {holds}, and no runtime uses it",
        "start its runtime again: it sends them before it claims anything",
    )
