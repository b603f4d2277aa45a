"""One graph whose nodes are run by the stock SDK and by exotrio, with typed fields on our side."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager
from tests.contract.target import Target, serving
from tests.support.doubles import running
from tests.support.helpers import eventually

pytestmark = pytest.mark.sdk

WORKER = Path(__file__).with_name("worker.py")
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
