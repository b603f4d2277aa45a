"""The long work as nodes of exotrio: ``python -m exotrio worker tests.bench.stop_exotrio``."""

from __future__ import annotations

import os

import trio
from pydantic import BaseModel

from exotrio import BaseNode, HandOver, Runtime
from tests.bench.stop_work import STEP, Execution


class WithCheckpoints(BaseNode):
    class Checkpoint(BaseModel):
        steps: int = 0

    async def execute(self) -> None:
        execution = Execution()
        for number in range(self.checkpoint.steps, execution.steps):
            execution.begin_step(number)
            await trio.sleep(STEP)
            self.checkpoint = self.Checkpoint(steps=number + 1)
            if self.stopping and number + 1 < execution.steps:
                execution.hand_over()
                raise HandOver()
        execution.finish()


class WithoutCheckpoints(BaseNode):
    async def execute(self) -> None:
        execution = Execution()
        for number in range(execution.steps):
            execution.begin_step(number)
            await trio.sleep(STEP)
        execution.finish()


NODES = (WithCheckpoints, WithoutCheckpoints)
runtime = Runtime(os.environ.get("STOP_NAMESPACE", "stop"), "worker", list(NODES))
