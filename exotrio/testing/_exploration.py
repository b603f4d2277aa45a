"""The results of a run with a fault and of an exploration: the points that were tried, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NoReturn, TypeVar

from exotrio._util.words import listed, plural, shortened
from exotrio.graph.breaking import BreakingChange
from exotrio.testing._comparison import Fields, Version, shown_fields
from exotrio.testing._graphs import GraphRun
from exotrio.testing._points import NO_WORK, Point, Work

T = TypeVar("T")
MAX_SHOWN = 10
"""Failures in a message."""
MAX_LINE = 200
"""Characters of the error of one of them."""


@dataclass(frozen=True, slots=True)
class CrashRun(GraphRun, Generic[T]):
    """The result of a run with a fault in it.

    Attributes:
        world: The result of ``setup`` for this run; None without a ``setup``.
        point: The fault; None if this run had none.
        begun: How often each node was begun, by identifier; without nodes that never were.
        repeated: What nodes did again because of the fault.
    """

    world: T
    point: Point | None
    begun: Mapping[str, int]
    repeated: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that broke the check.

    Attributes:
        point: The fault; None for the run without any.
        error: The error of ``check``; ``trio.TooSlowError`` if the run did not end, or a node that was
            cancelled.
        what: Its first line at that time.
        more_often: Nodes that were begun more often than without the fault, in words: ``charge ran twice``.
    """

    point: Point | None
    error: BaseException
    what: str
    more_often: str = ""

    def __str__(self) -> str:
        if self.point is None:
            return f"without any fault: {self.what}"
        begun = f" ({self.more_often})" if self.more_often else ""
        return f"{self.point.number}: {self.point}{begun}: {self.what}"


@dataclass(frozen=True, slots=True)
class Exploration:
    """The result of an exploration.

    Attributes:
        failures: The cases that broke the check.
        tried: Points at which a fault struck: fewer than ``points`` with ``max_points`` or ``max_failures``.
        missed: Points that a run with the fault did not reach: the nodes do not do the same each time.
        changes: What the successor breaks in runs that the old code began.
        versions: How many runs ended with the outputs of the old code, of the successor, and of both.
        not_compared: Fields of outputs that were not compared, since they differ from run to run anyway.
        repeated: The most work that a fault made nodes do again.
        without_awaits: Identifiers of nodes that ran without an await, such as a plain ``def``: no fault
            strikes within them.
    """

    points: tuple[Point, ...]
    failures: tuple[Failure, ...] = ()
    tried: tuple[Point, ...] = ()
    missed: tuple[Point, ...] = ()
    without_awaits: tuple[str, ...] = ()
    changes: tuple[BreakingChange, ...] = ()
    versions: Mapping[Version, int] = field(default_factory=dict)
    not_compared: Fields = frozenset()
    repeated: Work = NO_WORK

    def __str__(self) -> str:
        missed = f"; {plural(len(self.missed), 'run')} did not reach its point" if self.missed else ""
        if self.without_awaits:
            missed += f"; nothing struck within {listed(self.without_awaits)}, without an await"
        if any(point.place.checkpoint for point in self.points):
            work = f"{plural(self.repeated.awaits, 'await')} ({self.repeated.seconds:.1f} s)"
            missed += f"; at most {work} repeated"
        if self.versions:
            counts = [f"{self.versions.get(each, 0)} {each.outputs}" for each in Version]
            missed += f"; runs with outputs of the {listed(counts)}"
        if self.not_compared:
            missed += f"; not compared: {shown_fields(self.not_compared)}"
        if self.changes:
            missed += f"; {plural(len(self.changes), 'change')} that may break runs"
        return f"tried {len(self.tried)} of {plural(len(self.points), 'point')}{missed}"


class CheckFailed(AssertionError):
    """A property does not hold under some fault; the message names each.

    Attributes:
        exploration: The points that were tried, and the failures.
    """

    def __init__(self, what: str, exploration: Exploration) -> None:
        super().__init__(what)
        self.exploration = exploration


def more_often(usual: Mapping[str, int], now: Mapping[str, int]) -> str:
    """Return which nodes ran more often than usual: ``charge ran twice``."""
    more = {node: times for node, times in now.items() if times > usual.get(node, 0)}
    words = {1: "once", 2: "twice"}
    return ", ".join(f"{node} ran {words.get(times, f'{times} times')}" for node, times in more.items())


def fail(what: str, result: Exploration) -> NoReturn:
    """Raise CheckFailed, with the first failure as its cause."""
    shown = [f"\n  {each}" for each in (*result.changes, *result.failures[:MAX_SHOWN])]
    cause = result.failures[0].error if result.failures else None
    raise CheckFailed("".join([f"{what}:", *shown]), result) from cause


def first_line(error: BaseException) -> str:
    lines = [type(error).__name__, *filter(None, map(str.strip, str(error).splitlines()))]
    return shortened(": ".join(lines[:2]), MAX_LINE)
