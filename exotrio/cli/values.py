"""Inputs, store entries and secrets of commands: in arguments, in files or on standard input.

``NAME=VALUE`` is literal text. ``NAME=@FILE`` is the text of a file, and ``NAME=@-`` that of standard input,
both without one line break at the end, which editors and ``echo`` add. A value that begins with ``@`` is
written ``NAME=@@...``. A JSON file has several values, which are used exactly as they are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import click


class PrivateText(str):
    """A text from a file or standard input, where private ones are given: messages do not quote it."""


def pairs(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """Return the values of a repeatable ``NAME=VALUE`` option."""
    texts: dict[str, str] = {}
    for value in values:
        name, equals, text = _decoded(value).partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not of the form NAME=VALUE")
        _add(texts, name, text)
    return texts


def secrets(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--secret NAME`` (from the environment) and ``--secret NAME=@FILE``."""
    texts: dict[str, str] = {}
    for value in values:
        name, equals, text = _decoded(value).partition("=")
        if not name:
            raise click.BadParameter("a secret needs a name")
        if equals and (not text.startswith("@") or text.startswith("@@")):
            # The value is not repeated: it is in the process list already, and must not get into logs too.
            raise click.BadParameter(
                f"the value of {name!r} is in the arguments, where other users can read it; "
                f"use {name} (the environment variable), {name}=@FILE or {name}=@-"
            )
        _add(texts, name, text if equals else None)
    return texts


def _add(texts: dict[str, str], name: str, text: str | None) -> None:
    """Add a value as it is written in an argument; None stands for the environment variable ``name``."""
    if name in texts:
        raise click.BadParameter(f"{name!r} is given twice")
    if text is None:
        if name not in os.environ:
            raise click.BadParameter(
                f"there is no environment variable {name!r}; set it, or use {name}=@FILE or {name}=@-"
            )
        texts[name] = os.environ[name]
    elif text.startswith("@") and not text.startswith("@@"):
        texts[name] = PrivateText(_read(text[1:]).removesuffix("\n").removesuffix("\r"))
    else:
        texts[name] = text[1:] if text.startswith("@@") else text


def values_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, str]:
    """Return the values in a JSON file, an object of strings; empty without a file."""
    if value is None:
        return {}
    name = shown(value)
    try:
        texts = json.loads(_read(value))
    except (ValueError, RecursionError) as error:
        # Only the line: the text of the error could quote a secret.
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise click.BadParameter(f"{name} is not JSON{line}") from None
    try:
        return private_texts(texts)
    except ValueError as error:
        raise click.BadParameter(f"{name}: {error}") from None


def private_texts(texts: object) -> dict[str, str]:
    """Return an object of texts; raise ValueError, which quotes none and names only the first that is wrong:
    there may be a million."""
    if not isinstance(texts, dict):
        raise ValueError('it is not a JSON object such as {"name": "value"}')
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"the value of {key!r} is not text; write it in quotes")
    return {key: PrivateText(text) for key, text in texts.items()}


def merged(
    from_options: Mapping[str, str], from_file: Mapping[str, str], option: str, file_option: str
) -> dict[str, str]:
    """Return both together; refuse a name that is in both."""
    for name in from_options:
        if name in from_file:
            raise click.UsageError(f"{name!r} is given with {option} and with {file_option}")
    return {**from_file, **from_options}


def _decoded(value: str) -> str:
    try:
        # Bytes that the locale cannot decode arrive as surrogates, which no state can hold.
        return os.fsencode(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{value!r} is not UTF-8") from error


def _read(path: str) -> str:
    if click.get_current_context().resilient_parsing:
        return ""  # a shell completes the command: nothing is read, least of all what is typed
    try:
        return read_text(path)
    except Unreadable as error:
        raise click.BadParameter(f"{shown(path) or 'a file without a name'} {error}") from error


STANDARD_INPUT = "-"
MAX_BYTES = 16 * 1024 * 1024
"""The largest body that a state manager accepts."""

_READ = "exotrio.cli.standard-input-read"


class Unreadable(Exception):
    """The text cannot be read; the message says why, and follows the name of the file."""


def shown(file: str) -> str:
    """Return the name of a file for messages."""
    return "standard input" if file == STANDARD_INPUT else file


def read_text(file: str) -> str:
    """Return the text of a file without a byte order mark; standard input can be read once."""
    try:
        if file == STANDARD_INPUT:
            data = standard_input().read(MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be a file's
        raise Unreadable(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise Unreadable(f"has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is not UTF-8 text") from error


def standard_input() -> BinaryIO:
    """Return standard input, once: at the second reading it would be empty."""
    meta = click.get_current_context().meta
    if meta.setdefault(_READ, False):
        raise Unreadable("is read twice")
    meta[_READ] = True
    return sys.stdin.buffer if sys.stdin is not None else BytesIO()
