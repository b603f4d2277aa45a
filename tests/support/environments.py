"""Separate Python environments, for packages that ours must not depend on."""

from __future__ import annotations

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
