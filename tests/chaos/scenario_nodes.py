"""The worker's file of the scenario: nodes that take half a second each, four at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Runtime
from tests.chaos.journal import Journal, key_of

NAMESPACE = "scenario"
journal = Journal(Path(os.environ["CHAOS_FOLDER"]) / "journal")


class Split(BaseNode):
    class Inputs(BaseModel):
        n: str

    class Outputs(BaseModel):
        index: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(index=str(index)) for index in range(int(self.inputs.n))]


class Work(BaseNode):
    class Inputs(BaseModel):
        index: str

    class Outputs(BaseModel):
        index: str

    async def execute(self) -> Outputs:
        key = key_of("work", {"run": "0", **self.inputs.model_dump()})
        execution = journal.begin(key)
        how = "cancelled"
        try:
            await trio.sleep(0.5)
            how = "done"
        finally:
            journal.end(execution, key, how)
        return self.Outputs(index=self.inputs.index)


OUTBOX: dict[str, Any] = {"outbox": os.environ["CHAOS_OUTBOX"]} if "CHAOS_OUTBOX" in os.environ else {}
runtime = Runtime(NAMESPACE, "scenario", [Split, Work], **OUTBOX)
