"""One workload through the unmodified stock SDK and through exotrio, both on our state manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.target import serving

SCENARIO = Path(__file__).with_name("scenario.py")
RECEIVED = {
    "all_done": ["p!"],
    "all_done_pruned": ["p!"],
    "all_success": ["p!"],
    "asyncio": ["X"],
    "fan_out": ["x0", "x1", "x2"],
    "linear": ["given!"],
    "nothing": ["done"],
    "requeue": ["requeued 1"],
    "retry": ["after 3"],
    "secret": ["hello"],
    "store": ["hello Ada!"],
    "unite_each": ["f0", "f0", "f1", "f1", "f2", "f2"],
}
"""What the last node of each graph's runs was given."""
ENDED = [
    ["all_done", "FAILED", 5, 3, 6],
    ["all_done_pruned", "SUCCESS", 8, 0, 0],
    ["all_success", "SUCCESS", 8, 0, 0],
    ["all_success_failed", "FAILED", 4, 3, 6],
    ["asyncio", "SUCCESS", 2, 0, 0],
    ["fan_out", "SUCCESS", 6, 0, 0],
    ["linear", "SUCCESS", 2, 0, 0],
    ["nothing", "SUCCESS", 2, 0, 0],
    ["prune", "SUCCESS", 1, 0, 0],
    ["requeue", "SUCCESS", 2, 0, 0],
    ["retry", "SUCCESS", 2, 0, 2],
    ["secret", "SUCCESS", 2, 0, 0],
    ["store", "SUCCESS", 2, 0, 0],
    ["unite_each", "SUCCESS", 10, 0, 0],
    ["unite_each", "SUCCESS", 10, 0, 0],
]
"""Graph, status, and how many states of each run succeeded, failed, and were retried."""

pytestmark = pytest.mark.sdk


Where = tuple[str, str]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Where]:
    with serving(tmp_path_factory.mktemp("manager")) as (target, _):
        yield target.url, target.key or ""


@pytest.fixture(scope="module")
def v0_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Where]:
    with serving(tmp_path_factory.mktemp("manager"), "--v0-only") as (target, _):
        yield target.url, target.key or ""


def check_scenario(python: str, package: str, where: Where) -> None:
    """Run the scenario with a package, and check that everything came about as it should."""
    environment = {**os.environ, "EXOSPHERE_STATE_MANAGER_URI": where[0], "EXOSPHERE_API_KEY": where[1]}
    done = subprocess.run(
        [python, str(SCENARIO), package], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"received": RECEIVED, "ended": ENDED, "cron": ["tick!"]}, done.stderr[-3000:]


def test_the_unmodified_stock_sdk_runs_against_our_state_manager(stock_python: str, ours: Where) -> None:
    check_scenario(stock_python, "exospherehost", ours)


def test_changing_the_import_is_the_migration(ours: Where) -> None:
    check_scenario(sys.executable, "exotrio", ours)


def test_our_runtime_and_client_need_nothing_but_v0(v0_only: Where) -> None:
    check_scenario(sys.executable, "exotrio", v0_only)
