"""Writing to readers that may have gone away: ``| head``, a closed terminal, a full disk."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from exotrio._util.error_message import message_line
from exotrio._util.terminal_text import harmless, one_line
from exotrio.errors import ExotrioError


def prepare_streams() -> None:
    """Make writing to the standard streams safe, however this process was started."""
    # The next file that is opened gets the number of a closed stream. Were that the database, lines
    # meant for standard error would be written into it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    # Outputs of nodes may hold what the terminal's encoding lacks; that is no reason to show nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_message(text: str) -> None:
    """Print a line to standard error, if anybody can still read it. Losing it must not end a run."""
    with suppress(OSError):
        click.echo(harmless(text), err=True)


def print_json(body: Any, *, fix: str = "") -> None:
    """Print a result as JSON, as ``print_text`` does."""
    print_text(json.dumps(body, indent=2), fix=fix)  # in ASCII, so there is nothing to make harmless


def print_text(text: str, *, fix: str = "") -> None:
    """Print a result to standard output. A reader that has seen enough is no error.

    Args:
        text: What to print; control characters in it are shown, not sent.
        fix: What to do if it cannot be written.

    Raises:
        ExotrioError: it cannot be written.
    """
    with _readers(fix):
        click.echo(harmless(text), file=sys.stdout)
        sys.stdout.flush()


def print_lines(lines: Iterable[str], *, fix: str = "") -> None:
    """Print a result line by line, as ``print_text`` does. No line begins another one, whatever it holds."""
    print_text("\n".join(line.replace("\n", "\\n") for line in lines), fix=fix)


def print_bytes(content: bytes) -> None:
    """Write a result that is no text to standard output, as it is. As ``print_text``, else.

    Raises:
        ExotrioError: it cannot be written.
    """
    with _readers():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


@contextmanager
def _readers(fix: str = "") -> Iterator[None]:
    """Let no reader that has seen enough be an error."""
    try:
        yield
    except BrokenPipeError:
        forget_reader(sys.stdout)
    except OSError as error:
        forget_reader(sys.stdout)
        raise ExotrioError(
            f"the result could not be written: {error.strerror}",
            where="while writing to standard output",
            fix=fix,
        ) from error


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table as wide as it needs to be: an id that was cut is of no use to a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False)
    for head in heads:
        shown.add_column(head, no_wrap=True)
    for row in rows:
        shown.add_row(*(Text(one_line(cell)) for cell in row))  # as text: names may look like rich's markup
    console = Console(file=io.StringIO(), width=10_000, color_system=None)
    with console.capture() as captured:
        console.print(shown)
    return [line.rstrip() for line in captured.get().splitlines()]


def error_message(error: str | None) -> str:
    """Return the line of an error that says what happened, or that there is none."""
    return one_line(message_line(error)) or "no text"


def indented(text: str, by: str) -> str:
    """Return ``text`` with every line after the first moved in."""
    return text.replace("\n", f"\n{by}")


def pairs(values: Mapping[str, Any], by: str, between: str = " = ") -> list[str]:
    """Return a line ``name = value`` for each value, moved in; further lines of a value stand deeper."""
    lines = []
    for name, value in values.items():
        first, *more = str(value).split("\n")
        lines += [f"{by}{name}{between}{first}", *(f"{by}  {line}" for line in more)]
    return lines


def settle() -> None:
    """Write what the streams still hold. What nobody can read would fail when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            forget_reader(stream)


def forget_reader(stream: TextIO) -> None:
    """Send what is still to come nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
