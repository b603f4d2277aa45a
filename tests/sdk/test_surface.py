"""Every name, method and parameter of the stock SDK exists here, so that changing the import is enough."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import exotrio
from tests.sdk.behaviour import LINES, behaviour
from tests.sdk.surface import surface

HERE = Path(__file__).parent

STOCK: dict[str, Any] = {
    "BaseNode": [],
    "BaseNode.execute": [],
    "CronTrigger": [["expression"]],
    "GraphNodeModel": [
        ["node_name"],
        ["namespace"],
        ["identifier"],
        ["inputs", "{}"],
        ["next_nodes", "None"],
        ["unites", "None"],
    ],
    "PruneSignal": [["data", "{}"]],
    "PruneSignal.send": [["endpoint"], ["key"]],
    "ReQueueAfterSignal": [["delay"]],
    "ReQueueAfterSignal.send": [["endpoint"], ["key"]],
    "RetryPolicyModel": [
        ["max_retries", "3"],
        ["strategy", "'EXPONENTIAL'"],
        ["backoff_factor", "2000"],
        ["exponent", "2"],
        ["max_delay", "None"],
    ],
    "RetryStrategyEnum": {
        f"{strategy}{jitter}": f"{strategy}{jitter}"
        for strategy in ("EXPONENTIAL", "LINEAR", "FIXED")
        for jitter in ("", "_FULL_JITTER", "_EQUAL_JITTER")
    },
    "Runtime": [
        ["namespace"],
        ["name"],
        ["nodes"],
        ["state_manager_uri", "None"],
        ["key", "None"],
        ["batch_size", "16"],
        ["workers", "4"],
        ["state_manage_version", "'v0'"],
        ["poll_interval", "1"],
    ],
    "Runtime.start": [],
    "StateManager": [
        ["namespace"],
        ["state_manager_uri", "None"],
        ["key", "None"],
        ["state_manager_version", "'v0'"],
    ],
    "StateManager.get_graph": [["graph_name"]],
    "StateManager.trigger": [
        ["graph_name"],
        ["inputs", "None"],
        ["store", "None"],
        ["start_delay", "0"],
    ],
    "StateManager.upsert_graph": [
        ["graph_name"],
        ["graph_nodes"],
        ["secrets"],
        ["retry_policy", "None"],
        ["store_config", "None"],
        ["triggers", "None"],
        ["validation_timeout", "60"],
        ["polling_interval", "1"],
    ],
    "StoreConfigModel": [["required_keys", "[]"], ["default_values", "{}"]],
    "UnitesModel": [["identifier"], ["strategy", "'ALL_SUCCESS'"]],
    "UnitesStrategyEnum": {"ALL_SUCCESS": "ALL_SUCCESS", "ALL_DONE": "ALL_DONE"},
    "VERSION": "str",
}
"""exospherehost 0.0.3, as ``surface`` shows it."""

NOT_HERE = {"PruneSignal.send", "ReQueueAfterSignal.send"}
"""Signals are data: the runtime reports them. Nobody but the stock runtime calls these."""
SAME_PLACE = {"state_manage_version": "state_manager_version"}
"""Taken under its own name too, but what stands in its place in a call is the name spelt right."""
SAME_VALUE = {("PruneSignal", "data"): "None"}
"""Defaults that come to the same."""


def of_stock(stock_python: str, script: str) -> Any:
    command = [stock_python, str(HERE / script), "exospherehost"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(out.stdout)


@pytest.fixture(scope="module")
def stock_behaviour(stock_python: str) -> Any:
    return of_stock(stock_python, "behaviour.py")


def test_the_absence_of_the_sdk_is_said_loudly() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", __file__, "-k", "pinned"]
    # No newer Python; or these tests run with one, and it has no index.
    env = {**os.environ, "PATH": "", "PIP_NO_INDEX": "1"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "THE TESTS WITH THE STOCK SDK DID NOT RUN" in ended.stdout
    assert "left out (1): " in ended.stdout


@pytest.mark.sdk
def test_the_pinned_surface_is_that_of_the_stock_sdk(stock_python: str) -> None:
    assert of_stock(stock_python, "surface.py") == STOCK


@pytest.mark.parametrize("name", sorted(STOCK.keys() - NOT_HERE))
def test_what_the_stock_sdk_offers_is_offered_here(name: str) -> None:
    stock, ours = STOCK[name], surface(exotrio)[name]
    if not isinstance(stock, list):
        assert ours == stock
        return
    known = {parameter[0]: parameter[1:] for parameter in ours}
    for position, (parameter, *default) in enumerate(stock):
        assert parameter in known
        place = SAME_PLACE.get(parameter, parameter)
        assert ours[position][0] == place
        if default:
            assert known[place] in (default, [SAME_VALUE.get((name, parameter))])
    assert all(len(parameter) > 1 for parameter in ours[len(stock) :]), "nothing more has to be given"


@pytest.fixture(scope="module")
def our_behaviour() -> Any:
    return behaviour(exotrio)


@pytest.mark.sdk
@pytest.mark.parametrize("line", LINES)
def test_what_the_stock_sdk_does_with_its_names_is_done_here(
    stock_behaviour: Any, our_behaviour: Any, line: str
) -> None:
    assert our_behaviour[line] == stock_behaviour[line]


def test_the_version_is_the_one_of_the_package() -> None:
    assert importlib.metadata.version("exotrio") == exotrio.VERSION
