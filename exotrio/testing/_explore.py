"""``explore``: runs a graph again and again, each time with a fault at another place."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar

import trio
from trio.testing import MockClock

from exotrio._fields.models import Values
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import models_of, node_problems
from exotrio._util.words import plural
from exotrio.errors import ConfigurationError, GraphInvalid, RequestRefused
from exotrio.graph import Graph
from exotrio.graph.breaking import breaking_changes
from exotrio.testing._comparison import Ending, Fields, Usual, Version, differing_fields
from exotrio.testing._exploration import (
    MAX_SHOWN,
    CrashRun,
    Exploration,
    Failure,
    fail,
    first_line,
    more_often,
)
from exotrio.testing._graphs import namespace_of
from exotrio.testing._points import FAULTS, Fault, Moment, Place, Point, Work
from exotrio.testing._runs import MadeRun, Runs, begin_second, ending_of

if TYPE_CHECKING:
    from exotrio.testing._case import Case

T = TypeVar("T")


async def explore(
    graph: Graph,
    nodes: Sequence[type[BaseNode]],
    *,
    successor: Sequence[type[BaseNode]] | None = None,
    successor_graph: Graph | None = None,
    check: Callable[[CrashRun[T]], object] | None = None,
    setup: Callable[[], T] | None = None,
    inputs: Values | None = None,
    store: Mapping[str, object] | None = None,
    events: Mapping[str, Values] | None = None,
    graphs: Sequence[Graph] = (),
    faults: Collection[Fault] = tuple(Fault),
    only: int | None = None,
    max_points: int = 500,
    max_failures: int = MAX_SHOWN,
    seed: int = 0,
    timeout: float = 600.0,
) -> Exploration:
    """Run a graph once to find the points where a fault can strike; then once for each, with that fault.

    After each run ``check`` tests a property that you promise: the card was charged once, no lock is left.
    Without a ``check``, each run has to end like the one without a fault: with its status and its outputs.
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
                                    expires, and the other runtime runs the state. A checkpoint that was
                                    set since the await before is not sent.
    STORED       await              The same once that checkpoint is stored. Only where one was set.
    STOPPED      begin, await, end  SIGTERM, and the grace has ended: the node is cancelled, with its
                                    ``finally`` and ``except``, and its state released to the other runtime.
                                    A node that has ended is still reported.
    DRAINED      await              SIGTERM with a grace. Only for nodes that read ``self.stopping``.
    SUSPENDED    await              The lease is lost while the node runs: its runtime is suspended until the
                                    other one has run the state. Then it continues for some steps, until it
                                    learns that its lease is lost and cancels the node.
    ANSWER_LOST  end                The report is recorded, and its answer lost: it is sent again.
    ===========  =================  =====================================================================

    Events are sent when all that is left of the run waits, also to each child that waits for one. Further
    points are each event of each of these runs:

    ==================  ==============================================================================
    EVENT_EARLY         It is sent right after the trigger, or when the child begins.
    EVENT_LATE          It is sent just before its deadline, or after a day if it has none.
    EVENT_REPEATED      It is sent twice.
    EVENT_LOST          It is not sent. Only if it has a deadline, and there is a ``check``.
    ==================  ==============================================================================

    Differences from a real SIGKILL: killed code, with all tasks that it started, is held where it is. After
    ``check``, and before the next ``setup``, it continues to its next await and is cancelled there. The
    memory of the process stays: globals of modules, or a ``trio.Lock`` that it holds. System tasks and
    threads continue.

    Code without an await has no point. Where the real code would wait, for the disk or for the bank, a fake
    has to wait as well: ``await trio.lowlevel.checkpoint()`` before its effect.

    Nodes that run in threads or processes run on the Trio loop here, so faults strike a plain ``def`` only
    before it begins and at its end, which the result says; its ``save_checkpoint_sync`` does not wait. Those
    with ``runs_in = "asyncio"`` run in an asyncio loop that Trio runs, one for each runtime:
    ``asyncio.sleep`` takes virtual time, and killed code is cancelled where it is held. What waits in real
    time (threads that a node starts by ``trio.to_thread``, ``trio.Path`` or ``asyncio.to_thread``, and
    sockets) has to be short: virtual time passes meanwhile, minutes in a second.

    With a ``successor``, the runtime that takes over has other code, as in a deploy, and continues runs that
    the old code began. Each run has to end like one of the old code or like one of the new code, or with
    outputs of both. Fields of the new code that do not fit what such runs have are found by comparing the
    classes, whether a fault strikes there or not: ``Exploration.changes``.

    All random numbers of ``random`` and the order in which Trio runs its tasks depend on ``seed`` alone, so
    that each point keeps its number. For the same reason each run begins at a whole second of Trio's clock,
    and the first one twelve days after the clock's begin: ``timeout`` limits it, not ``trio.fail_after``.

    Args:
        graph: The graph. All its nodes are in one namespace.
        nodes: The node classes it names.
        successor: Those of the runtime that takes over: classes of the same names. Defaults to ``nodes``.
        successor_graph: The graph as the new code has it, for an undisturbed run of it; the other runs keep
            the graph that they began with. Defaults to ``graph``. If that does not fit the successor, outputs
            are not compared.
        check: Called after each run with its result, while killed code is still held; plain or async. It
            raises anything if the property is broken. Defaults to a comparison with the run without a fault.
        setup: Called before each run. It creates the objects on which nodes have effects. It is a plain def
            and returns the ``world`` of the result. Defaults to none: nodes have effects only in the run.
        inputs: As in ``run_graph``.
        store: As in ``run_graph``.
        events: Name of an event to its fields, as in ``run_graph``. Defaults to none.
        graphs: Graphs that nodes call, as in ``run_graph``. Defaults to none.
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
            a second run without a fault, since ``setup`` kept something of the first. Or the successor breaks
            all runs that the old code began.
        ConfigurationError: Trio's clock is not virtual, the nodes do not do the same each time, a node class
            cannot be used, or there is no point ``only``.
        trio.TooSlowError: the run without a fault did not end in time.
        GraphInvalid, RequestRefused: as in ``run_graph``.

    Cancellation:
        Ends the run, as ``run_graph`` does. Killed code is cancelled, too.
    """
    clock = _usable_clock(nodes, successor or nodes)
    # Here, since it imports the state manager, which run_node does not need.
    from exotrio.testing._case import Scenario

    scenario = Scenario(
        graph=graph,
        graphs=graphs,
        namespace=namespace_of(graph, *graphs),
        nodes=nodes,
        successor=nodes if successor is None else successor,
        inputs=inputs,
        store=store,
        events=events or {},
    )
    runs = Runs(scenario=scenario, check=check, setup=setup, seed=seed, clock=clock)
    begin_second(clock)
    begin = trio.current_time()
    usual = await runs.make(None, timeout)
    timeout += 2 * (trio.current_time() - begin)  # with a fault some of it is done twice
    if check is None or successor is not None:  # without an event a run does not end as usual
        faults = set(faults) - {Fault.EVENT_LOST}
    points = tuple(_points(usual.case, faults))
    result = Exploration(points)
    if usual.failure is not None:
        fail("the check fails even without a fault", replace(result, failures=(usual.failure,)))
    chosen: Sequence[Point] = points
    if only is not None:
        if not 1 <= only <= len(points):
            raise ConfigurationError(f"there is no point {only}: they are numbered from 1 to {len(points)}")
        chosen = [points[only - 1]]
    else:
        again = await runs.make(None, timeout)
        if again.failure is not None:
            what = "the check holds without a fault, but not the second time: setup must make all fresh"
            fail(what, replace(result, failures=(again.failure,)))
        _check_same(usual.case.places, again.case.places)
        if len(points) > max_points:
            drawn = random.Random(seed).sample(points, max_points)
            chosen = sorted(drawn, key=lambda point: point.number)
    if successor is not None:
        models = ({node.__name__: models_of(node) for node in code} for code in (nodes, successor))
        result = replace(result, changes=tuple(breaking_changes(graph.nodes, *models)))
        if any(not change.field for change in result.changes):
            fail("runs would wait for a class that is missing", result)
    if successor is not None or check is None:
        usual_ending = await _usual(runs, usual, successor_graph or graph, timeout)
        runs = replace(runs, usual=usual_ending)
        result = replace(result, not_compared=usual_ending.unsteady)

    tried: list[Point] = []
    missed: list[Point] = []
    failures: list[Failure] = []
    versions = Counter[Version]()
    repeated = Work()
    for point in chosen:
        run = await runs.make(point, timeout)
        (tried if run.case.struck else missed).append(point)
        repeated = max(repeated, run.case.repeated, key=lambda work: (work.awaits, work.seconds))
        if run.failure is not None:
            failures.append(replace(run.failure, more_often=more_often(usual.case.begun, run.case.begun)))
            if only is not None:
                run.failure.error.add_note(f"explore: point {failures[0]}")
                raise run.failure.error
            if len(failures) >= max_failures:
                break
        elif successor is not None and run.version is not None:
            versions[run.version] += 1
    awaiting = {place.node for place in usual.case.places if place.moment is Moment.AWAIT}
    result = replace(
        result,
        failures=tuple(failures),
        tried=tuple(tried),
        missed=tuple(missed),
        without_awaits=tuple(node for node in usual.case.begun if node not in awaiting),
        versions=versions,
        repeated=repeated,
    )
    if failures:
        what = f"{plural(len(failures), 'fault')} broke the check; {result}; replay one with only=NUMBER"
        fail(what, result)
    if any(change.certain for change in result.changes):
        fail(f"the successor breaks runs that the old code began; {result}", result)
    return result


async def _usual(runs: Runs[T], made: MadeRun, new_graph: Graph, timeout: float) -> Usual:
    """Return how runs end without a fault; ``made`` is one of them, ``new_graph`` that of the successor."""
    assert made.run is not None
    ending = ending_of(made.run)
    unsteady = await _unsteady(runs, ending, timeout)
    if runs.scenario.successor is runs.scenario.nodes:
        return Usual(ending=ending, unsteady=unsteady)
    scenario = replace(runs.scenario, graph=new_graph, nodes=runs.scenario.successor)
    new = replace(runs, scenario=scenario)
    try:
        later = await new.make(None, timeout)
    except (GraphInvalid, RequestRefused):  # it can only continue runs that the old code began
        return Usual.without_outputs(ending)
    assert later.run is not None
    successor, failure = ending_of(later.run), later.failure
    if failure is None and successor.status is not ending.status:
        error = AssertionError(f"the run ended as {successor.status.value}: {successor.error}")
        failure = Failure(None, error, first_line(error))
    if failure is not None:
        fail("the check fails with the successor even without a fault", Exploration((), (failure,)))
    unsteady |= await _unsteady(new, successor, timeout)
    return Usual(ending=ending, successor=successor, unsteady=unsteady)


async def _unsteady(runs: Runs[T], ending: Ending, timeout: float) -> Fields:
    """Return which fields differ in a run with other random numbers."""
    other = await replace(runs, seed=runs.seed + 1, check=None).make(None, timeout)
    assert other.run is not None
    return differing_fields(ending, ending_of(other.run))


def _usable_clock(*codes: Sequence[type[BaseNode]]) -> MockClock:
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock) or clock.autojump_threshold == math.inf:
        raise ConfigurationError(
            "explore waits for leases to expire, for hours of real time",
            fix="run it under virtual time: with autojump_clock of pytest-trio",
        )
    for nodes in codes:
        if problems := node_problems(nodes):
            raise ConfigurationError("the classes cannot be used as nodes", problems)
    return clock


def _points(case: Case, faults: Collection[Fault]) -> Iterator[Point]:
    """Yield the points of a run without a fault, numbered from 1."""
    cases = (
        (fault, place)
        for place in case.places
        for fault in FAULTS[place.moment]
        if fault in faults
        and (fault is not Fault.DRAINED or place.node in case.reads_stopping)
        and (fault is not Fault.STORED or place.checkpoint)
        and case.events.may_strike(fault, place)
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
