"""The child process that runs the user's code, seen from ``dev``, with what it has reported."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from exotrio._util.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.cli.child_process import SOCKET, ChildProcess
from exotrio.cli.dev.protocol import Failed, Loaded, Message, decode
from exotrio.cli.exit_codes import ABANDONED, SUCCESS


class Child(ChildProcess):
    """A process that runs the user's code. The state manager is for its Runtime and for its nodes."""

    def __init__(self, target: str, *, uri: str, key: str, verbose: int) -> None:
        self.loaded: Loaded | None = None
        self.failed: Failed | None = None
        self.is_registered = False
        self.was_replaced = False
        super().__init__(
            ["-m", "exotrio.cli.dev.child_main", SOCKET, target, str(verbose)],
            # Not as an argument, which other users of the machine can read.
            env={URI_VARIABLE: uri, KEY_VARIABLE: key},
        )

    @property
    def grace(self) -> float:
        return 0.0 if self.loaded is None else self.loaded.grace

    async def messages(self) -> AsyncGenerator[Message]:
        """Yield its messages until it closes the stream."""
        async with aclosing(self.lines()) as lines:
            async for line in lines:
                yield decode(line)

    @property
    def exit_code(self) -> int:
        """The exit code of the command if this end was asked for."""
        if self.code == ABANDONED or self.was_killed:
            return ABANDONED
        # What ended before its nodes were registered held no claim.
        return ABANDONED if self.is_registered and self.code != SUCCESS else SUCCESS
