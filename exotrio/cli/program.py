"""How this program was called: for commands that are printed to be copied."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_MODULE = ["-m", "exotrio"]


@dataclass(frozen=True, slots=True)
class CalledAs:
    """What each command gets as its ``click.Context.obj``. ``process``: the process ends with the command."""

    process: bool


def command_line(arguments: Sequence[str]) -> str:
    """Return a command of this program that can be copied and works in the same folder."""
    return python_line([*_MODULE, *arguments])


def python_line(arguments: Sequence[str]) -> str:
    """Return a command of the Python that runs this program, spelled as it was called."""
    called = sys.orig_argv
    end = next((i for i in range(len(called)) if called[i : i + 2] == _MODULE), None)
    return shlex.join([*([sys.executable] if end is None else called[:end]), *arguments])
