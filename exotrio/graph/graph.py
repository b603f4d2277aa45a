"""``Graph``: a graph in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, field_validator

from exotrio.graph.declaration import (
    CronTrigger,
    Declaration,
    GraphNodeModel,
    Name,
    RetryPolicyModel,
    StoreConfigModel,
)


class Graph(Declaration):
    """A graph declared in Python, ready for ``StateManager.upsert_graph`` or ``python -m exotrio run``.

    Args:
        name: Name of the graph in its namespace.
        nodes: The places of the graph; exactly one has nothing before it, the root.
        secrets: Secret name to value. Values are encrypted at rest and never shown again.
        retry_policy: Defaults to ``RetryPolicyModel()``.
        store_config: Defaults to an empty store.
        triggers: Cron triggers. Defaults to none.

    Raises:
        pydantic.ValidationError: a field breaks its rule; every problem is named.
    """

    name: Name
    nodes: list[GraphNodeModel]
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    retry_policy: RetryPolicyModel = Field(default_factory=RetryPolicyModel)
    store_config: StoreConfigModel = Field(default_factory=StoreConfigModel)
    triggers: list[CronTrigger] = Field(default_factory=list)

    def __init__(
        self,
        name: str,
        nodes: Sequence[GraphNodeModel | Mapping[str, Any]],
        **fields: Any,
    ) -> None:
        BaseModel.__init__(self, name=name, nodes=list(nodes), **fields)

    @field_validator("nodes")
    @classmethod
    def _has_nodes(cls, nodes: list[GraphNodeModel]) -> list[GraphNodeModel]:
        if not nodes:
            raise ValueError("a graph needs at least one node")
        return nodes
