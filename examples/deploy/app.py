"""The app that these files deploy: put your own nodes here."""

from __future__ import annotations

import logging

import anyio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime

log = logging.getLogger("greeter")


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        self.progress(0.5, f"thinking of {self.inputs.name}")
        await anyio.sleep(0.1)
        log.info("greeting %s", self.inputs.name)
        return self.Outputs(text=f"Hello, {self.inputs.name}!")


graph = Graph("greeting", namespace="Greeter")
graph.add(Greet, name="you")
# 20 s for running nodes, then 5 s to clean up, 3 s to deliver, 0.5 s to close: 28.5 s, less than the
# terminationGracePeriodSeconds of the pods. Longer nodes need a longer grace, here and there.
runtime = Runtime(namespace="Greeter", name="greeter", nodes=[Greet], workers=8, shutdown_grace=20)
