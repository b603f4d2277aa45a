"""Nodes and graphs that do nothing, so that what is measured is everything around them."""

from __future__ import annotations

import time

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, GraphNodeModel, Runtime, UnitesModel

NAMESPACE = "bench"
KEY = "benchmark"


class Text(BaseModel):
    i: str


class Fan(BaseNode):
    """As many outputs as it is told."""

    class Inputs(BaseModel):
        n: str

    Outputs = Text

    async def execute(self) -> list[Text]:
        return [Text(i=str(i)) for i in range(int(self.inputs.n))]


class Step(BaseNode):
    Inputs, Outputs = Text, Text

    async def execute(self) -> Text:
        return Text(i=self.inputs.i)


class Join(BaseNode):
    Inputs = Text

    async def execute(self) -> None:
        return None


class Parent(BaseNode):
    """Calls as many graphs of one node as it is told."""

    class Inputs(BaseModel):
        n: str

    async def execute(self) -> None:
        for child in [self.call(STEP.name, {"i": str(i)}) for i in range(int(self.inputs.n))]:
            child.outputs()


class Mark(BaseNode):
    """Notes when it begins."""

    Inputs, Outputs = Text, Text

    async def execute(self) -> Text:
        now = time.perf_counter()
        marks.setdefault(self.inputs.i, []).append(now)
        if (event := awaited.get(self.inputs.i)) is not None and len(marks[self.inputs.i]) == event[1]:
            event[0].set()
        return Text(i=self.inputs.i)


marks: dict[str, list[float]] = {}
"""Text to when Mark nodes that were given it began."""
awaited: dict[str, tuple[trio.Event, int]] = {}
"""Text to what to set once so many of them have begun."""


def place(
    node: type[BaseNode], name: str, inputs: dict[str, str], *after: str, unites: str = ""
) -> GraphNodeModel:
    return GraphNodeModel(
        node_name=node.__name__,
        namespace=NAMESPACE,
        identifier=name,
        inputs=inputs,
        next_nodes=list(after),
        unites=UnitesModel(identifier=unites) if unites else None,
    )


FAN = Graph(
    "fan", [place(Fan, "fan", {"n": "1"}, "step"), place(Step, "step", {"i": "${{ fan.outputs.i }}"})]
)
UNITED = Graph(
    "united",
    [
        place(Step, "begin", {"i": "1"}, "fan"),
        place(Fan, "fan", {"n": "${{ begin.outputs.i }}"}, "step"),
        place(Step, "step", {"i": "${{ fan.outputs.i }}"}, "join"),
        place(Join, "join", {"i": "${{ begin.outputs.i }}"}, unites="begin"),
    ],
)
STEP = Graph("step", [place(Step, "step", {"i": ""})])
PARENT = Graph("parent", [place(Parent, "parent", {"n": "1"})])
ONE = Graph("one", [place(Mark, "mark", {"i": ""})])
CHAIN = Graph(
    "chain",
    [
        place(Mark, "c1", {"i": ""}, "c2"),
        *(
            place(Mark, f"c{n}", {"i": f"${{{{ c{n - 1}.outputs.i }}}}"}, *([f"c{n + 1}"] if n < 5 else []))
            for n in range(2, 6)
        ),
    ],
)
NODES = (Fan, Step, Join, Parent, Mark)

runtime = Runtime(NAMESPACE, "worker", list(NODES))
"""For a worker that is measured from outside: ``python -m exotrio worker tests.bench.work``."""
