"""``StateManager``, the client of a state manager, and the types that its calls return.

From outside, import only what ``__all__`` lists; ``exotrio.StateManager`` is the same class. Times are aware
``datetime`` in UTC and durations float seconds. Three calls return dicts, as in the stock SDK: ``trigger``,
``get_graph`` and ``upsert_graph``.

- ``_stock_calls``, ``_runs``, ``_states``, ``_state_manager``: the class, each a layer on the one before: the
  calls of the stock SDK, about runs, about states, and about the namespace and its runtimes;
- ``_graphs``, ``_triggers``, ``_backup``: what its longer calls do by a ``Calls``;
- ``_calls``: which API a call goes to, and how often it is tried.

Nothing here depends on the event loop that runs it: ``exotrio._http`` does. While the server is unavailable,
a call that only reads is repeated; one that changes something only if it is idempotent, or provably never
left.
"""

from exotrio._wire.graphs import GraphInfo
from exotrio._wire.native import LogLine, NodeCounts, Run
from exotrio._wire.operations import (
    DeletedGraph,
    RefusedState,
    RetriedState,
    RunPage,
    RunRetry,
    StateAttempt,
    StateEvent,
    StateHistory,
    StateHolder,
    StatePage,
    StateSummary,
)
from exotrio._wire.overview import (
    Checkup,
    DatabaseState,
    Disagreement,
    HeldClaims,
    HorizonHolder,
    LostLeases,
    ManagerState,
    NodeLoad,
    NodeVersion,
    OldestState,
    Overview,
    PostgresState,
    ReplicationSlot,
    RuntimeInfo,
    RuntimeList,
    TableState,
    Throughput,
    V0Runtime,
)
from exotrio._wire.v0 import (
    RegisteredNode,
    RunGraph,
    RunList,
    RunSummary,
    StateDetail,
    StateEdge,
    StateNode,
    StateRetry,
)
from exotrio._wire.vocabulary import RunStatus, StateStatus, ValidationStatus
from exotrio.client._state_manager import StateManager
from exotrio.client._triggers import NewRun

__all__ = [
    "Checkup",
    "DatabaseState",
    "DeletedGraph",
    "Disagreement",
    "GraphInfo",
    "HeldClaims",
    "HorizonHolder",
    "LogLine",
    "LostLeases",
    "ManagerState",
    "NewRun",
    "NodeCounts",
    "NodeLoad",
    "NodeVersion",
    "OldestState",
    "Overview",
    "PostgresState",
    "RefusedState",
    "RegisteredNode",
    "ReplicationSlot",
    "RetriedState",
    "Run",
    "RunGraph",
    "RunList",
    "RunPage",
    "RunRetry",
    "RunStatus",
    "RunSummary",
    "RuntimeInfo",
    "RuntimeList",
    "StateAttempt",
    "StateDetail",
    "StateEdge",
    "StateEvent",
    "StateHistory",
    "StateHolder",
    "StateManager",
    "StateNode",
    "StatePage",
    "StateRetry",
    "StateStatus",
    "StateSummary",
    "TableState",
    "Throughput",
    "V0Runtime",
    "ValidationStatus",
]
