"""The nodes of ``user_graphs``, each of which enters its executions in ``JOURNAL``."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractContextManager, suppress

import trio
from pydantic import BaseModel

from exotrio import BaseNode, NoRetry
from tests.chaos.user_graphs import FAILS, ITEMS, JOURNAL, LONG, LONG_SECONDS, SECONDS, work_of
from tests.chaos.work import entered_in, journal_at, plan

journal = journal_at(JOURNAL)


def entered(node: BaseNode) -> AbstractContextManager[tuple[str, str]]:
    """Enter begin and end of the body in the journal of users; give the id of the execution, and its key."""
    inputs = node.inputs.model_dump()
    return entered_in(journal, work_of(node.run_id, type(node).__name__, inputs))


class Begin(BaseNode):
    class Inputs(BaseModel):
        mood: str
        customer: str

    class Outputs(BaseModel):
        mood: str
        customer: str
        by: str

    async def execute(self) -> Outputs:
        with entered(self) as (by, _):
            await trio.sleep(0.05)
        return self.Outputs(mood=self.inputs.mood, customer=self.inputs.customer, by=by)


class Order(BaseNode):
    class Inputs(BaseModel):
        mood: str
        customer: str

    class Outputs(BaseModel):
        mood: str
        index: str
        customer: str
        by: str

    async def execute(self) -> list[Outputs]:
        mood, customer = self.inputs.mood, self.inputs.customer
        with entered(self) as (by, _):
            await trio.sleep(0.05)
        return [
            self.Outputs(mood=mood, index=str(index), customer=customer, by=by)
            for index in range(1, ITEMS + 1)
        ]


class Part(BaseNode):
    """A limited node."""

    class Inputs(BaseModel):
        mood: str
        index: str
        customer: str

    class Outputs(BaseModel):
        value: str
        by: str

    def done(self, by: str) -> Outputs:
        return self.Outputs(value=self.inputs.index, by=by)


class OnTrio(Part):
    async def execute(self) -> Part.Outputs:
        with entered(self) as (by, _):
            await trio.sleep(SECONDS)
            if (
                self.inputs.mood == FAILS
                and self.inputs.index == "1"
                and plan.first_time(f"mended/{self.run_id}")
            ):
                raise NoRetry("fails until it is retried")
        return self.done(by)


class OnThread(Part):
    def execute(self) -> Part.Outputs:
        with entered(self) as (by, _):
            time.sleep(SECONDS)
        return self.done(by)


class OnAsyncio(Part):
    runs_in = "asyncio"

    async def execute(self) -> Part.Outputs:
        with entered(self) as (by, _):
            is_long = self.inputs.mood == LONG and self.inputs.index == "1"
            end = time.monotonic() + (LONG_SECONDS if is_long else SECONDS)
            while (left := end - time.monotonic()) > 0:
                with suppress(asyncio.CancelledError):  # such nodes exist
                    await asyncio.sleep(left)
        return self.done(by)


class InProcess(Part):
    runs_in = "process"

    def execute(self) -> Part.Outputs:
        with entered(self) as (by, _):
            time.sleep(SECONDS)
        return self.done(by)


class Total(BaseNode):
    class Inputs(BaseModel):
        on_trio: str
        on_thread: str
        on_asyncio: str
        in_process: str

    class Outputs(BaseModel):
        total: str
        by: str

    async def execute(self) -> Outputs:
        with entered(self) as (by, _):
            values = [value for texts in self.inputs.model_dump().values() for value in json.loads(texts)]
            await trio.sleep(0.1)
        return self.Outputs(total=str(sum(map(int, values))), by=by)


class CallOrders(BaseNode):
    class Inputs(BaseModel):
        customer: str

    class Outputs(BaseModel):
        total: str

    async def execute(self) -> Outputs:
        with entered(self):
            children = [self.call("orders", {"mood": "", "customer": self.inputs.customer}) for _ in range(2)]
            total = sum(int(child.outputs()["total"]) for child in children)
        return self.Outputs(total=str(total))


NODES = [Begin, Order, OnTrio, OnThread, OnAsyncio, InProcess, Total, CallOrders]
