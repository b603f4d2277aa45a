"""Outcomes: what happened to one claimed state. Data only; the reporter sends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
