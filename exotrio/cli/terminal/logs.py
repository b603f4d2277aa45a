"""Logging of the command line: to standard error, so that standard output stays the result's."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, TextIO, TypeVar

import click

from exotrio._util.terminal_text import harmless
from exotrio.cli.terminal.output import indented, print_message
from exotrio.errors import ExotrioError

log = logging.getLogger("exotrio.cli")

F = TypeVar("F")

TEXT, JSON = "text", "json"
_form = TEXT


def log_format_option(function: F) -> F:
    """Add ``--log-format`` to a command."""
    option: Any = click.option(
        "--log-format",
        type=click.Choice([TEXT, JSON]),
        default=TEXT,
        show_default=True,
        help="Form of the log: lines to read, or one JSON object per line for machines.",
    )
    decorated: F = option(function)
    return decorated


def configure_logs(*, verbose: int, quiet: bool = False, form: str = TEXT) -> None:
    """Send log lines to standard error.

    Args:
        verbose: 0 for INFO, 1 or more for DEBUG.
        quiet: Only warnings and errors.
        form: ``text``: lines of exotrio. ``json``: those of everybody in the process, node code
            included, since a line in another form would be lost on whoever collects them.
    """
    global _form
    _form = form
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = _StandardError()
    ours = logging.getLogger("exotrio")
    ours.setLevel(level)
    if form == JSON:
        from exotrio.cli.terminal.json_logs import JsonFormatter

        handler.setFormatter(JsonFormatter())
        root = logging.getLogger()
        root.addHandler(handler)
        root.setLevel(max(level, logging.INFO))
        for chatty in ("httpx", "httpcore"):
            # A line for every request would drown the rest.
            logging.getLogger(chatty).setLevel(logging.WARNING)
        logging.captureWarnings(True)
        return
    handler.setFormatter(TextFormatter())
    ours.addHandler(handler)


def show_warnings() -> None:
    """Send warnings to standard error until the command ends: for commands that log nothing else."""
    handler = _StandardError()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(TextFormatter())
    ours = logging.getLogger("exotrio")
    ours.addHandler(handler)
    click.get_current_context().call_on_close(lambda: ours.removeHandler(handler))


class TextFormatter(logging.Formatter):
    """Lines to read. Names and errors are anybody's: what they hold is shown and not obeyed, and further
    lines are moved in, so that none of them passes for a line of the log."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback below it."""
        return harmless(indented(super().format(record), "  "))


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is by then: bars on a terminal replace it, to stay below the lines."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def print_error(error: ExotrioError) -> None:
    """Say why the command ends: three lines for people; for machines one of the log."""
    if _form == JSON:
        log.critical("%s", error)
    else:
        print_message(f"error: {error}")
