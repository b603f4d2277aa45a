"""How many connections a server takes: what the limits on open files of its process allow."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
