"""The task tree of a runtime as text: which tasks there are, and where each of them waits.

It holds file, line and function of every frame; no values and no source, which may contain secrets. It
is taken in the runtime's loop. If that loop does not answer it is blocked; then the frames of its thread
are shown instead.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType

import trio

from exotrio._execution.loop_watch import BLOCKED_AFTER, short_file
from exotrio._util.crossing import call_in_loop
from exotrio._wire.vocabulary import MAX_TASK_TREE

log = logging.getLogger("exotrio.runtime")

_TRAPS = trio.lowlevel.wait_task_rescheduled.__code__.co_filename
"""The file of the innermost frame of every task that waits, which is left out."""
MAX_TASKS_SHOWN = 500
MAX_FRAMES = 40
"""Frames of one task that are shown, the innermost."""


class TaskView:
    """Shows the tasks below one task."""

    def __init__(self) -> None:
        self._root: trio.lowlevel.Task | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = 0

    def enter(self) -> None:
        """Show the tasks below the calling one, from now on."""
        self._thread = threading.get_ident()
        self._root = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()

    def leave(self) -> None:
        """Show nothing any more: the calling task ends."""
        self._root = self._token = None

    async def take(self) -> str:
        """Return the tree. From any Trio loop."""
        if self._token is None:
            return "the runtime does not run"
        if threading.get_ident() == self._thread:
            await trio.lowlevel.checkpoint()
            return self._tree()
        taken: list[str] = []
        done = trio.Event()
        ours = trio.lowlevel.current_trio_token()

        def inside() -> None:
            taken.append(self._tree())
            call_in_loop(ours, done.set)

        call_in_loop(self._token, inside)
        with trio.move_on_after(BLOCKED_AFTER):
            await done.wait()
        return taken[0] if taken else self._blocked_in()

    def _tree(self) -> str:
        if self._root is None:
            return "the runtime does not run"
        try:
            return _bounded(_lines_of(self._root))
        except Exception as error:  # of an unusual awaitable; out of a callback it would end the loop
            log.exception("the task tree could not be taken")
            return f"the task tree could not be taken: {type(error).__name__}"

    def _blocked_in(self) -> str:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return "the thread of the runtime has ended"
        frames = reversed(list(traceback.walk_stack(frame)))
        head = f"the loop did not answer within {BLOCKED_AFTER:g} s; its thread is in"
        return _bounded([head, *_frames(frames, "  ")])


def _lines_of(root: trio.lowlevel.Task) -> Iterator[str]:
    waiting = [(root, 0)]
    shown = 0
    while waiting:
        task, depth = waiting.pop()
        if shown == MAX_TASKS_SHOWN:
            yield f"... more than {MAX_TASKS_SHOWN} tasks"
            return
        shown += 1
        indent = "  " * depth
        # The calling task itself, and one that has not begun, await nothing.
        yield f"{indent}{task.name}"
        yield from _frames(task.iter_await_frames(), f"{indent}    ")
        children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        # Sets have no order; sorted by name, two trees can be compared.
        children.sort(key=lambda child: child.name, reverse=True)
        waiting += [(child, depth + 1) for child in children]


def _frames(frames: Iterable[tuple[FrameType, int]], indent: str) -> Iterator[str]:
    lines = [
        f"{indent}{frame.f_code.co_qualname} ({short_file(frame.f_code.co_filename)}:{line})"
        for frame, line in frames
        if frame.f_code.co_filename != _TRAPS
    ]
    if len(lines) > MAX_FRAMES:
        yield f"{indent}... {len(lines) - MAX_FRAMES} outer frames"
    yield from lines[-MAX_FRAMES:]


def _bounded(lines: Iterable[str]) -> str:
    # Names of tasks and files can be anything, and this goes into JSON and onto terminals.
    text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    if len(text) <= MAX_TASK_TREE:
        return text
    note = "\n... cut"
    return text[: MAX_TASK_TREE - len(note)] + note
