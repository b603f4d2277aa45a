"""exotrio: a worker runtime for Exosphere workflow nodes on Trio.

What is exported here is all that is public, together with ``exotrio.testing``, ``exotrio.monitoring``
and ``exotrio.manager``. Each name is loaded when it is first used: a file of nodes does not wait for
the client, nor a script that only triggers runs for the runtime.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exotrio._nodes.base import BaseNode, Stopping
    from exotrio._nodes.fields import from_text, to_text
    from exotrio._nodes.signals import PruneSignal, ReQueueAfterSignal
    from exotrio._runtime.lifecycle import Phase
    from exotrio._runtime.runtime import Runtime
    from exotrio._runtime.summary import Summary
    from exotrio._version import VERSION
    from exotrio.client._state_manager import StateManager
    from exotrio.errors import (
        ConfigurationError,
        DatabaseBusy,
        DatabaseError,
        DatabaseTooNew,
        ExotrioError,
        FieldsInvalid,
        GraphInvalid,
        InvalidResponse,
        KeyRefused,
        LifecycleError,
        ManagerError,
        ManagerUnavailable,
        NotFound,
        ProblemsError,
        RequestRefused,
    )
    from exotrio.graph import (
        CronTrigger,
        Graph,
        GraphNodeModel,
        RetryPolicyModel,
        RetryStrategyEnum,
        StoreConfigModel,
        UnitesModel,
        UnitesStrategyEnum,
    )

    __version__: str

_HOMES = {
    "client._state_manager": "StateManager",
    "errors": (
        "ConfigurationError DatabaseBusy DatabaseError DatabaseTooNew ExotrioError FieldsInvalid "
        "GraphInvalid InvalidResponse KeyRefused LifecycleError ManagerError ManagerUnavailable NotFound "
        "ProblemsError RequestRefused"
    ),
    "_nodes.fields": "from_text to_text",
    "graph": (
        "CronTrigger Graph GraphNodeModel RetryPolicyModel RetryStrategyEnum StoreConfigModel UnitesModel "
        "UnitesStrategyEnum"
    ),
    "_runtime.summary": "Summary",
    "_runtime.lifecycle": "Phase",
    "_nodes.base": "BaseNode Stopping",
    "_runtime.runtime": "Runtime",
    "_nodes.signals": "PruneSignal ReQueueAfterSignal",
    "_version": "VERSION",
}
"""Module to the names it gives: the imports above, for those who do not check types."""

__all__ = [
    "VERSION",
    "BaseNode",
    "ConfigurationError",
    "CronTrigger",
    "DatabaseBusy",
    "DatabaseError",
    "DatabaseTooNew",
    "ExotrioError",
    "FieldsInvalid",
    "Graph",
    "GraphInvalid",
    "GraphNodeModel",
    "InvalidResponse",
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
    "from_text",
    "to_text",
]

# A library logs nothing by itself: without this, Python prints warnings of programs that set up no logging.
logging.getLogger("exotrio").addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name == "__version__":
        # As in the stock SDK. Not in __all__: a star import would set it in the module that imports.
        return __getattr__("VERSION")
    for home, names in _HOMES.items():
        if name in names.split():
            value: object = getattr(import_module(f"exotrio.{home}"), name)
            globals()[name] = value  # so that this is asked once for each name
            return value
    raise AttributeError(f"module 'exotrio' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
