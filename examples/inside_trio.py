"""A runtime inside a Trio application of your own: one nursery, one place where it all ends.

    python examples/inside_trio.py

The application counts seconds while the runtime works, starts a run, waits for it, and cancels the
nursery. The state manager is embedded around it, so claims of the cancelled runtime are released
before the program ends.
"""

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio.manager import embedded

NAMESPACE = "examples"


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        await trio.sleep(0.2)
        return self.Outputs(text=f"Hello, {self.inputs.name}!")


class Shout(BaseNode):
    class Inputs(BaseModel):
        text: str

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        return self.Outputs(text=self.inputs.text.upper())


graph = Graph("greeting", namespace=NAMESPACE)
greet = graph.add(Greet, name="no one")
graph.add(Shout, text=greet.text)


async def tick() -> None:
    while True:
        print("the application is alive")
        await trio.sleep(1)


async def main() -> None:
    async with (
        embedded(":memory:") as transport,
        StateManager(NAMESPACE, transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tick)
        runtime = Runtime(namespace=NAMESPACE, name="greeter", nodes=[Greet, Shout], transport=transport)
        await nursery.start(runtime.run)

        await manager.upsert_graph(graph)
        started = await manager.trigger("greeting", inputs={"name": "Ada"})
        run = await manager.wait(started["run_id"])

        states = await manager.run(run.run_id)
        last = await manager.state("greeting", run.run_id, states.nodes[-1].id)
        print(f"{run.status}: {last.outputs['text']}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
