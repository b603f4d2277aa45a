"""How an execution ends: signals that a node raises to end in another way than with outputs, and outcomes.

Data only. ``_execution`` makes outcomes, signals included, and the reporter sends them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_FOR_THE_RUNTIME = "do not catch it: it has to reach the runtime"


class Signal(Exception):
    """Base of the signals; nodes raise the two below."""


class PruneSignal(Signal):
    """End this branch of the run: nothing follows, nothing is retried, nothing failed.

    Args:
        data: Kept with the state by the state manager. Must be JSON. Defaults to ``{}``.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self.data: dict[str, Any] = dict(data or {})
        super().__init__(f"prune signal with data {self.data!r}; {_FOR_THE_RUNTIME}")


class ReQueueAfterSignal(Signal):
    """Run this state again, not before ``delay`` has passed. No retry is used up.

    Args:
        delay: At least a millisecond; anything shorter is rounded up to one.

    Raises:
        ValueError: ``delay`` is not above zero.
    """

    def __init__(self, delay: timedelta) -> None:
        if delay <= timedelta(0):
            raise ValueError(f"ReQueueAfterSignal needs a delay above zero, not {delay!r}")
        self.delay = delay
        super().__init__(f"re-enqueue signal with delay {delay}; {_FOR_THE_RUNTIME}")


@dataclass(frozen=True, slots=True)
class Executed:
    """The node returned: no output, one, or several (a fan-out)."""

    outputs: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Errored:
    """The node failed; ``error`` is the text to report, already redacted and bounded."""

    error: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """The node ended its branch."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Requeued:
    """The node wants to run again after ``delay`` seconds."""

    delay: float


Outcome = Executed | Errored | Pruned | Requeued
