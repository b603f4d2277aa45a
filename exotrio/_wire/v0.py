"""Bodies of API v0.

Unknown fields are ignored everywhere, strings are strict and integers lax, as in the stock state manager.
"""

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any

from pydantic import AfterValidator, Field, computed_field
from pydantic_core import to_json

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._wire.body import Body, DelayMs, Moment, Seconds, Texts
from exotrio._wire.vocabulary import (
    MAX_BATCH,
    MAX_OUTPUTS,
    Priority,
    RunStatus,
    StateStatus,
    check_key,
    run_word,
)
from exotrio.graph import Name

# -- nodes


class NodeDeclaration(Body):
    """A node class as it is registered."""

    name: Name
    inputs_schema: dict[str, Any]
    outputs_schema: dict[str, Any]
    secrets: Annotated[list[str], Field(fail_fast=True)]

    @property
    def fields(self) -> str:
        """The names of inputs, a ``=`` after those with a default, and of outputs, in one line."""
        required = self.inputs_schema.get("required", [])
        inputs = [
            name if name in required else f"{name}="
            for name in sorted(self.inputs_schema.get("properties", {}))
        ]
        return f"({', '.join(inputs)}) -> ({', '.join(sorted(self.outputs_schema.get('properties', {})))})"

    @property
    def digest(self) -> str:
        """A digest that differs between two declarations of the same name."""
        return declaration_digest(*map(to_json, (self.inputs_schema, self.outputs_schema, self.secrets)))


def declaration_digest(inputs_schema: bytes, outputs_schema: bytes, secrets: bytes) -> str:
    """Return ``NodeDeclaration.digest`` of parts in JSON, in the order in which they were declared."""
    return sha256(b"\0".join((inputs_schema, outputs_schema, secrets))).hexdigest()[:16]


class RegisterRequest(Body):
    """``wants_broken_runs``: whether the reply is to have ``broken_runs``; a v0 server is not sent it."""

    runtime_name: str
    nodes: Annotated[list[NodeDeclaration], Field(max_length=MAX_BATCH)]
    wants_broken_runs: bool = False


class RegisterReply(Body):
    """``broken_runs``: which runs in flight cannot go on with these nodes, in one line, if any."""

    runtime_name: str
    registered_nodes: list[NodeDeclaration]
    broken_runs: str | None = None


class RegisteredNode(Body):
    """A node class as the state manager has it; only ours can pause it."""

    id: str = Field("", alias="_id")
    name: str
    namespace: str
    runtime_name: str
    inputs_schema: dict[str, Any]
    outputs_schema: dict[str, Any]
    secrets: list[str]
    created_at: Moment
    updated_at: Moment
    paused_at: Moment | None = None


class NamespacesReply(Body):
    namespaces: list[str]


class NodesReply(Body):
    nodes: list[RegisteredNode]


# -- runs and states

RunKey = Annotated[str, AfterValidator(check_key)]


class TriggerRequest(Body):
    """A run to start; a second request with the same ``key`` is for the same run. Stock servers ignore it."""

    inputs: Texts = Field(default_factory=dict)
    store: Texts = Field(default_factory=dict)
    start_delay: DelayMs = 0
    key: RunKey | None = None


class TriggerReply(Body):
    """A run that was started, or existed already; ``created`` says which. v0 has that only for runs with a
    key."""

    status: StateStatus
    run_id: str
    created: bool = True


class ClaimRequest(Body):
    # As many as a runtime can register: each costs a query.
    nodes: Annotated[list[str], Field(fail_fast=True, max_length=MAX_BATCH)]
    batch_size: int


class OutcomeReply(Body):
    """Reply to an outcome."""

    status: StateStatus


class ExecutedRequest(Body):
    outputs: Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_OUTPUTS)]


class ErroredRequest(Body):
    error: str


class PruneRequest(Body):
    data: dict[str, Any]


class RequeueRequest(Body):
    enqueue_after: Annotated[int, Field(gt=0, le=MAX_DELAY_MS)]


class ManualRetryRequest(Body):
    """``from_beginning``: without the checkpoint of the state. Only our state manager stores checkpoints."""

    fanout_id: str = Field(max_length=256)
    from_beginning: bool = False


class StateRetry(Body):
    """The new state that replaces one retried by hand."""

    id: str
    status: StateStatus


class SecretsReply(Body):
    secrets: dict[str, str]


class RunSummary(Body):
    """A run in a list.

    Fields:
        success_count: States that ended as SUCCESS or PRUNED.
        pending_count: CREATED, QUEUED and EXECUTED.
        for_event_count, for_run_count: Those of ``pending_count`` that wait for events, and for runs; 0 from
            v0, and the second one from an older server.
        errored_count: ERRORED and NEXT_CREATED_ERROR.
        retried_count: RETRY_CREATED.
        pruned_count: Those of ``success_count`` that are PRUNED; 0 from an older server.
        created_at: None if it is derived from the states of a run on a v0 server.
        finished_at: When its last pending state ended; None until then.
        key: The key that it was triggered with, if any.
        priority, weight, fair_key: In which order its states are claimed, as in ``trigger``.
        started_by: The name of the key that started it, as in ``Change.who``; None if a schedule did, or if
            that is not known.
        origin: What triggered it: ``api``, ``dashboard``, ``schedule``, ``graph`` (a state of another run,
            which waits for its end) or ``failure`` (another run ended with errors); None if not known.
        parent_run_id: That other run; None if there is none, or if it was deleted.
        idle: Seconds for which it had ended and waited to be retried.
        duration: Seconds from its start to its end without ``idle``; None until it ended.

    In lists of a v0 server ``pruned_count`` is 0. From it, the last ten are the defaults, and
    ``finished_at`` and ``duration`` are None.
    """

    run_id: str
    graph_name: str
    success_count: int
    pending_count: int
    errored_count: int
    retried_count: int
    total_count: int
    pruned_count: int = 0
    for_event_count: int = 0
    for_run_count: int = 0
    status: RunStatus
    created_at: Moment | None
    finished_at: Moment | None = None
    cancelled_at: Moment | None = None
    key: str | None = None
    priority: str = Priority.NORMAL.value
    weight: float = 1.0
    fair_key: str | None = None
    started_by: str | None = None
    origin: str | None = None
    parent_run_id: str | None = None
    idle: Seconds = Field(default=0.0, alias="idle_ms")

    @computed_field(alias="duration_ms")  # type: ignore[prop-decorator]
    @property
    def duration(self) -> Seconds | None:
        """Seconds from its start to its end without ``idle``; None until it ended, and from v0."""
        return None if self.finished_at is None else self.duration_until(self.finished_at)

    @property
    def word(self) -> str:
        """Its status, as pages and commands show it."""
        waits = 0 < self.pending_count == self.for_event_count + self.for_run_count
        return run_word(self.status, is_cancelled=self.cancelled_at is not None, waits=waits)

    def duration_until(self, now: datetime) -> float | None:
        """Return its duration, or how many seconds it has taken so far; None from v0."""
        if self.created_at is None:
            return None
        seconds = ((self.finished_at or now) - self.created_at).total_seconds() - self.idle
        return max(0.0, seconds)  # the clock may have been set back


class RunList(Body):
    """A page of runs by its number."""

    namespace: str
    total: int
    page: int
    size: int
    runs: list[RunSummary]


AnyStatus = Annotated[StateStatus | str, Field(union_mode="left_to_right")]
"""A status in an answer. A newer server may have others than are known here."""


class StateNode(Body):
    """A state in the graph of its run."""

    id: str
    node_name: str
    identifier: str
    status: AnyStatus
    error: str | None


class StateEdge(Body):
    """One state follows another; ``source`` and ``target`` are their ids."""

    source: str
    target: str


class RunGraph(Body):
    """The states of a run, in the order of their creation, and how they follow each other."""

    root_states: list[StateNode]
    graph_name: str
    nodes: list[StateNode]
    edges: list[StateEdge]
    node_count: int
    edge_count: int
    execution_summary: dict[str, int]


class StateDetail(StateNode):
    """One state in full."""

    graph_name: str
    run_id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    parents: dict[str, str]
    created_at: Moment
    updated_at: Moment
