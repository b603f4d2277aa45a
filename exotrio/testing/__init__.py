"""Helpers for testing your own nodes and graphs: no server, no file, no network.

::

    async def test_greets():
        outcome = await run_node(Greet, {"name": "Ada"})
        assert outcome == Executed([{"text": "Hello, Ada"}])

    async def test_everybody_is_greeted(autojump_clock):
        run = await run_graph(graph, [List, Greet], inputs={"names": "Ada,Alan"})
        assert run.outputs("greet") == [{"text": "Hello, Ada"}, {"text": "Hello, Alan"}]
"""

from __future__ import annotations

from exotrio._nodes.outcome import Errored, Executed, Outcome, Pruned, Requeued
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.testing._graphs import GraphRun, TestedState, run_graph
from exotrio.testing._nodes import run_node

__all__ = [
    "Errored",
    "Executed",
    "GraphRun",
    "Outcome",
    "Pruned",
    "Requeued",
    "RunStatus",
    "StateStatus",
    "TestedState",
    "run_graph",
    "run_node",
]
