"""The messages between a runtime and its worker processes. Node classes and exceptions are not sent: a class
is named, and an exception becomes a text where its traceback is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exotrio._execution.output import Line
from exotrio._execution.results import Failure
from exotrio._link.port import Claim
from exotrio._nodes.importing import Target
from exotrio._nodes.outcome import CheckpointText, Outcome
from exotrio._nodes.progress import Progress

CONNECTION_LOST = 76
"""Exit code of a worker process that runs a node and finds the connection closed."""


# -- to a worker process


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker process gets once: the program's arguments, and the level of each logger that has one."""

    argv: list[str]
    levels: dict[str, int]


@dataclass(frozen=True, slots=True)
class Drain:
    """The runtime stops: the current node should finish within this time."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A node to run.

    Attributes:
        timeout: Seconds that it may take.
        drain: The runtime is stopping already.
        captures: Its output is kept.
    """

    number: int
    target: Target
    claim: Claim
    secrets: Mapping[str, str]
    trace: str | None
    captures: bool
    timeout: float | None = None
    drain: Drain | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """The checkpoint of this number of a job is stored, or cannot be."""

    job: int
    number: int


# -- from a worker process


@dataclass(frozen=True, slots=True)
class Began:
    """The class is loaded: the time of the node begins."""


@dataclass(frozen=True, slots=True)
class Logged:
    """The attributes of a log record; the number of the job in whose context it was written, if any."""

    job: int | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class News:
    """The progress of a job, all lines that are kept of its output, and its newest checkpoint; None if these
    have not changed. ``waits``: its node waits until that checkpoint, or the last one, is stored."""

    job: int
    progress: Progress | None
    lines: Sequence[Line] | None
    checkpoint: CheckpointText | None
    waits: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of the current job.

    Attributes:
        result: What the node ended with.
        reusable: The process is as it was before.
        ran: Seconds since ``Began``; None without one.
    """

    result: Outcome | Failure
    reusable: bool
    ran: float | None
