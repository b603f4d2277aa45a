"""Says which node blocks the event loop, while it does: a thread that asks the loop to answer.

A node that computes, or waits without ``await``, in an ``async def execute`` lets no other node go on, and no
signal be handled. The loop itself cannot say so, and what is late because of it looks like anything else.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType

import trio

from exotrio._nodes.base import BaseNode
from exotrio._runtime.task_tree import BLOCKED_AFTER, short_file

log = logging.getLogger("exotrio.runtime")

INTERVAL = 1.0
"""Seconds between two questions."""
SLACK = 0.1
"""Seconds for which it goes on waiting: a process that was stopped, and its clock not, answers in these."""
AGAIN = 60.0
"""Seconds until the same line is named again."""


@contextmanager
def loop_watched(nodes: Mapping[str, type[BaseNode]]) -> Iterator[None]:
    """Log a warning whenever a node blocks the loop of the calling thread for more than a second.

    Not under a virtual clock: each question is one more turn of the loop, at a moment of real time, so the
    order of tasks would not depend on the seed of ``explore`` alone.
    """
    testing = sys.modules.get("trio.testing")
    if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
        yield
        return
    codes = {getattr(node.execute, "__code__", None): name for name, node in nodes.items()}
    watch = _LoopWatch({code: name for code, name in codes.items() if code is not None})
    watch.start()
    try:
        yield
    finally:
        watch.end()


class _LoopWatch:
    def __init__(self, nodes: Mapping[CodeType, str]) -> None:
        self._nodes = nodes
        self._token = trio.lowlevel.current_trio_token()
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._answered = threading.Event()
        self._named: dict[str, float] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name="exotrio-loop-watch", daemon=True).start()

    def end(self) -> None:
        """Let the thread end. It is not waited for: it may wait for the loop that is in this call."""
        self._ended.set()
        self._answered.set()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            self._answered.clear()
            try:
                self._token.run_sync_soon(self._answered.set)
            except trio.RunFinishedError:
                return
            if self._answered.wait(BLOCKED_AFTER) or self._answered.wait(SLACK):
                continue
            self._tell()
            while not self._ended.is_set():
                if self._answered.wait(INTERVAL):
                    break

    def _tell(self) -> None:
        frame = sys._current_frames().get(self._watched)
        what = None if frame is None or self._ended.is_set() else self._what_blocks(frame)
        now = time.monotonic()
        # Without a node it may as well be that the machine has no time for this process.
        if what is not None and now - self._named.get(what, -AGAIN) >= AGAIN:
            self._named[what] = now
            log.warning(
                "%s for more than %g s: no other node goes on meanwhile; await in it, or make it a plain def,"
                " which runs in a thread",
                what,
                BLOCKED_AFTER,
            )

    def _what_blocks(self, innermost: FrameType) -> str | None:
        # From the innermost frame to the node's own: the last line in the file of the node says most.
        frames = list(traceback.walk_stack(innermost))
        for place, (frame, _) in enumerate(frames):
            if (name := self._nodes.get(frame.f_code)) is not None:
                file = frame.f_code.co_filename
                inner, line = next(each for each in frames[: place + 1] if each[0].f_code.co_filename == file)
                where = f"{short_file(file)}:{line} ({inner.f_code.co_qualname})"
                return f"node {name} blocks the event loop in {where}"
        return None
