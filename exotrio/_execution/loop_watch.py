"""Measures for how long a loop is blocked, Trio's or asyncio's, and says which node blocks it while it does:
a thread asks the loop to answer.

If a node computes, or waits without ``await``, in an ``async def execute``, no other node of that loop goes
on; in Trio's, no signal is handled either. The loop itself cannot say so, and delays caused by it look like
any other delay.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType

import trio

from exotrio._nodes.base import BaseNode

log = logging.getLogger("exotrio.runtime")

BLOCKED_AFTER = 1.0
"""Seconds after which a loop counts as blocked."""
INTERVAL = 0.5
"""Seconds between two questions."""
SLACK = 0.1
"""Seconds that it waits longer, in which the loop of a process that was only suspended answers."""
AGAIN = 60.0
"""Seconds until the same line is named again."""


class LoopWatch:
    """Watches one loop of a runtime.

    Args:
        nodes: The node classes of the runtime.
        what: What a node blocks, for the log.
        then: What that means, and what to do.
    """

    def __init__(
        self,
        nodes: Iterable[type[BaseNode]],
        what: str = "the event loop",
        then: str = "no other node goes on meanwhile; await in it, or make it a plain def, which runs in a"
        " thread",
    ) -> None:
        codes = {getattr(node.execute, "__code__", None): node.__name__ for node in nodes}
        self._nodes = {code: name for code, name in codes.items() if code is not None}
        self._what, self._then = what, then
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

    def trio_watched(self) -> AbstractContextManager[None]:
        """Watch the Trio loop of the calling thread.

        Not under a virtual clock: each question is one more turn of the loop, at a moment of real time, so
        the order of tasks would not depend on the seed of ``explore`` alone.
        """
        testing = sys.modules.get("trio.testing")
        if testing is not None and isinstance(trio.lowlevel.current_clock(), testing.MockClock):
            self._answered.set()
            return nullcontext()
        return self.watched(trio.lowlevel.current_trio_token().run_sync_soon)

    @contextmanager
    def watched(self, call_soon: Callable[[Callable[[], None]], object]) -> Iterator[None]:
        """Watch the loop of the calling thread; log a warning whenever a node blocks it for over a second.

        ``call_soon`` has the loop call a function; it raises RuntimeError once the loop has ended.
        """
        self._call_soon = call_soon
        self._answered.set()
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
                self._call_soon(self._answer)
            except RuntimeError:
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
            log.warning("%s for more than %g s: %s", what, BLOCKED_AFTER, self._then)

    def _what_blocks(self, innermost: FrameType) -> str | None:
        # From the innermost frame to the node's own: the last line in the file of the node says most.
        frames = list(traceback.walk_stack(innermost))
        for index, (frame, _) in enumerate(frames):
            if (name := self._nodes.get(frame.f_code)) is not None:
                file = frame.f_code.co_filename
                inner, line = next(each for each in frames[: index + 1] if each[0].f_code.co_filename == file)
                where = f"{short_file(file)}:{line} ({inner.f_code.co_qualname})"
                return f"node {name} blocks {self._what} in {where}"
        return None


def short_file(file: str) -> str:
    """Return a path relative to the folder of ``sys.path`` that it is imported from."""
    folders = [os.path.join(folder, "") for folder in sys.path if folder]
    return file[max((len(folder) for folder in folders if file.startswith(folder)), default=0) :]
