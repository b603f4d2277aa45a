"""The task that a worker runs its nodes in.

A node can leave things in its task: cancel scopes and nurseries that it did not close, tasks in the nursery
around it, context variables. They must end with its state, as they do with a task. But a separate task for
each state takes a fifth of the time that the runtime needs for it. So nodes run in one task, one after the
other, as long as each leaves it as it was.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from operator import is_not

import trio

from exotrio._execution.handle import Execution


class Spoiled(BaseException):
    """Ends a task in which a node left something, or raised. ``NodeTask.unfinished`` is its execution."""


class NodeTask:
    """A task that runs nodes, in a separate nursery.

    Attributes:
        unfinished: The execution whose node ended the task, once ``run`` has returned.
    """

    def __init__(self) -> None:
        self.unfinished: Execution | None = None

    async def run(self, serve: Callable[[NodeTask], Awaitable[object]]) -> None:
        """Call ``serve`` in the task, and return once it returned or a node ended the task.

        What ``serve`` raises between nodes is raised. What the task raises while a node runs is the error of
        that execution: it comes from another task of the node, or from Trio, about scopes that were left
        open.
        """
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._serve, serve, name="nodes")
        except BaseException as error:
            if self.unfinished is None:
                raise
            self.unfinished.error = error

    # A Ctrl-C may go to any line of the loop's thread; it is meant for the application.
    @trio.lowlevel.enable_ki_protection
    async def _serve(self, serve: Callable[[NodeTask], Awaitable[object]]) -> None:
        self._task = trio.lowlevel.current_task()
        try:
            await serve(self)
        except Spoiled:
            pass
        finally:
            # The node started tasks in it. Cancelling it without any would cost 10 us.
            if len(self._nursery.child_tasks) > 1:
                self._nursery.cancel_scope.cancel()

    def begin(self, execution: Execution) -> None:
        self.unfinished = execution
        self._task.name = execution.claim.node_name
        self._context = copy_context()

    def end(self) -> None:
        """Record that the node ended.

        Raises:
            Spoiled: no other node may run in this task. Nothing may be awaited in it any more, either.
        """
        execution, scope = self.unfinished, self._nursery.cancel_scope
        assert execution is not None
        if (
            execution.error is not None
            or len(self._nursery.child_tasks) > 1
            or scope.cancel_called
            or scope.shield
            or scope.deadline != math.inf
            or _differ(self._context, copy_context())
        ):
            raise Spoiled
        self.unfinished = None
        self._task.name = "nodes"


def _differ(before: Context, after: Context) -> bool:
    return len(before) != len(after) or any(map(is_not, map(after.get, before), before.values()))
