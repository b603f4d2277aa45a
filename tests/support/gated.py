"""Nodes that run until a test lets them: what each did stands in a log, in the working directory.

``plan -> fan -> work -> end``: as many states of ``work`` as ``ITEMS``; each waits until the file
``open-WORKER`` exists. ``end`` unites them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio
from pydantic import BaseModel

from exotrio import BaseNode, Graph
from tests.support.processes import TEST_TIMEOUT

T = TypeVar("T")

NAMESPACE = "gated"
ITEMS = 24
WORKERS = 2
BATCH = 4

APP = f"""
import os
from exotrio import Runtime
from tests.support.gated import NODES, graph

runtime = Runtime(
    namespace={NAMESPACE!r},
    name=os.environ.get("WORKER", "w"),
    nodes=NODES,
    workers={WORKERS},
    batch_size={BATCH},
    poll_interval=0.05,
    shutdown_grace=600,  # far longer than a test waits: only a second signal cancels
    link=os.environ.get("LINK", "auto"),
)

if __name__ == "__main__":
    runtime.start()
"""


class Plan(BaseNode):
    async def execute(self) -> None:
        return None


class Fan(BaseNode):
    class Outputs(BaseModel):
        item: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(item=str(item)) for item in range(ITEMS)]


class Work(BaseNode):
    class Inputs(BaseModel):
        item: str

    class Outputs(BaseModel):
        item: str

    async def execute(self) -> Outputs:
        worker, item = os.environ.get("WORKER", "w"), self.inputs.item
        _log(f"{worker} begin {item}")
        with anyio.CancelScope(shield=bool(os.environ.get("STUBBORN"))):
            try:
                await _wait_for(f"open-{worker}")
            except anyio.get_cancelled_exc_class():
                _log(f"{worker} cancelled {item}")
                raise
        _log(f"{worker} end {item}")
        return self.Outputs(item=item)


class End(BaseNode):
    class Inputs(BaseModel):
        items: list[str]

    class Outputs(BaseModel):
        items: str

    async def execute(self) -> Outputs:
        return self.Outputs(items=" ".join(sorted(self.inputs.items, key=int)))


NODES = [Plan, Fan, Work, End]
RESULT = " ".join(str(item) for item in range(ITEMS))
"""What ``end`` returns."""

graph = Graph("gated", namespace=NAMESPACE)
plan = graph.add(Plan)
fan = graph.add(Fan, after=plan)
work = graph.add(Work, item=fan.item)
graph.add(End, items=work.every.item, unites=plan)


async def _wait_for(file: str) -> None:
    while not os.path.exists(file):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await anyio.sleep(0.01)


def _log(text: str) -> None:
    with open("log", "a", encoding="utf-8") as file:
        file.write(text + "\n")


class Log:
    """The log of one folder, for the test."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "log"

    def items(self, event: str, worker: str = "w") -> list[str]:
        """Return the items to which ``event`` happened at ``worker``, in that order."""
        lines = self._file.read_text("utf-8").splitlines() if self._file.exists() else []
        return [line.split()[2] for line in lines if line.split()[:2] == [worker, event]]

    def until(self, event: str, count: int, worker: str = "w") -> list[str]:
        """Return the first ``count`` items of an event, waiting for them."""
        return until(
            lambda: items if len(items := self.items(event, worker)) >= count else None,
            f"{count} x {event} at {worker}",
        )[:count]


def until(attempt: Callable[[], T | None], what: str) -> T:
    """Return the first true thing that ``attempt`` returns."""
    deadline = time.monotonic() + TEST_TIMEOUT
    while time.monotonic() < deadline:
        if result := attempt():
            return result
        time.sleep(0.01)
    raise AssertionError(f"it never came to: {what}")
