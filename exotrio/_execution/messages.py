"""What a runtime and its worker processes tell each other, over a pair of sockets that nothing else has.

First a line of JSON, the import path: without it the other process may not find exotrio. Then messages, each
with its length before it. They are pickled, since outcomes hold what users put into them; both ends run the
same code for the same user. Node classes and exceptions do not cross: the class is named, and an exception
becomes a text where its traceback is.
"""

from __future__ import annotations

import pickle
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exotrio._execution.output import Line
from exotrio._execution.results import Failure
from exotrio._nodes.importing import Target
from exotrio._nodes.outcome import Outcome
from exotrio._nodes.progress import Progress

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Blocked when a worker process starts, until it handles them."""
CONNECTION_LOST = 76
"""Exit code of a worker process that runs a node and finds the connection closed."""
LENGTH = 8
"""Bytes before a message."""


def packed(message: object) -> bytes:
    """Return a message as it is sent."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return len(data).to_bytes(LENGTH, "big") + data


def unpacked(buffer: bytearray) -> object:
    """Take the first message out of ``buffer``; None if it is not whole yet."""
    end = LENGTH + int.from_bytes(buffer[:LENGTH], "big")
    if len(buffer) < LENGTH or len(buffer) < end:
        return None
    with memoryview(buffer) as view:
        message: object = pickle.loads(view[LENGTH:end])
    del buffer[:end]
    return message


# -- to a worker process


@dataclass(frozen=True, slots=True)
class Setup:
    """What it takes over once: the program's arguments, and the level of each logger that has one."""

    argv: list[str]
    levels: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A node to be run. ``draining``: the runtime stops already. ``captures``: its output is wanted."""

    number: int
    target: Target
    inputs: Mapping[str, object]
    secrets: Mapping[str, str]
    shown: str
    trace: str | None
    draining: bool
    captures: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """The runtime stops: the present node is to come to an end."""


# -- from a worker process


@dataclass(frozen=True, slots=True)
class Began:
    """The class is loaded: the time of the node begins."""


@dataclass(frozen=True, slots=True)
class Logged:
    """The attributes of a log record; the number of the job in whose context it was written, if in one."""

    job: int | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Progressed:
    """The progress of a job."""

    job: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class Captured:
    """All lines that are kept of what a job logged and printed so far."""

    job: int
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the present job. ``reusable``: the process is as it was before."""

    result: Outcome | Failure
    reusable: bool
