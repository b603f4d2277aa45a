"""Helpers for testing your own nodes and graphs: no server, no file, no network.

::

    async def test_greets():
        outcome = await run_node(Greet, {"name": "Ada"})
        assert outcome == Executed([{"text": "Hello, Ada"}])

    async def test_all_are_greeted(autojump_clock):
        run = await run_graph(graph, [List, Greet], inputs={"names": "Ada,Alan"})
        assert run.outputs("greet") == [{"text": "Hello, Ada"}, {"text": "Hello, Alan"}]

    async def test_a_crash_charges_no_card_twice(autojump_clock):
        await explore(graph, [Charge], setup=fresh_bank, check=charged_once)

================  ================================================================================
``_nodes``        ``run_node``
``_graphs``       ``run_graph``, and the result of a run
``_explore``      ``explore``: finds the points, and has a run made for each
``_exploration``  its result: the runs that broke the check
``_runs``         makes one run after the other under the same conditions, and checks each
``_comparison``   whether a run ended like another one
``_points``       faults, and where they strike
``_case``         one run with a fault: the state manager, the runtimes, their connections
``_events``       the sender of events in ``explore``
``_visits``       executions of nodes, and tasks that can be held: so a process is killed within one Trio loop
``_asyncio``      the asyncio loop of a runtime in ``explore``, which a Trio task runs
================  ================================================================================
"""

from __future__ import annotations

from exotrio._nodes.outcome import (
    Calling,
    Errored,
    Executed,
    HandedOver,
    Outcome,
    Pruned,
    Released,
    Report,
    Requeued,
    Waiting,
)
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.graph.breaking import BreakingChange
from exotrio.testing._comparison import Version
from exotrio.testing._exploration import CheckFailed, Exploration, Failure
from exotrio.testing._explore import explore
from exotrio.testing._graphs import GraphRun, TestedState, run_graph
from exotrio.testing._nodes import run_node
from exotrio.testing._points import CrashRun, Fault, Moment, Place, Point, Work

__all__ = [
    "BreakingChange",
    "Calling",
    "CheckFailed",
    "CrashRun",
    "Errored",
    "Executed",
    "Exploration",
    "Failure",
    "Fault",
    "GraphRun",
    "HandedOver",
    "Moment",
    "Outcome",
    "Place",
    "Point",
    "Pruned",
    "Released",
    "Report",
    "Requeued",
    "RunStatus",
    "StateStatus",
    "TestedState",
    "Version",
    "Waiting",
    "Work",
    "explore",
    "run_graph",
    "run_node",
]
