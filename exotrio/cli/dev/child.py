"""The child process that runs the user's code, represented in ``dev``; and the messages that it sends."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from exotrio._children.child_process import SOCKET
from exotrio._shared.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.cli.exit_codes import ABANDONED, SUCCESS
from exotrio.cli.runtime_process import RuntimeProcess


@dataclass(frozen=True, slots=True)
class Loaded:
    """The user's code was loaded."""

    namespace: str
    runtime: str
    worker_id: str
    """The id of the Runtime at the state manager."""
    nodes: list[str]
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
    """Exit code of ``dev`` if it ends with this."""
    missing: bool
    """There is no such file or module."""
    files: list[str]
    """Files of the user's modules that were loaded, or failed to load."""


class Child(RuntimeProcess):
    """A process that runs the user's code.

    ``uri`` and ``key`` of the state manager are for its Runtime, and for clients that its nodes make.

    It is in the foreground, so that ``breakpoint()`` works in a node.
    """

    def __init__(self, target: str, *, uri: str, key: str, verbose: int) -> None:
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        self.was_replaced = False
        self.claims = "its claims were released"
        super().__init__(
            ["-m", "exotrio.cli.dev.child_main", SOCKET, target, str(verbose)],
            # Not as an argument, which other users of the machine can read.
            env={**os.environ, URI_VARIABLE: uri, KEY_VARIABLE: key},
            foreground=True,
        )

    @property
    def exit_code(self) -> int:
        """The exit code of ``dev``, if ``dev`` was stopped while this process ran."""
        if self.code == ABANDONED or self.was_killed:
            return ABANDONED
        # A process whose nodes were not yet registered held no claim.
        return ABANDONED if self.registered.is_set() and self.code != SUCCESS else SUCCESS
