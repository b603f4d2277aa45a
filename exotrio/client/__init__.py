"""``StateManager``, the client of a state manager, and the types that its calls return.

From outside, import only what ``__all__`` lists; ``exotrio.StateManager`` is the same class. Times are aware
``datetime`` in UTC and durations float seconds. Three calls return dicts, as in the stock SDK: ``trigger``,
``get_graph`` and ``upsert_graph``.

- ``_stock_calls``, ``_runs``, ``_states``, ``_limits``, ``_events``, ``_administration``, ``_state_manager``:
  the class. Each inherits from the one before, and adds the calls that its name says: ``_administration``
  those about changes and named keys, ``_state_manager`` those about the namespace, runtimes and releases;
- ``_graphs``, ``_new_runs``, ``_triggers``, ``_backup``: the implementation of its longer calls;
- ``_calls``: which API a call uses, and how often it is tried.

Nothing here depends on the event loop that runs it: ``exotrio._http`` does. While the server is unavailable,
a call that only reads is repeated; one that changes something only if it is idempotent, or if its request was
provably not sent.
"""

from exotrio._wire.audit import Change as Change
from exotrio._wire.audit import ChangePage as ChangePage
from exotrio._wire.checkup import Checkup as Checkup
from exotrio._wire.checkup import DatabaseState as DatabaseState
from exotrio._wire.checkup import Disagreement as Disagreement
from exotrio._wire.checkup import HeldClaims as HeldClaims
from exotrio._wire.checkup import HorizonHolder as HorizonHolder
from exotrio._wire.checkup import LostLeases as LostLeases
from exotrio._wire.checkup import ManagerState as ManagerState
from exotrio._wire.checkup import NodeVersion as NodeVersion
from exotrio._wire.checkup import PostgresState as PostgresState
from exotrio._wire.checkup import ReplicationSlot as ReplicationSlot
from exotrio._wire.checkup import TableState as TableState
from exotrio._wire.checkup import UnstartedRun as UnstartedRun
from exotrio._wire.events import EventWait as EventWait
from exotrio._wire.events import KeptEvent as KeptEvent
from exotrio._wire.events import RunEvents as RunEvents
from exotrio._wire.events import SentEvent as SentEvent
from exotrio._wire.graphs import GraphInfo as GraphInfo
from exotrio._wire.keys import KeyInfo as KeyInfo
from exotrio._wire.keys import KeyList as KeyList
from exotrio._wire.limits import LimitDetail as LimitDetail
from exotrio._wire.limits import LimitHolder as LimitHolder
from exotrio._wire.limits import LimitInfo as LimitInfo
from exotrio._wire.limits import LimitKey as LimitKey
from exotrio._wire.limits import LimitWait as LimitWait
from exotrio._wire.native import LogLine as LogLine
from exotrio._wire.operations import DeletedGraph as DeletedGraph
from exotrio._wire.operations import RefusedRun as RefusedRun
from exotrio._wire.operations import RefusedState as RefusedState
from exotrio._wire.operations import Repinned as Repinned
from exotrio._wire.operations import RepinnedRuns as RepinnedRuns
from exotrio._wire.operations import RetriedState as RetriedState
from exotrio._wire.operations import RunPage as RunPage
from exotrio._wire.operations import RunRetry as RunRetry
from exotrio._wire.operations import StatePage as StatePage
from exotrio._wire.operations import StateSummary as StateSummary
from exotrio._wire.overview import NodeLoad as NodeLoad
from exotrio._wire.overview import OldestState as OldestState
from exotrio._wire.overview import Overview as Overview
from exotrio._wire.overview import RuntimeInfo as RuntimeInfo
from exotrio._wire.overview import RuntimeList as RuntimeList
from exotrio._wire.overview import Throughput as Throughput
from exotrio._wire.overview import V0Runtime as V0Runtime
from exotrio._wire.releases import BrokenRuns as BrokenRuns
from exotrio._wire.releases import NewRelease as NewRelease
from exotrio._wire.releases import ReleaseCheck as ReleaseCheck
from exotrio._wire.releases import VersionInfo as VersionInfo
from exotrio._wire.runs import NodeCounts as NodeCounts
from exotrio._wire.runs import RelatedRun as RelatedRun
from exotrio._wire.runs import Run as Run
from exotrio._wire.runs import WaitReason as WaitReason
from exotrio._wire.states import StateAttempt as StateAttempt
from exotrio._wire.states import StateBranch as StateBranch
from exotrio._wire.states import StateCheckpoint as StateCheckpoint
from exotrio._wire.states import StateEvent as StateEvent
from exotrio._wire.states import StateHistory as StateHistory
from exotrio._wire.states import StateHolder as StateHolder
from exotrio._wire.stops import StopList as StopList
from exotrio._wire.stops import StopReceipt as StopReceipt
from exotrio._wire.stops import StopTotal as StopTotal
from exotrio._wire.v0 import RegisteredNode as RegisteredNode
from exotrio._wire.v0 import RunGraph as RunGraph
from exotrio._wire.v0 import RunList as RunList
from exotrio._wire.v0 import RunSummary as RunSummary
from exotrio._wire.v0 import StateDetail as StateDetail
from exotrio._wire.v0 import StateEdge as StateEdge
from exotrio._wire.v0 import StateNode as StateNode
from exotrio._wire.v0 import StateRetry as StateRetry
from exotrio._wire.vocabulary import RunStatus as RunStatus
from exotrio._wire.vocabulary import StateStatus as StateStatus
from exotrio._wire.vocabulary import ValidationStatus as ValidationStatus
from exotrio.client._administration import AddedKey as AddedKey
from exotrio.client._new_runs import NewRun as NewRun
from exotrio.client._state_manager import StateManager as StateManager

__all__ = sorted(name for name, value in globals().items() if isinstance(value, type))
