"""exotrio: a worker runtime for Exosphere workflow nodes on Trio, with its own state manager.

The names below are public, and so is what ``exotrio.errors``, ``.client``, ``.testing``, ``.monitoring`` and
``.manager`` list in ``__all__``. Each name is loaded when it is first used: a file of nodes does not load the
client, and a script that only triggers runs does not load the runtime.

The packages and modules; each imports only from those above it (``tests/test_architecture.py`` checks that)::

    errors        every exception, drawn as a tree
    _util         time, text, data, backoff, redaction: tools that know nothing of exotrio
    _shared       deadlines of a stop, events, settings, files of a database: what packages agree on
    _children     child processes: start, messages in both directions, end
    _fields       the typed fields of inputs and outputs: values as text, and back
    graph         what users declare: Graph, as a list of nodes or by Graph.add; RetryPolicyModel, ...
    _wire         the bodies and words of both HTTP APIs, v0 and native; client and server share them
    _nodes        what users write: BaseNode, its signals; and the checks on it
    _http         the HTTP client: requests, responses, and recognizing the kind of server
    client        StateManager and the types that it returns
    _link         the port that a runtime works through, with an adapter for each API
    _execution    runs one node: on Trio, on asyncio, in a thread or a process; makes its outcome
    _runtime      claims, buffers, runs, reports, renews leases, stops
    monitoring    health and metrics of a runtime
    _httpd        an HTTP/1.1 server for one ASGI app
    manager       the state manager: rules, store, engine, queries, security, API, dashboard
    testing       run_node, run_graph and explore, for tests of users: a manager and a runtime in one process
    cli           the command line, one module for each command

The way of one state::

    _runtime.poller           asks for as many states as ``planner`` says that there is room for
    manager.engine.claims     chooses the states; each becomes QUEUED under a lease
    _runtime.planner          enters each in the ``ledger``, which holds it until its outcome is delivered,
                              and puts it into a channel, the buffer
    _runtime.worker           takes it from the buffer
    _execution.executor       has it run by one of the ``backends``; ``results`` parses its inputs and turns
                              what the node returns or raises into an outcome
    _runtime.reporter         sends the outcome until it is accepted; an ``outbox``, if any, has it before
    _link, _http              encode it for the API that the server speaks, and send it
    manager.api.native, .v0   read the request, and hand a use case to ``manager.store``, which commits it
    manager.engine.outcomes   records the outcome, and creates the states that follow, in the same commit
    manager.engine.claims     claims states that are due, in that commit, too, as far as the runtime has room:
                              the answer has them, and ``_runtime.planner`` enters them in the ledger

A claim of the poller takes the same way as an outcome, through ``_link``, ``_http`` and ``manager.api``.
Meanwhile ``_runtime.heartbeat`` sends heartbeats to ``manager.engine.workers``; ``manager.engine.renewals``
decides which leases they renew.
A signal arrives at ``_runtime.entry`` and becomes a request at ``_runtime.stop``; ``_runtime.shutdown`` goes
through the phases from there to the end.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exotrio._fields.models import from_text as from_text
    from exotrio._fields.models import to_text as to_text
    from exotrio._nodes.base import BaseNode as BaseNode
    from exotrio._nodes.base import Stopping as Stopping
    from exotrio._nodes.calls import Child as Child
    from exotrio._nodes.outcome import AwaitedEvent as AwaitedEvent
    from exotrio._nodes.outcome import HandOver as HandOver
    from exotrio._nodes.outcome import NoRetry as NoRetry
    from exotrio._nodes.outcome import PruneSignal as PruneSignal
    from exotrio._nodes.outcome import ReQueueAfterSignal as ReQueueAfterSignal
    from exotrio._nodes.outcome import WaitForEvent as WaitForEvent
    from exotrio._runtime.lifecycle import Phase as Phase
    from exotrio._runtime.lifecycle import Summary as Summary
    from exotrio._runtime.runtime import Runtime as Runtime
    from exotrio._version import VERSION as VERSION
    from exotrio._version import __version__ as __version__
    from exotrio.client._state_manager import StateManager as StateManager
    from exotrio.errors import *  # noqa: F403
    from exotrio.graph import *  # noqa: F403
else:
    # Type checkers do not read this branch; they would accept any name because of __getattr__.
    _HOMES = {
        "_fields.models": "from_text to_text",
        "_nodes.base": "BaseNode Stopping",
        "_nodes.calls": "Child",
        "_nodes.outcome": "AwaitedEvent HandOver NoRetry PruneSignal ReQueueAfterSignal WaitForEvent",
        "_runtime.lifecycle": "Phase Summary",
        "_runtime.runtime": "Runtime",
        "_version": "VERSION __version__",
        "client._state_manager": "StateManager",
        "errors": (
            "CheckpointNotSaved ChildFailed ConfigurationError DatabaseBusy DatabaseError DatabaseTooNew"
            " ExotrioError FieldsInvalid GraphInvalid InvalidResponse KeyRefused LifecycleError ManagerError"
            " ManagerUnavailable NotFound PortBusy ProblemsError RequestRefused"
        ),
        "graph": (
            "ConditionModel CronTrigger Graph GraphNodeModel LimitModel NodeLimitModel RetryPolicyModel"
            " RetryStrategyEnum RunGraphModel StoreConfigModel UnitesModel UnitesStrategyEnum WaitModel"
        ),
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
    # Without __version__: a star import would set it in the module that imports.
    __all__ = sorted(_HOME_OF.keys() - {"__version__"})

    def __getattr__(name: str) -> object:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'exotrio' has no attribute {name!r}")
        value: object = getattr(import_module(f"exotrio.{_HOME_OF[name]}"), name)
        globals()[name] = value  # so that this function runs once for each name
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


# A library logs nothing by itself: without this, Python prints warnings of programs that set up no logging.
logging.getLogger("exotrio").addHandler(logging.NullHandler())
