"""Body of the native route by which a state manager says how it is itself. As in ``_wire``, both sides
use it."""

from __future__ import annotations

from pydantic import Field

from exotrio._wire.body import Body


class HeldClaims(Body):
    """The QUEUED states of one node.

    Fields:
        leased: Under a lease, which ends by itself if its holder is not heard of.
        local: Held by a runtime in the process of the state manager.
        timed: Claimed through v0, and given away again once the claim timeout is over.
        leaseless: Claimed through v0 for ever: only their holder can end them, and nobody knows who that is.
        oldest_leaseless_ms: Since the first of those was claimed; 0 without any.
        overdue: Of all, those whose lease or timeout is over, and which were not given away yet.
        overdue_ms: Since the first of those should have been.
    """

    node: str
    leased: int
    local: int
    timed: int
    leaseless: int
    oldest_leaseless_ms: int
    overdue: int
    overdue_ms: int


class LostLeases(Body):
    """What happened to leases in the last hour.

    Fields:
        lost: Leases that ended without an outcome.
        poison: States that lost too many and became errors.
    """

    lost: int
    poison: int


class Version(Body):
    """One form in which live runtimes have a node.

    Fields:
        fields: The names of its inputs, a ``=`` behind those with a default, and of its outputs.
        runtimes: Name and id of those that have it.
    """

    fields: str
    runtimes: list[str]


class Disagreement(Body):
    """A node that live runtimes have with different inputs or outputs."""

    node: str
    versions: list[Version]


class DatabaseState(Body):
    """The database, with all namespaces.

    Fields:
        in_memory: It ends with the process.
        size: Bytes, those that are free for reuse included.
        log_size: Bytes of the write-ahead log.
        schema_version: Of its tables.
        free_disk: Bytes that are left on its disk; None in memory.
    """

    in_memory: bool
    size: int
    log_size: int
    schema_version: int
    free_disk: int | None


class Checkup(Body):
    """How a state manager is.

    Fields:
        at_ms: Its clock, in Unix milliseconds.
        version: Of exotrio.
        lease_ttl_ms: How long a lease holds without a heartbeat.
        claim_timeout_ms: How long a claim through v0 holds; None for ever.
        claims: By node of the namespace, those of which any state is QUEUED.
        leases: Of states of the namespace.
        disagreements: Of live runtimes of the namespace.
    """

    at_ms: int
    version: str
    lease_ttl_ms: int
    claim_timeout_ms: int | None
    claims: list[HeldClaims]
    leases: LostLeases
    disagreements: list[Disagreement] = Field(default_factory=list)
    database: DatabaseState
