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
``_events``       the virtual clock, and the sender of events
``_visits``       executions of nodes, and tasks that can be held: so a process is killed within one Trio loop
``_asyncio``      the asyncio loop of a runtime in ``explore``, which a Trio task runs
================  ================================================================================
"""

from exotrio._nodes.outcome import Calling as Calling
from exotrio._nodes.outcome import Errored as Errored
from exotrio._nodes.outcome import Executed as Executed
from exotrio._nodes.outcome import HandedOver as HandedOver
from exotrio._nodes.outcome import Outcome as Outcome
from exotrio._nodes.outcome import Pruned as Pruned
from exotrio._nodes.outcome import Released as Released
from exotrio._nodes.outcome import Report as Report
from exotrio._nodes.outcome import Requeued as Requeued
from exotrio._nodes.outcome import Waiting as Waiting
from exotrio._wire.vocabulary import RunStatus as RunStatus
from exotrio._wire.vocabulary import StateStatus as StateStatus
from exotrio.graph.breaking import BreakingChange as BreakingChange
from exotrio.testing._comparison import Version as Version
from exotrio.testing._exploration import CheckFailed as CheckFailed
from exotrio.testing._exploration import CrashRun as CrashRun
from exotrio.testing._exploration import Exploration as Exploration
from exotrio.testing._exploration import Failure as Failure
from exotrio.testing._explore import explore as explore
from exotrio.testing._graphs import GraphRun as GraphRun
from exotrio.testing._graphs import TestedState as TestedState
from exotrio.testing._graphs import run_graph as run_graph
from exotrio.testing._nodes import run_node as run_node
from exotrio.testing._points import Fault as Fault
from exotrio.testing._points import Moment as Moment
from exotrio.testing._points import Place as Place
from exotrio.testing._points import Point as Point
from exotrio.testing._points import Work as Work

__all__ = sorted(name for name in globals() if not name.startswith("_"))
