"""What runs nodes: the Trio loop, a thread, an asyncio loop. ``processes`` has the fourth backend."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import trio

from exotrio._execution.forks import ends_forked_children
from exotrio._execution.handle import Execution
from exotrio._execution.results import instance_of, returned
from exotrio._execution.threads import StuckNodes, call_in_thread
from exotrio._nodes.base import BaseNode
from exotrio._nodes.outcome import Errored, Outcome

if TYPE_CHECKING:
    from exotrio._execution.asyncio_thread import AsyncioThread


class ExecutionBackend(ABC):
    """Runs those nodes of a runtime that name it by ``runs_in``."""

    @property
    def refusal_reason(self) -> str:
        """Why it begins no other node; empty if it does. From any thread."""
        return ""

    async def aclose(self) -> None:
        """End what the backend has begun. Shielded, for up to ``deadlines.CLOSE``."""
        await trio.lowlevel.cancel_shielded_checkpoint()

    @abstractmethod
    async def run(self, node: type[BaseNode], execution: Execution) -> Outcome:
        """Run ``node`` and return the outcome of what it returned. Raises what the node raises.

        Cancellation:
            Ends the node in the way that this backend can.
        """


class LocalBackend(ExecutionBackend):
    """Runs nodes in this process."""

    async def run(self, node: type[BaseNode], execution: Execution) -> Outcome:
        execution.begin(node.timeout)
        view, progress, checkpoint = execution.view, execution.progress, execution.checkpoint
        instance = instance_of(node, execution.claim, execution.secrets, view, progress, checkpoint)
        if isinstance(instance, Errored):
            execution.begun_at = trio.current_time()  # it took no time
            return instance
        if execution.output is not None:
            execution.output.is_open = True
        return returned(instance, await self._execute(execution.execute_of(instance), execution))

    @abstractmethod
    async def _execute(self, execute: Callable[[], object], execution: Execution) -> object:
        """Return what ``execute`` returns."""


class TrioBackend(LocalBackend):
    """Runs nodes on the Trio loop of the runtime."""

    async def _execute(self, execute: Callable[[], object], execution: Execution) -> object:
        with ends_forked_children(execution.claim.node_name):
            value = execute()
            return await value if inspect.isawaitable(value) else value  # not so if a decorator made it plain


class ThreadBackend(LocalBackend):
    """Runs each node in a thread. One that does not end when it should is stuck."""

    def __init__(self, max_stuck: int, changed: Callable[[], None]) -> None:
        self._stuck = StuckNodes(
            max_stuck=max_stuck, kind="plain def nodes", where="in its thread", changed=changed
        )

    @property
    def refusal_reason(self) -> str:
        return self._stuck.refusal_reason

    async def _execute(self, execute: Callable[[], object], execution: Execution) -> object:
        execution.elsewhere = True
        with execution.in_thread():
            value = await call_in_thread(execute, execution, self._stuck)
        execution.elsewhere = False
        # A decorator made the method plain; what it returned still belongs on the loop.
        return await value if inspect.isawaitable(value) else value


class AsyncioBackend(LocalBackend):
    """Runs all nodes in one asyncio loop, in a thread that begins with the first node."""

    def __init__(
        self, max_stuck: int, changed: Callable[[], None], nodes: Collection[type[BaseNode]]
    ) -> None:
        self._nodes = nodes
        self._stuck = StuckNodes(
            max_stuck=max_stuck, kind="asyncio nodes", where="in the asyncio loop", changed=changed
        )
        self._thread: AsyncioThread | None = None

    @property
    def refusal_reason(self) -> str:
        blocked = self._thread is not None and self._thread.blocked
        return self._stuck.refusal_reason or ("a node blocks the asyncio loop" if blocked else "")

    async def aclose(self) -> None:
        if self._thread is not None:
            await self._thread.aclose()

    async def _execute(self, execute: Callable[[], object], execution: Execution) -> object:
        from exotrio._execution.asyncio_thread import AsyncioThread  # here, since it imports asyncio

        execution.elsewhere = True
        if self._thread is None or self._thread.ended:
            self._thread = AsyncioThread(self._stuck, self._nodes)
        return await self._thread.call(execute, execution)
