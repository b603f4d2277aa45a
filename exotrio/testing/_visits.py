"""Executions of nodes, as a case sees them: where they are, and their code that can be held there."""

from __future__ import annotations

import inspect
import math
import os
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import anyio
import trio

from exotrio._execution.handle import state_context
from exotrio._link.port import Claim
from exotrio._nodes.base import BaseNode, Stopping
from exotrio.testing._points import Moment, Place
from exotrio.testing._tasks import Coroutine, Hold, TrackedTask

_OTHERS = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (trio.__file__, anyio.__file__, os.path.dirname(__file__))
)
"""Folders of code that is not the user's."""
MAX_CANCELLED_AWAITS = 1_000
"""Of one execution. Each raises Cancelled at once: code that goes on after so many does not end, and virtual
time stands still with it."""


class Endless(BaseException):
    """Ends a task of a node that goes on however often it is cancelled, even once its process was killed."""


class Observer(Protocol):
    """Who sees the executions."""

    records: bool
    reads_stopping: set[str]
    begun: Counter[str]

    def begin(self, claim: Claim) -> Visit: ...
    def reach(self, visit: Visit, place: Place) -> None: ...
    def note_endless(self, visit: Visit, what: str) -> None: ...
    def finish(self, visit: Visit) -> None: ...


class Visit:
    """One execution of a node.

    Args:
        observer: Who sees where it is.
        task: The task that runs the node. It, and every task that it starts, belong to this execution.
        claim: Its state.
        execution: Which of the node's executions it is, from 1.
    """

    def __init__(self, observer: Observer, task: TrackedTask, claim: Claim, execution: int) -> None:
        self.hold = Hold()
        self.state_id = claim.state_id
        self.process = task.process
        self._observer = observer
        self._node = claim.identifier
        self._execution = execution
        self._awaits = 0
        self._cancelled_awaits = 0
        self._in_node = False
        task.visit = self

    @contextmanager
    def in_node(self) -> Iterator[None]:
        """What runs in the body is the node's code."""
        self._in_node = True
        self._observer.begun[self._node] += 1
        try:
            yield
        finally:
            self._in_node = False
            self._observer.finish(self)

    def awaits(self, coroutine: Coroutine) -> None:
        """A task of the execution yields to Trio."""
        if self._in_node:
            self._awaits += 1
            self._cancelled_awaits += trio.current_effective_deadline() == -math.inf
            if self._cancelled_awaits > MAX_CANCELLED_AWAITS:
                self._cancelled_awaits = 0
                self._observer.note_endless(
                    self, f"{self._node} goes on however often it is cancelled: {_line(coroutine)}"
                )
            self.reach(Moment.AWAIT, self._awaits, _line(coroutine) if self._observer.records else "")

    def reach(self, moment: Moment, nth: int = 0, line: str = "") -> None:
        """Say where the execution is."""
        place = Place(node=self._node, execution=self._execution, moment=moment, nth=nth, line=line)
        self._observer.reach(self, place)


def observed(node: type[BaseNode], observer: Observer) -> type[BaseNode]:
    """Return a class that does what ``node`` does, on the Trio loop, and says where it is.

    Nodes of threads and processes run there as well: virtual time does not wait for those.
    """

    async def execute(self: BaseNode) -> Any:
        context = state_context.get()
        assert context is not None, "a node runs for a state"
        visit = observer.begin(context.claim)
        visit.reach(Moment.BEGIN)
        # Where it is held, or cancelled, if that is to happen before it begins.
        await trio.lowlevel.checkpoint()
        try:
            with visit.in_node():
                value = node.execute(self)
                if inspect.isawaitable(value):
                    value = await value
        except BaseException:
            await end(visit)
            raise
        await end(visit)
        return value

    async def end(visit: Visit) -> None:
        visit.reach(Moment.END)
        # Where it is held, if that is to happen before its report. Not cancelled: it has ended.
        await trio.lowlevel.cancel_shielded_checkpoint()

    def stopping(self: BaseNode) -> Stopping:
        context = state_context.get()
        if context is not None:
            observer.reads_stopping.add(context.claim.identifier)
        return self._stop_view.why

    body: dict[str, Any] = {
        "__module__": node.__module__,
        "__qualname__": node.__qualname__,
        "__doc__": node.__doc__,
        "runs_in": "trio",
        "execute": execute,
        "stopping": property(stopping),
    }
    fill: Callable[[dict[str, Any]], None] = lambda namespace: namespace.update(body)  # noqa: E731
    return types.new_class(node.__name__, (node,), exec_body=fill)


def _line(coroutine: Coroutine) -> str:
    """Return where in the user's code a suspended coroutine is; if there is none in it, its name."""
    line = f"in {getattr(coroutine, '__qualname__', coroutine)}"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        code = frame.f_code
        if not code.co_filename.startswith(_OTHERS):
            line = f"{os.path.basename(code.co_filename)}:{frame.f_lineno}, in {code.co_name}"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return line
