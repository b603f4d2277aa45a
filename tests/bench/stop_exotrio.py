"""The long work as a node of exotrio: ``python -m exotrio worker tests.bench.stop_exotrio``."""

from __future__ import annotations

import os

import trio

from exotrio import BaseNode, Runtime
from tests.bench.stop_work import STEP, Execution


class WithoutCheckpoints(BaseNode):
    async def execute(self) -> None:
        execution = Execution()
        for number in range(execution.steps):
            execution.begin_step(number)
            await trio.sleep(STEP)
        execution.finish()


NODES = (WithoutCheckpoints,)
runtime = Runtime(os.environ.get("STOP_NAMESPACE", "stop"), "worker", list(NODES))
