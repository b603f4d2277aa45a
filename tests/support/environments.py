"""Separate Python environments, for packages that ours must not depend on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


class CannotInstall(Exception):
    """pip refused; the message is the end of what it printed."""


def make_environment(folder: Path, *arguments: str, python: str = sys.executable) -> str:
    """Make an environment, run ``pip install`` with these arguments in it, and return its Python.

    Raises:
        CannotInstall: There is no package index, for example.
    """
    made = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "venv", folder], check=True)
    command = [made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:]
        raise CannotInstall(f"{' '.join(arguments)} cannot be installed: {reason}")
    return made


def newer_python(needed: tuple[int, int]) -> str:
    """Return a Python of at least this version: the one that runs this, or another of this machine.

    Raises:
        CannotInstall: There is none.
    """
    check = f"import sys, ensurepip; sys.exit(sys.version_info < {needed})"
    for name in (sys.executable, "python3.14", "python3.13", "python3.12", "python3"):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", check], capture_output=True).returncode == 0:
            return path
    raise CannotInstall(f"there is no Python >= {needed[0]}.{needed[1]} on this machine")
