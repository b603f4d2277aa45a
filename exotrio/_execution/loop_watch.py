"""Measures for how long the event loop is blocked, and says which node blocks it while it does: a thread
asks the loop to answer.

If a node computes, or waits without ``await``, in an ``async def execute``, no other node goes on and no
signal is handled. The loop itself cannot say so, and delays caused by it look like any other delay.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import trio

from exotrio._nodes.base import BaseNode
from exotrio._runtime.task_tree import BLOCKED_AFTER, short_file

log = logging.getLogger("exotrio.runtime")

INTERVAL = 0.5
"""Seconds between two questions."""
SLACK = 0.1
"""Seconds that it waits longer, in which the loop of a process that was only suspended answers."""
AGAIN = 60.0
"""Seconds until the same line is named again."""


class LoopWatch:
    """Watches the loop of one runtime.

    Args:
        nodes: Registered name to node class.
    """

    def __init__(self, nodes: Mapping[str, type[BaseNode]]) -> None:
        codes = {getattr(node.execute, "__code__", None): name for name, node in nodes.items()}
        self._nodes = {code: name for code, name in codes.items() if code is not None}
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._named_at: dict[str, float] = {}
        self._called_at = 0.0
        self._lag = 0.0

    @property
    def lag(self) -> float:
        """Seconds that the loop took to answer, or has not answered for so far. From any thread."""
        if self._ended.is_set():
            return 0.0
        return self._lag if self._answered.is_set() else time.monotonic() - self._called_at

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the loop of the calling thread; log a warning whenever a node blocks it for over a second.

        Not under a virtual clock: each question is one more turn of the loop, at a moment of real time, so
        the order of tasks would not depend on the seed of ``explore`` alone.
        """
        self._answered.set()
        testing = sys.modules.get("trio.testing")
        if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
            yield
            return
        self._token = trio.lowlevel.current_trio_token()
        self._watched = threading.get_ident()
        threading.Thread(target=self._run, name="exotrio-loop-watch", daemon=True).start()
        try:
            yield
        finally:
            # The thread is not waited for: it may wait for the loop that is in this call.
            self._ended.set()
            self._answered.set()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._called_at = time.monotonic()
            self._answered.clear()
            try:
                self._token.run_sync_soon(self._answer)
            except trio.RunFinishedError:
                return
            if not (self._answered.wait(BLOCKED_AFTER) or self._answered.wait(SLACK)):
                self._name_what_blocks()
                while not (self._ended.is_set() or self._answered.wait(INTERVAL)):
                    pass

    def _answer(self) -> None:
        self._lag = time.monotonic() - self._called_at
        self._answered.set()

    def _name_what_blocks(self) -> None:
        frame = sys._current_frames().get(self._watched)
        what = None if frame is None or self._ended.is_set() else self._what_blocks(frame)
        now = time.monotonic()
        # If it is not in a node, the machine may simply have no time for this process.
        if what is not None and now - self._named_at.get(what, -AGAIN) >= AGAIN:
            self._named_at[what] = now
            log.warning(
                "%s for more than %g s: no other node goes on meanwhile; await in it, or make it a plain def,"
                " which runs in a thread",
                what,
                BLOCKED_AFTER,
            )

    def _what_blocks(self, innermost: FrameType) -> str | None:
        # From the innermost frame to the node's own: the last line in the file of the node says most.
        frames = list(traceback.walk_stack(innermost))
        for index, (frame, _) in enumerate(frames):
            if (name := self._nodes.get(frame.f_code)) is not None:
                file = frame.f_code.co_filename
                inner, line = next(each for each in frames[: index + 1] if each[0].f_code.co_filename == file)
                where = f"{short_file(file)}:{line} ({inner.f_code.co_qualname})"
                return f"node {name} blocks the event loop in {where}"
        return None
