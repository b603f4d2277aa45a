"""One workload through the unmodified stock SDK and through exotrio, both on our state manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.conftest import serving

SCENARIO = Path(__file__).with_name("scenario.py")
EXPECTED = {
    "all_done": ["p!"],
    "all_success": ["p!"],
    "cron": ["tick!"],
    "linear": ["given!"],
    "nothing": ["done"],
    "requeue": ["requeued 1"],
    "retry": ["after 3"],
    "secret": ["hello"],
    "store": ["hello Ada!"],
}

pytestmark = pytest.mark.sdk


@pytest.fixture(scope="module")
def url_and_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with serving(tmp_path_factory.mktemp("manager")) as (target, _):
        assert target.key is not None
        yield target.url, target.key


def run_scenario(python: str, package: str, where: tuple[str, str]) -> dict[str, list[str]]:
    environment = {**os.environ, "EXOSPHERE_STATE_MANAGER_URI": where[0], "EXOSPHERE_API_KEY": where[1]}
    done = subprocess.run(
        [python, str(SCENARIO), package], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    received: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return received


def test_the_unmodified_stock_sdk_runs_against_our_state_manager(
    stock_python: str, url_and_key: tuple[str, str]
) -> None:
    assert run_scenario(stock_python, "exospherehost", url_and_key) == EXPECTED


def test_changing_the_import_is_the_migration(url_and_key: tuple[str, str]) -> None:
    assert run_scenario(sys.executable, "exotrio", url_and_key) == EXPECTED
