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

from exotrio import BaseNode, Graph, GraphNodeModel, Runtime, StateManager, UnitesModel
from tests.contract.target import Target, serving
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


def place(name: str, *following: str, unites: str | None = None, **inputs: str) -> GraphNodeModel:
    return GraphNodeModel(
        node_name=name,
        namespace="mixed",
        identifier=name.lower(),
        inputs=inputs,
        next_nodes=list(following),
        unites=None if unites is None else UnitesModel(identifier=unites),
    )


GRAPH = Graph(
    "mixed",
    [
        place("Start", "numbers"),
        place("Numbers", "double"),
        place("Double", "collect", text="${{ numbers.outputs.number }}"),
        place("Collect", unites="start", doubled="${{ double.outputs.text }}"),
    ],
)


@contextmanager
def stock_worker(python: str, target: Target) -> Iterator[None]:
    environment = {
        **os.environ,
        "EXOSPHERE_STATE_MANAGER_URI": target.url,
        "EXOSPHERE_API_KEY": target.key or "",
    }
    with subprocess.Popen(
        [python, str(WORKER), "mixed"], env=environment, stderr=subprocess.DEVNULL
    ) as worker:
        try:
            yield
        finally:
            worker.kill()


async def test_nodes_of_the_sdk_and_typed_nodes_work_in_one_graph(stock_python: str, tmp_path: Path) -> None:
    collected.clear()
    with serving(tmp_path) as (target, _), stock_worker(stock_python, target), trio.fail_after(60):
        async with StateManager("mixed", target.url, target.key) as manager, trio.open_nursery() as nursery:
            rt = Runtime("mixed", "ours", [Start, Numbers, Collect], target.url, target.key)
            await nursery.start(rt.run)

            async def registered() -> None:
                assert len(await manager.nodes()) == 4

            await eventually(registered, within=30)
            await manager.upsert_graph(GRAPH)
            run = await manager.wait((await manager.trigger("mixed"))["run_id"])
            rt.stop()
    assert run.status == "SUCCESS"
    assert collected == [[6, 2, 4]]
