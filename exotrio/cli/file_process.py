"""A process that runs the Runtime of a user's file for a command that never loads the code itself (``dev``,
``rehearse``); and the messages that it sends. ``file_process_main`` runs in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exotrio._children.child_process import SOCKET
from exotrio._shared.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.cli.runtime_process import RuntimeProcess


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded."""

    namespace: str
    runtime: str
    worker_id: str
    """The id of the Runtime at the state manager."""
    nodes: dict[str, dict[str, Any]]
    """Name of each node class to the JSON schemas of its models (``testing._breaking.Models``)."""
    graphs: dict[str, dict[str, Any]]
    """The user's graphs by their names, as an upsert sends them, secrets included."""
    files: list[str]
    """Files of the user's modules."""
    grace: float
    """Seconds for running nodes in a drain."""


@dataclass(frozen=True, slots=True)
class MoreFiles:
    """The files of the user's modules, after more of them were imported."""

    files: list[str]


@dataclass(frozen=True, slots=True)
class Failed:
    """The user's code cannot be run."""

    text: str
    code: int
    """Exit code of the command if it ends with this."""
    missing: bool
    """There is no such file or module."""
    files: list[str]
    """Files of the user's modules that were loaded, or failed to load."""


class FileProcess(RuntimeProcess):
    """A process that runs the Runtime of a user's file.

    Args:
        target: The file or module.
        uri, key: The state manager, for its Runtime, and for clients that its nodes make.
        options: More arguments for ``file_process_main``.
        foreground: As for ``ChildProcess``.

    Attributes:
        loaded, failed: The message of this class, once it was received.
    """

    def __init__(
        self, target: str, *, uri: str, key: str, options: Sequence[str] = (), foreground: bool = False
    ) -> None:
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        super().__init__(
            ["-m", "exotrio.cli.file_process_main", *options, "--", SOCKET, target],
            # Not as an argument, which other users of the machine can read.
            env={**os.environ, URI_VARIABLE: uri, KEY_VARIABLE: key},
            foreground=foreground,
        )

    async def handle(self, message: object) -> None:
        """Store what it reports."""
        match message:
            case Loaded():
                self.loaded, self.grace = message, message.grace
            case Failed():
                self.failed = message
