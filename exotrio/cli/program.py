"""How this program was called: for commands that are printed to be copied, and for child processes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

_MODULE = ["-m", "exotrio"]


def command_line(arguments: Sequence[str]) -> str:
    """Return a command of this program that can be copied and works in the same folder."""
    return python_line([*_MODULE, *arguments])


def python_line(arguments: Sequence[str]) -> str:
    """Return a command of the Python that runs this program, spelled as it was called."""
    end = _interpreter_end()
    called = [sys.executable] if end is None else sys.orig_argv[:end]
    return shlex.join([*called, *arguments])


def interpreter() -> list[str]:
    """Return the interpreter of this process with the options it was given, ``-W error`` for example."""
    return [sys.executable, *sys.orig_argv[1 : _interpreter_end() or 1]]


def _interpreter_end() -> int | None:
    """Return where the interpreter's own arguments end, None if that is not known."""
    called = sys.orig_argv
    return next((i for i in range(len(called)) if called[i : i + 2] == _MODULE), None)
