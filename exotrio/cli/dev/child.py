"""The process that runs the user's code, as ``dev`` sees it."""

from __future__ import annotations

from exotrio.cli.exit_codes import ABANDONED, SUCCESS
from exotrio.cli.file_process import FileProcess


class Child(FileProcess):
    """A process of ``dev``. It is in the foreground, so that ``breakpoint()`` works in a node.

    Attributes:
        was_replaced: It was ordered to drain because the code changed.
        claims: What became of its claims once it had ended, in words.
    """

    def __init__(self, target: str, *, uri: str, key: str, verbose: int) -> None:
        self.was_replaced = False
        self.claims = "its claims were released"
        options = ["--tasks", *["-v"] * verbose]
        super().__init__(target, uri=uri, key=key, options=options, foreground=True)

    @property
    def exit_code(self) -> int:
        """The exit code of ``dev``, if ``dev`` was stopped while this process ran."""
        if self.code == ABANDONED or self.was_killed:
            return ABANDONED
        # A process whose nodes were not yet registered held no claim.
        return ABANDONED if self.registered.is_set() and self.code != SUCCESS else SUCCESS
