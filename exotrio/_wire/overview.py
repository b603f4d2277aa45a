"""Bodies of the native routes that show what happens in a namespace, and its runtimes.

The API calls runtimes workers.
"""

from typing import Annotated

from pydantic import Field

from exotrio._util.times import format_duration
from exotrio._wire.body import Body, Moment, Seconds
from exotrio._wire.limits import LimitInfo
from exotrio._wire.releases import VersionInfo
from exotrio._wire.v0 import RunSummary

EXPORT_TYPE = "text/html; charset=utf-8"
CLAIMING = ("starting", "running")
"""Phases of runtimes that claim states."""
MAX_RUNS = 100
MAX_RUNTIMES = 100
"""Maximum number of runtimes in an overview."""
DEFAULT_DEPTH = 10_000
MAX_DEPTH = 100_000
"""Maximum number of waiting states that are counted of a node."""


# -- runtimes


class RuntimeInfo(Body):
    """A runtime in the list of them.

    Fields:
        worker_id: Id of the process.
        runtime: Name of the Runtime; empty before its first heartbeat.
        phase: Its phase at the last heartbeat; ``starting`` before the first.
        live: Whether it sent a request within the last minute, and has not stopped.
        asked_to_drain: Whether a drain was requested that has not begun.
        workers: How many states it runs at once; 0 if unknown.
        busy, buffered, reporting: States that it runs, those that have not begun, and those that have ended,
            counted as in ``Overview``.
        work_at_risk: Seconds that are repeated if it is killed now: those that the nodes which it runs have
            worked since their last stored checkpoints, or since they began. None from an older server.
        work_at_risk_is_more: Whether it runs nodes that are not in this sum yet: a node counts from the first
            heartbeat after it began, up to 10 s later.
        heard_ago: Seconds since its last heartbeat or claim. Other requests do not count, nor do most claims
            of a busy runtime.
        polled_ago: Seconds since its last claim of these, if any.
        nodes: Names of the nodes that it claims states of.
        run_id: The only run that it works on, as ``run`` does; None: on all.
        shows_tasks: Whether its task tree can be requested.
        version: That of its code, if it has one.
    """

    worker_id: str
    runtime: str
    phase: str
    live: bool
    asked_to_drain: bool
    workers: int
    busy: int
    buffered: int
    reporting: int = 0
    holds: int
    work_at_risk: Seconds | None = Field(None, alias="work_at_risk_ms")
    work_at_risk_is_more: bool = False
    heard_ago: Seconds = Field(alias="heard_ms")
    polled_ago: Seconds | None = Field(alias="polled_ms")
    nodes: list[str]
    run_id: str | None = None
    shows_tasks: bool
    version: str | None = None

    @property
    def claims(self) -> bool:
        """Whether it is in a phase in which it claims states: it neither drains nor has stopped."""
        return self.phase in CLAIMING

    @property
    def free(self) -> int | None:
        """How many states it could begin now: 0 if it is gone or drains; None if that is not known."""
        if not self.live or not self.claims:
            return 0
        return max(0, self.workers - self.busy - self.buffered) if self.workers else None

    @property
    def at_risk(self) -> str:
        """The work at risk, such as ``4.2 s``, or ``≥4.2 s`` if it is more; empty if there is none."""
        if self.work_at_risk_is_more:
            return f"≥{format_duration(self.work_at_risk)}"
        return format_duration(self.work_at_risk) if self.work_at_risk else ""


class V0Runtime(Body):
    """Clients that claim the same nodes through v0, which does not identify them; ``polled_ago`` is the
    seconds since the last such claim."""

    nodes: list[str]
    polled_ago: Seconds = Field(alias="polled_ms")


class RuntimeList(Body):
    """Runtimes that sent a request in the last ten minutes, or stopped in the last one: the live ones first,
    by runtime and id. And clients of v0, those with the latest claim first."""

    workers: list[RuntimeInfo]
    v0: list[V0Runtime]


class CommandReply(Body):
    """A command for a runtime was accepted; its next heartbeat fetches it."""

    worker_id: str
    command: str


class TasksReply(Body):
    """The last task tree of a runtime, if any; ``asked``: whether another one was requested that has not
    arrived."""

    worker_id: str
    asked: bool
    tasks: str | None
    age_ms: int | None


# -- the namespace


class OverviewQuery(Body):
    """Query of the route that shows an overview, with that many runs."""

    runs: Annotated[int, Field(ge=0, le=MAX_RUNS)] = 10


class ExportQuery(Body):
    """Query of the route that exports a run, with inputs, outputs and values of the store or without."""

    values: bool = True


class DepthQuery(Body):
    """Query of the route that shows how many states wait."""

    limit: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = DEFAULT_DEPTH


class QueueDepth(Body):
    """How many states of each registered node wait, also those that are due later and those of a paused node;
    counted up to the limit of the query."""

    nodes: dict[str, int]


class OldestState(Body):
    """The state that has been due longest, for ``due`` seconds."""

    node: str
    due: Seconds = Field(alias="waits_ms")


class Throughput(Body):
    """Attempts, or runs, that ended in the last hour, and those of them that failed, by minute: the present
    one is last. Attempts that were retried are included; a run counts once, by how it ended last.
    ``first_minute`` is in minutes of Unix time."""

    first_minute: int
    ended: list[int]
    failed: list[int]


class NodeBacklog(Body):
    """The states of a registered node that have not ended.

    Fields:
        waiting: Waiting states, those that are due later included; counted up to 100,000.
        for_event: States that wait for events or runs, not among the waiting ones; counted as these are.
        eligible: Those of the waiting ones that are due; 0 if the node is paused.
        limited: Those that are due and for which a claim found no room in a limit.
        oldest_due: Seconds for which the first of those has been due; 0 without any.
        running: States whose ``execute`` runs. A heartbeat says which have begun; until the next one, those
            that a runtime claimed first count as running, as many as it has workers for them. Of states that
            were claimed through v0, all.
        buffered: States that runtimes claimed and whose ``execute`` has not begun: they wait for a worker,
            for their secrets, or for the start of their process.
        reporting: States that have ended, as a heartbeat says, and whose outcome is not accepted yet.
        work_at_risk: Seconds that the running states have worked since their last stored checkpoints, or
            since they began; of those claimed through v0, since their claim. None from an older server.
        work_at_risk_is_more: Whether some run that are not in this sum yet, since no heartbeat has said when
            they began.
        paused_at: Since when the node is paused; None if it is not.
    """

    name: str
    waiting: int
    for_event: int = 0
    eligible: int
    limited: int = 0
    oldest_due: Seconds = Field(alias="oldest_ms")
    running: int
    buffered: int = 0
    reporting: int = 0
    work_at_risk: Seconds | None = Field(None, alias="work_at_risk_ms")
    work_at_risk_is_more: bool = False
    paused_at: Moment | None = None


class NodeLoad(NodeBacklog):
    """A registered node.

    Fields:
        ended, failed: Attempts of the last hour.
        unreported: Those of them whose runtime did not report when ``execute`` began, as through v0.
        waited_p95, buffered_p95: 95th percentile of the seconds until their claim, and from there until
            ``execute``; None without any, and from an older server.
        p50, p95: Median and 95th percentile of the seconds of ``execute``; None without any. Of those that
            are ``unreported``, the seconds from claim to end count, so that these are upper bounds. With
            less than 20 attempts, the 95th percentile is the maximum.
        offered_by: Names of the live runtimes that claim its states, one for each process, those that work on
            one run included.
        unserved: Waiting states that none of these claims, since they work on other runs, or there are none.
            From an older server, whose ``offered_by`` lacks those that work on one run, it is None.
    """

    ended: int
    failed: int
    unreported: int = 0
    waited_p95: Seconds | None = Field(None, alias="waited_p95_ms")
    buffered_p95: Seconds | None = Field(None, alias="buffered_p95_ms")
    p50: Seconds | None = Field(alias="p50_ms")
    p95: Seconds | None = Field(alias="p95_ms")
    offered_by: list[str]
    unserved: int | None = None


class Overview(Body):
    """What happens in a namespace.

    Fields:
        at: When, by the clock of the state manager.
        running, buffered, reporting: States whose ``execute`` runs, those that are claimed and have not
            begun, and those that have ended and are not reported yet, as in ``NodeLoad``.
        work_at_risk, work_at_risk_is_more: Of all nodes, as in ``NodeLoad``.
        waiting_is_more: Whether more wait than were counted.
        for_event: States that wait for events or runs, which are not among the waiting ones.
        errored: States that failed within 24 h and were not retried.
        throughput, run_throughput: Of attempts, and of runs; the second is None from an older server.
        nodes: By name.
        runtimes: The live ones first; ``MAX_RUNTIMES`` of ``runtime_count``.
        v0_runtimes: Kinds of clients that claim through v0, which does not identify them.
        runs: Those that have not ended, then others; of each the newest first.
        limits: By name.
    """

    namespace: str
    at: Moment
    running: int
    buffered: int = 0
    reporting: int = 0
    work_at_risk: Seconds | None = Field(None, alias="work_at_risk_ms")
    work_at_risk_is_more: bool = False
    waiting: int
    waiting_is_more: bool
    for_event: int = 0
    errored: int
    oldest: OldestState | None
    throughput: Throughput
    run_throughput: Throughput | None = None
    nodes: list[NodeLoad]
    runtimes: list[RuntimeInfo]
    runtime_count: int
    v0_runtimes: int
    runs: list[RunSummary]
    limits: list[LimitInfo] = Field(default_factory=list)
    versions: list[VersionInfo] = Field(default_factory=list)
