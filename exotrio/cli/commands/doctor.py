"""``python -m exotrio doctor``: what is wrong, why, and what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from exotrio._wire.checkup import STALE
from exotrio.cli import options
from exotrio.cli.connection import named_options
from exotrio.cli.doctor.examine import examine
from exotrio.cli.doctor.report import Report, as_json, as_text
from exotrio.cli.doctor.settings import examine_settings
from exotrio.cli.exit_codes import FAILED, SUCCESS, USAGE, exit_code
from exotrio.cli.terminal.output import print_as


@click.command(name="doctor")
@named_options
@click.option(
    "--outbox",
    "outboxes",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Outbox of a Runtime, to check whether outcomes are left in it; repeatable.",
)
@click.option(
    "--stale",
    type=options.SECONDS,
    default=STALE,
    show_default=True,
    help="Seconds after which a claim without a lease counts as stuck; longer than any node runs.",
)
@options.output
def command(
    outboxes: tuple[Path, ...],
    stale: float,
    output: str,
    **named: Any,
) -> int:
    """Diagnose settings, the state manager and stuck work; print what is wrong, why, and what to do.

    It prints every setting with its source, versions, what answers at the state manager's address, its clock,
    and problems in it: states that no runtime takes, claims without a lease, silent runtimes, invalid graphs,
    a full disk. It prints no key, and changes nothing, but for one thing: a database that no process has open
    gets the tables of this version. What needs attention begins with "!"; notes, such as the number of failed
    states, begin with "-". The last line says what was examined.

    Exits 0 if nothing needs attention, even if there are notes, and 1 if something does; 2 if a setting is
    missing or wrong, 4 if the state manager cannot be reached or another kind of server answers, 5 if it
    refuses the key, 7 if another process has the database open and serves it on no port.

    JSON: ok, examined, settings, versions, state_manager, namespace, overview (as in `top`), checkup,
    findings (what, fix, attention).
    """
    # Its warnings about .env are among the findings, with the name of the file.
    logging.getLogger("dotenv").addHandler(logging.NullHandler())
    logging.getLogger("dotenv").propagate = False
    settings = examine_settings(**named)
    report = examine(settings, outboxes, stale=stale)
    print_as(output, as_json(report), as_text(report).split("\n"))
    return _exit_code(report)


def _exit_code(report: Report) -> int:
    failed = report.error or (report.server and report.server.failed)
    if failed:
        return exit_code(failed)
    if report.settings.problems:
        return USAGE
    return FAILED if report.urgent else SUCCESS
