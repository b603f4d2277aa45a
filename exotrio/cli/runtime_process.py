"""A child process that runs a user's Runtime; the command that started it uses this class. The other end is
``parent_command``; how both communicate is explained in ``exotrio._children``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import trio

from exotrio._children.child_process import ChildProcess
from exotrio._shared import deadlines
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


class RuntimeProcess(ChildProcess):
    """A process that runs a Runtime. Its arguments are those of ``ChildProcess``.

    Attributes:
        grace: Seconds that its running nodes may go on in a drain; 0 until that is known.
        registered: Its nodes are registered.

    Raises:
        ConfigurationError: no process can be started.
    """

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str] | None = None, foreground: bool = False
    ) -> None:
        self.grace = 0.0
        self.registered = trio.Event()
        try:
            super().__init__(arguments, env=env, foreground=foreground)
        except OSError as error:
            raise ConfigurationError(
                f"no process can be started for the runtime: {error.strerror}",
                where=f"as {sys.executable}",
            ) from error

    def order(self, order: Order) -> None:
        """Send an order; from then on it has a limited time to end."""
        self.send_now(order)
        self.end_within(deadlines.max_stop(self.grace if order.action == "drain" else 0.0) + MARGIN)

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
                    if isinstance(message, Registered):
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
