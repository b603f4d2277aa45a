"""What users do while all goes on: they cancel runs, also of callers and of children, retry them, delete
graphs, change priorities and limits, and move runs to another version, each at any state manager.

Their runs are in a separate namespace; the worker processes of the other runs execute their nodes. What must
be true in the end is in ``user_assessment``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import uuid4

import trio

from exotrio import Graph, NotFound, RequestRefused, StateManager
from exotrio._wire.runs import Run
from exotrio._wire.vocabulary import RunStatus
from exotrio.client import StateStatus, StateSummary
from tests.chaos.graph import MAX_NOTES, VERSIONS
from tests.chaos.graph import NAMESPACE as OF_NODES
from tests.chaos.plan import Fault
from tests.chaos.user_graphs import (
    CUSTOMER,
    FAILS,
    HANDS,
    LONG,
    MAX_HANDS,
    MAX_OF_CUSTOMER,
    NAMESPACE,
    graphs,
    orders_graph,
    pinned,
)

AT_ONCE = 6
"""Runs in flight, besides those that an action starts for itself."""
CUSTOMERS = 5
SETTLING = 60.0
"""Seconds for what an action waits for."""
ENDING = 300.0
"""Seconds in which a run ends, behind others that wait for the same limits, on a busy machine."""
TRIES = 3
"""Runs that are tried one after the other until one is cancelled that had not ended."""
PAUSE = 1.0
"""Seconds between two looks."""

Ask = Callable[[Callable[[StateManager], Awaitable[Any]], str], Awaitable[Any]]
"""As of ``approvals``."""


@dataclass(slots=True)
class Ending:
    """A run that was cancelled or deleted.

    Attributes:
        at: When that was confirmed.
        states: Ids of its states right after that.
    """

    at: float
    states: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reduced:
    """A limit that was reduced until ``until``. At ``since`` no more than so many states held it, as the
    state manager said."""

    name: str
    at_most: int
    since: float
    until: float


@dataclass(slots=True)
class Shown:
    """A run as the API shows it in the end."""

    run: Run
    states: list[StateSummary]
    total: str | None = None


@dataclass(slots=True)
class Users:
    """The runs, and what was done to them.

    Attributes:
        ended: Runs that were cancelled or deleted, by their ids; also those below them.
        deleted: Those of them that do not exist any more.
        reduced: Limits that were reduced for a while, if that is known to have had an effect.
        reductions: How often a limit was reduced.
        moved: Runs that were moved to another version: to which one, and when that was confirmed.
        retried: Runs of which one state failed and was retried, by several users at once.
        prioritized: Runs whose priority was changed.
        shown: What the API shows of each run in the end, and of those below it.
        problems: What contradicts another thing, one line each.
    """

    ask: Ask
    rng: random.Random
    runs: int
    ended: dict[str, Ending] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    reduced: list[Reduced] = field(default_factory=list)
    moved: dict[str, tuple[str, float]] = field(default_factory=dict)
    retried: set[str] = field(default_factory=set)
    prioritized: int = 0
    reductions: int = 0
    shown: dict[str, Shown] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _live: dict[str, str] = field(default_factory=dict)
    """Runs that have not ended, with their graphs."""
    _graphs: dict[str, str] = field(default_factory=dict)
    _started: int = 0
    _changing: set[str] = field(default_factory=set)
    """Limits that are being changed."""
    _prioritizing: Counter[str] = field(default_factory=Counter)
    """How often the priority of a run was to be changed."""
    _stored: int = 0
    """Graphs that were stored, or are about to be, each of which sets the limits back."""

    async def declare(self) -> None:
        for graph in graphs():
            await self._ask(partial(_store, graph=graph))

    async def run(self, seconds: float) -> None:
        """Start runs one after the other for so long, and see each through to its end."""
        room = trio.CapacityLimiter(AT_ONCE)
        kinds = ("orders", "asked", "calls", pinned(VERSIONS[0]), "orders", pinned(VERSIONS[1]))
        async with trio.open_nursery() as nursery:
            for number in range(self.runs):
                nursery.start_soon(self._one, kinds[number % len(kinds)], room)
                await trio.sleep(seconds / self.runs)

    async def act(self, fault: str) -> None:
        """Do what a user does."""
        match fault:
            case Fault.CANCEL:
                await self._cancel_one()
            case Fault.RETRY:
                await self._retry_one()
            case Fault.PRIORITY:
                await self._prioritize_one()
            case Fault.LIMIT:
                await self._reduce_one()
            case Fault.REPIN:
                await self._move_one()
            case _:
                await self._delete_one()

    async def look(self) -> None:
        """Look at all runs in the end."""
        for run in list(self._graphs):
            if run in self.deleted:
                continue
            await self._look_at(run)
            for child in await self._children(run):
                await self._look_at(child)
        for name in (HANDS, CUSTOMER):
            with trio.move_on_after(SETTLING):
                while True:
                    limit = await self._ask(partial(StateManager.limit, name=name))
                    if not limit.held:
                        break
                    await trio.sleep(PAUSE)
            if limit.held or limit.waiting:
                self.problems.append(
                    f"all has ended, and limit {name} has {limit.held} states that hold it"
                    f" and {limit.waiting} that wait: {limit.holders}"
                )

    # -- runs

    async def _start(self, graph: str, mood: str = "") -> str:
        number = self._started
        self._started += 1
        store: dict[str, object] = {} if graph == "asked" else {"customer": str(number % CUSTOMERS)}
        if graph not in ("asked", "calls"):
            store["mood"] = mood
        trigger = partial(StateManager.trigger, graph_name=graph, store=store, key=f"users {number}")
        run: str = (await self._ask(trigger))["run_id"]
        self._graphs[run] = self._live[run] = graph
        return run

    async def _one(self, graph: str, room: trio.CapacityLimiter) -> None:
        """Start a run, send its event, and retry it when it has failed, until it succeeds or is cancelled."""
        async with room:
            run = await self._start(graph, self.rng.choice(["", "", LONG]))
            if graph == "asked":
                await trio.sleep(self.rng.uniform(0, 1.5))
                value = {"mood": "", "customer": str(self.rng.randrange(CUSTOMERS))}
                await self._try(partial(StateManager.send, run=run, name="go", value=value))
            await self._see_through(run)

    async def _see_through(self, run: str) -> None:
        with trio.move_on_after(ENDING):
            while True:
                status = await self._status(run)
                if run in self.ended or status is None or status.cancelled_at is not None:
                    break
                if status.status is RunStatus.SUCCESS:
                    break
                if status.status is RunStatus.FAILED:
                    # A child was cancelled by itself.
                    await self._try(partial(StateManager.retry_run, run_id=run))
                await trio.sleep(PAUSE)
        self._live.pop(run, None)

    async def _victim(self, *wanted: str) -> str | None:
        """Choose a run that has not ended, of one of these graphs if some are named."""
        with trio.move_on_after(SETTLING / 4):
            while True:
                live = [
                    run for run, graph in self._live.items()
                    if run not in self.ended and (not wanted or graph in wanted)
                ]  # fmt: skip
                if live:
                    return self.rng.choice(live)
                await trio.sleep(PAUSE)
        return None

    # -- actions

    async def _cancel_one(self) -> None:
        """Cancel a run, or a child of one by itself, sometimes by two users at once."""
        for _ in range(TRIES):
            if (run := await self._victim()) is None or await self._cancel(run):
                break

    async def _cancel(self, run: str) -> bool:
        """Cancel a run, or a child of it; return whether it had not ended before."""
        await trio.sleep(self.rng.uniform(0, 1.5))
        if (children := await self._children(run)) and self.rng.random() < 0.3:
            run = self.rng.choice(children)
        answers: list[Any] = []

        async def cancel() -> None:
            answers.append(await self._try(partial(StateManager.cancel, run_id=run)))

        async with trio.open_nursery() as nursery:
            for _ in range(self.rng.choice((1, 1, 2))):
                nursery.start_soon(cancel)
        now = time.monotonic()
        if not any(isinstance(answer, Run) for answer in answers):
            return False
        self._live.pop(run, None)
        self._end(run, now, await self._states(run))
        refused = await self._try(partial(StateManager.retry_run, run_id=run))
        if not isinstance(refused, str):
            self.problems.append(f"a run that was cancelled was retried: {run} {refused}")
        await self._children_end(run)
        return True

    def _end(self, run: str, at: float, states: Sequence[StateSummary]) -> None:
        self.ended.setdefault(run, Ending(at, frozenset(state.id for state in states)))

    async def _children_end(self, run: str) -> None:
        """Wait until all runs below one that was cancelled have ended, which happens right after that."""
        with trio.move_on_after(SETTLING):
            while True:
                pending = await self._children(run, RunStatus.PENDING)
                if not pending:
                    break
                await trio.sleep(PAUSE)
        if pending:
            self.problems.append(f"runs below {run}, which was cancelled, go on: {pending}")
            return
        for child in await self._children(run):
            self._end(child, time.monotonic(), await self._states(child))

    async def _retry_one(self) -> None:
        """Start a run that fails, and retry what failed: its state and the run, by several users at once."""
        run = await self._start("orders", FAILS)
        graph = self._live.pop(run)  # no other user cancels it before there is something to retry
        failed: list[StateSummary] = []
        with trio.move_on_after(ENDING):
            while not failed and run not in self.ended:
                page = partial(StateManager.states, run=run, identifier="on_trio", status=StateStatus.ERRORED)
                answer = await self._try(page, OF_NODES)
                failed = [] if isinstance(answer, str) else answer.states
                if await self._is(run, RunStatus.SUCCESS):
                    break  # the attempt that was to fail was cut
                await trio.sleep(PAUSE)
        self._live[run] = graph
        answers: list[Any] = []

        async def retry(call: Callable[[StateManager], Awaitable[Any]], namespace: str) -> None:
            answers.append(await self._try(call, namespace))

        async with trio.open_nursery() as nursery:
            for state in failed:
                nursery.start_soon(retry, partial(StateManager.retry_run, run_id=run), NAMESPACE)
                for _ in range(2):
                    again = partial(StateManager.manual_retry, state_id=state.id, fanout_id=str(uuid4()))
                    nursery.start_soon(retry, again, OF_NODES)
        if failed and run not in self.ended:
            self.retried.add(run)
        await self._see_through(run)

    async def _prioritize_one(self) -> None:
        if (run := await self._victim()) is None:
            return
        priority = self.rng.choice(["high", "normal", "low"])
        self._prioritizing[run] += 1
        answer = await self._try(partial(StateManager.set_priority, run_id=run, priority=priority))
        if isinstance(answer, Run):
            self.prioritized += 1
            # The answer is the run as it is then: another user may have been there in between.
            if self._prioritizing[run] == 1 and answer.priority != priority:
                self.problems.append(f"the priority of {run} is {answer.priority}, not {priority}")

    async def _reduce_one(self) -> None:
        """Reduce a limit for a while, possibly to 0; and see that no more hold it then."""
        maxima = {
            HANDS: (NAMESPACE, MAX_HANDS),
            CUSTOMER: (NAMESPACE, MAX_OF_CUSTOMER),
            "notes": (OF_NODES, MAX_NOTES),
        }
        names = sorted(maxima.keys() - self._changing)
        if not names:
            return
        name = self.rng.choice(names)
        namespace, usual = maxima[name]
        self._changing.add(name)
        at_most = self.rng.randrange(usual)
        stored = self._stored
        try:
            await self._ask(partial(StateManager.set_limit, name=name, at_most=at_most), namespace)
            self.reductions += 1
            since = None
            with trio.move_on_after(4):
                while since is None:
                    limit = await self._ask(partial(StateManager.limit, name=name), namespace)
                    held = max((key.held for key in limit.keys), default=0) if limit.keyed else limit.held
                    if held <= at_most:
                        since = time.monotonic()
                    else:
                        await trio.sleep(PAUSE)
            await trio.sleep(self.rng.uniform(0.5, 1.5))
            if since is not None and name != "notes" and stored == self._stored:
                self.reduced.append(Reduced(name, at_most, since, time.monotonic()))
        finally:
            await self._ask(partial(StateManager.set_limit, name=name, at_most=usual), namespace)
            self._changing.discard(name)

    async def _move_one(self) -> None:
        """Let a run need the other version."""
        graphs_of = {pinned(version): version for version in VERSIONS}
        if (run := await self._victim(*graphs_of)) is None or run in self.moved:
            return
        version = next(each for each in VERSIONS if each != graphs_of[self._graphs[run]])
        answer = await self._try(partial(StateManager.repin, run_id=run, to=version))
        if not isinstance(answer, str):
            self.moved[run] = (version, time.monotonic())
        elif not any(reason in answer for reason in ("has ended", "cancelled")):
            self.problems.append(f"{run} was not moved to version {version}: {answer}")

    async def _delete_one(self) -> None:
        """Delete a graph with its runs, while they go on or after their end."""
        name = f"deleted-{self._started}"
        self._stored += 1
        await self._ask(partial(_store, graph=orders_graph(name)))
        self._stored += 1
        runs = [await self._start(name) for _ in range(2)]
        if is_early := self.rng.random() < 0.6:
            await trio.sleep(self.rng.uniform(0, 2))
        else:
            for run in runs:
                await self._see_through(run)
        # On a busy machine a run may take longer than it is waited for.
        goes_on = any([await self._is(run, RunStatus.PENDING) for run in runs])
        delete = partial(StateManager.delete_graph, graph_name=name, cancel_runs=is_early or goes_on)
        answer = await self._try(delete)
        now = time.monotonic()
        if isinstance(answer, str) and "there is no graph" not in answer:
            self.problems.append(f"the graph {name} was not deleted: {answer}")
            return
        for run in runs:
            self._live.pop(run, None)
            self._end(run, now, ())
            self.deleted.add(run)
            if await self._status(run) is not None:
                self.problems.append(f"the run {run} of a deleted graph exists")

    # -- what the API shows

    async def _look_at(self, run: str) -> None:
        if run in self.shown or run in self.deleted:
            return
        with trio.move_on_after(ENDING):
            while True:
                if not await self._is(run, RunStatus.PENDING):
                    break
                await trio.sleep(PAUSE)
        status = await self._status(run)
        if status is None:
            self.problems.append(f"the run {run} of {self._graphs.get(run, 'another run')} does not exist")
            return
        states = await self._states(run)
        self.shown[run] = Shown(status, states, _total(states))

    async def _is(self, run: str, status: RunStatus) -> bool:
        shown = await self._status(run)
        return shown is not None and shown.status is status

    async def _status(self, run: str) -> Run | None:
        answer = await self._try(partial(StateManager.status, run_id=run))
        return answer if isinstance(answer, Run) else None

    async def _states(self, run: str) -> list[StateSummary]:
        page = await self._try(partial(StateManager.states, run=run, outputs=True, limit=1_000))
        return [] if isinstance(page, str) else list(page.states)

    async def _children(self, run: str, status: RunStatus | None = None) -> list[str]:
        page = await self._try(partial(StateManager.find_runs, parent=run, status=status, limit=1_000))
        return [] if isinstance(page, str) else [each.run_id for each in page.runs]

    async def _try(self, call: Callable[[StateManager], Awaitable[Any]], namespace: str = NAMESPACE) -> Any:
        """Ask until there is an answer; return it, or why it was refused."""

        async def ask(manager: StateManager) -> Any:
            try:
                return await call(manager)
            except (RequestRefused, NotFound) as error:
                return error.what

        return await self.ask(ask, namespace)

    async def _ask(self, call: Callable[[StateManager], Awaitable[Any]], namespace: str = NAMESPACE) -> Any:
        return await self.ask(call, namespace)


def _total(states: Sequence[StateSummary]) -> str | None:
    """Return the result of a run, if it has one: of its last node, of the run below it, or of its calls."""
    totals = [
        state.outputs["total"]
        for state in states
        if state.status is StateStatus.SUCCESS and state.outputs and "total" in state.outputs
    ]
    return totals[0] if len(totals) == 1 else None


async def _store(manager: StateManager, graph: Graph) -> None:
    await manager.upsert_graph(graph)
