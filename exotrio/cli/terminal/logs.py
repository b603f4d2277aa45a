"""Logging of the command line: to standard error, since standard output is for results."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import click

from exotrio._util.words import harmless
from exotrio.cli.terminal.output import indented, print_message
from exotrio.errors import ExotrioError

log = logging.getLogger("exotrio.cli")

TEXT, JSON = "text", "json"
_form = TEXT


log_format_option = click.option(
    "--log-format",
    type=click.Choice([TEXT, JSON]),
    default=TEXT,
    show_default=True,
    help="Format of the log: text, or one JSON object per line.",
)


def configure_logs(*, verbose: int, quiet: bool = False, form: str = TEXT) -> None:
    """Send log lines to standard error: with ``verbose`` those of DEBUG too, if ``quiet`` only warnings.

    Args:
        form: ``text``: only lines of exotrio. ``json``: lines of all loggers in the process, node code
            included: collectors drop lines in another format.
    """
    global _form
    _form = form
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = _StandardError()
    ours = logging.getLogger("exotrio")
    ours.setLevel(level)
    if form == JSON:
        from exotrio.cli.terminal.json_logs import JsonFormatter  # here, since it imports the runtime

        handler.setFormatter(JsonFormatter())
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(max(level, logging.INFO))
        logging.captureWarnings(True)
        return
    ours.addHandler(handler)


def show_warnings() -> None:
    """Send warnings to standard error until the command ends, for commands that log nothing else."""
    handler = _StandardError()
    handler.setLevel(logging.WARNING)
    ours = logging.getLogger("exotrio")
    ours.addHandler(handler)
    click.get_current_context().call_on_close(lambda: ours.removeHandler(handler))


class TextFormatter(logging.Formatter):
    """Text lines. Names and errors may come from other people: control characters are escaped, and further
    lines are indented, so that none of them looks like a line of the log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return harmless(indented(super().format(record), "  "))


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current ``sys.stderr``: progress bars replace it, to stay below the lines."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def print_error(error: ExotrioError) -> None:
    """Print why the command ends: as up to three lines of text, or as one JSON line of the log."""
    if _form == JSON:
        log.critical("%s", error)
    else:
        print_message(f"error: {error}")
