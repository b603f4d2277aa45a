"""What ``dev`` and the process that runs the user's code tell each other, one JSON line each.

Over a pair of sockets that nobody else has, so that secrets of graphs may pass; and the end of one
process is the end of the stream for the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Order(StrEnum):
    """What ``dev`` tells the process."""

    DRAIN = "drain"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class DeclaredGraph:
    """A graph of the user's, and its body as it travels in an upsert, secrets included."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded.

    Attributes:
        worker_id: What the state manager calls the Runtime.
        files: Those of the user's modules.
        grace: Seconds that running nodes have in a drain.
    """

    namespace: str
    runtime: str
    worker_id: str
    nodes: list[str]
    graphs: list[DeclaredGraph]
    files: list[str]
    grace: float


@dataclass(frozen=True, slots=True)
class Registered:
    """The nodes are registered; the Runtime works."""


@dataclass(frozen=True, slots=True)
class MoreFiles:
    """The user's modules are these by now: some were imported late."""

    files: list[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's code cannot be run.

    Attributes:
        text: Why, in a few lines.
        code: Exit code for a command that ends with it.
        missing: There is no such file or module at all.
        files: Those of the user's modules that were loaded nevertheless, or could not be.
    """

    text: str
    code: int
    missing: bool
    files: list[str]


Message = Loaded | Registered | MoreFiles | Failed
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Loaded, Registered, MoreFiles, Failed)}


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message in a line."""
    kind, fields = json.loads(line)
    if kind == Loaded.__name__:
        fields["graphs"] = [DeclaredGraph(**graph) for graph in fields["graphs"]]
    return _KINDS[kind](**fields)
