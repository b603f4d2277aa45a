"""Bodies, paths and states of the two HTTP APIs: v0 and native (``/exotrio/v1``).

The one place with milliseconds: everything else in exotrio counts float seconds. Servers parse
requests with these models and clients parse replies with them, so both sides agree by
construction. Unknown fields are ignored everywhere, strings are strict and integers lax, as in
the stock state manager.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from exotrio._backoff import LONGEST_DELAY_MS
from exotrio._graph import GraphNodeModel, Name, RetryPolicyModel, StoreConfigModel, TriggerModel

NATIVE_ROOT = "/exotrio/v1"
NATIVE_VERSION = "1"
KEY_HEADER = "x-api-key"
REQUEST_ID_HEADER = "X-Exosphere-Request-ID"
LEASE_HEADER = "x-exotrio-lease"
"""Token of the lease a secrets request is made under."""
LONGEST_WAIT_MS = 15_000
"""Longest long poll; also what every client adds to its timeout when it asks to wait."""
LARGEST_BATCH = 1_000
"""Most states one claim returns, and most items of one native batch."""

DelayMs = Annotated[int, Field(ge=0, le=LONGEST_DELAY_MS)]


class StateStatus(StrEnum):
    """Status of a state. The eight of v0; no others exist."""

    CREATED = "CREATED"
    QUEUED = "QUEUED"
    EXECUTED = "EXECUTED"
    SUCCESS = "SUCCESS"
    ERRORED = "ERRORED"
    NEXT_CREATED_ERROR = "NEXT_CREATED_ERROR"
    RETRY_CREATED = "RETRY_CREATED"
    PRUNED = "PRUNED"


class RunStatus(StrEnum):
    """Status of a run, derived from its states."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class ValidationStatus(StrEnum):
    """Whether a graph can be triggered."""

    PENDING = "PENDING"
    VALID = "VALID"
    INVALID = "INVALID"


def to_ms(seconds: float) -> int:
    """Return ``seconds`` in whole milliseconds, rounded up so that no delay becomes zero."""
    return math.ceil(round(seconds * 1000, 6))


def from_ms(ms: int) -> float:
    """Return ``ms`` in seconds."""
    return ms / 1000


def v0_path(namespace: str, *segments: str | int) -> str:
    """Return ``/v0/namespace/{namespace}/...`` with every segment percent-encoded."""
    return "/".join(("/v0/namespace", *(quote(str(part), safe="") for part in (namespace, *segments))))


def native_path(namespace: str, *segments: str | int) -> str:
    """Return ``/exotrio/v1/namespace/{namespace}/...`` with every segment percent-encoded."""
    parts = (quote(str(part), safe="") for part in (namespace, *segments))
    return "/".join((f"{NATIVE_ROOT}/namespace", *parts))


class Body(BaseModel):
    """Base of the bodies. Their validators are built at first use: all of them together would cost
    every ``import exotrio`` 20 ms."""

    model_config = ConfigDict(defer_build=True)


# -- v0: nodes and graphs


class NodeDeclaration(Body):
    """A node class as it is registered."""

    name: Name
    inputs_schema: dict[str, Any]
    outputs_schema: dict[str, Any]
    secrets: list[str]


class RegisterRequest(Body):
    runtime_name: str
    nodes: list[NodeDeclaration]


class RegisterReply(Body):
    runtime_name: str
    registered_nodes: list[NodeDeclaration]


class GraphReply(Body):
    """A graph as the state manager shows it: secrets by name only."""

    nodes: list[GraphNodeModel]
    secrets: dict[str, bool]
    retry_policy: RetryPolicyModel
    store_config: StoreConfigModel
    triggers: list[TriggerModel]
    created_at: str
    updated_at: str
    validation_status: ValidationStatus
    validation_errors: list[str]


# -- v0: runs and states


class TriggerRequest(Body):
    inputs: dict[str, str] = Field(default_factory=dict)
    store: dict[str, str] = Field(default_factory=dict)
    start_delay: DelayMs = 0


class TriggerReply(Body):
    status: StateStatus
    run_id: str


class ClaimRequest(Body):
    nodes: list[str]
    batch_size: int


class ClaimedState(Body):
    state_id: str
    node_name: str
    identifier: str
    inputs: dict[str, Any]
    created_at: str


class ClaimReply(Body):
    count: int
    namespace: str
    status: StateStatus
    states: list[ClaimedState]


class ExecutedRequest(Body):
    outputs: list[dict[str, Any]]


class ExecutedReply(Body):
    status: StateStatus


class ErroredRequest(Body):
    error: str


class ErroredReply(Body):
    status: StateStatus
    retry_created: bool


class PruneRequest(Body):
    data: dict[str, Any]


class RequeueRequest(Body):
    enqueue_after: Annotated[int, Field(gt=0, le=LONGEST_DELAY_MS)]


class SignalReply(Body):
    """Reply to prune and re-enqueue-after."""

    status: StateStatus
    enqueue_after: int


class ManualRetryRequest(Body):
    fanout_id: str = Field(max_length=256)


class ManualRetryReply(Body):
    id: str
    status: StateStatus


class SecretsReply(Body):
    secrets: dict[str, str]


class RunSummary(Body):
    run_id: str
    graph_name: str
    success_count: int
    pending_count: int
    errored_count: int
    retried_count: int
    total_count: int
    status: RunStatus
    created_at: str


class RunsReply(Body):
    namespace: str
    total: int
    page: int
    size: int
    runs: list[RunSummary]


class StateNode(Body):
    """A state in the graph of its run."""

    id: str
    node_name: str
    identifier: str
    status: StateStatus
    error: str | None


class Edge(Body):
    source: str
    target: str


class RunGraphReply(Body):
    root_states: list[StateNode]
    graph_name: str
    nodes: list[StateNode]
    edges: list[Edge]
    node_count: int
    edge_count: int
    execution_summary: dict[str, int]


class StateDetail(Body):
    """One state in full."""

    id: str
    node_name: str
    identifier: str
    graph_name: str
    run_id: str
    status: StateStatus
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    error: str | None
    parents: dict[str, str]
    created_at: str
    updated_at: str


# -- native


class Discovery(Body):
    """Reply of ``GET /exotrio/v1``: says that this server is ours, and what it can do."""

    version: str
    capabilities: list[str]


class NativeClaimRequest(Body):
    """Claim states under a lease.

    Fields:
        worker_id: Who claims; names the process for operators.
        limits: Node name to the most states of it.
        limit: Most states in all.
        wait_ms: How long to wait for a first state.
        claim_id: Chosen by the client. The same id again returns the states still held under it.
    """

    worker_id: Annotated[str, Field(min_length=1, max_length=256)]
    limits: dict[str, Annotated[int, Field(ge=0)]]
    limit: Annotated[int, Field(ge=0)]
    wait_ms: Annotated[int, Field(ge=0, le=LONGEST_WAIT_MS)] = 0
    claim_id: Annotated[str, Field(min_length=1, max_length=256)]


class Lease(Body):
    """The right to report a state.

    Fields:
        token: Sent back with the outcome; only the state's last token is accepted.
        ttl_ms: Time left before the state is given to somebody else, or None if it never is.
        attempt: 1 for the first attempt, then one more for each retry.
        deliveries: How often the state was claimed before, without an outcome.
    """

    token: str
    ttl_ms: int | None
    attempt: int
    deliveries: int


class NativeState(Body):
    state_id: str
    node_name: str
    identifier: str
    graph_name: str
    run_id: str
    inputs: dict[str, Any]
    created_at: str
    lease: Lease


class NativeClaimReply(Body):
    states: list[NativeState]


class _ReportItem(Body):
    state_id: str
    token: str


class ExecutedItem(_ReportItem):
    outcome: Literal["executed"] = "executed"
    outputs: list[dict[str, Any]]


class ErroredItem(_ReportItem):
    outcome: Literal["errored"] = "errored"
    error: str


class PrunedItem(_ReportItem):
    outcome: Literal["pruned"] = "pruned"
    data: dict[str, Any]


class RequeuedItem(_ReportItem):
    outcome: Literal["requeued"] = "requeued"
    delay_ms: Annotated[int, Field(gt=0, le=LONGEST_DELAY_MS)]


OutcomeItem = Annotated[
    ExecutedItem | ErroredItem | PrunedItem | RequeuedItem, Field(discriminator="outcome")
]
"""One item of ``POST .../outcomes``, whose body is a bare list of them."""

outcome_item: TypeAdapter[OutcomeItem] = TypeAdapter(OutcomeItem, config=ConfigDict(defer_build=True))


class ItemResult(StrEnum):
    """What became of one item of a native batch."""

    OK = "ok"
    """Done now."""
    DUPLICATE = "duplicate"
    """The same was already done under this token; nothing changed."""
    STALE = "stale"
    """The token is no longer the state's, or the state already ended otherwise."""
    UNKNOWN = "unknown"
    """There is no such state in this namespace."""
    INVALID = "invalid"
    """The item itself cannot be accepted, now or later."""


class ItemReply(Body):
    state_id: str
    result: ItemResult
    detail: str | None = None


class ItemsReply(Body):
    """Reply to a native batch: one entry per item, in the order of the request."""

    items: list[ItemReply]


class HeldState(Body):
    """A state and the token it is held under."""

    state_id: str
    token: str


class ReleaseRequest(Body):
    """Hand states back: either ``states``, or all that is held under ``claim_id``, which voids it."""

    states: Annotated[list[HeldState], Field(max_length=LARGEST_BATCH)] | None = None
    claim_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    delay_ms: DelayMs = 0


class Beat(HeldState):
    """A held state in a heartbeat.

    Fields:
        running: Whether its node runs; else it waits for a worker.
    """

    running: bool = False


class HeartbeatRequest(Body):
    """A sign of life of a worker process, which renews the leases of all it holds.

    Fields:
        worker_id: As in its claims.
        runtime: Name of the runtime.
        phase: Phase of the runtime.
        busy: Workers that run a node.
        buffered: States that wait for a worker.
        states: All it holds.
    """

    worker_id: Annotated[str, Field(min_length=1, max_length=256)]
    runtime: Annotated[str, Field(max_length=256)] = ""
    phase: Annotated[str, Field(max_length=32)] = ""
    busy: Annotated[int, Field(ge=0)] = 0
    buffered: Annotated[int, Field(ge=0)] = 0
    states: Annotated[list[Beat], Field(max_length=LARGEST_BATCH)] = Field(default_factory=list)


class BeatResult(StrEnum):
    """What a heartbeat learns of a state."""

    OK = "ok"
    """Its lease is renewed."""
    LOST = "lost"
    """It is no longer held under this token: stop working on it."""
    CANCELLED = "cancelled"
    """Its run was cancelled: stop working on it."""


class BeatReply(Body):
    state_id: str
    result: BeatResult


class HeartbeatReply(Body):
    """Reply to a heartbeat.

    Fields:
        items: One per state, in the order of the request.
        ttl_ms: How long the renewed leases last, or None if they never end.
        commands: What an operator asks of the worker: ``drain``.
    """

    items: list[BeatReply]
    ttl_ms: Annotated[int, Field(ge=1)] | None = None
    commands: list[str] = Field(default_factory=list)


def _uuid(text: str) -> str:
    from uuid import UUID

    return str(UUID(text))


class NativeTriggerRequest(TriggerRequest):
    """As v0, plus a run id chosen by the client, which makes the request repeatable."""

    run_id: Annotated[str, AfterValidator(_uuid)]


class NodeCounts(Body):
    """How many states of one place of a graph have which status."""

    identifier: str
    node_name: str
    counts: dict[StateStatus, int]


class NativeRun(RunSummary):
    """One run with its counts per place, in the order of the template."""

    nodes: list[NodeCounts]
