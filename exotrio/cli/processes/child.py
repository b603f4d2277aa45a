"""A process of ``worker --processes``, as the parent sees it: what it reports, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from exotrio._children.child_process import SOCKET
from exotrio.cli.processes.totals import Families
from exotrio.cli.runtime_process import RuntimeProcess

A = TypeVar("A")

REPORT, TASKS = "report", "tasks"
"""The questions that the parent sends in addition to its orders."""
ANSWER_TIMEOUT = 1.5
"""Seconds for a report, which does not wait for nodes: less than probes wait."""


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
    """The health and the metrics of the process. The first two are empty if all is well."""

    alive: str
    ready: str
    families: Families


@dataclass(frozen=True, slots=True)
class Tasks:
    """The task tree of the process."""

    text: str


class Child(RuntimeProcess):
    """A process that runs the Runtime.

    Args:
        number: From 1.
        count: Of all processes.
        arguments: Of the command ``worker``, as the parent received them.
    """

    def __init__(self, number: int, count: int, arguments: Sequence[str]) -> None:
        self.number = number
        self.loaded: Loaded | None = None
        self.reports = _Question[Report](self, REPORT)
        self.tasks = _Question[Tasks](self, TASKS)
        super().__init__(["-m", "exotrio", "worker", "--child", str(number), str(count), SOCKET, *arguments])

    def __str__(self) -> str:
        return f"process {self.number} (pid {self.pid})"

    async def handle(self, message: object) -> None:
        """Store what it reports."""
        match message:
            case Loaded():
                self.loaded, self.grace = message, message.grace
            case Report():
                self.reports.answered(message)
            case Tasks():
                self.tasks.answered(message)


class _Question(Generic[A]):
    """A question that is asked repeatedly, and its last answer."""

    def __init__(self, child: RuntimeProcess, question: str) -> None:
        self.last: A | None = None
        self._child = child
        self._question = question
        self._is_pending = False
        self._arrived = trio.Event()

    async def ask(self) -> A | None:
        """Return the answer; None if there is none in time.

        Cancellation:
            Safe.
        """
        if not self._is_pending:
            # Sent once until it is answered: otherwise the questions to a suspended process would fill its
            # socket, and an order might not fit in.
            self._is_pending = True
            self._child.send_now(self._question)
        with trio.move_on_after(ANSWER_TIMEOUT):
            await self._arrived.wait()
            return self.last
        return None

    def answered(self, answer: A) -> None:
        """Record the answer."""
        self.last = answer
        self._is_pending = False
        self._arrived.set()
        self._arrived = trio.Event()
