"""Nodes of the journeys: ``begin -> split -> work -> close``, with as many states of ``work`` as one likes.

What ``work`` does hangs on files in the working directory, so that a test decides when: it fails at the
item ``bad`` until there is a file ``repaired``, and if the run's store says so waits for a file ``open``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import anyio
from pydantic import BaseModel, Field

from exotrio import BaseNode, Graph, RetryPolicyModel

NAMESPACE = "journeys"
GRAPH = "journey"
APP = f"""
import os
from exotrio import Runtime
from tests.browser.nodes import NODES, graph

runtime = Runtime(
    namespace={NAMESPACE!r},
    name=os.environ.get("WORKER", "worker"),
    nodes=NODES,
    workers=4,
    batch_size=64,
    shutdown_grace=600,  # far longer than a test waits
)
"""


class Begin(BaseNode):
    class Inputs(BaseModel):
        note: str = Field(description="What the run is for")

    class Outputs(BaseModel):
        note: str

    async def execute(self) -> Outputs:
        return self.Outputs(note=self.inputs.note)


class Split(BaseNode):
    class Inputs(BaseModel):
        count: int = Field(ge=0, description="How many items")

    class Outputs(BaseModel):
        item: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(item=str(item)) for item in range(self.inputs.count)]


class Work(BaseNode):
    class Inputs(BaseModel):
        item: str
        bad: str
        waits: Literal["yes", "no"]

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        if self.inputs.waits == "yes":
            self.progress(0.4, f"12 of 30 pages of {self.inputs.item}")
            while not os.path.exists("open"):  # noqa: ASYNC110, ASYNC240 - the test makes it
                await anyio.sleep(0.02)
        if self.inputs.item == self.inputs.bad and not os.path.exists("repaired"):  # noqa: ASYNC240
            raise ValueError(f"cannot work on {self.inputs.item}")
        return self.Outputs(text=f"worked on {self.inputs.item}")


class Close(BaseNode):
    class Inputs(BaseModel):
        texts: list[str]

    class Outputs(BaseModel):
        count: str

    async def execute(self) -> Outputs:
        return self.Outputs(count=str(len(self.inputs.texts)))


NODES = [Begin, Split, Work, Close]


graph = Graph(GRAPH, namespace=NAMESPACE, retry_policy=RetryPolicyModel(max_retries=0))
begin = graph.add(Begin, note="no note")
split = graph.add(Split, after=begin, count=graph.store("count", default="3"))
work = graph.add(
    Work,
    item=split.item,
    bad=graph.store("bad", default="none"),
    waits=graph.store("waits", default="no"),
)
graph.add(Close, texts=work.every.text, unites=begin, strategy="ALL_DONE")


def let(folder: Path, file: str) -> None:
    """Let the nodes of a worker in ``folder`` go on (``open``) or succeed (``repaired``)."""
    (folder / file).touch()
