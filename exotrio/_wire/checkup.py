"""Bodies of the native route that shows the condition of a state manager and its database."""

from pydantic import Field

from exotrio._wire.body import Body, Moment, Seconds, UnixMs

STALE = 900.0
"""Seconds after which a claim without a lease counts as stuck by default."""


class HeldClaims(Body):
    """The QUEUED states of one node.

    Fields:
        leased: Held under a lease, which expires without heartbeats of the holder.
        local: Held by a runtime in the process of the state manager.
        timed: Claimed through v0 until the claim timeout.
        leaseless: Claimed through v0 without a timeout: only their holder, which is unknown, can end them.
        oldest_leaseless: Seconds since the first of those was claimed; 0 without any.
        overdue: Those whose lease or timeout expired, and which are not claimable yet.
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
    """Leases that ended without an outcome in the last hour, and that their runtimes did not renew later; and
    states that became errors since they lost too many (``poison``)."""

    lost: int
    poison: int


class NodeVersion(Body):
    """One version of a node among live runtimes; ``fields`` is as ``NodeDeclaration.fields``."""

    fields: str
    runtimes: list[str]


class Disagreement(Body):
    """A node whose inputs or outputs differ between live runtimes."""

    node: str
    versions: list[NodeVersion]


class HorizonHolder(Body):
    """What keeps PostgreSQL from removing rows that no query needs any more.

    Fields:
        holder: A session, a prepared transaction, or a replication slot.
        transactions: How many transactions have begun since it began to hold them.
        held_for: Seconds since it began, if PostgreSQL knows.
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
    """A replication slot, for whose consumer PostgreSQL keeps ``kept`` bytes of its log; ``active``: whether
    that is connected."""

    name: str
    active: bool
    kept: int


class ManagerState(Body):
    """A state manager that uses the database.

    Fields:
        version: Its version of exotrio.
        schema_version: The newest version of the tables that it knows.
        clock_ahead: Seconds by which its clock is ahead of PostgreSQL's.
        seen_ago: Seconds since its last sign of life.
    """

    id: str
    version: str
    schema_version: int
    clock_ahead: Seconds = Field(alias="clock_ahead_ms")
    seen_ago: Seconds = Field(alias="seen_ms")


class PostgresState(Body):
    """The condition of a PostgreSQL server.

    Fields:
        connections: To all its databases.
        switched_off: Settings that protect data or speed, and are off.
        horizon: The holder that has needed removed rows longest, if any.
        tables: Those that change most.
        managers: The state managers that share the database, the oldest first.
        refused: The hosts of the URL that this state manager refused within the hour, and why.
    """

    version: str
    connections: int
    max_connections: int
    switched_off: list[str]
    horizon: HorizonHolder | None
    tables: list[TableState]
    slots: list[ReplicationSlot]
    managers: list[ManagerState]
    refused: list[str] = Field(default_factory=list)


class DatabaseState(Body):
    """The database, of all namespaces.

    Fields:
        in_memory: Whether it is lost when the process ends.
        size: Bytes, those that are free for reuse included.
        log_size: Bytes of the write-ahead log; 0 on PostgreSQL, which has one for all databases.
        schema_version: Version of its tables.
        free_disk: Free bytes on its disk; None in memory and on PostgreSQL.
        commit_time: Median seconds of the last commits of this state manager; None before the first ones.
        sqlite: Version of SQLite; None on PostgreSQL.
    """

    in_memory: bool
    size: int
    log_size: int
    schema_version: int
    free_disk: int | None
    commit_time: Seconds | None = Field(None, alias="commit_ms")
    sqlite: str | None = None
    postgres: PostgresState | None = None


class UnstartedRun(Body):
    """A failed run of the last 24 h for which ``Graph.on_failure`` started no run, or a graph whose failures
    can start none now.

    Fields:
        graph, on_failure: The graph that names another one, and its name.
        run_id, at: The run that failed, and when; None if none did.
    """

    graph: str
    on_failure: str
    problem: str
    run_id: str | None = None
    at: Moment | None = None


class Checkup(Body):
    """The condition of a state manager.

    Fields:
        at: Its clock.
        version: Its version of exotrio.
        lease_ttl: Seconds that a lease lasts without a heartbeat.
        claim_timeout: Seconds that a claim through v0 lasts; None: without a limit.
        claims: The QUEUED states of the namespace, by node.
        unstarted: What failures could not start, newest first, and graphs whose failures could start nothing.
        namespaces: Those with nodes, graphs or limits that the key may read; none from an earlier server.
        unwritable: Why the last commit of this state manager failed; empty if it did not. Only that it did,
            if the key may not see the database.
        database: None if the key may neither read all namespaces nor has the scope ``admin``.
    """

    at: UnixMs = Field(alias="at_ms")
    version: str
    lease_ttl: Seconds = Field(alias="lease_ttl_ms")
    claim_timeout: Seconds | None = Field(alias="claim_timeout_ms")
    claims: list[HeldClaims]
    leases: LostLeases
    disagreements: list[Disagreement] = Field(default_factory=list)
    unstarted: list[UnstartedRun] = Field(default_factory=list)
    namespaces: list[str] = Field(default_factory=list)
    unwritable: str = ""
    database: DatabaseState | None
