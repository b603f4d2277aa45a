"""How many connections a server takes: what the limits on open files of its process allow."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from exotrio.cli.commands.server import max_connections
print(max_connections(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "most", "raised"),
    [(256, 1_200, 600, 1_200), (1_200, 1_200, 600, 1_200), (256, 9_000, 4_000, 8_000)],
    ids=["little", "no more", "plenty"],
)
def test_the_soft_limit_is_raised_and_half_of_the_files_may_be_connections(
    soft: int, hard: int, most: int, raised: int
) -> None:
    resource = pytest.importorskip("resource")
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("fewer files may be open here")
    command = [sys.executable, "-c", SCRIPT, str(soft), str(hard)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert list(map(int, shown.split())) == [most, raised, hard]
