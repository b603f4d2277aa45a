"""The long work of the case ``stop``, the same in each system: steps of 0.1 s, entered in a journal.

The journal is the harness's, not the system's: it says what really was done. Nothing but the standard library
is used here, since each system runs in its own environment.
"""

from __future__ import annotations

import os
from pathlib import Path

STEP = 0.1
"""Seconds of a step."""
JOURNAL, STEPS = "STOP_JOURNAL", "STOP_STEPS"
"""Environment variables: the file of the journal, and the number of steps of the work."""


class Execution:
    """Enters what one execution does. It is cut if neither ``finish`` nor ``hand_over`` follows."""

    def __init__(self) -> None:
        self.steps = int(os.environ[STEPS])
        self._file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._enter("begin")

    def begin_step(self, number: int) -> None:
        self._enter("step", number)

    def hand_over(self) -> None:
        self._enter("handed_over")

    def finish(self) -> None:
        self._enter("finished")

    def _enter(self, what: str, number: int = 0) -> None:
        # One write each: what a killed process has written stays.
        os.write(self._file, f"{what} {number}\n".encode())


class Journal:
    """What the executions of one piece of work have entered."""

    def __init__(self, path: Path) -> None:
        lines = path.read_text().splitlines() if path.exists() else []
        self._entries = [line.split() for line in lines]

    def numbers(self, what: str) -> list[str]:
        """Return the numbers of the steps in all such entries."""
        return [number for entered, number in self._entries if entered == what]

    @property
    def repeated(self) -> float:
        """Seconds of work that was done before. A step that was cut counts as a whole one."""
        steps = self.numbers("step")
        return STEP * (len(steps) - len(set(steps)))

    @property
    def cut(self) -> int:
        """How many executions were ended in the middle of their work."""
        begun, handed_over, finished = map(self.numbers, ("begin", "handed_over", "finished"))
        return len(begun) - len(handed_over) - len(finished)
