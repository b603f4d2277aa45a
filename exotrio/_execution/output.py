"""What one execution logs and prints: its first and last lines, bounded and without secrets.

``capture`` fills an ``Output``: the one in ``output_context``, which tasks and threads that a node starts
inherit.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from exotrio._execution.error_text import error_text
from exotrio._nodes.progress import ProgressView
from exotrio._util.redaction import Redactor
from exotrio._util.times import timestamp

MAX_LINES = 200
"""Lines that are kept of an execution: half of them are its first ones, half its last. A record counts as
one."""
MAX_BYTES = 16 * 1024
"""Bytes of their texts and names; the first and the last lines may have half of them each."""
MAX_TEXT = 2_000
"""Characters of one text. In any script they take less than half of ``MAX_BYTES``."""
MAX_UNFINISHED = 8 * MAX_TEXT
"""Characters that are kept of a printed line until its end comes."""

_COLOURS = re.compile("\x1b\\[[0-9;]*m")


class Line(NamedTuple):
    """A line as ``_wire.native.LogLine`` describes it; ``at`` is Unix time."""

    at: float
    level: str | None
    logger: str | None
    text: str


@dataclass(eq=False, slots=True)
class Output:
    """The lines of one execution. They may come from any thread.

    Attributes:
        progress: Has the redactor for the secrets of the node.
        is_open: Whether lines are added. It is while node code runs.
    """

    progress: ProgressView
    is_open: bool = False
    # Reentrant: in the thread that holds it, the deletion of an object may print.
    _lock: threading.RLock = field(default_factory=threading.RLock)
    # Most executions write nothing: what takes time is created with the first line.
    _kept: _Kept | None = None
    _unfinished: dict[str, _Unfinished] | None = None
    _sent: int = 0

    def log(self, record: logging.LogRecord) -> None:
        """Add a log record. Errors of its objects while they are formatted are not raised."""
        try:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text = f"{text}\n{error_text(record.exc_info[1], self.progress.redactor)}"
            if record.stack_info:
                text = f"{text}\n{record.stack_info}"
            level, logger = str(record.levelname), str(record.name)
        except Exception:
            level, logger, text = "ERROR", None, "a log record that cannot be formatted"
        with self._lock:
            self._add(level, logger, text)

    def print(self, stream: str, text: str) -> None:
        """Add what was written to ``stdout`` or ``stderr``: a line once its end comes."""
        with self._lock:
            if self._unfinished is None:
                self._unfinished = {}
            line = self._unfinished.setdefault(stream, _Unfinished())
            first, *others = text.split("\n")
            line.extend(first, self.progress.redactor)
            for other in others:
                self._add(stream, None, line.end())
                line.extend(other, self.progress.redactor)

    def close(self) -> Sequence[Mapping[str, str | None]]:
        """Accept no more lines, and return those that were kept, oldest first, in the form of ``LogLine``."""
        self.end_lines()
        with self._lock:  # a thread that the node left may be adding a line
            if self._kept is None:
                return ()
            lines = self._kept.lines()
        redactor = self.progress.redactor
        texts = redactor.redact_lines([line.text for line in lines])
        return [
            {
                "at": timestamp(line.at * 1000),
                "level": line.level,
                "logger": line.logger and redactor.redact(line.logger),
                "text": text,
            }
            for line, text in zip(lines, texts, strict=True)
        ]

    # -- between a worker process and the runtime

    def end_lines(self) -> None:
        """Accept no more lines, and add what was printed without a line end."""
        self.is_open = False
        if self._unfinished:
            with self._lock:
                for stream, line in self._unfinished.items():
                    if text := line.end():
                        self._add(stream, None, text)

    def news(self) -> list[Line] | None:
        """Return the lines, secrets included; None if there are no more than at the last call."""
        with self._lock:
            if self._kept is None or self._kept.count == self._sent:
                return None
            self._sent = self._kept.count
            return self._kept.lines()

    def take(self, lines: Sequence[Line]) -> None:
        """Replace the lines by these, which another process kept."""
        self._kept = _Kept(lines)

    def _add(self, level: str, logger: str | None, text: str) -> None:
        if self._kept is None:
            self._kept = _Kept()
        redactor = self.progress.redactor
        names = (_fitted(level, redactor), None if logger is None else _fitted(logger, redactor))
        self._kept.add(Line(time.time(), *names, _fitted(text, redactor)))


class _Kept:
    """The first lines and the last ones. ``count`` includes those that were left out."""

    def __init__(self, lines: Sequence[Line] = ()) -> None:
        self.count = len(lines)
        self._first = list(lines)
        self._last: deque[Line] = deque()
        self._first_room = self._last_room = MAX_BYTES // 2

    def add(self, line: Line) -> None:
        self.count += 1
        size = _size(line)
        if not self._last and len(self._first) < MAX_LINES // 2 and size <= self._first_room:
            self._first.append(line)
            self._first_room -= size
            return
        self._last.append(line)
        self._last_room -= size
        while len(self._last) > MAX_LINES // 2 or self._last_room < 0:
            self._last_room += _size(self._last.popleft())

    def lines(self) -> list[Line]:
        """Return them, with a line between that says how many were left out."""
        last = list(self._last)
        left_out = self.count - len(self._first) - len(last)
        between = [Line(last[0].at, None, None, f"... {left_out:,} lines left out ...")] if left_out else []
        return [*self._first, *between, *last]


class _Unfinished:
    """A line that is printed in parts. ``is_full``: only its beginning is kept."""

    __slots__ = ("is_full", "text")

    def __init__(self) -> None:
        self.text = ""
        self.is_full = False

    def extend(self, text: str, redactor: Redactor) -> None:
        if self.is_full:
            return
        text = self.text + text
        # What a progress bar overwrites is not kept. A \r at the end may be the first half of a line end.
        text = text[text.rfind("\r", 0, -1) + 1 :]
        if len(text) > MAX_UNFINISHED:
            # Masked now, since a secret may continue in what is not kept.
            text, self.is_full = redactor.redact(text[:MAX_UNFINISHED], cut_after=True), True
        self.text = text

    def end(self) -> str:
        """Return the line, and begin another one."""
        text, self.text, self.is_full = self.text, "", False
        return text.removesuffix("\r")


def _fitted(text: str, redactor: Redactor) -> str:
    """Return a text as valid UTF-8, without colours, cut in the middle if it is long."""
    if "\x1b" in text:
        text = _COLOURS.sub("", text)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) <= MAX_TEXT:
        return text
    # Masked before they are cut, since half a secret would not be recognized.
    begin = redactor.redact(text[:MAX_TEXT], cut_after=True)[: MAX_TEXT // 2]
    end = redactor.redact(text[-MAX_TEXT:], cut_before=True)[-MAX_TEXT // 2 :]
    return f"{begin}\n... {len(text) - MAX_TEXT:,} characters or more left out ...\n{end}"


def _size(line: Line) -> int:
    return sum(len(part.encode()) for part in (line.level, line.logger, line.text) if part)


output_context: ContextVar[Output | None] = ContextVar("exotrio_output", default=None)
"""The output of the execution whose code runs."""
