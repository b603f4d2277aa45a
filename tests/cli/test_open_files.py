"""How much a server takes: connections, by the limits on open files of its process, and large bodies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import server

SCRIPT = """
import resource
from exotrio.cli.commands.server import max_connections
for soft, hard in ((256, 9_000), (1_200, 1_200), (256, 1_200)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised_and_half_of_the_files_may_be_connections() -> None:
    resource = pytest.importorskip("resource")
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 9_000:
        pytest.skip("fewer files may be open here")
    shown = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["4000 8000 9000", "600 1200 1200", "600 1200 1200"]


def test_a_body_may_be_as_large_as_the_server_is_told(tmp_path: Path) -> None:
    graph = {"nodes": [], "secrets": {"token": "x" * 1024 * 1024}}
    with server(tmp_path, "--max-body-mib", "1") as running, pytest.raises(AssertionError, match=": 413 "):
        running.ask("PUT", "/v0/namespace/n/graph/g", graph)
    with server(tmp_path, "--max-body-mib", "2") as running, pytest.raises(AssertionError, match=": 400 "):
        running.ask("PUT", "/v0/namespace/n/graph/g", graph)  # it was read
