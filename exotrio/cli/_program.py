"""How this program was called, for commands that are printed to be copied, and for further processes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

_MODULE = ["-m", "exotrio"]


def command_line(arguments: Sequence[str]) -> str:
    """Return a command of this program that works as it stands, in the same folder."""
    called = sys.orig_argv
    ours = _begin()
    program = [sys.executable, *_MODULE] if ours is None else called[: ours + 2]
    return shlex.join([*program, *arguments])


def interpreter() -> list[str]:
    """Return the interpreter of this process with the options it was given, ``-W error`` for example."""
    return [sys.executable, *sys.orig_argv[1 : _begin() or 1]]


def _begin() -> int | None:
    """Return where the interpreter's own arguments end."""
    called = sys.orig_argv
    return next((i for i in range(len(called)) if called[i : i + 2] == _MODULE), None)
