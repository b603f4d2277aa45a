"""Printing results and messages, also to a reader that went away (``| head``), or onto a full disk."""

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
from exotrio._util.words import harmless, one_line
from exotrio.errors import ExotrioError


def prepare_streams() -> None:
    """Make writing to the standard streams safe, however this process was started."""
    # The next file that is opened gets the number of a closed stream. If that were the database, lines for
    # standard error would be written into it.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    # Outputs of nodes may contain characters that the encoding of the terminal lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_message(text: str) -> None:
    """Print a message to standard error. If it cannot be written it is lost: that must not end a run."""
    with suppress(OSError):
        click.echo(harmless(text), err=True)


def print_json(body: Any, *, fix: str = "") -> None:
    """Print a result as JSON, as ``print_text`` does. Models in it have the form of the wire."""
    print_text(json.dumps(body, indent=2, default=lambda model: model.model_dump(mode="json")), fix=fix)


def print_as(form: str, body: Any, lines: Iterable[str], *, fix: str = "") -> None:
    """Print a result in the form that ``--output`` names, ``json`` or ``table``, as ``print_text`` does.

    Args:
        body: The result for programs.
        lines: The result for people; not iterated for JSON. Line breaks within a line are escaped.
        fix: What to do if it cannot be written.
    """
    if form == "json":
        print_json(body, fix=fix)
    else:
        print_text("\n".join(line.replace("\n", "\\n") for line in lines), fix=fix)


def print_text(text: str, *, fix: str = "") -> None:
    """Print a result to standard output, with control characters escaped.

    A reader that went away is not an error.

    Raises:
        ExotrioError: it cannot be written; ``fix`` says what to do then.
    """
    with _result_errors(fix):
        click.echo(harmless(text), file=sys.stdout)
        sys.stdout.flush()


def print_bytes(content: bytes) -> None:
    """Write binary content to standard output; otherwise as ``print_text``."""
    with _result_errors():
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


@contextmanager
def _result_errors(fix: str = "") -> Iterator[None]:
    """Ignore a reader that went away; raise ExotrioError if the result cannot be written."""
    try:
        yield
    except BrokenPipeError:
        discard_output(sys.stdout)
    except OSError as error:
        discard_output(sys.stdout)
        raise ExotrioError(
            f"the result could not be written: {error.strerror}",
            where="while writing to standard output",
            fix=fix,
        ) from error


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, or none if it has no rows. It is not fitted to the terminal: ids must not
    be shortened."""
    from rich.text import Text  # here, as rich takes long to import

    from exotrio.cli.terminal.table import Column, table_lines  # here, as above

    cells = [[Text(one_line(cell)) for cell in row] for row in rows]  # a name may look like rich's markup
    if cells:
        lines = table_lines([Column(head, right=False) for head in heads], cells, width=10_000)
        yield from (line.plain.rstrip() for line in lines)


def error_message(error: str | None) -> str:
    """Return the line of an error that describes it, or ``no text``."""
    return one_line(message_line(error)) or "no text"


def indented(text: str, by: str) -> str:
    """Return ``text`` with every line after the first indented."""
    return text.replace("\n", f"\n{by}")


def pairs(values: Mapping[str, Any], by: str, between: str = " = ") -> list[str]:
    """Return an indented line ``name = value`` for each value; further lines of a value are indented more."""
    lines = []
    for name, value in values.items():
        first, *more = str(value).split("\n")
        lines += [f"{by}{name}{between}{first}", *(f"{by}  {line}" for line in more)]
    return lines


def flush_streams() -> None:
    """Flush the standard streams, since the interpreter's flush at its end fails if the reader went away."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard_output(stream)


def discard_output(stream: TextIO) -> None:
    """Discard everything that is still written to a stream."""
    with suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
