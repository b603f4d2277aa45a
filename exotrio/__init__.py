"""exotrio: a worker runtime for Exosphere workflow nodes on Trio.

What is exported here is all that is public, together with ``exotrio.testing`` and
``exotrio.manager``.
"""

from __future__ import annotations

import logging

from exotrio._client import StateManager
from exotrio._errors import (
    ConfigurationError,
    DatabaseBusy,
    DatabaseError,
    DatabaseTooNew,
    ExotrioError,
    GraphInvalid,
    KeyRefused,
    LifecycleError,
    ManagerError,
    ManagerUnavailable,
    NotFound,
    ProblemsError,
    RequestRefused,
)
from exotrio._graph import (
    CronTrigger,
    Graph,
    GraphNodeModel,
    RetryPolicyModel,
    RetryStrategyEnum,
    StoreConfigModel,
    UnitesModel,
    UnitesStrategyEnum,
)
from exotrio._ledger import Summary
from exotrio._lifecycle import Phase
from exotrio._node import BaseNode, Stopping
from exotrio._runtime import Runtime
from exotrio._signals import PruneSignal, ReQueueAfterSignal

__all__ = [
    "BaseNode",
    "ConfigurationError",
    "CronTrigger",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseTooNew",
    "ExotrioError",
    "Graph",
    "GraphInvalid",
    "GraphNodeModel",
    "KeyRefused",
    "LifecycleError",
    "ManagerError",
    "ManagerUnavailable",
    "NotFound",
    "Phase",
    "ProblemsError",
    "PruneSignal",
    "ReQueueAfterSignal",
    "RequestRefused",
    "RetryPolicyModel",
    "RetryStrategyEnum",
    "Runtime",
    "StateManager",
    "Stopping",
    "StoreConfigModel",
    "Summary",
    "UnitesModel",
    "UnitesStrategyEnum",
]

# A library logs nothing by itself: without this, Python prints warnings of programs that set up no logging.
logging.getLogger("exotrio").addHandler(logging.NullHandler())
