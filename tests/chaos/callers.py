"""Runs whose node calls graphs, in two rounds, while all goes on: each child is started once.

They are in a separate namespace; the worker processes of the other runs execute their nodes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from exotrio import Graph, RetryPolicyModel, StateManager
from tests.chaos.graph import NAMESPACE as OF_NODES

NAMESPACE = "callers"
MAX_RUNS = 12
CHILDREN = 5
"""Of the first round; the second one has one more."""
NODES = ("Call", "Called")
TIMEOUT = 60.0

Ask = Callable[[Callable[[StateManager], Awaitable[Any]], str], Awaitable[Any]]
"""As of ``approvals``."""


def graphs() -> list[Graph]:
    """Return the graph that is called, and the one that calls it."""
    policy = RetryPolicyModel(max_retries=3, backoff_factor=100)
    called = Graph("called", namespace=OF_NODES, retry_policy=policy)
    called.output("number", called.add("Called", number=called.store("number")).number)
    callers = Graph("callers", namespace=OF_NODES, retry_policy=policy)
    callers.add("Call")
    return [called, callers]


@dataclass(slots=True)
class Callers:
    """The runs.

    Attributes:
        runs: To start.
        started: Children of these runs.
        problems: What should not be, one line each.
    """

    ask: Ask
    runs: int
    started: int = 0
    problems: list[str] = field(default_factory=list)
    _runs: list[str] = field(default_factory=list)

    async def declare(self) -> None:
        for graph in graphs():
            await self.ask(partial(_store, graph=graph), NAMESPACE)

    async def run(self, seconds: float) -> None:
        """Start runs one after the other for so long."""
        for number in range(self.runs):
            trigger = partial(StateManager.trigger, graph_name="callers", key=f"callers {number}")
            self._runs.append((await self.ask(trigger, NAMESPACE))["run_id"])
            await trio.sleep(seconds / self.runs)

    async def check(self) -> None:
        """Require that each run succeeded with the right result, and has each child once."""
        for run in self._runs:
            with trio.move_on_after(TIMEOUT):
                await self.ask(partial(StateManager.wait, run_id=run), NAMESPACE)
            status = await self.ask(partial(StateManager.status, run_id=run), NAMESPACE)
            self.started += status.children_count
            if status.status != "SUCCESS":
                self.problems.append(f"a run that calls graphs is {status.status}: {run}")
            elif status.children_count != CHILDREN + 1:
                self.problems.append(f"a run has {status.children_count} children, not {CHILDREN + 1}: {run}")
            else:
                # States are listed in the namespace of their nodes.
                outputs = await self.ask(partial(StateManager.outputs, run=run, node="call"), OF_NODES)
                if [each["sum"] for each in outputs] != [str(sum(range(CHILDREN)))]:
                    self.problems.append(f"the children of a run returned {outputs}: {run}")


async def _store(manager: StateManager, graph: Graph) -> None:
    await manager.upsert_graph(graph)
