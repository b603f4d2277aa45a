"""The command of a child process that runs Python."""

from __future__ import annotations

import os
import subprocess
import sys


def child_python(*arguments: str) -> list[str]:
    """Return the command of a Python with the options of this one, such as ``-W error`` and ``-u``.

    With ``-m`` or ``-c`` Python looks for modules in the working directory first, before its own. In a folder
    that others may write to, their ``json.py`` would run. So the child does that only if this process does.
    """
    options = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    if getattr(sys.__stdout__, "write_through", False):
        options.append("-u")  # it leaves no flag
    if not _imports_from_working_directory():
        options.append("-P")
    return [sys.executable, *options, *arguments]


def _imports_from_working_directory() -> bool:
    try:
        here = os.getcwd()
        return any(os.path.abspath(folder) == here for folder in sys.path)
    except FileNotFoundError:  # it was deleted
        return False
