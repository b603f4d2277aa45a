"""What a chaos campaign is to do, and what came of it."""

from __future__ import annotations

import signal
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle, islice

from tests.chaos.proxy import KINDS
from tests.chaos.watch import Trend


class Fault(StrEnum):
    """What is injected; ``proxy.KINDS`` are the faults of single requests."""

    WORKER_KILL = "worker kill"
    SERVER_KILL = "server kill"
    ZOMBIE = "zombie"
    TERM = "sigterm"
    HUP = "sighup"
    SUSPENDED = "server suspended"
    RESTORE = "backup restored"
    CUT = "cut"
    GATEWAY = "json 404 window"
    FAILING = "500 window"
    CLOCK = "clock set"
    PAUSE = "node paused"
    DATABASE_CRASH = "database crash"
    DATABASE_HUNG = "database hung"
    FAILOVER = "asynchronous failover"
    SYNC_FAILOVER = "synchronous failover"
    SESSION_END = "session ended"
    COMMIT_CUT = "cut at commit"
    SCHEDULE_DUE = "schedule due"
    CANCEL = "run cancelled"
    RETRY = "failed run retried"
    PRIORITY = "priority changed"
    LIMIT = "limit reduced"
    REPIN = "run moved"
    DELETE = "graph deleted"


STRIKES = (
    Fault.WORKER_KILL,
    Fault.SERVER_KILL,
    Fault.ZOMBIE,
    Fault.TERM,
    Fault.HUP,
    Fault.SUSPENDED,
    Fault.RESTORE,
)
"""Faults that hit processes; the others hit connections and the clock."""
STOPS: Mapping[str, signal.Signals] = {Fault.TERM: signal.SIGTERM, Fault.HUP: signal.SIGHUP}
ON_POSTGRES = (
    Fault.DATABASE_CRASH,
    Fault.DATABASE_HUNG,
    Fault.FAILOVER,
    Fault.SYNC_FAILOVER,
    Fault.SESSION_END,
    Fault.COMMIT_CUT,
    Fault.SCHEDULE_DUE,
)
"""Faults of PostgreSQL, and of the connections to it; and what SQL makes happen there."""
BY_USERS = (Fault.CANCEL, Fault.RETRY, Fault.PRIORITY, Fault.LIMIT, Fault.REPIN, Fault.DELETE)
"""What users do, natively, unless what is known of it would be undone: see ``users``."""
CLOCKS = (-3_600_000, 0, 3_600_000, 40 * 86_400_000)
"""Milliseconds by which the state manager's wall clock is wrong, one after the other in any order."""
MAX_WINDOW = 2.0
"""Seconds. A worker that is asked to stop tries for 3 s to deliver what it has."""
MAX_FAILING = 6.0
"""Seconds of a window of 500s. Less than a third of the grace of a stop."""
BETWEEN_FAILING = 10.0
"""Seconds from one such window to the next: a stop that began in one delivers before the next one, since what
fails is repeated at least every ten seconds."""

MAX_STATEMENT = 4.0
"""Seconds that PostgreSQL lets a statement take. A state manager waits for a second more."""
HUNG_FOR = 8.0
"""Seconds that PostgreSQL hangs: longer than that, and half of what a stop gives running nodes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A campaign.

    Attributes:
        runs: Runs of the graph to trigger.
        faults: How many of each kind to inject.
        v0_only: The state manager serves no native API, and claims end by its claim timeout.
        seed: Of the schedule: order, gaps, victims. Real processes differ in the rest.
        processes: Worker processes.
        workers: Tasks in each.
        gap: Seconds between two faults that hit processes, on average.
        lease_ttl: Seconds.
        claim_timeout: Seconds; longer than a state can wait and run.
        long: Seconds some nodes take, longer than a lease; 0 for none such.
        blocking: Some of those block the event loop meanwhile. What a claim brings during that is not known
            to the heartbeat, so its lease may end; nothing is done twice because of it.
        outbox: Give each worker a durable outbox.
        settling_time: Seconds after the last fault for all runs to end.
        managers: State managers on one PostgreSQL. 0: a single one on a file.
        watched: Record each minute what is used, as ``watch`` says; runs are triggered at a steady rate, and
            the first state manager and the first worker are spared.
    """

    runs: int
    faults: Mapping[str, int]
    v0_only: bool = False
    seed: int = 0
    processes: int = 4
    workers: int = 3
    gap: float = 1.2
    lease_ttl: float = 3.0
    claim_timeout: float = 10.0
    long: float = 0.0
    blocking: bool = True
    outbox: bool = False
    settling_time: float = 60.0
    managers: int = 0
    watched: bool = False

    @property
    def has_users(self) -> bool:
        """Whether there are actions of users."""
        return any(self.faults.get(kind, 0) for kind in BY_USERS)

    @property
    def fails_over(self) -> bool:
        """Whether a standby takes over."""
        return any(self.faults.get(kind, 0) for kind in (Fault.FAILOVER, Fault.SYNC_FAILOVER))

    @property
    def duration(self) -> float:
        """Seconds the faults are spread over."""
        return self.gap * max(1, sum(self.faults.get(kind, 0) for kind in STRIKES))

    @property
    def terms_only(self) -> bool:
        """Whether workers are only ever asked to stop, so that nothing may be done twice."""
        return {kind for kind, number in self.faults.items() if number} <= set(STOPS)


@dataclass(frozen=True, slots=True)
class Strike:
    """A fault that hit a process.

    Attributes:
        at: When; of a restored backup, when that was made.
        until: When a zombie ran again, or the state manager could be reached again; else as ``at``. After a
            restored backup: when no worker begins any more what it had claimed before that.
        running: Keys of what it was running when it was hit.
    """

    kind: str
    pid: int
    at: float
    until: float
    running: tuple[str, ...] = ()


EVERY_FAULT = Plan(
    runs=6,
    faults={
        Fault.WORKER_KILL: 1,
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 1,
        Fault.TERM: 1,
        Fault.HUP: 1,
        Fault.CUT: 1,
        Fault.GATEWAY: 1,
        Fault.FAILING: 1,
        Fault.CLOCK: 2,
        Fault.PAUSE: 2,
        **dict.fromkeys(KINDS, 1),
        **dict.fromkeys(BY_USERS, 1),
    },
    processes=2,
    gap=0.8,
    lease_ttl=2.0,
    long=3.0,
    outbox=True,
)
"""The short form."""

RUNS_PER_HOUR = 600
"""Of a long campaign."""


def long_plan(hours: float, *, managers: int, seed: int, processes: int, lease_ttl: float) -> Plan:
    """Return a campaign that is watched, with one fault a minute: a third of them hit processes."""
    minutes = max(3, round(60 * hours))
    several = managers > 1
    strikes: list[str] = [Fault.WORKER_KILL, Fault.TERM, Fault.ZOMBIE, Fault.HUP]
    strikes += [Fault.SERVER_KILL, Fault.SUSPENDED] * several
    others: list[str] = [Fault.CUT, Fault.GATEWAY, Fault.PAUSE, Fault.FAILING, Fault.CLOCK, *KINDS, *BY_USERS]
    others += [Fault.DATABASE_CRASH, Fault.SESSION_END, Fault.COMMIT_CUT, Fault.SCHEDULE_DUE] * several
    faults = Counter(islice(cycle(strikes), minutes // 3))
    faults.update(islice(cycle(others), minutes - minutes // 3))
    return Plan(
        runs=max(4, round(hours * RUNS_PER_HOUR)),
        faults=faults,
        seed=seed,
        processes=processes,
        gap=3600 * hours / (minutes // 3),
        lease_ttl=lease_ttl,
        long=1.5 * lease_ttl,
        settling_time=120.0,
        managers=managers,
        watched=True,
    )


@dataclass(slots=True)
class Figures:
    """What came of a campaign.

    Attributes:
        runs: Runs triggered.
        states: States there are in the end, retries included.
        executions: Executions that were begun.
        faults: Injected, by kind.
        lost: States that are missing or did not end.
        gone: Runs that a standby which took over had not received.
        outcomes_lost: Outcomes that were acknowledged and are not the stored ones.
        duplicates: Executions beyond one for each attempt.
        bound: Most duplicates the faults may account for.
        unexplained: Duplicates beyond that, key by key.
        stale_accepted: Stored outcomes of a runtime that was not the last to claim the state.
        wrong: Stored outcomes of executions of another state.
        parts_kept: Parts of work that were not done again, since a checkpoint said that they were done.
        checkpoints_lost: Executions that began with a checkpoint other than the newest stored one.
        most_notes: Maximum of notes, which have a limit, at once.
        pinned: Executions of states that are pinned to a version, by that.
        unpinned: Executions of the others, by the version of their runtime.
        elsewhere: Executions of pinned states by a runtime of another version.
        leases_lost: Leases that ended without an outcome.
        recovery: Seconds from a worker's death to the next execution of what it ran.
        waited: States that waited while their node was paused.
        scheduled: Runs that a schedule started.
        events: Events that were acknowledged as the first under their names.
        children: Runs that nodes called.
        of_users: What came of the runs of ``users``, by the names of the rows.
        exits: Exit codes of workers asked to stop.
        problems: Broken invariants, one line each.
        trends: How what was watched changed over the last half; None if there are too few values.
    """

    runs: int = 0
    states: int = 0
    executions: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    gone: int = 0
    outcomes_lost: int = 0
    duplicates: int = 0
    bound: int = 0
    unexplained: int = 0
    stale_accepted: int = 0
    wrong: int = 0
    parts_kept: int = 0
    checkpoints_lost: int = 0
    most_notes: int = 0
    pinned: Counter[str] = field(default_factory=Counter)
    unpinned: Counter[str] = field(default_factory=Counter)
    elsewhere: int = 0
    leases_lost: int = 0
    recovery: list[float] = field(default_factory=list)
    waited: int = 0
    scheduled: int = 0
    events: int = 0
    children: int = 0
    of_users: dict[str, str] = field(default_factory=dict)
    exits: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trends: dict[str, Trend | None] = field(default_factory=dict)

    def __str__(self) -> str:
        faults = ", ".join(f"{number} {kind}" for kind, number in sorted(self.faults.items()) if number)
        exits = ", ".join(f"{number} x {code}" for code, number in sorted(self.exits.items()))
        rows = {
            "runs": f"{self.runs}",
            "states": f"{self.states} ({self.executions} executions)",
            "faults injected": f"{self.faults.total()}: {faults or 'none'}",
            "lost": f"{self.lost}",
            "runs that are gone": f"{self.gone}",
            "outcomes lost": f"{self.outcomes_lost}",
            "duplicates": f"{self.duplicates} of at most {self.bound} ({self.unexplained} unexplained)",
            "stale accepted": f"{self.stale_accepted}",
            "of another state": f"{self.wrong}",
            "checkpoints lost": f"{self.checkpoints_lost} ({self.parts_kept} parts were not done again)",
            "of a limit, at once": f"{self.most_notes}",
            "pinned to a version": f"{_by_version(self.pinned)} ({self.elsewhere} ran elsewhere)",
            "of any version, ran on": _by_version(self.unpinned),
            "leases that ended": f"{self.leases_lost}",
            "recovery": _percentiles(self.recovery),
            "waited while paused": f"{self.waited}",
            "runs by a schedule": f"{self.scheduled}",
            "events of runs": f"{self.events}",
            "runs called by nodes": f"{self.children}",
            **self.of_users,
            "exits when stopped": exits or "none",
            "took": f"{self.seconds:.0f} s",
            "broken invariants": f"{len(self.problems)}",
        }
        lines = [f"{name:<22} {text}" for name, text in rows.items()]
        lines += [f"  - {problem}" for problem in self.problems[:40]]
        lines += [f"{name:<39} {trend or 'too few values'}" for name, trend in self.trends.items()]
        return "\n".join(lines)


def _by_version(executions: Counter[str]) -> str:
    return ", ".join(f"{number} x {version}" for version, number in sorted(executions.items())) or "none"


def _percentiles(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{len(seconds)} cases"
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s ({len(seconds)} executions cut)"
