"""The examination of ``doctor``: settings, the state manager and its problems, outboxes."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import trio

from exotrio._http.endpoint import Endpoint
from exotrio._runtime.outbox_store import read_totals
from exotrio._util.database_url import shown_database
from exotrio._util.words import listed, one_line, plural
from exotrio._version import VERSION
from exotrio.cli.connection import how_to_give_a_key
from exotrio.cli.doctor import findings
from exotrio.cli.doctor.report import Report
from exotrio.cli.doctor.server import Clock, Kind, Server, examine_server
from exotrio.cli.doctor.settings import Settings
from exotrio.cli.exit_codes import bare_errors
from exotrio.cli.folder import choose_namespace, client_at, open_endpoint
from exotrio.client import StateManager
from exotrio.errors import (
    ConfigurationError,
    DatabaseBusy,
    ExotrioError,
    KeyRefused,
    ManagerError,
    RequestRefused,
)
from exotrio.manager.rules.findings import Finding, checkup_findings, info, overview_findings, python_findings


def examine(settings: Settings, outboxes: Sequence[Path], *, stale: float) -> Report:
    """Examine everything; a claim without a lease counts as stuck after ``stale`` seconds."""
    report = Report(settings, namespace=settings.namespace)
    report.findings += [*settings.findings, *python_findings(sys.version_info[:3]), *settings.problems]
    with bare_errors():
        if settings.endpoint is not None:
            report.where = settings.endpoint.shown
            trio.run(_examine, report, settings.endpoint, stale)
        elif settings.database is not None:
            trio.run(_examine_database, report, settings.database, stale)
    report.findings += [examine_outbox(path) for path in outboxes]
    report.examined += [f"outbox {path}" for path in outboxes if path.is_file()]
    return report


async def _examine_database(report: Report, database: str | Path, stale: float) -> None:
    """Examine the state manager that serves a database, or one that is opened on it for this."""
    report.where = f"of {shown_database(database)}"
    async with AsyncExitStack() as stack:
        try:
            endpoint = await open_endpoint(stack, str(database))
        except ExotrioError as error:
            report.error = error
            report.findings.append(Finding(error.what, error.fix))
            return
        if endpoint.transport is None:
            report.where = f"{endpoint.shown}, which serves {shown_database(database)}"
            await _examine(report, endpoint, stale)
        else:
            about = "opened by this command, since no process serves it"
            server = report.server = Server(kind=Kind.NATIVE, about=about)
            await _examine_further(report, server, endpoint, stale)


async def _examine(report: Report, endpoint: Endpoint, stale: float) -> None:
    if endpoint.plaintext:
        what = f"the API key is sent unencrypted to {endpoint.shown}"
        report.findings.append(info(what, "use https:// to other machines"))
    server = report.server = await examine_server(endpoint, report.namespace or "default")
    if (failed := server.failed) is not None:
        fix = how_to_give_a_key() if isinstance(failed, KeyRefused) else failed.fix
        report.findings.append(Finding(failed.what, fix))
        return
    await _examine_further(report, server, endpoint, stale)
    report.findings += findings.of_speed(server.median)
    report.findings += [] if server.clock is None else findings.of_clock(server.clock)


async def _examine_further(report: Report, server: Server, endpoint: Endpoint, stale: float) -> None:
    try:
        if report.namespace is None or server.kind is Kind.NATIVE:
            await _choose_namespace(report, server, endpoint)
        async with client_at(endpoint, report.namespace or "default") as manager:
            if server.kind is Kind.NATIVE:
                await _examine_native(report, server, manager, stale)
            report.examined.append("the state manager")
            if report.namespace is not None:
                graphs = await manager.graphs()
                limits = None if report.overview is None else [each.name for each in report.overview.limits]
                report.findings += findings.of_graphs(graphs, limits)
                if server.kind is Kind.V0 and not graphs and not (await manager.runs(1, 1)).total:
                    await _choose_namespace(report, server, endpoint)  # it may be misspelt
                report.examined.append(f"namespace {report.namespace}")
    except ManagerError as error:
        report.findings.append(Finding(f"it could not be examined further: {error.what}", error.fix))


async def _choose_namespace(report: Report, server: Server, endpoint: Endpoint) -> None:
    async with client_at(endpoint, "default") as manager:
        names = list[str]()
        if server.kind is Kind.NATIVE:
            with suppress(KeyRefused, RequestRefused):  # a key may be for other namespaces than this one
                names = (await manager.checkup()).namespaces
        names = server.namespaces = names or await manager.namespaces()
    if report.namespace is not None:
        if report.namespace not in names:
            what = f"nothing is registered in namespace {one_line(report.namespace)}"
            there = f"there are {listed(map(one_line, names))}; " if names else ""
            fix = f"{there}start a runtime for it, or name another with -n NAMESPACE"
            report.findings.append(Finding(what, fix))
    elif names:
        report.namespace, choice = await choose_namespace(endpoint, names)
        report.findings += [info(choice)] if choice else []
    else:
        fix = "run a graph, or start a runtime; -n NAMESPACE examines one"
        report.findings.append(info("there is no namespace yet: no node, graph or limit is registered", fix))


async def _examine_native(report: Report, server: Server, manager: StateManager, stale: float) -> None:
    await manager.checkup()  # opens the connection, so that the next request is timed without that
    sent = time.time()
    checkup = await manager.checkup()
    received = time.time()
    half_trip = (received - sent) / 2
    # Its time is in whole milliseconds, rounded down.
    ahead = checkup.at.timestamp() + 0.0005 - sent - half_trip
    server.clock = Clock(ahead, half_trip + 0.0005)
    if report.namespace is None:
        checkup = checkup.model_copy(update={"claims": []})
    else:
        report.overview = await manager.overview(runs=0)
        report.findings += overview_findings(report.overview, checkup.lease_ttl, checkup.unwritable)
    with suppress(KeyRefused, RequestRefused):  # most keys may not list keys, and earlier servers have none
        named = await manager.keys()
        report.findings += findings.of_keys(named.keys, named.held_by_root or 0)
    report.checkup = checkup
    report.findings += checkup_findings(checkup, VERSION, stale)


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
