"""Text from a file, or from standard input when the file is called ``-``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

STANDARD_INPUT = "-"
LARGEST = 16 * 1024 * 1024
"""Bytes: the largest body that a state manager takes."""

_READ = "exotrio.cli.standard-input-read"


class Unreadable(Exception):
    """The text cannot be had; the message says why, after the name of the file."""


def shown(file: str) -> str:
    """Return what to call a file in messages."""
    return "standard input" if file == STANDARD_INPUT else file


def read_text(file: str) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        Unreadable: there is none, it is too large or no text, or standard input was read before.
    """
    try:
        data = _standard_input() if file == STANDARD_INPUT else _content(file)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LARGEST:
        raise Unreadable(f"has more than {LARGEST} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is no UTF-8 text") from error


def _content(file: str) -> bytes:
    with Path(file).open("rb") as stream:
        return stream.read(LARGEST + 1)


def _standard_input() -> bytes:
    # Read again it would be empty, and an empty secret or graph be taken for what was meant.
    meta = click.get_current_context().meta
    if meta.setdefault(_READ, False):
        raise Unreadable("is asked for twice")
    meta[_READ] = True
    return sys.stdin.buffer.read(LARGEST + 1) if sys.stdin is not None else b""
