"""A state manager under test, and a real server process as one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "contract-suite-key-3f9c"


STARTUP_LIMIT = 20.0


@dataclass(frozen=True)
class Target:
    """A state manager under test."""

    kind: str
    url: str = "http://embedded"
    key: str | None = None


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """Run a server process over the database in ``folder`` until the body ends."""
    log = folder / "log"
    command = [sys.executable, "-m", "exotrio", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--db", str(folder / "manager.db"), "--key", KEY, *options]
    ignored = ("EXOSPHERE_", "STATE_MANAGER_", "SECRETS_", "EXOTRIO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, cwd=folder, env=environment
        ) as process,
    ):
        try:
            yield Target("tcp", _address(process, log), KEY), process
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTUP_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.02)
    raise RuntimeError(f"the server printed no address:\n{log.read_text()}")
