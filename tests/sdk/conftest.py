"""The stock SDK in an environment of its own, made once per session. What needs it is skipped, loudly, where
no Python >= 3.12 is to be found, or the package index is out of reach."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

STOCK = "exospherehost==0.0.3"


def _newer_python() -> str | None:
    for name in (sys.executable, "python3.14", "python3.13", "python3.12", "python3"):
        path = shutil.which(name)
        check = "import sys, ensurepip; sys.exit(sys.version_info < (3, 12))"
        if path and subprocess.run([path, "-c", check], capture_output=True).returncode == 0:
            return path
    return None


@pytest.fixture(scope="session")
def stock_python(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """Make an environment with the stock SDK, or take that of another process of this session; return its
    Python."""
    newer = _newer_python()
    if newer is None:
        pytest.skip("the stock SDK needs Python >= 3.12, which this machine lacks")
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "sdk"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            _install(newer, folder)
    return str(folder / "bin" / "python")


def _install(newer: str, folder: Path) -> None:
    subprocess.run([newer, "-m", "venv", folder], check=True)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", STOCK]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"{STOCK} cannot be installed: {' '.join(installed.stderr.split())[-300:]}")
    (folder / "installed").touch()
