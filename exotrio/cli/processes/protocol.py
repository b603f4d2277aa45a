"""What the children of ``worker --processes`` report, one JSON line each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from exotrio.cli.processes.totals import Families

REPORT, TASKS = "report", "tasks"
"""What the parent may ask for, beside its orders."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded."""

    worker_id: str
    grace: float
    """Seconds for running nodes in a drain."""
    left: list[int]
    """Numbers of absent processes whose outboxes hold outcomes."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The nodes are registered; the Runtime claims states."""


@dataclass(frozen=True, slots=True)
class Report:
    """How the process is. The first two are empty if all is well."""

    alive: str
    ready: str
    families: Families


@dataclass(frozen=True, slots=True)
class Tasks:
    """Where its tasks wait."""

    text: str


Message = Loaded | Registered | Report | Tasks
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Loaded, Registered, Report, Tasks)}


def encode(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    kind, fields = json.loads(line)
    return _KINDS[kind](**fields)
