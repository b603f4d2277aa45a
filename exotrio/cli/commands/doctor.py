"""``python -m exotrio doctor``: whether all is well, and if not, what is wrong and what to do."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import trio

from exotrio._http.endpoint import Endpoint, resolve_endpoint
from exotrio._util.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio._version import VERSION
from exotrio.cli import options
from exotrio.cli.connection import namespace_option, server_options
from exotrio.cli.doctor.findings import Finding, note, of_clock, of_graphs, of_speed
from exotrio.cli.doctor.native import of_checkup, of_overview
from exotrio.cli.doctor.outbox import examine_outbox
from exotrio.cli.doctor.report import Report, as_json, as_text
from exotrio.cli.doctor.server import Clock, Kind, examine_server
from exotrio.cli.doctor.settings import Settings, examine_settings, missing, versions
from exotrio.cli.doctor.v0 import find_v0_claims, of_v0
from exotrio.cli.exit_codes import FAILED, KEY_REFUSED, SUCCESS, UNREACHABLE, USAGE, bare_errors
from exotrio.cli.terminal.output import print_json, print_text
from exotrio.client._state_manager import StateManager
from exotrio.errors import ManagerError
from exotrio.graph import check_name

STALE: float = 900


@click.command(name="doctor")
@namespace_option
@server_options
@click.option(
    "--outbox",
    "outboxes",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Outbox of a Runtime, to look whether something is left in it; repeatable.",
)
@click.option(
    "--stale",
    type=options.Seconds(),
    default=STALE,
    show_default=True,
    help="A claim that does not end by itself counts as stuck after that; more than any node runs.",
)
@options.output
def command(
    namespace: str | None,
    uri: str | None,
    key_file: Path | None,
    outboxes: tuple[Path, ...],
    stale: float,
    output: str,
) -> int:
    """Say whether all is well; if not, what is stuck, why, and what to do.

    It prints every setting with where it came from, versions, whether and how the state manager can be
    reached, what kind it is, how its clock stands, and what stands out in it: work that no runtime takes,
    claims that nobody can take back, silent runtimes, invalid graphs, a full disk. It changes nothing, and
    shows no key.

    Exits 0 if nothing needs attention and 1 if something does; 2 if a setting is missing or wrong, 4 if the
    state manager cannot be reached or is none, 5 if it refuses the key.

    JSON: ok, settings, versions, state_manager, namespace, overview (as of `top`), checkup, v0_claims,
    findings (what, fix, attention).
    """
    # What it says of .env is said below, with the file it means.
    logging.getLogger("dotenv").addHandler(logging.NullHandler())
    logging.getLogger("dotenv").propagate = False
    settings = examine_settings(namespace, uri, key_file)
    report = Report(settings.shown, versions(), namespace=settings.namespace, findings=settings.findings)
    endpoint, wrong = _endpoint(settings, report)
    report.findings += wrong
    if endpoint is not None:
        with bare_errors():
            trio.run(_examine, report, endpoint, stale)
    report.findings += [examine_outbox(path) for path in outboxes]
    if output == "json":
        print_json(as_json(report))
    else:
        print_text(as_text(report))
    return _exit_code(report, badly_set=bool(wrong))


def _endpoint(settings: Settings, report: Report) -> tuple[Endpoint | None, list[Finding]]:
    """Return what to ask, and what keeps us from asking it, or from asking more than whether it is there."""
    wrong = [*settings.problems, *missing(settings)]
    try:
        if settings.namespace is not None:
            check_name(settings.namespace)
    except ValueError as error:
        wrong.append(Finding(f"the namespace {error}", "give another one: --namespace NAME"))
        report.namespace = None
    if settings.uri is None:
        return None, wrong
    sources = {setting.name: setting.source for setting in settings.shown}
    endpoint, problems = resolve_endpoint(
        settings.uri,
        settings.key or "none",
        uri_source=sources[URI_VARIABLE],
        key_source=sources[KEY_VARIABLE],
    )
    wrong += [Finding(problem.replace("\n", " ")) for problem in problems]
    if endpoint is None:
        return None, wrong
    report.uri = endpoint.shown
    return Endpoint(endpoint.uri, settings.key), wrong


async def _examine(report: Report, endpoint: Endpoint, stale: float) -> None:
    server = report.server = await examine_server(endpoint.uri, endpoint.key, report.namespace)
    if server.failed is not None:
        _, what, fix = server.failed
        report.findings.append(Finding(f"the state manager cannot be reached: {what}", fix))
        return
    if endpoint.plaintext:
        what = f"the API key travels unencrypted to {endpoint.shown}"
        report.findings.append(note(what, "use https:// off this machine"))
    if server.key_refused is not None:
        fix = "give the server's key with --key-file FILE, or set EXOSPHERE_API_KEY"
        report.findings.append(Finding(f"the key is refused: it {server.key_refused}", fix))
        return
    if server.kind is Kind.OTHER:
        fix = "check that the URI leads to a state manager, and what stands in between"
        report.findings.append(Finding(f"what answers is no state manager: {server.about}", fix))
        return
    if server.kind is not None:
        await _look_into(report, endpoint, stale)
    report.findings += of_speed(server.median)
    report.findings += [] if server.clock is None else of_clock(server.clock)


async def _look_into(report: Report, endpoint: Endpoint, stale: float) -> None:
    assert report.server is not None, "it was reached"
    try:
        async with StateManager(report.namespace or "default", endpoint.uri, endpoint.key) as manager:
            if report.server.kind is Kind.NATIVE:
                await _look_natively(report, manager, stale)
            elif report.namespace is not None:
                await _look_through_v0(report, manager, stale)
            if report.namespace is not None:
                report.findings += of_graphs(await manager.graphs())
    except ManagerError as error:
        report.findings.append(Finding(f"it could not be looked into further: {error.what}", error.fix))
    if report.namespace is None:
        report.findings.append(
            note("no namespace is named, so none was looked into", "give --namespace NAME")
        )


async def _look_natively(report: Report, manager: StateManager, stale: float) -> None:
    assert report.server is not None, "it was reached"
    await manager.checkup()  # which connects first, and would blur the times of the next one
    sent = time.time()
    checkup = await manager.checkup()
    received = time.time()
    # Closer than a Date, which has whole seconds only.
    half = (received - sent) / 2
    report.server.clock = Clock(checkup.at_ms / 1000 - sent - half, half, "what it says itself")
    if report.namespace is None:
        checkup = checkup.model_copy(update={"claims": []})
    else:
        report.overview = await manager.overview(runs=0)
        report.findings += of_overview(report.overview, checkup.lease_ttl_ms)
    report.checkup = checkup
    report.findings += of_checkup(checkup, VERSION, stale)


async def _look_through_v0(report: Report, manager: StateManager, stale: float) -> None:
    assert report.server is not None, "it was reached"
    report.v0_claims = await find_v0_claims(manager)
    clock = report.server.clock
    now = datetime.now(UTC) + timedelta(seconds=0 if clock is None else clock.ahead)
    ours = report.server.kind is Kind.OURS_V0
    report.findings += of_v0(report.v0_claims, now, stale, ours=ours)


def _exit_code(report: Report, *, badly_set: bool) -> int:
    server = report.server
    if server is not None and (server.failed is not None or server.kind is Kind.OTHER):
        return UNREACHABLE
    if server is not None and server.key_refused is not None:
        return KEY_REFUSED
    if badly_set:
        return USAGE
    return FAILED if report.urgent else SUCCESS
