"""The messages of the child process to ``dev``, one JSON line each.

They travel over a pair of sockets that no other process has, so they may contain secrets of graphs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DeclaredGraph:
    """A graph of the user's, and its body as an upsert sends it, secrets included."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded."""

    namespace: str
    runtime: str
    worker_id: str
    """The id of the Runtime at the state manager."""
    nodes: list[str]
    graphs: list[DeclaredGraph]
    files: list[str]
    """Files of the user's modules."""
    grace: float
    """Seconds for running nodes in a drain."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The nodes are registered; the Runtime claims states."""


@dataclass(frozen=True, slots=True)
class MoreFiles:
    """The files of the user's modules, after more of them were imported."""

    files: list[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's code cannot be run."""

    text: str
    code: int
    """Exit code of ``dev`` if it ends with this."""
    missing: bool
    """There is no such file or module."""
    files: list[str]
    """Files of the user's modules that were loaded, or failed to load."""


Message = Loaded | Registered | MoreFiles | Failed
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Loaded, Registered, MoreFiles, Failed)}


def encode(message: Message) -> bytes:
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    kind, fields = json.loads(line)
    if kind == Loaded.__name__:
        fields["graphs"] = [DeclaredGraph(**graph) for graph in fields["graphs"]]
    return _KINDS[kind](**fields)
