"""exotrio. An address is a database, for a state manager in this process, or the URL of one with its key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, Runtime, StateManager, __version__
from exotrio.manager import embedded
from tests.bench.adapters import Adapter, Perform

NAMESPACE = "arena"
KEY = "benchmark"
TUNED = {"batch_size": 64, "workers": 16}


class Text(BaseModel):
    text: str


class Job(BaseNode):
    """Do what the payload says."""

    Inputs, Outputs = Text, Text
    perform: Perform

    async def execute(self) -> Text:
        return Text(text=await self.perform(self.inputs.text))


class Begin(BaseNode):
    """The node that the last one unites."""

    Inputs, Outputs = Text, Text

    async def execute(self) -> Text:
        return Text(text=self.inputs.text)


class Split(BaseNode):
    """As many outputs as the text asks for, after the tag."""

    Inputs, Outputs = Text, Text

    async def execute(self) -> list[Text]:
        tag, size = self.inputs.text.split()
        return [Text(text=f"unit {tag} {number}") for number in range(int(size))]


class Join(BaseNode):
    """Get the results of all parts."""

    class Inputs(BaseModel):
        tag: str
        results: list[str]

    perform: Perform

    async def execute(self) -> None:
        await self.perform(f"joined {self.inputs.tag.split()[0]}")


ONE = Graph("one", namespace=NAMESPACE)
ONE.add(Job, text="")
FAN = Graph("fan", namespace=NAMESPACE)
_begin = FAN.add(Begin, text="")
_split = FAN.add(Split, text=_begin.text)
_part = FAN.add(Job, text=_split.text)
FAN.add(Join, unites=_begin, tag=_begin.text, results=_part.every.text)


def chain_of(length: int) -> Graph:
    graph = Graph(f"chain-{length}", namespace=NAMESPACE)
    text: Any = ""
    for number in range(length):
        text = graph.add(Job, identifier=f"link-{number}", text=text).text
    return graph


class System(Adapter):
    backend = "trio"
    version = __version__

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        Job.perform = Join.perform = staticmethod(self.perform)
        if self.address.startswith("http"):
            where: dict[str, Any] = {"state_manager_uri": self.address, "key": KEY}
            async with self._client(where):
                yield
        else:
            async with embedded(self.address) as transport, self._client({"transport": transport}):
                yield

    @asynccontextmanager
    async def _client(self, where: dict[str, Any]) -> AsyncIterator[None]:
        self._where = where
        async with StateManager(NAMESPACE, **where) as self._manager:
            yield

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        options: dict[str, Any] = dict(TUNED) if self.tuned else {}
        if self.workers is not None:
            options |= {"workers": self.workers}
        nodes = [Job, Begin, Split, Join]
        runtime = Runtime(NAMESPACE, "arena", nodes, shutdown_grace=2, **self._where, **options)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            yield
            runtime.stop()

    async def install(self) -> None:
        async with self.connected(), self.working():
            for graph in (ONE, FAN, chain_of(5)):
                await self._manager.upsert_graph(graph)

    async def submit(self, payloads: Sequence[str]) -> None:
        await self._manager.trigger_many(ONE.name, ({"text": payload} for payload in payloads))

    async def fan_out(self, tag: str, size: int) -> None:
        await self._manager.trigger(FAN.name, inputs={"text": f"{tag} {size}"})

    async def chain(self, tag: str, length: int) -> None:
        await self._manager.trigger(f"chain-{length}", inputs={"text": f"link {tag}"})
