"""``explore``: runs a graph again and again, each time with a fault at another place."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

import trio
from trio.testing import MockClock

from exotrio._fields.models import Values
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import node_problems
from exotrio._util.words import listed, plural, shortened
from exotrio.errors import ConfigurationError
from exotrio.graph import Graph
from exotrio.testing._graphs import namespace_of
from exotrio.testing._points import FAULTS, CrashRun, Fault, Moment, Place, Point

if TYPE_CHECKING:
    from exotrio.testing._case import Case, Scenario

T = TypeVar("T")

MAX_SHOWN = 10
"""Failures in a message."""
MAX_LINE = 200
"""Characters of the error of one of them."""
FIRST_SECOND = 2**20
"""Where Trio's clock is when the first run begins, 12 days. Sums of times are rounded alike from here to
twice that, and finely enough for the timers of asyncio: what is due at the same moment in one run is so in
all."""


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
        points: All points, in order.
        failures: The cases that broke the check.
        tried: Points at which a fault struck: fewer than ``points`` with ``max_points`` or ``max_failures``.
        missed: Points that a run with the fault did not reach: the nodes do not do the same each time.
        without_awaits: Identifiers of nodes that ran without an await, such as a plain ``def``: no fault
            strikes within them.
    """

    points: tuple[Point, ...]
    failures: tuple[Failure, ...] = ()
    tried: tuple[Point, ...] = ()
    missed: tuple[Point, ...] = ()
    without_awaits: tuple[str, ...] = ()

    def __str__(self) -> str:
        missed = f"; {plural(len(self.missed), 'run')} did not reach its point" if self.missed else ""
        if self.without_awaits:
            missed += f"; nothing struck within {listed(self.without_awaits)}, without an await"
        return f"tried {len(self.tried)} of {plural(len(self.points), 'point')}{missed}"


class CheckFailed(AssertionError):
    """A property does not hold under some fault; the message names each.

    Attributes:
        exploration: The points that were tried, and the failures.
    """

    def __init__(self, what: str, exploration: Exploration) -> None:
        super().__init__(what)
        self.exploration = exploration


async def explore(
    graph: Graph,
    nodes: Sequence[type[BaseNode]],
    *,
    check: Callable[[CrashRun[T]], object],
    setup: Callable[[], T] | None = None,
    inputs: Values | None = None,
    store: Mapping[str, object] | None = None,
    faults: Collection[Fault] = tuple(Fault),
    only: int | None = None,
    max_points: int = 500,
    max_failures: int = MAX_SHOWN,
    seed: int = 0,
    timeout: float = 600.0,
) -> Exploration:
    """Run a graph once to find the points where a fault can strike; then once for each, with that fault.

    After each run ``check`` tests a property that you promise: the card was charged once, no lock is left.
    Every run has a state manager in memory and a real runtime, under virtual time, and a second runtime that
    takes over after the fault::

        class Bank:
            charges = 0

        def fresh() -> Bank:
            shop.bank = Bank()
            return shop.bank

        def charged_once(run: CrashRun[Bank]) -> None:
            assert run.status is RunStatus.SUCCESS
            assert run.world.charges == 1

        async def test_a_crash_charges_no_card_twice(autojump_clock):
            await explore(shop.graph, [shop.Charge], setup=fresh, check=charged_once)

    The points are: before an execution begins, each of its awaits (each time its task, or a task that it
    started, yields to Trio or asyncio), and its end before it is reported. The faults are:

    ===========  =================  =====================================================================
    ``Fault``    where              what happens
    ===========  =================  =====================================================================
    KILLED       begin, await, end  As ``kill -9``: no ``finally``, no ``except``, no report. The lease
                                    expires, and the other runtime runs the state.
    STOPPED      begin, await, end  SIGTERM, and the grace has ended: the node is cancelled, with its
                                    ``finally`` and ``except``, and its state released to the other runtime.
                                    A node that has ended is still reported.
    DRAINED      await              SIGTERM with a grace. Only for nodes that read ``self.stopping``.
    SUSPENDED    await              The lease is lost while the node runs: its runtime is suspended until the
                                    other one has run the state. Then it continues for some steps, until it
                                    learns that its lease is lost and cancels the node.
    ANSWER_LOST  end                The report is recorded, and its answer lost: it is sent again.
    ===========  =================  =====================================================================

    Differences from a real SIGKILL: killed code, with all tasks that it started, is held where it is. After
    ``check``, and before the next ``setup``, it continues to its next await and is cancelled there. The
    memory of the process stays: globals of modules, or a ``trio.Lock`` that it holds. System tasks and
    threads continue.

    Code without an await has no point. Where the real code would wait, for the disk or for the bank, a fake
    has to wait as well: ``await trio.lowlevel.checkpoint()`` before its effect.

    Nodes that run in threads or processes run on the Trio loop here, so faults strike a plain ``def`` only
    before it begins and at its end, which the result says. Those with ``runs_in = "asyncio"`` run in an
    asyncio loop that Trio runs, one for each runtime: ``asyncio.sleep`` takes virtual time, and killed code
    is cancelled where it is held. What waits in real time (threads that a node starts by ``trio.to_thread``,
    ``trio.Path`` or ``asyncio.to_thread``, and sockets) has to be short: virtual time passes meanwhile,
    minutes in a second.

    All random numbers of ``random`` and the order in which Trio runs its tasks depend on ``seed`` alone, so
    that each point keeps its number. For the same reason each run begins at a whole second of Trio's clock,
    and the first one twelve days after the clock's begin: ``timeout`` limits it, not ``trio.fail_after``.

    Args:
        graph: The graph. All its nodes are in one namespace.
        nodes: The node classes it names.
        check: Called after each run with its result, while killed code is still held; plain or async. It
            raises anything if the property is broken.
        setup: Called before each run. It creates the objects on which nodes have effects. It is a plain def
            and returns the ``world`` of the result. Defaults to none: nodes have effects only in the run.
        inputs: As in ``run_graph``.
        store: As in ``run_graph``.
        faults: Which ones to try. Defaults to all.
        only: Number of the only point to try; the error of ``check`` is raised as it is. Defaults to all.
        max_points: Maximum number of points to try; if there are more, that many are drawn. Defaults to 500.
        max_failures: End after this number of failures. Defaults to 10.
        seed: Seed of everything random. Defaults to 0.
        timeout: Seconds that the run without a fault may take, on Trio's clock; each other run may take twice
            the time of that one, plus these seconds. Defaults to 600.

    Returns:
        The result: ``print`` it, or assert that ``tried`` is as long as ``points``.

    Raises:
        CheckFailed: the check fails under some faults, each of which is named; or without a fault; or only in
            a second run without a fault, since ``setup`` kept something of the first.
        ConfigurationError: Trio's clock is not virtual, the nodes do not do the same each time, a node class
            cannot be used, or there is no point ``only``.
        trio.TooSlowError: the run without a fault did not end in time.
        GraphInvalid, RequestRefused: as in ``run_graph``.

    Cancellation:
        Ends the run, as ``run_graph`` does. Killed code is cancelled, too.
    """
    clock = _usable_clock(nodes)
    # Here, since it imports the state manager, which run_node does not need.
    from exotrio.testing._case import Scenario

    scenario = Scenario(graph=graph, namespace=namespace_of(graph), nodes=nodes, inputs=inputs, store=store)
    runs = _Runs(scenario=scenario, check=check, setup=setup, seed=seed, clock=clock)
    _begin_second(clock)
    begin = trio.current_time()
    usual, failure = await runs.make(None, timeout)
    timeout += 2 * (trio.current_time() - begin)  # with a fault some of it is done twice
    points = tuple(_points(usual, faults))
    if failure is not None:
        _fail("the check fails even without a fault", Exploration(points, (failure,)))
    chosen: Sequence[Point] = points
    if only is not None:
        if not 1 <= only <= len(points):
            raise ConfigurationError(f"there is no point {only}: they are numbered from 1 to {len(points)}")
        chosen = [points[only - 1]]
    else:
        again, failure = await runs.make(None, timeout)
        if failure is not None:
            what = "the check holds without a fault, but not the second time: setup must make all fresh"
            _fail(what, Exploration(points, (failure,)))
        _check_same(usual.places, again.places)
        if len(points) > max_points:
            drawn = random.Random(seed).sample(points, max_points)
            chosen = sorted(drawn, key=lambda point: point.number)

    tried: list[Point] = []
    missed: list[Point] = []
    failures: list[Failure] = []
    for point in chosen:
        case, failure = await runs.make(point, timeout)
        (tried if case.struck else missed).append(point)
        if failure is not None:
            failures.append(replace(failure, more_often=_more_often(usual.begun, case.begun)))
            if only is not None:
                failure.error.add_note(f"explore: point {failures[0]}")
                raise failure.error
            if len(failures) >= max_failures:
                break
    awaiting = {place.node for place in usual.places if place.moment is Moment.AWAIT}
    without = tuple(node for node in usual.begun if node not in awaiting)
    result = Exploration(points, tuple(failures), tuple(tried), tuple(missed), without)
    if failures:
        what = f"{plural(len(failures), 'fault')} broke the check; {result}; replay one with only=NUMBER"
        _fail(what, result)
    return result


@dataclass(frozen=True, kw_only=True)
class _Runs(Generic[T]):
    """Makes the runs of an exploration, and checks each."""

    scenario: Scenario
    check: Callable[[CrashRun[T]], object]
    setup: Callable[[], T] | None
    seed: int
    clock: MockClock

    async def make(self, point: Point | None, timeout: float) -> tuple[Case, Failure | None]:
        """Make a run with a fault, or without; return how the check failed, if it did."""
        from exotrio.testing._case import Case  # as above

        case = Case(self.scenario, point)
        _begin_second(self.clock)
        with _reproducible(self.seed):
            # Without a setup, T is the type of None.
            world = cast("T", None) if self.setup is None else self.setup()
            if inspect.iscoroutine(world):
                world.close()
                raise ConfigurationError(
                    "setup is an async def, which explore does not await", fix="write a plain def"
                )
            slow = failure = None
            try:
                async with case.run(timeout) as run:
                    result = CrashRun(run.status, run.states, run.places, world, point, dict(case.begun))
                    failure = await self._failure(result)
            except trio.TooSlowError as error:
                slow = error
            if case.endless is not None:
                slow = trio.TooSlowError(case.endless)
            if slow is not None and failure is None:
                if point is None:
                    raise slow
                failure = Failure(point, slow, _first_line(slow))
            return case, failure

    async def _failure(self, run: CrashRun[T]) -> Failure | None:
        try:
            checking = self.check(run)
            if inspect.isawaitable(checking):
                await checking
        except (trio.Cancelled, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # pytest.fail() raises no Exception
            return Failure(run.point, error, _first_line(error))
        return None


def _usable_clock(nodes: Sequence[type[BaseNode]]) -> MockClock:
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock) or clock.autojump_threshold == math.inf:
        raise ConfigurationError(
            "explore waits for leases to expire, for hours of real time",
            fix="run it under virtual time: with autojump_clock of pytest-trio",
        )
    if problems := node_problems(nodes):
        raise ConfigurationError("the classes cannot be used as nodes", problems)
    return clock


def _begin_second(clock: MockClock) -> None:
    """Advance the clock to a whole second at which a run may begin."""
    now = clock.current_time()
    clock.jump(max(math.ceil(now), FIRST_SECOND) - now)


def _points(case: Case, faults: Collection[Fault]) -> Iterator[Point]:
    """Yield the points of a run without a fault, numbered from 1."""
    cases = (
        (fault, place)
        for place in case.places
        for fault in FAULTS[place.moment]
        if fault in faults and (fault is not Fault.DRAINED or place.node in case.reads_stopping)
    )
    for number, (fault, place) in enumerate(cases, 1):
        yield Point(number=number, fault=fault, place=place)


def _check_same(first: Sequence[Place], second: Sequence[Place]) -> None:
    """Raise ConfigurationError if two runs without a fault reached different places."""
    for one, other in zip_longest(first, second):
        if one != other:
            once, again = (f"{each.execution_name} {each}" if each else "the end" for each in (one, other))
            raise ConfigurationError(
                f"the nodes do not do the same each time: first came {once}, the second time {again}",
                fix="let setup create everything again, and nothing depend on the time, or on os.urandom",
            )


def _more_often(usual: Mapping[str, int], now: Mapping[str, int]) -> str:
    """Return which nodes ran more often than usual: ``charge ran twice``."""
    more = {node: times for node, times in now.items() if times > usual.get(node, 0)}
    words = {1: "once", 2: "twice"}
    return ", ".join(f"{node} ran {words.get(times, f'{times} times')}" for node, times in more.items())


def _fail(what: str, result: Exploration) -> NoReturn:
    """Raise CheckFailed, with the first failure as its cause."""
    shown = [f"\n  {failure}" for failure in result.failures[:MAX_SHOWN]]
    raise CheckFailed("".join([f"{what}:", *shown]), result) from result.failures[0].error


def _first_line(error: BaseException) -> str:
    lines = [type(error).__name__, *filter(None, map(str.strip, str(error).splitlines()))]
    return shortened(": ".join(lines[:2]), MAX_LINE)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Let random numbers, and the order in which Trio runs its tasks, depend on ``seed`` alone.

    pytest-trio does the same for Hypothesis: Trio has no public way to set the order of tasks.
    """
    scheduler: Any = sys.modules["trio._core._run"]
    before = random.getstate(), scheduler._r.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    random.seed(seed)
    scheduler._r.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        random.setstate(before[0])
        scheduler._r.setstate(before[1])
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[2]
