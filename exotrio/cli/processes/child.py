"""A process of ``worker --processes`` in the parent, and the messages that it sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import trio

from exotrio._children.child_process import SOCKET
from exotrio.cli.runtime_process import RuntimeProcess

if TYPE_CHECKING:
    from prometheus_client.core import Metric

A = TypeVar("A", "Report", "Tasks")

ANSWER_TIMEOUT = 1.5
"""Seconds; shorter than the timeout of probes. A process needs no time of its nodes to answer."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded."""

    worker_id: str
    grace: float
    """Seconds for running nodes in a drain."""
    left: list[int]
    """Numbers of processes that no longer run, but whose outboxes hold outcomes."""


@dataclass(frozen=True, slots=True)
class Report:
    """The health and the metrics of the process."""

    alive: str
    """Why the process is not alive; empty if it is."""
    ready: str
    """Why it is not ready; empty if it is."""
    metrics: Sequence[Metric]


@dataclass(frozen=True, slots=True)
class Tasks:
    """The task tree of the process."""

    text: str


class Child(RuntimeProcess):
    """A process that runs the Runtime.

    Args:
        number: Number of this process, from 1.
        count: How many processes there are.
        arguments: Arguments of the command ``worker``, as the parent received them.

    Attributes:
        answers: The last answer of each class.
    """

    def __init__(self, number: int, count: int, arguments: Sequence[str]) -> None:
        self.number = number
        self.loaded: Loaded | None = None
        self.answers: dict[type, Any] = {}
        self._pending: dict[type, trio.Event] = {}
        super().__init__(["-m", "exotrio", "worker", "--child", str(number), str(count), SOCKET, *arguments])

    def __str__(self) -> str:
        return f"process {self.number} (pid {self.pid})"

    async def handle(self, message: object) -> None:
        """Store what it reports."""
        match message:
            case Loaded():
                self.loaded, self.grace = message, message.grace
            case Report() | Tasks():
                self.answers[type(message)] = message
                self._pending.pop(type(message), trio.Event()).set()

    async def ask(self, kind: type[A]) -> A | None:
        """Return an answer of this class; None if there is none in time.

        Cancellation:
            Safe.
        """
        # Not sent again before it is answered: requests to a suspended process would fill its socket, and an
        # order might not fit in.
        if kind not in self._pending:
            self._pending[kind] = trio.Event()
            self.send_now(kind)
        with trio.move_on_after(ANSWER_TIMEOUT):
            await self._pending[kind].wait()
            return cast("A", self.answers[kind])
        return None
