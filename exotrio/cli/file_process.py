"""A process that runs the Runtime of a user's file for a command that never loads the code itself (``dev``,
``rehearse``), and the messages between the two. ``file_process_main`` is the program in it, where
``parent_command`` is the connection to the command; ``exotrio._children`` explains how they communicate."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import trio

from exotrio._children.child_process import SOCKET, ChildProcess
from exotrio._shared import deadlines
from exotrio._shared.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.errors import ConfigurationError

MARGIN = 5.0
"""Seconds added to the limits of a drain, for a busy machine, before the process is killed."""
LAST_MESSAGES_TIMEOUT = 1.0
"""Seconds for reading the last messages of a process that ended: programs that it started may keep the
stream open."""


@dataclass(frozen=True, slots=True)
class Order:
    """The message to drain, or to cancel running nodes. ``why`` is for the log of the Runtime."""

    action: Literal["drain", "cancel"]
    why: str


@dataclass(frozen=True, slots=True)
class Registered:
    """The message that the nodes are registered; the Runtime claims states."""


@dataclass(frozen=True, slots=True)
class Loaded:
    namespace: str
    runtime: str
    worker_id: str
    """The id of the Runtime at the state manager."""
    nodes: dict[str, dict[str, Any]]
    """Name of each node class to the JSON schemas of its models (``graph.breaking.Models``)."""
    graphs: dict[str, dict[str, Any]]
    """The user's graphs by their names, as an upsert sends them, secrets included."""
    files: list[str]
    """Files of the user's modules."""
    grace: float
    """Seconds for running nodes in a drain."""
    version: str | None = None
    """That of the code, if it names one."""


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


class FileProcess(ChildProcess):
    """A process that runs the Runtime of a user's file.

    Args:
        uri, key: The state manager, for its Runtime, and for clients that its nodes make.
        options: More arguments for ``file_process_main``.
        foreground: As for ``ChildProcess``.

    Attributes:
        loaded, failed: The message of this class, once it was received.

    Raises:
        ConfigurationError: no process can be started.
    """

    def __init__(
        self, target: str, *, uri: str, key: str, options: Sequence[str] = (), foreground: bool = False
    ) -> None:
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        self.registered = trio.Event()
        try:
            super().__init__(
                ["-m", "exotrio.cli.file_process_main", *options, "--", SOCKET, target],
                # Not as an argument, which other users of the machine can read.
                env={**os.environ, URI_VARIABLE: uri, KEY_VARIABLE: key},
                foreground=foreground,
            )
        except OSError as error:
            raise ConfigurationError(
                f"no process can be started for the runtime: {error.strerror}",
                where=f"as {sys.executable}",
            ) from error

    def order(self, order: Order) -> None:
        """Send an order; from then on it has a limited time to end."""
        grace = self.loaded.grace if self.loaded is not None and order.action == "drain" else 0.0
        self.send_now(order)
        self.end_within(deadlines.max_stop(grace) + MARGIN)

    async def run(
        self, handle: Callable[[Any], Awaitable[None]], *background: Callable[[], Awaitable[object]]
    ) -> None:
        """Pass its messages to ``handle`` until it has ended; run ``background`` meanwhile.

        Cancellation:
            The process is drained first, in limited time.
        """
        all_read = trio.Event()

        async def listen() -> None:
            with suppress(EOFError):
                while True:
                    message = await self.receive()
                    match message:
                        case Loaded():
                            self.loaded = message
                        case Failed():
                            self.failed = message
                        case Registered():
                            self.registered.set()
                    await handle(message)
            all_read.set()

        try:
            async with trio.open_nursery() as nursery:
                for each in (listen, *background):
                    nursery.start_soon(each)
                await self.wait()
                # The end of the process may be noticed before its last messages are read.
                with trio.move_on_after(LAST_MESSAGES_TIMEOUT):
                    await all_read.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Drain it, if it has not ended yet, and close the connection. It may take as long as a drain."""
        if not self.ended.is_set():
            self.order(Order("drain", "an error"))
            with trio.CancelScope(shield=True):  # the order set a deadline
                await self.wait()
        self.close()
