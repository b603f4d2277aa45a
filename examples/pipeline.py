"""Orders through a pipeline, on a state manager that runs elsewhere: ours, or Exosphere's own.

    export EXOSPHERE_STATE_MANAGER_URI=http://127.0.0.1:8000 EXOSPHERE_API_KEY=...
    python examples/pipeline.py              # upsert the graph, run three orders, print the results

The worker is part of this process. To have it elsewhere, in as many processes as you like:

    python -m exotrio worker examples/pipeline.py
    python examples/pipeline.py --no-worker

``split -> price``: split fans out to one state per line of an order. Between nodes everything is text;
the typed fields (an enum, numbers, a model) are turned into it and back.
"""

import sys
from decimal import Decimal
from enum import StrEnum

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager

NAMESPACE = "examples"
PRICES = {"tea": Decimal("3.20"), "cake": Decimal("4.55"), "gold": Decimal("61000")}


class Rate(StrEnum):
    FULL = "full"
    REDUCED = "reduced"


class Line(BaseModel):
    article: str
    count: int


class Split(BaseNode):
    """Read an order such as "2 tea, 1 cake"."""

    class Inputs(BaseModel):
        order: str

    class Outputs(BaseModel):
        line: Line
        rate: Rate

    async def execute(self) -> list[Outputs]:
        outputs = []
        for part in self.inputs.order.split(","):
            count, article = part.split()
            rate = Rate.FULL if article == "gold" else Rate.REDUCED
            outputs.append(self.Outputs(line=Line(article=article, count=int(count)), rate=rate))
        return outputs


class Price(BaseNode):
    """Price one line, tax included."""

    class Inputs(BaseModel):
        line: Line
        rate: Rate

    class Outputs(BaseModel):
        text: str
        total: Decimal

    async def execute(self) -> Outputs:
        line = self.inputs.line
        tax = Decimal("1.19") if self.inputs.rate is Rate.FULL else Decimal("1.07")
        total = (PRICES[line.article] * line.count * tax).quantize(Decimal("0.01"))
        return self.Outputs(text=f"{line.count} x {line.article}", total=total)


graph = Graph("orders", namespace=NAMESPACE)
split = graph.add(Split, order="1 tea")
price = graph.add(Price, line=split.line, rate=split.rate)

# Without arguments for them, the URI and the key come from the environment or .env.
runtime = Runtime(namespace=NAMESPACE, name="orders", nodes=[Split, Price])


async def show(manager: StateManager, run_id: str) -> None:
    """Wait for a run and print what its last nodes returned."""
    run = await manager.wait(run_id, timeout=60)
    print(f"{run_id}: {run.status}")
    prices = await manager.outputs(run, price)
    for each in prices:
        print(f"  {each.text}: {each.total}")
    print(f"  total: {sum(each.total for each in prices)}")


async def main() -> None:
    async with StateManager(NAMESPACE) as manager, trio.open_nursery() as nursery:
        if "--no-worker" not in sys.argv:
            # First of all: a graph is valid only once its nodes are registered.
            await nursery.start(runtime.run)
        await manager.upsert_graph(graph)
        orders = ("2 tea", "1 cake, 3 tea", "1 gold, 1 tea")
        started = [await manager.trigger(graph.name, inputs={"order": order}) for order in orders]
        for each in started:
            await show(manager, each["run_id"])
        runtime.stop()


if __name__ == "__main__":
    trio.run(main)
