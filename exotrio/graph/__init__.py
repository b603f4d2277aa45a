"""Declarations of users: a ``Graph``, and its parts. Pure data; bodies of requests are in ``_wire/graphs``.

- ``declaration``: the parts except nodes, and the rules of their fields;
- ``node_model``: the nodes, and what they unite;
- ``retry_policy``: when failed states are tried again;
- ``conditions``: when edges are taken: the form, the truth and the checks of conditions;
- ``limits``: what ``Graph.limit`` returns;
- ``placeholders``: the grammar of ``${{ identifier.outputs.field }}`` and ``${{ store.key }}``;
- ``graph``: ``Graph``, declared as a list of nodes, or built by ``Graph.add``;
- ``parts``: its base: the store, the limits and the outputs;
- ``versions``: versions of code, and the names of nodes of one version;
- ``waits``: places that wait for an event, as ``Graph.wait`` declares them;
- ``children``: places that run a graph, as ``Graph.add`` declares them;
- ``references``: what ``add`` returns, and references to outputs and to the store;
- ``inputs``: the inputs of a node that is added: checked against its class, and as texts;
- ``values``: whether the values of a run fit the inputs of the nodes;
- ``breaking``: what new code of the nodes breaks in runs that old code began;
- ``nodes``: the nodes that were added, and which come before which, so that a reference has a value.

Each declaration is checked at its line. The rules of a complete graph are in ``manager/rules``; a graph that
is built obeys them by construction (``tests/property/test_building.py``), except that secrets or registered
nodes may be missing.
"""

from __future__ import annotations

from exotrio.graph.conditions import ConditionModel
from exotrio.graph.declaration import GRAPH_NODE as GRAPH_NODE
from exotrio.graph.declaration import MAX_LIMIT as MAX_LIMIT
from exotrio.graph.declaration import MAX_LIMIT_KEY as MAX_LIMIT_KEY
from exotrio.graph.declaration import MAX_LIMITS as MAX_LIMITS
from exotrio.graph.declaration import MAX_NAME as MAX_NAME
from exotrio.graph.declaration import MAX_NODES as MAX_NODES
from exotrio.graph.declaration import MAX_PERIOD_MS as MAX_PERIOD_MS
from exotrio.graph.declaration import WAIT_NODE as WAIT_NODE
from exotrio.graph.declaration import WITHOUT_RUNTIME as WITHOUT_RUNTIME
from exotrio.graph.declaration import AtMost as AtMost
from exotrio.graph.declaration import CronTrigger, LimitModel, StoreConfigModel
from exotrio.graph.declaration import Declaration as Declaration
from exotrio.graph.declaration import Name as Name
from exotrio.graph.declaration import PartByPart as PartByPart
from exotrio.graph.declaration import PeriodMs as PeriodMs
from exotrio.graph.declaration import check_name as check_name
from exotrio.graph.declaration import no_repeated_limits as no_repeated_limits
from exotrio.graph.graph import Graph
from exotrio.graph.node_model import (
    GraphNodeModel,
    NodeLimitModel,
    RunGraphModel,
    UnitesModel,
    UnitesStrategyEnum,
    WaitModel,
)
from exotrio.graph.node_model import NamedTarget as NamedTarget
from exotrio.graph.parts import Outputs as Outputs
from exotrio.graph.retry_policy import RetryPolicyModel, RetryStrategyEnum
from exotrio.graph.versions import Version as Version
from exotrio.graph.versions import check_version as check_version
from exotrio.graph.versions import pinned_name as pinned_name
from exotrio.graph.versions import split_name as split_name

__all__ = [
    "ConditionModel",
    "CronTrigger",
    "Graph",
    "GraphNodeModel",
    "LimitModel",
    "NodeLimitModel",
    "RetryPolicyModel",
    "RetryStrategyEnum",
    "RunGraphModel",
    "StoreConfigModel",
    "UnitesModel",
    "UnitesStrategyEnum",
    "WaitModel",
]
