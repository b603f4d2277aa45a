"""Bodies of the native routes that show how a namespace, its runtimes and the state manager are.

The API calls runtimes workers.
"""

from typing import Annotated

from pydantic import Field

from exotrio._wire.body import Body, Moment, Seconds, UnixMs
from exotrio._wire.v0 import RunSummary

EXPORT_TYPE = "text/html; charset=utf-8"
MAX_RUNS = 100
MAX_RUNTIMES = 100
"""Runtimes in an overview, at most."""
DEFAULT_DEPTH = 10_000
MAX_DEPTH = 100_000
"""Waiting states of a node that are counted, at most."""


# -- runtimes


class RuntimeInfo(Body):
    """A runtime in the list of them.

    Fields:
        worker_id: Id of the process.
        runtime: Name of the Runtime; empty before its first heartbeat.
        phase: Its phase at the last heartbeat; ``starting`` before the first.
        live: Whether it sent something within the last minute, and did not announce its end.
        asked_to_drain: Whether it was asked to drain and has not begun.
        workers: How many states it runs at once; 0 if it does not say.
        busy, buffered, reporting: States that it held at its last heartbeat: that ran, that waited for a
            worker, and that had ended and whose outcome was under way.
        holds: States that it holds now, by the database.
        heard_ago: Seconds since it sent something.
        polled_ago: Seconds since its last claim; None before the first.
        nodes: Names of the nodes that it claims states of.
        shows_tasks: Whether its task tree can be asked for.
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
    heard_ago: Seconds = Field(alias="heard_ms")
    polled_ago: Seconds | None = Field(alias="polled_ms")
    nodes: list[str]
    shows_tasks: bool


class V0Runtime(Body):
    """Clients that claim the same nodes through v0, which does not identify them.

    Fields:
        nodes: Names of the nodes.
        polled_ago: Seconds since the last such claim.
    """

    nodes: list[str]
    polled_ago: Seconds = Field(alias="polled_ms")


class RuntimeList(Body):
    """Runtimes that sent something in the last ten minutes, or stopped in the last one.

    Fields:
        workers: The live ones first, by runtime and id.
        v0: Clients of v0, those with the latest claim first.
    """

    workers: list[RuntimeInfo]
    v0: list[V0Runtime]


class CommandReply(Body):
    """A command for a runtime was accepted; its next heartbeat fetches it."""

    worker_id: str
    command: str


class TasksReply(Body):
    """The last task tree of a runtime.

    Fields:
        asked: Whether another one was asked for and has not come yet.
        tasks: None before the first one.
        age_ms: Time since it came.
    """

    worker_id: str
    asked: bool
    tasks: str | None
    age_ms: int | None


# -- the namespace


class OverviewQuery(Body):
    """Query of the route that shows an overview, with that many of the newest runs."""

    runs: Annotated[int, Field(ge=0, le=MAX_RUNS)] = 10


class ExportQuery(Body):
    """Query of the route that exports a run, with inputs, outputs and values of the store or without."""

    values: bool = True


class DepthQuery(Body):
    """Query of the route that shows how many states wait."""

    limit: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = DEFAULT_DEPTH


class QueueDepth(Body):
    """How many states wait, which is counted without anything else being read.

    Fields:
        nodes: States that wait of each registered node, also those that are not due yet and those of a paused
            node; counted up to the limit of the query.
    """

    nodes: dict[str, int]


class OldestState(Body):
    """The state that has been due longest.

    Fields:
        node: Its node.
        due: Seconds that it has been due.
    """

    node: str
    due: Seconds = Field(alias="waits_ms")


class Throughput(Body):
    """Attempts that ended in the last hour, by minute; the last minute is the present one.

    Fields:
        first_minute: When the first of these minutes began, in minutes of Unix time.
        ended: How many attempts ended.
        failed: How many of those failed, retried ones included.
    """

    first_minute: int
    ended: list[int]
    failed: list[int]


class NodeLoad(Body):
    """A registered node.

    Fields:
        waiting: Waiting states, those that are due later included; counted up to 100,000.
        eligible: Those of them that are due; 0 if the node is paused.
        oldest_due: Seconds that the first of those has been due; 0 without any.
        running: States that a runtime holds.
        ended, failed: Attempts of the last hour.
        p50, p95: Seconds that those ran; None without any.
        offered_by: Names of the live runtimes that claim its states.
        paused_at: Since when it is paused; None if it is not.
    """

    name: str
    waiting: int
    eligible: int
    oldest_due: Seconds = Field(alias="oldest_ms")
    running: int
    ended: int
    failed: int
    p50: Seconds | None = Field(alias="p50_ms")
    p95: Seconds | None = Field(alias="p95_ms")
    offered_by: list[str]
    paused_at: Moment | None = None


class Overview(Body):
    """What happens in a namespace.

    Fields:
        at: When, by the clock of the state manager.
        running: States that runtimes hold.
        waiting: States that wait.
        waiting_is_more: Whether there are more than were counted.
        errored: States that failed within 24 h and were not retried.
        oldest: The state that has been due longest, if any is due.
        nodes: By name.
        runtimes: The live ones first; ``MAX_RUNTIMES`` of ``runtime_count``.
        v0_runtimes: Kinds of clients that claim through v0, which does not identify them.
        runs: The newest ones.
    """

    namespace: str
    at: Moment
    running: int
    waiting: int
    waiting_is_more: bool
    errored: int
    oldest: OldestState | None
    throughput: Throughput
    nodes: list[NodeLoad]
    runtimes: list[RuntimeInfo]
    runtime_count: int
    v0_runtimes: int
    runs: list[RunSummary]


# -- the state manager and its database


STALE = 900.0
"""Seconds after which a claim without a lease counts as stuck, unless somebody says otherwise."""


class HeldClaims(Body):
    """The QUEUED states of one node.

    Fields:
        leased: Held under a lease, which expires without heartbeats of the holder.
        local: Held by a runtime in the process of the state manager.
        timed: Claimed through v0 until the claim timeout.
        leaseless: Claimed through v0 without a timeout: only their holder can end them, and it is unknown.
        oldest_leaseless: Seconds since the first of those was claimed; 0 without any.
        overdue: Those whose lease or timeout expired, and which did not become claimable yet.
        overdue_for: Seconds since the first of those expired.
    """

    node: str
    leased: int
    local: int
    timed: int
    leaseless: int
    oldest_leaseless: Seconds = Field(alias="oldest_leaseless_ms")
    overdue: int
    overdue_for: Seconds = Field(alias="overdue_ms")


class LostLeases(Body):
    """Lost leases of the last hour.

    Fields:
        lost: Leases that expired without an outcome.
        poison: States that lost too many leases and became errors.
    """

    lost: int
    poison: int


class NodeVersion(Body):
    """One version of a node among live runtimes.

    Fields:
        fields: The names of its inputs, a ``=`` behind those with a default, and of its outputs.
        runtimes: Name and id of the runtimes with this version.
    """

    fields: str
    runtimes: list[str]


class Disagreement(Body):
    """A node whose inputs or outputs differ between live runtimes."""

    node: str
    versions: list[NodeVersion]


class HorizonHolder(Body):
    """What keeps PostgreSQL from removing rows that no query needs any more.

    Fields:
        holder: What it is: a session, a prepared transaction, or a replication slot.
        transactions: How many have begun since.
        held_for: Seconds; None if PostgreSQL does not say.
    """

    holder: str
    transactions: int
    held_for: Seconds | None = Field(alias="held_ms")


class TableState(Body):
    """A table whose rows change often, with its rows and those that wait to be removed, both estimated."""

    name: str
    rows: int
    dead: int


class ReplicationSlot(Body):
    """A replication slot, which makes PostgreSQL keep its log for a consumer.

    Fields:
        active: Whether the consumer is connected.
        kept: Bytes of the log that are kept.
    """

    name: str
    active: bool
    kept: int


class ManagerState(Body):
    """A state manager at the database.

    Fields:
        id: Of its process.
        version: Its version of exotrio.
        schema_version: The newest version of the tables that it knows.
        clock_ahead: Seconds by which its clock is ahead of PostgreSQL's.
        seen_ago: Seconds since it last wrote that it is there.
    """

    id: str
    version: str
    schema_version: int
    clock_ahead: Seconds = Field(alias="clock_ahead_ms")
    seen_ago: Seconds = Field(alias="seen_ms")


class PostgresState(Body):
    """What is particular to PostgreSQL.

    Fields:
        version: Of the server.
        connections: How many there are, to all databases of the server.
        max_connections: How many there may be.
        switched_off: Settings that protect data or speed, and are off.
        horizon: The oldest that needs removed rows; None if nothing does.
        tables: Those that change most.
        slots: Its replication slots.
        managers: The state managers that share the database, the oldest first.
    """

    version: str
    connections: int
    max_connections: int
    switched_off: list[str]
    horizon: HorizonHolder | None
    tables: list[TableState]
    slots: list[ReplicationSlot]
    managers: list[ManagerState]


class DatabaseState(Body):
    """The database, of all namespaces.

    Fields:
        in_memory: Whether it is lost when the process ends.
        size: Bytes, those that are free for reuse included.
        log_size: Bytes of the write-ahead log; 0 of PostgreSQL, which keeps one for all databases.
        schema_version: Version of its tables.
        free_disk: Free bytes on its disk; None in memory, and of PostgreSQL, which does not tell.
        commit_time: Seconds, the median of the last commits of this state manager; None after a few, and of
            older ones.
        sqlite: Version of SQLite; None of PostgreSQL, and of older state managers.
        postgres: What is particular to PostgreSQL; None of SQLite.
    """

    in_memory: bool
    size: int
    log_size: int
    schema_version: int
    free_disk: int | None
    commit_time: Seconds | None = Field(None, alias="commit_ms")
    sqlite: str | None = None
    postgres: PostgresState | None = None


class Checkup(Body):
    """The condition of a state manager.

    Fields:
        at: Its clock.
        version: Its version of exotrio.
        lease_ttl: Seconds that a lease lasts without a heartbeat.
        claim_timeout: Seconds that a claim through v0 lasts; None: for ever.
        claims: The QUEUED states of the namespace, by node.
        leases: Lost leases of the namespace.
        disagreements: Nodes that differ between live runtimes of the namespace.
    """

    at: UnixMs = Field(alias="at_ms")
    version: str
    lease_ttl: Seconds = Field(alias="lease_ttl_ms")
    claim_timeout: Seconds | None = Field(alias="claim_timeout_ms")
    claims: list[HeldClaims]
    leases: LostLeases
    disagreements: list[Disagreement] = Field(default_factory=list)
    database: DatabaseState
