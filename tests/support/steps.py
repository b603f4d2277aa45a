"""Counts the steps of tasks: what a request costs, whatever else the machine does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class _Steps(trio.abc.Instrument):
    def __init__(self) -> None:
        self.by_task: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.by_task[task.name] += 1


@contextmanager
def counted_steps() -> Iterator[Counter[str]]:
    """Count the steps of each task in this loop, by the task's name, during the block."""
    steps = _Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps.by_task
    finally:
        trio.lowlevel.remove_instrument(steps)
