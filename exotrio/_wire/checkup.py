"""Body of the native route that shows the condition of a state manager and its database."""

from __future__ import annotations

from pydantic import Field

from exotrio._wire.body import Body, Seconds, UnixMs


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


class DatabaseState(Body):
    """The database, of all namespaces.

    Fields:
        in_memory: Whether it is lost when the process ends.
        size: Bytes, those that are free for reuse included.
        log_size: Bytes of the write-ahead log.
        schema_version: Version of its tables.
        free_disk: Free bytes on its disk; None in memory.
    """

    in_memory: bool
    size: int
    log_size: int
    schema_version: int
    free_disk: int | None


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
