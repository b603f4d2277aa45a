"""The stock SDK: its names here, its runtime at our state manager, and both in one graph.

All skipped, loudly, where there is no Python >= 3.12, or no package index.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel

import exotrio
from exotrio import BaseNode, Graph, Runtime, StateManager
from tests.contract.target import Target, serving
from tests.sdk.behaviour import LINES, behaviour
from tests.sdk.surface import surface
from tests.support.doubles import running
from tests.support.environments import CannotInstall, make_environment, newer_python
from tests.support.helpers import eventually

pytestmark = pytest.mark.sdk

HERE = Path(__file__).parent
NOT_HERE = {"PruneSignal.send", "ReQueueAfterSignal.send"}
"""Signals are data: the runtime reports them. Only the stock runtime calls these."""
SAME_PLACE = {"state_manage_version": "state_manager_version"}
"""Accepted under its own name too; in its position in a call is the name without the typo."""
SAME_VALUE = {("PruneSignal", "data"): "None"}
"""Defaults with the same effect."""


STOCK = "exospherehost==0.0.3"


@pytest.fixture(scope="module")
def stock_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make an environment with the stock SDK and return its Python."""
    try:
        return make_environment(tmp_path_factory.mktemp("sdk"), STOCK, python=newer_python((3, 12)))
    except CannotInstall as error:
        pytest.skip(str(error))


def of_stock(stock_python: str, script: str) -> Any:
    command = [stock_python, str(HERE / script), "exospherehost"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(out.stdout)


# -- names


def test_every_name_method_and_parameter_of_the_stock_sdk_exists_here(stock_python: str) -> None:
    stock, ours = of_stock(stock_python, "surface.py"), surface(exotrio)
    assert len(stock) >= 20
    for name in sorted(stock.keys() - NOT_HERE):
        if not isinstance(stock[name], list):
            assert ours[name] == stock[name]
            continue
        known = {parameter[0]: parameter[1:] for parameter in ours[name]}
        for position, (parameter, *default) in enumerate(stock[name]):
            assert parameter in known, name
            place = SAME_PLACE.get(parameter, parameter)
            assert ours[name][position][0] == place
            if default:
                assert known[place] in (default, [SAME_VALUE.get((name, parameter))]), name
        assert all(len(parameter) > 1 for parameter in ours[name][len(stock[name]) :]), "more is required"


def test_what_the_stock_sdk_does_with_its_names_is_done_here(stock_python: str) -> None:
    stock, ours = of_stock(stock_python, "behaviour.py"), behaviour(exotrio)
    assert {line: ours[line] for line in LINES} == {line: stock[line] for line in LINES}


def test_the_version_is_the_one_of_the_package() -> None:
    assert importlib.metadata.version("exotrio") == exotrio.VERSION


# -- one workload through either package


SCENARIO = HERE / "scenario.py"
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
"""The inputs of the last node of each graph's runs."""
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
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed == {"received": RECEIVED, "ended": ENDED, "cron": ["tick!"]}, done.stderr[-3000:]


def test_the_unmodified_stock_sdk_runs_against_our_state_manager(stock_python: str, ours: Where) -> None:
    check_scenario(stock_python, "exospherehost", ours)


def test_changing_the_import_is_the_migration(ours: Where) -> None:
    check_scenario(sys.executable, "exotrio", ours)


def test_our_runtime_and_client_need_nothing_but_v0(v0_only: Where) -> None:
    check_scenario(sys.executable, "exotrio", v0_only)


# -- one graph, whose nodes are run by both packages


WORKER = HERE / "worker.py"
collected: list[list[int]] = []


class Numbers(BaseNode):
    class Outputs(BaseModel):
        number: int

    async def execute(self) -> Any:
        return [self.Outputs(number=number) for number in (3, 1, 2)]


class Start(BaseNode):
    async def execute(self) -> None: ...


class Collect(BaseNode):
    class Inputs(BaseModel):
        doubled: list[int]

    async def execute(self) -> None:
        collected.append(self.inputs.doubled)


GRAPH = Graph("mixed", namespace="mixed")
start = GRAPH.add(Start)
double = GRAPH.add("Double", text=GRAPH.add(Numbers, after=start).number)
GRAPH.add(Collect, unites=start, doubled=double.every.text)


@contextmanager
def stock_worker(python: str, target: Target) -> Iterator[None]:
    where = {"EXOSPHERE_STATE_MANAGER_URI": target.url, "EXOSPHERE_API_KEY": target.key or ""}
    command = [python, str(WORKER), "mixed"]
    with subprocess.Popen(command, env={**os.environ, **where}, stderr=subprocess.DEVNULL) as worker:
        try:
            yield
        finally:
            worker.kill()


async def test_nodes_of_the_sdk_and_typed_nodes_work_in_one_graph(stock_python: str, tmp_path: Path) -> None:
    collected.clear()
    with serving(tmp_path) as (target, _), stock_worker(stock_python, target), trio.fail_after(60):
        rt = Runtime("mixed", "ours", [Start, Numbers, Collect], target.url, target.key)
        async with StateManager("mixed", target.url, target.key) as manager, running(rt):

            async def registered() -> None:
                assert len(await manager.nodes()) == 4

            await eventually(registered, within=30)
            await manager.upsert_graph(GRAPH)
            run = await manager.wait((await manager.trigger("mixed"))["run_id"])
    assert run.status == "SUCCESS"
    assert collected == [[6, 2, 4]]
