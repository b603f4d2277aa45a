"""How this program was called, for commands that are printed to be copied."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence


def command_line(arguments: Sequence[str]) -> str:
    """Return a command of this program that works as it stands, in the same folder."""
    called = sys.orig_argv
    ours = next((i for i in range(len(called)) if called[i : i + 2] == ["-m", "exotrio"]), None)
    program = [sys.executable, "-m", "exotrio"] if ours is None else called[: ours + 2]
    return shlex.join([*program, *arguments])
