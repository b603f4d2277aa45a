"""Writing to readers that may have gone away: ``| head``, a closed terminal, a full disk."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

import click

from exotrio._errors import ExotrioError


def note(text: str) -> None:
    """Print a line to standard error, if anybody can still read it. Losing it must not end a run."""
    with suppress(OSError):
        click.echo(text, err=True)


def settle() -> None:
    """Write what the streams still hold. What nobody can read would fail when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            forget_reader(stream)


def result(text: str, stream: TextIO) -> None:
    """Print a result. A reader that has seen enough is no error.

    Raises:
        ExotrioError: it cannot be written.
    """
    try:
        click.echo(text, file=stream)
    except BrokenPipeError:
        forget_reader(stream)
    except OSError as error:
        forget_reader(stream)
        raise ExotrioError(
            f"the result could not be written: {error.strerror}",
            where="while writing to standard output",
            fix="the run itself is kept; --resume RUN prints its result again",
        ) from error


def forget_reader(stream: TextIO) -> None:
    """Send what is still to come nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
