"""The nodes of a graph as users declare them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.words import listed
from exotrio.graph.conditions import ConditionModel
from exotrio.graph.declaration import (
    GRAPH_NODE,
    MAX_LIMITS_OF_NODE,
    MAX_NODES,
    PART,
    WAIT_NODE,
    Declaration,
    Identifier,
    Name,
    SparseDeclaration,
    check_name,
    no_repeated_limits,
    no_repeats,
    trimmed,
)
from exotrio.graph.placeholders import lacks_dollar
from exotrio.graph.retry_policy import RetryPolicyModel


class UnitesStrategyEnum(StrEnum):
    """When a united node may run."""

    ALL_SUCCESS = "ALL_SUCCESS"
    """No state of the group is waiting or failed, and at least one reached the node."""
    ALL_DONE = "ALL_DONE"
    """No state of the group is waiting; any may have failed."""


class UnitesModel(Declaration):
    """Makes a node run once for each state of ``identifier``, when everything below it ended.

    Args:
        identifier: Identifier of a node of the graph; the ``GraphNodeModel`` trims and checks it.
        strategy: Defaults to ALL_SUCCESS.
    """

    identifier: str
    strategy: UnitesStrategyEnum = UnitesStrategyEnum.ALL_SUCCESS


def _named_target(unites: UnitesModel) -> UnitesModel:
    try:
        return unites.model_copy(update={"identifier": check_name(trimmed(unites.identifier))})
    except ValueError as error:
        raise ValueError(f"the identifier {error}") from None


NamedTarget: AfterValidator = AfterValidator(_named_target)


class NodeLimitModel(SparseDeclaration):
    """A limit that a place takes part in.

    Args:
        name: Its name in the namespace of the graph.
        key: Text, as of an input, but not empty: the limit applies to states with the same key. Left out by
            default: all states without a key share the limit.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = {"key": ""}

    name: Name
    # Any, as in inputs.
    key: Any = ""

    @field_validator("key")
    @classmethod
    def _is_not_empty(cls, key: Any) -> Any:
        # Here, since an empty one is left out of what is sent and stored.
        if key == "":
            raise ValueError("it is empty: leave it out, if all states share the limit")
        return key

    @property
    def key_problem(self) -> str | None:
        """Why all states share the key, although one was given; earlier graphs may have that."""
        if isinstance(self.key, str) and lacks_dollar(self.key):
            return "has '{{' without '$': a reference is '${{ identifier.outputs.field }}'"
        return None


class WaitModel(SparseDeclaration):
    """Makes a place wait for an event: it runs no node, and its outputs are the fields of the event.

    Args:
        event: Name of the event, as text of an input: ``approved-${{ item.outputs.id }}``.
        outputs: Field name to the JSON schema of its text, as an input is registered; those with a
            ``default``, a text, may be missing in the event. Defaults to none.
        timeout_ms: Milliseconds, up to ten years. Defaults to None: it waits without a limit.
        on_timeout: What the state is then: ``"error"``, the default; ``"prune"``; or a success with these
            outputs.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = {"outputs": {}, "timeout_ms": None, "on_timeout": "error"}

    event: Annotated[str, AfterValidator(trimmed)]
    outputs: Annotated[dict[str, dict[str, Any]], Field(max_length=PART)] = Field(default_factory=dict)
    timeout_ms: int | None = Field(default=None, gt=0, le=MAX_DELAY_MS)
    on_timeout: Literal["error", "prune"] | dict[str, str] = "error"

    @model_validator(mode="after")
    def _has_given_outputs(self) -> Self:
        if not isinstance(self.on_timeout, str) and self.on_timeout.keys() != self.outputs.keys():
            raise ValueError(f"on_timeout needs a text for each output: {listed(self.outputs)}")
        if any(not isinstance(schema.get("default", ""), str) for schema in self.outputs.values()):
            raise ValueError("the default of an output is a text")
        return self


class RunGraphModel(SparseDeclaration):
    """Makes a place run another graph of the namespace: it runs no node, and its outputs are those of the
    graph.

    Args:
        name: Name of the graph, in the namespace of the graph that it stands in. It may be that graph itself.
        max_rounds: How many runs of one graph may follow each other directly, if that graph runs itself here.
            Defaults to None: only their depth is limited.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = {"max_rounds": None}

    name: Name
    max_rounds: int | None = Field(default=None, gt=0)


_OF_EXECUTIONS = ("inputs", "limits", "timeout_minutes", "retry_policy", "timeout")


class GraphNodeModel(SparseDeclaration):
    """One node of a graph: which registered node runs, with which inputs, and which nodes follow.

    Args:
        node_name: Name of the registered node (its class name).
        namespace: Namespace the node is registered in.
        identifier: Its name, unique in the graph; not ``store``.
        inputs: Input name to text; the text may hold ``${{ identifier.outputs.field }}`` and
            ``${{ store.key }}``. Defaults to none.
        next_nodes: Identifiers of the nodes that follow, or None.
        unites: Set if the node waits for everything below ``unites.identifier``.
        timeout_minutes: Limit in minutes for one execution; of it and the ``timeout`` of the node's class the
            smaller one counts. A state manager that speaks only v0 ignores it, and so does a runtime that
            claims through v0. Defaults to None: the graph sets no limit.
        limits: Limits of the namespace that its states take part in. Defaults to none.
        retry_policy: When its failed states are tried again. Defaults to None: by the policy of the graph.
        timeout: Limit in seconds for one execution, in place of the ``timeout`` of the node's class; a
            runtime that claims through v0 ignores it. Defaults to None: that of the class counts.
        wait: Set if the place waits for an event. It runs no node then: its ``node_name`` is
            ``"wait for event"``, and of the other fields it has only ``next_nodes`` and ``unites``.
        graph: Set if the place runs another graph. Its ``node_name`` is ``"run graph"`` then, and it has no
            limits and no timeout; it is tried again only by its own ``retry_policy``.
        when: The condition under which an edge to it is taken; if it is not, nothing is created. Defaults to
            None: always.
        otherwise: Whether an edge to it is taken exactly if none is from the same node to the nodes with
            ``when``. Defaults to False.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = {
        "limits": [],
        "otherwise": False,
        **dict.fromkeys(("wait", "graph", "when", *_OF_EXECUTIONS[2:])),
    }

    node_name: Name
    namespace: Annotated[str, AfterValidator(check_name)]
    identifier: Identifier
    # Any, not str: a value that is not a string is an error of the graph (400), not of a field (422).
    inputs: dict[str, Any] = Field(default_factory=dict)
    next_nodes: (
        Annotated[list[Name], Field(fail_fast=True, max_length=MAX_NODES), AfterValidator(no_repeats)] | None
    ) = None
    unites: Annotated[UnitesModel, NamedTarget] | None = None
    timeout_minutes: int | None = Field(default=None, gt=0, le=MAX_DELAY_MS // 60_000)
    limits: Annotated[
        list[NodeLimitModel], Field(max_length=MAX_LIMITS_OF_NODE), AfterValidator(no_repeated_limits)
    ] = Field(default_factory=list)
    retry_policy: RetryPolicyModel | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_DELAY_MS / 1000, allow_inf_nan=False)] | None = None
    wait: WaitModel | None = None
    graph: RunGraphModel | None = None
    when: ConditionModel | None = None
    otherwise: bool = False

    @model_validator(mode="after")
    def _is_on_one_branch(self) -> Self:
        if self.when is not None and self.otherwise:
            raise ValueError("when and otherwise: give one of them")
        if self.unites is not None and (self.when is not None or self.otherwise):
            raise ValueError(
                "a node that unites others runs if one of its branches arrives: give the condition to a node"
                " of a branch"
            )
        return self

    @model_validator(mode="after")
    def _has_one_limit_of_time(self) -> Self:
        if self.timeout is not None and self.timeout_minutes is not None:
            raise ValueError("timeout and timeout_minutes: give one of them")
        return self

    @model_validator(mode="after")
    def _waits_or_runs(self) -> Self:
        # The other way round is an error of requests only: earlier state managers stored graphs without wait.
        if self.wait is not None and self.node_name != WAIT_NODE:
            raise ValueError(f"a place that waits has the node_name {WAIT_NODE!r}")
        if self.wait is not None and any(getattr(self, name) for name in _OF_EXECUTIONS):
            raise ValueError(f"a place that waits runs no node: it has no {listed(_OF_EXECUTIONS)}")
        if self.graph is not None and (self.node_name != GRAPH_NODE or self.wait is not None):
            raise ValueError(f"a place that runs a graph has the node_name {GRAPH_NODE!r}, and no wait")
        if self.graph is not None and (self.limits or self.timeout is not None or self.timeout_minutes):
            raise ValueError("a place that runs a graph runs no node: it has no limits, and no timeout")
        return self
