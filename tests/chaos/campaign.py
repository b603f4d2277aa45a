"""A campaign: keep workers busy with runs, injure processes and connections, then assess the result."""

from __future__ import annotations

import itertools
import random
import secrets
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from exotrio import Graph, ManagerError, StateManager
from exotrio._wire.v0 import RunSummary
from exotrio._wire.vocabulary import RunStatus
from tests.chaos import approvals, callers
from tests.chaos.approvals import Approvals
from tests.chaos.assessment import Evidence, Shown, assess
from tests.chaos.callers import Callers
from tests.chaos.cluster import Child, Cluster, until
from tests.chaos.crew import EXIT_TIMEOUT, Crew, stop
from tests.chaos.graph import EXECUTED, NAMESPACE, VERSIONS, graph, graph_name, in_order, version_of
from tests.chaos.journal import Execution, Reading
from tests.chaos.pausing import Pausing
from tests.chaos.plan import (
    BETWEEN_FAILING,
    BY_USERS,
    CLOCKS,
    HUNG_FOR,
    MAX_FAILING,
    MAX_WINDOW,
    ON_POSTGRES,
    STRIKES,
    Fault,
    Figures,
    Plan,
    Strike,
)
from tests.chaos.proxy import FAILURES, KINDS, Proxy
from tests.chaos.schedule import Schedule
from tests.chaos.users import Users
from tests.chaos.watch import Watch, verdicts
from tests.support import postgres
from tests.support.postgres_failover import Replicated, replicated
from tests.support.postgres_proxy import PostgresProxy
from tests.support.processes import KEY, is_running

T = TypeVar("T")

ANSWERING = 180
"""Seconds in which one of the state managers has to answer, on a busy machine."""
AHEAD = 4
"""Runs that are started before the faults ask for them."""
UNSEEN = 0.2, 1.5
"""Seconds in which a standby that is to take over receives nothing."""
USERS_RUNS = 2
"""Runs of users, besides two for each one that they cancel or move."""
LOAD = 0.6
"""Share of the workers' time that the runs take, were there no faults."""


async def campaign(plan: Plan, folder: Path) -> Figures:
    """Run a campaign in an empty folder and return what came of it."""
    began = time.monotonic()
    for name in ("logs", "marks"):
        (folder / name).mkdir()
    canary = f"canary{secrets.token_hex(12)}"
    async with AsyncExitStack() as stack:
        servers = stack.enter_context(replicated()) if plan.fails_over else None
        database = None
        if servers is not None:
            database = servers.on_primary()
        elif plan.managers:
            database = stack.enter_context(postgres.database())
        nursery = await stack.enter_async_context(trio.open_nursery())
        to_database = None
        if database is not None:
            to_database = PostgresProxy(database.server.port) if servers is None else servers.proxy
            await nursery.start(to_database.serve)
        cluster = Cluster(
            folder,
            nursery,
            Path(__file__).with_name("nodes.py"),
            server_options=_server_options(plan),
            worker_env=_worker_env(plan, folder),
            managers=max(1, plan.managers),
            database=database.url_at(to_database.port) if database and to_database else None,
        )
        proxy = Proxy(cluster.port, random.Random(plan.seed + 1), others=tuple(cluster.ports[1:]))
        await nursery.start(proxy.serve)
        cluster.uri = f"http://127.0.0.1:{proxy.port}"
        crew = Crew(plan, cluster, busy={0} if plan.watched else set())
        reading = Reading(folder / "journal")
        chaos = _Chaos(
            plan, cluster, crew, proxy, random.Random(plan.seed), reading, database, to_database, servers
        )
        try:
            shown = await chaos.run(canary)
        finally:
            with trio.move_on_after(EXIT_TIMEOUT, shield=True):
                await cluster.kill_all()
            nursery.cancel_scope.cancel()
        evidence = Evidence(
            plan,
            folder,
            canary,
            reading,
            proxy,
            chaos.strikes,
            chaos.undone,
            shown,
            crew.in_order,
            database,
            chaos.triggered,
            chaos.users,
        )
        figures = assess(evidence)
    figures.faults = chaos.injected + proxy.injected
    figures.exits = crew.exits
    figures.problems += crew.problems + chaos.pausing.problems
    figures.waited = chaos.pausing.watched
    if chaos.schedule is not None:
        figures.problems += chaos.schedule.problems
        figures.scheduled = chaos.schedule.started
    if chaos.approvals is not None:
        figures.problems += chaos.approvals.problems
        figures.events = chaos.approvals.sent
    if chaos.callers is not None:
        figures.problems += chaos.callers.problems
        figures.children = chaos.callers.started
    figures.problems += await _left_processes(folder)
    if chaos.watch is not None:
        figures.trends = verdicts(chaos.watch.minutes)
        figures.problems += [f"{name} rises" for name, each in figures.trends.items() if each and each.rises]
        figures.problems += chaos.watch.log_problems()
    figures.seconds = time.monotonic() - began
    return figures


async def survive(plan: Plan, folder: Path) -> None:
    """Run a campaign in an empty folder; raise AssertionError if an invariant is broken."""
    figures = await campaign(plan, folder)
    assert not figures.problems, str(figures)


async def _store(manager: StateManager, graph: Graph) -> None:
    await manager.upsert_graph(graph)


def _replace(db: Path, backup: Path) -> None:
    for suffix in ("-wal", "-shm"):
        db.with_name(db.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(backup, db)


async def _left_processes(folder: Path) -> list[str]:
    """Return which worker processes of nodes outlive the runtimes, all of which have ended."""
    pids = [int(path.name.removeprefix("process-")) for path in (folder / "marks").glob("process-*")]
    if not pids:
        return ["no node ran in a separate process"]
    with trio.move_on_after(30):
        await until(lambda: not any(map(is_running, pids)))
    return [f"a worker process outlives its runtime: {pid}" for pid in pids if is_running(pid)]


def _server_options(plan: Plan) -> tuple[str, ...]:
    # Poison is not what is tested here, and under so many kills a state could well meet five.
    # Nothing here is that old, whatever its clock says.
    options = ("--lease-ttl", str(plan.lease_ttl), "--poison-limit", "1000", "--keep", "30d")
    return (*options, *(("--v0-only", "--claim-timeout", str(plan.claim_timeout)) if plan.v0_only else ()))


def _worker_env(plan: Plan, folder: Path) -> dict[str, str]:
    seconds = LOAD * plan.duration * plan.processes * plan.workers / (plan.runs * EXECUTED)
    # What is buffered must be done well before a v0 claim times out.
    max_seconds = plan.claim_timeout / 25 if plan.v0_only else 1.0
    return {
        "CHAOS_FOLDER": str(folder),
        "CHAOS_SECONDS": f"{min(max_seconds, max(0.05, seconds)):.3f}",
        "CHAOS_LONG": str(plan.long),
        "CHAOS_BLOCKING": str(plan.long if plan.blocking else 0.0),
        "CHAOS_WORKERS": str(plan.workers),
    }


@dataclass(slots=True)
class _Chaos:
    plan: Plan
    cluster: Cluster
    crew: Crew
    proxy: Proxy
    rng: random.Random
    reading: Reading
    database: postgres.Database | None
    to_database: PostgresProxy | None
    servers: Replicated | None
    triggered: dict[str, float] = field(default_factory=dict)
    """When it was acknowledged that a run with this id was started."""
    suspended: set[int] = field(default_factory=set)
    injected: Counter[str] = field(default_factory=Counter)
    strikes: list[Strike] = field(default_factory=list)
    undone: list[tuple[float, float]] = field(default_factory=list)
    rng_of_asking: random.Random = field(default_factory=random.Random)
    pausing: Pausing = field(init=False)
    schedule: Schedule | None = field(default=None, init=False)
    approvals: Approvals | None = field(default=None, init=False)
    callers: Callers | None = field(default=None, init=False)
    users: Users | None = field(default=None, init=False)
    watch: Watch | None = field(default=None, init=False)
    restoring: trio.Lock = field(default_factory=trio.Lock)
    _failing: trio.Lock = field(default_factory=trio.Lock)
    _failed_at: float = -BETWEEN_FAILING
    _failures: Iterator[tuple[str, str]] = field(init=False)
    """What fails in each window of 500s, and in which form."""
    _due_runs: int = 0
    _triggered: int = 0

    def __post_init__(self) -> None:
        failures = itertools.cycle(itertools.product(("report", "any"), FAILURES))
        self._failures = itertools.islice(failures, self.plan.seed % 4, None)
        self.pausing = Pausing(self._ask, self.rng_of_asking, self.database)
        if self.database is not None:
            self.schedule = Schedule(self._ask_in, self.database, self.cluster.ports)
            if self.servers is None:  # what it knows must not be undone
                rng = random.Random(self.plan.seed + 2)
                self.approvals = Approvals(self._ask_in, rng, min(approvals.MAX_RUNS, self.plan.runs))
                self.callers = Callers(self._ask_in, min(callers.MAX_RUNS, self.plan.runs))
        if self.plan.has_users:
            runs = USERS_RUNS + 2 * sum(self.plan.faults.get(kind, 0) for kind in (Fault.CANCEL, Fault.REPIN))
            self.users = Users(self._ask_in, random.Random(self.plan.seed + 3), runs)
        if self.plan.watched:
            self.suspended.add(0)  # so that nothing is done to it
            self.watch = Watch(
                folder=self.cluster.folder,
                uri=f"http://127.0.0.1:{self.cluster.port}",
                pids=lambda: {
                    "state manager": self.cluster.servers[0].pid,
                    "worker": self.crew.members[0].pid,
                },
                executions=self._executions,
                database=self.database,
            )

    async def run(self, canary: str) -> Shown:
        """Do all of it; return what the HTTP API shows in the end."""
        for number in range(self.cluster.managers):
            await self.cluster.start_server(number)
        await self.crew.muster()
        versions = [None] if self.plan.v0_only else [None, *VERSIONS]
        for version in versions:
            declared = graph(canary, version, has_limits=not self.plan.v0_only)
            await self._ask(partial(_store, graph=declared))
        if self.schedule is not None:
            await self.schedule.declare()
        if self.approvals is not None:
            await self.approvals.declare()
        if self.callers is not None:
            await self.callers.declare()
        if self.users is not None:
            await self.users.declare()
        *_, first, second = range(self.plan.runs)
        pauses = self.plan.faults.get(Fault.PAUSE, 0) > 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed, first if pauses else self.plan.runs)
            async with trio.open_nursery() as watching:
                if self.watch is not None:
                    watching.start_soon(self.watch.run)
                    watching.start_soon(self._go_on_steadily)
                async with trio.open_nursery() as background:
                    background.start_soon(self._disturb, background)
                    if self.approvals is not None:
                        background.start_soon(self.approvals.run, self.plan.duration)
                    if self.callers is not None:
                        background.start_soon(self.callers.run, self.plan.duration)
                    if self.users is not None:
                        background.start_soon(self.users.run, self.plan.duration)
                    await self._strike(background)
                watching.cancel_scope.cancel()
            self._due_runs = self.plan.runs
        if pauses:
            with trio.move_on_after(self.plan.settling_time) as waiting:
                await self.pausing.last(*(partial(self._trigger_twice, number) for number in (first, second)))
            if waiting.cancelled_caught:
                self.crew.problems.append("what was triggered last did not reach the paused node")
        await self._settle()
        if self.schedule is not None:
            await self.schedule.check()
        if self.approvals is not None:
            await self.approvals.check()
        if self.callers is not None:
            await self.callers.check()
        if self.users is not None:
            await self.users.look()
        shown = await self._show()
        await self.crew.dismiss()
        for server in self.cluster.servers.values():
            if (code := await stop(server)) != 0:
                self.crew.problems.append(f"the state manager ended with {code}: {server.log}")
        return shown

    # -- work

    async def _feed(self, runs: int) -> None:
        """Trigger runs as the faults go on, so that each fault meets some."""
        numbers = itertools.count()
        for triggered in range(runs):
            await until(partial(self._is_due, triggered))
            if self.plan.v0_only:
                # Every try has another number: if its answer is lost, it may have started a run.
                await self._ask(lambda manager: manager.trigger("chaos", {"run": str(next(numbers))}))
            else:
                # Not across a restore, which may undo the first of the two.
                async with self.restoring:
                    await self._trigger_twice(triggered)
                    self._triggered = triggered + 1

    async def _go_on_steadily(self) -> None:
        """Let runs be due at a steady rate, also between faults."""
        began = time.monotonic()
        while True:
            share = (time.monotonic() - began) / self.plan.duration
            self._due_runs = max(self._due_runs, int(self.plan.runs * min(1.0, share)))
            await trio.sleep(1)

    def _executions(self) -> int:
        self.reading.update()
        return len(self.reading.executions)

    async def _trigger_twice(self, number: int) -> str:
        """Trigger a run by its key, twice at the same time, with the workers' faults: it is one run."""
        replies: list[dict[str, Any]] = []
        began = time.monotonic()

        async def trigger() -> None:
            values, key, order = {"run": str(number)}, f"run {number}", in_order(number)
            name = graph_name(version_of(number, self.plan.runs))
            replies.append(
                await self._ask(
                    lambda manager: manager.trigger(name, values, key=key, **order), self.cluster.uri
                )
            )

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trigger)
        now = time.monotonic()
        self.triggered.update({str(reply["run_id"]): now for reply in replies})
        ids, created = {reply["run_id"] for reply in replies}, [reply["created"] for reply in replies]
        is_lost = any(began <= end for _, end in self.undone)
        if (len(ids) != 1 or created.count(True) > 1) and not is_lost:
            self.crew.problems.append(f"two runs were started by the key of run {number}: {replies}")
        return str(replies[0]["run_id"])

    def _is_due(self, number: int) -> bool:
        return number < self._due_runs + AHEAD

    async def _settle(self) -> None:
        """Wait until all runs have ended, for up to ``settling_time``."""
        with trio.move_on_after(self.plan.settling_time):
            while True:
                if self.proxy.idle and not await self._runs(RunStatus.PENDING):
                    break
                await trio.sleep(0.3)

    async def _show(self) -> Shown:
        runs = await self._runs()
        graphs = {run.run_id: await self._ask(partial(StateManager.run, run_id=run.run_id)) for run in runs}
        return Shown(runs, graphs)

    async def _runs(self, status: RunStatus | None = None) -> list[RunSummary]:
        runs: list[RunSummary] = []
        for page in itertools.count(1):
            reply = await self._ask(partial(StateManager.runs, page=page, size=100))
            runs += reply.runs
            if len(runs) >= reply.total or not reply.runs:
                return [run for run in runs if status in (None, run.status)]
        raise AssertionError

    async def _ask_in(self, call: Callable[[StateManager], Awaitable[T]], namespace: str) -> T:
        return await self._ask(call, namespace=namespace)

    async def _ask(
        self,
        call: Callable[[StateManager], Awaitable[T]],
        at: str | None = None,
        namespace: str = NAMESPACE,
    ) -> T:
        """Ask the state manager itself, or at another URI, however often it is killed meanwhile."""
        with trio.fail_after(ANSWERING):
            while True:
                try:
                    uri = at or f"http://127.0.0.1:{self.rng_of_asking.choice(self.cluster.ports)}"
                    async with StateManager(namespace, uri, KEY) as manager:
                        return await call(manager)
                except ManagerError:
                    await trio.sleep(0.3)

    # -- faults

    async def _disturb(self, background: trio.Nursery) -> None:
        """Injure connections, and the clock."""
        at_connections = (Fault.CUT, Fault.GATEWAY, Fault.FAILING, Fault.CLOCK, Fault.PAUSE)
        others = (*at_connections, *ON_POSTGRES, *KINDS, *BY_USERS)
        kinds = [kind for kind in others for _ in range(self.plan.faults.get(kind, 0))]
        self.rng.shuffle(kinds)
        clocks = self._clocks(kinds.count(Fault.CLOCK))
        gap = self.plan.duration / (len(kinds) + 1)
        for kind in kinds:
            await trio.sleep(gap * self.rng.uniform(0.5, 1.5))
            if kind == Fault.CUT:
                self.proxy.cut()
            elif kind == Fault.GATEWAY:
                background.start_soon(self._answer_404, self.rng.uniform(0.1, 1.0) * MAX_WINDOW)
            elif kind == Fault.FAILING:
                background.start_soon(self._fail, self.rng.uniform(0.2, 1.0) * MAX_FAILING)
            elif kind == Fault.PAUSE:
                self.injected[kind] += 1
                background.start_soon(self.pausing.one)
            elif kind == Fault.CLOCK:
                self.injected[kind] += 1
                self.cluster.clock.set(next(clocks))
            elif kind in BY_USERS:
                assert self.users is not None
                self.injected[kind] += 1
                background.start_soon(self.users.act, kind)
            elif kind in ON_POSTGRES:
                self.injected[kind] += 1
                await self._injure_database(kind)
            else:
                self.proxy.arm(kind)

    def _clocks(self, number: int) -> Iterator[int]:
        """Yield what the clock is set to. The last is the earliest, so that delays would wait longest."""
        now = 0
        for left in reversed(range(number)):
            now = self.rng.choice([each for each in CLOCKS if each != now]) if left else min(CLOCKS)
            yield now

    async def _strike(self, background: trio.Nursery) -> None:
        kinds = [kind for kind in STRIKES for _ in range(self.plan.faults.get(kind, 0))]
        self.rng.shuffle(kinds)
        for done, kind in enumerate(kinds):
            self._due_runs = max(self._due_runs, self.plan.runs * done // len(kinds))
            await trio.sleep(self.plan.gap * self.rng.uniform(0.5, 1.5))
            self.injected[kind] += 1
            if kind == Fault.SERVER_KILL:
                await self._kill_server()
                continue
            if kind == Fault.SUSPENDED:
                background.start_soon(self._suspend_server)
                continue
            if kind == Fault.RESTORE:
                await self._restore_backup()
                continue
            slot = await self._victim()
            if kind == Fault.WORKER_KILL:
                await self.crew.kill(slot)
                self._struck(kind, self.crew.members[slot])
                await self.crew.replace(slot)
            elif kind == Fault.ZOMBIE:
                self.crew.busy.add(slot)
                background.start_soon(self._make_zombie, slot)
            else:
                self._struck(kind, self.crew.members[slot])
                await self.crew.roll(slot, kind, background)

    async def _answer_404(self, seconds: float) -> None:
        """Let a gateway that knows no route stand in for the state manager."""
        self.injected[Fault.GATEWAY] += 1
        began, pids = time.monotonic(), [child.pid for child in self.crew.members]
        with self.proxy.answering_404():
            await trio.sleep(seconds)
        # A lease outlives this if a heartbeat that came just before is followed by one just after.
        if self.plan.v0_only or seconds > self.plan.lease_ttl / 4:
            for pid in {*pids, *(child.pid for child in self.crew.members)}:
                self.strikes.append(Strike(Fault.GATEWAY, pid, began, time.monotonic()))

    async def _fail(self, seconds: float) -> None:
        """Let a gateway, or the state manager, answer 500 to everything, or to reports only."""
        async with self._failing:  # one at a time
            await trio.sleep_until(self._failed_at + BETWEEN_FAILING)
            self.injected[Fault.FAILING] += 1
            began, pids = time.monotonic(), [child.pid for child in self.crew.members]
            route, form = next(self._failures)
            with self.proxy.failing(route, form):
                await trio.sleep(seconds)
            ended, self._failed_at = time.monotonic(), trio.current_time()
        # Natively leases are renewed meanwhile, unless heartbeats fail, too.
        if self.plan.v0_only or (route == "any" and seconds > self.plan.lease_ttl / 4):
            for pid in {*pids, *(child.pid for child in self.crew.members)}:
                self.strikes.append(Strike(Fault.FAILING, pid, began, ended))

    async def _victim(self) -> int:
        """Choose a worker, preferably one that runs something."""
        with trio.move_on_after(5):
            while True:
                self.reading.update()
                pids = {slot: self.crew.members[slot].pid for slot in self.crew.free()}
                at_work = [slot for slot, pid in pids.items() if self.reading.running(pid)]
                if at_work:
                    return self.rng.choice(at_work)
                await trio.sleep(0.02)
        await until(lambda: bool(self.crew.free()))
        return self.rng.choice(self.crew.free())

    async def _make_zombie(self, slot: int) -> None:
        """Stop a worker until others have its states; then it goes on as if nothing had happened."""
        child = self.crew.members[slot]
        child.send(signal.SIGSTOP)
        await trio.sleep(0.05)
        self.reading.update()
        began, running = time.monotonic(), self.reading.running(child.pid)
        term = self.plan.claim_timeout if self.plan.v0_only else self.plan.lease_ttl
        await trio.sleep(term)
        with trio.move_on_after(2 * term):
            # While another worker runs the same state, so that what this one reports now is stale.
            while not any(self._elsewhere(execution) for execution in running):
                await trio.sleep(0.02)
                self.reading.update()
        child.send(signal.SIGCONT)
        keys = tuple(execution.key for execution in running)
        self.strikes.append(Strike(Fault.ZOMBIE, child.pid, began, time.monotonic(), keys))
        self.crew.busy.discard(slot)

    def _elsewhere(self, mine: Execution) -> bool:
        latest = self.reading.by_key[mine.key][-1]
        return latest.pid != mine.pid and latest.ended is None

    async def _kill_server(self) -> None:
        number = self.rng.choice(self._awake())
        server = self.cluster.servers[number]
        server.send(signal.SIGKILL)
        await server.wait()
        await self.cluster.start_server(number)

    async def _restore_backup(self) -> None:
        """Go on with a backup that was made a while before, and trigger again what it lacks."""
        backup, db = self.cluster.folder / "backup.db", self.cluster.folder / "state.db"
        began = time.monotonic()
        at = f"http://127.0.0.1:{self.cluster.port}"
        await self._ask(lambda manager: manager.backup(backup, overwrite=True), at)
        self.reading.update()
        self._due_runs = min(self.plan.runs, self._due_runs + AHEAD)
        known = set(self.reading.executions)
        with trio.move_on_after(3):
            # While the first states that the backup lacks are held: they have the ids to be assigned next.
            await until(lambda: any(each.key.endswith("/seed") for each in self._begun_since(known)))
        async with self.restoring:
            server = self.cluster.servers[0]
            # Else workers hear at once that what they hold is lost.
            self.proxy.closed.add("heartbeat")
            server.send(signal.SIGKILL)
            await server.wait()
            self.undone.append((began, time.monotonic()))
            await trio.to_thread.run_sync(_replace, db, backup)
            # What was only to happen in the first attempt is to happen again.
            for mark in ("*-step-*", "*-note-*"):
                for path in (self.cluster.folder / "marks").glob(mark):
                    path.unlink()
            await self.cluster.start_server()
            # Whatever a worker had claimed it begins within its lease at the latest, or not at all.
            over = time.monotonic() + self.plan.lease_ttl
            self.reading.update()
            for pid in {each.pid for each in self.reading.executions.values()}:
                self.strikes.append(Strike(Fault.RESTORE, pid, began, over))
            # In another order: their states would have the ids of others if those were assigned again.
            known = set(self.reading.executions)
            for number in reversed(range(self._triggered)):
                await self._trigger_twice(number)
            with trio.move_on_after(self.plan.lease_ttl / 3):
                await until(lambda: len(self._begun_since(known)) > self.plan.workers)
            self.proxy.closed.discard("heartbeat")

    def _begun_since(self, known: set[str]) -> list[Execution]:
        self.reading.update()
        return [each for name, each in self.reading.executions.items() if name not in known]

    def _awake(self) -> list[int]:
        return [number for number in self.cluster.servers if number not in self.suspended]

    async def _suspend_server(self) -> None:
        """Stop a state manager for longer than a lease. Whatever is sent to it meanwhile hangs."""
        if len(awake := self._awake()) < 2:
            return
        number = self.rng.choice(awake)
        self.suspended.add(number)
        began, pids = time.monotonic(), [child.pid for child in self.crew.members]
        self.cluster.servers[number].send(signal.SIGSTOP)
        await trio.sleep(1.5 * self.plan.lease_ttl)
        self.cluster.servers[number].send(signal.SIGCONT)
        self.suspended.discard(number)
        # The heartbeats of any of them may have hung.
        for pid in {*pids, *(child.pid for child in self.crew.members)}:
            self.strikes.append(Strike(Fault.SUSPENDED, pid, began, time.monotonic()))

    async def _injure_database(self, kind: str) -> None:
        assert self.database is not None
        assert self.to_database is not None
        if kind == Fault.DATABASE_CRASH:
            await trio.to_thread.run_sync(self.database.server.restart)
        elif kind == Fault.DATABASE_HUNG:
            await self._hang_database(self.database.server)
        elif kind in (Fault.FAILOVER, Fault.SYNC_FAILOVER):
            await self._fail_over(loses=kind == Fault.FAILOVER)
        elif kind == Fault.SCHEDULE_DUE:
            assert self.schedule is not None
            await self.schedule.make_due()
        elif kind == Fault.SESSION_END:
            if sessions := await trio.to_thread.run_sync(self.database.sessions):
                await trio.to_thread.run_sync(self.database.terminate, self.rng.choice(sessions))
        else:
            self.to_database.cut_at_commit(self.rng.choice(["before", "after"]))

    async def _hang_database(self, server: postgres.Server) -> None:
        """Suspend PostgreSQL for longer than state managers wait for it, and than a lease."""
        began, pids = time.monotonic(), [child.pid for child in self.crew.members]
        with server.suspended():
            await trio.sleep(max(HUNG_FOR, 1.5 * self.plan.lease_ttl))
        for pid in {*pids, *(child.pid for child in self.crew.members)}:
            self.strikes.append(Strike(Fault.DATABASE_HUNG, pid, began, time.monotonic()))

    async def _fail_over(self, *, loses: bool) -> None:
        """Let a standby take over, and give it one. If it ``loses`` commits, it has not received the last."""
        servers = self.servers
        assert servers is not None
        began, pids = time.monotonic(), [child.pid for child in self.crew.members]
        if loses:
            await trio.to_thread.run_sync(servers.detach)
            await trio.sleep(self.rng.uniform(*UNSEEN))
        else:
            await trio.to_thread.run_sync(servers.synchronize)
            began = time.monotonic()
        await trio.to_thread.run_sync(servers.take_over)
        if loses:
            self.undone.append((began, time.monotonic()))
        servers.lead_to(servers.primary)
        await trio.to_thread.run_sync(servers.add_standby)
        for pid in {*pids, *(child.pid for child in self.crew.members)}:
            self.strikes.append(Strike(Fault.FAILOVER, pid, began, time.monotonic()))

    def _struck(self, kind: str, child: Child) -> None:
        now = time.monotonic()
        self.reading.update()
        running = tuple(execution.key for execution in self.reading.running(child.pid))
        self.strikes.append(Strike(kind, child.pid, now, now, running))
