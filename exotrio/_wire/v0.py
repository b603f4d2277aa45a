"""Bodies of API v0.

Servers parse requests with these models and clients parse replies with them, so both sides agree by
construction. Unknown fields are ignored everywhere, strings are strict and integers lax, as in the
stock state manager.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._wire.body import Body, DelayMs, Texts
from exotrio._wire.vocabulary import MAX_BATCH, RunStatus, StateStatus
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
        """The names of inputs, a ``=`` behind those with a default, and of outputs, in one line."""
        required = self.inputs_schema.get("required", [])
        inputs = [
            name if name in required else f"{name}="
            for name in sorted(self.inputs_schema.get("properties", {}))
        ]
        return f"({', '.join(inputs)}) -> ({', '.join(sorted(self.outputs_schema.get('properties', {})))})"


class RegisterRequest(Body):
    runtime_name: str
    nodes: Annotated[list[NodeDeclaration], Field(max_length=MAX_BATCH)]


class RegisterReply(Body):
    runtime_name: str
    registered_nodes: list[NodeDeclaration]


class RegisteredNode(Body):
    """A node class as the state manager knows it."""

    id: str = Field("", alias="_id")
    name: str
    namespace: str
    runtime_name: str
    inputs_schema: dict[str, Any]
    outputs_schema: dict[str, Any]
    secrets: list[str]
    created_at: str
    updated_at: str


class NodesReply(Body):
    nodes: list[RegisteredNode]


# -- runs and states


class TriggerRequest(Body):
    inputs: Texts = Field(default_factory=dict)
    store: Texts = Field(default_factory=dict)
    start_delay: DelayMs = 0


class TriggerReply(Body):
    status: StateStatus
    run_id: str


class ClaimRequest(Body):
    # As many as a runtime can register: each costs a query.
    nodes: Annotated[list[str], Field(fail_fast=True, max_length=MAX_BATCH)]
    batch_size: int


class OutcomeReply(Body):
    """What the replies to all outcomes have in common."""

    status: StateStatus


class ExecutedRequest(Body):
    outputs: Annotated[list[dict[str, Any]], Field(fail_fast=True)]


class ErroredRequest(Body):
    error: str


class PruneRequest(Body):
    data: dict[str, Any]


class RequeueRequest(Body):
    enqueue_after: Annotated[int, Field(gt=0, le=MAX_DELAY_MS)]


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


class StateDetail(StateNode):
    """One state in full."""

    graph_name: str
    run_id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    parents: dict[str, str]
    created_at: str
    updated_at: str
