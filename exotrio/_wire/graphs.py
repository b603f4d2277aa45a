"""Bodies of API v0 about graphs, and a graph as it is stored.

The rules of the fields are those of ``exotrio.graph``, which users declare graphs with.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from exotrio._util.cron import check_expression, check_zone, schedule_of
from exotrio._wire.body import Body, Moment, Texts
from exotrio._wire.vocabulary import Priority, ValidationStatus
from exotrio.graph import (
    GRAPH_NODE,
    MAX_LIMITS,
    MAX_NAME,
    MAX_NODES,
    WAIT_NODE,
    WITHOUT_RUNTIME,
    ConditionModel,
    CronTrigger,
    Graph,
    GraphNodeModel,
    LimitModel,
    Name,
    NamedTarget,
    Outputs,
    RetryPolicyModel,
    StoreConfigModel,
    UnitesModel,
    Version,
    no_repeated_limits,
    pinned_name,
)

MAX_EDGES = 10_000
"""Maximum number of entries of ``next_nodes`` in one graph, which determine how long the checks take."""
MAX_TRIGGERS = 100
"""Maximum for one graph: finding the next time of a rare one takes up to 20 ms."""


def _ignores_unknown(model: type[BaseModel]) -> BeforeValidator:
    """Return a validator that ignores unknown fields of a declaration, which its model refuses."""

    def known(values: Any) -> Any:
        # The model refuses values that are not dicts.
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if name in model.model_fields}

    return BeforeValidator(known)


Unites = Annotated[UnitesModel, _ignores_unknown(UnitesModel), NamedTarget]
RetryPolicy = Annotated[RetryPolicyModel, _ignores_unknown(RetryPolicyModel)]
Condition = Annotated[ConditionModel, _ignores_unknown(ConditionModel)]
StoreConfig = Annotated[StoreConfigModel, _ignores_unknown(StoreConfigModel)]


class PlaceModel(GraphNodeModel):
    """A place on the wire, where its inputs are required, even if there are none."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    inputs: dict[str, Any]
    unites: Unites | None = None
    retry_policy: RetryPolicy | None = None
    when: Condition | None = None


class CronTriggerValue(Body):
    """The ``value`` of a cron trigger on the wire; unknown keys are kept. ``priority`` is an extension of
    ours."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", defer_build=True)

    expression: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_expression)]
    timezone: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_zone)] | None = None
    priority: Priority | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        unset = {key for key in ("timezone", "priority") if fields.get(key) is None}
        return {key: value for key, value in fields.items() if key not in unset}


class TriggerModel(Body):
    """A trigger on the wire: ``{"type": "CRON", "value": {"expression": ..., "timezone": ...}}``.

    Newer clients put ``type`` into ``value``. It is shown in both places, so that clients of both kinds can
    read it.
    """

    type: Literal["CRON"]
    value: CronTriggerValue

    @model_validator(mode="before")
    @classmethod
    def _type_of_value(cls, trigger: Any) -> Any:
        if isinstance(trigger, dict) and "type" not in trigger and isinstance(trigger.get("value"), dict):
            return {"type": trigger["value"].get("type", "CRON"), **trigger}
        return trigger

    @property
    def schedule(self) -> str:
        """The expression with its zone (``_util.cron``)."""
        return schedule_of(self.value.expression, self.value.timezone)

    @property
    def priority(self) -> Priority:
        """That of the runs that it starts."""
        try:
            return Priority(self.value.priority or Priority.NORMAL)
        except ValueError:  # stored by a state manager that did not know priorities
            return Priority.NORMAL


def schedules_of(triggers: Sequence[TriggerModel]) -> dict[str, Priority]:
    """Return the schedule of each trigger, without repetitions, in their order, with its priority."""
    return {trigger.schedule: trigger.priority for trigger in triggers}


Limits = Annotated[list[LimitModel], Field(max_length=MAX_LIMITS), AfterValidator(no_repeated_limits)]


_EXTENSIONS = frozenset({"limits", "outputs", "on_failure", "version"})


class GraphBody(Body):
    """A graph on the wire. ``limits``, as those of a place, ``outputs``, ``on_failure`` and ``version`` are
    extensions of ours."""

    secrets: Texts
    nodes: Annotated[list[PlaceModel], Field(max_length=MAX_NODES)]
    retry_policy: RetryPolicy = Field(default_factory=RetryPolicyModel)
    store_config: StoreConfig = Field(default_factory=StoreConfigModel)
    triggers: Annotated[list[TriggerModel], Field(fail_fast=True)] = Field(default_factory=list)
    limits: Limits = Field(default_factory=list)
    outputs: Outputs = Field(default_factory=dict)
    on_failure: Name | None = None
    version: Version | None = None

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So bodies that are stored, or shown to clients of v0, do not change.
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if name not in _EXTENSIONS or value}

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Return a graph that was declared in Python as the body of an upsert."""
        parts = {name: getattr(graph, name) for name in cls.model_fields}
        return cls.of_parts(**{name: part for name, part in parts.items() if part or name not in _EXTENSIONS})

    @classmethod
    def of_parts(
        cls, *, nodes: Sequence[GraphNodeModel], triggers: Sequence[CronTrigger] | None = None, **parts: Any
    ) -> Self:
        """Return the body of an upsert that has these fields."""
        if triggers is not None:
            parts["triggers"] = [
                TriggerModel(
                    type="CRON",
                    value=CronTriggerValue(
                        expression=each.expression,
                        timezone=None if each.timezone == "UTC" else each.timezone,
                        priority=None if each.priority == "normal" else Priority(each.priority),
                    ),
                )
                for each in triggers
            ]
        return cls(nodes=[PlaceModel(**dict(node)) for node in nodes], **parts)

    @property
    def schedules(self) -> dict[str, Priority]:
        return schedules_of(self.triggers)

    def pinned(self, version: str | None = None) -> Self:
        """Return the graph with the nodes of a version in its places, by default its own."""
        if (version := version or self.version) is None:
            return self
        nodes = [
            node
            if node.node_name in WITHOUT_RUNTIME
            else node.model_copy(update={"node_name": pinned_name(node.node_name, version)})
            for node in self.nodes
        ]
        return self.model_copy(update={"nodes": nodes, "version": version})

    def problems(self) -> list[str]:
        """Return what is wrong with this graph as a whole. One that was stored before these rules may break
        them."""
        edges = sum(len(node.next_nodes or ()) for node in self.nodes)
        sizes = (
            (edges, MAX_EDGES, "edges (entries of next_nodes)"),
            (len(self.triggers), MAX_TRIGGERS, "triggers"),
        )
        problems = [
            f"a graph has at most {limit:,} {what}; this one has {size:,}"
            for size, limit, what in sizes
            if size > limit
        ]
        pairs = {(each.schedule, each.priority) for each in self.triggers}
        different = Counter(schedule for schedule, _ in pairs)
        problems += [
            f"two triggers have the schedule {schedule!r} and different priorities: give it one"
            for schedule, priorities in sorted(different.items())
            if priorities > 1
        ]
        for name, what, field in (
            (WAIT_NODE, "places that wait", "wait"),
            (GRAPH_NODE, "places that run graphs", "graph"),
        ):
            problems.extend(
                f"the node {node.identifier!r} has the name of {what}, {name!r}, but no {field}"
                for node in self.nodes
                if node.node_name == name and getattr(node, field) is None
            )
        return problems + [
            f"node {node.identifier!r}, limit {limit.name!r}: the key {limit.key_problem}"
            for node in self.nodes
            for limit in node.limits
            if limit.key_problem
        ]


class GraphRequest(GraphBody):
    """Body of ``PUT /v0/namespace/{ns}/graph/{g}``: a graph that comes from a client."""

    triggers: Annotated[list[TriggerModel], Field(fail_fast=True, max_length=MAX_TRIGGERS)] = Field(
        default_factory=list
    )

    @model_validator(mode="after")
    def _is_right_as_a_whole(self) -> Self:
        if problems := self.problems():
            raise ValueError("; ".join(problems))
        return self


class StoredValue(CronTriggerValue):
    """The ``value`` of a trigger that a state manager has."""

    # A state manager that did not know zones, or priorities, stored any value, and ran the trigger without.
    timezone: Any = None
    priority: Any = None


class StoredTrigger(TriggerModel):
    """A trigger that a state manager has."""

    value: StoredValue


class StoredGraph(GraphBody):
    """A graph in the database."""

    triggers: list[StoredTrigger]  # type: ignore[assignment]


def _names_only(secrets: Any) -> Any:
    # The stock state manager sends ciphertexts, which are of no use.
    return dict.fromkeys(secrets, True) if isinstance(secrets, dict) else secrets


class GraphReply(Body):
    """A graph as the state manager shows it: secrets by name only.

    Fields:
        scheduled: When each of ``schedules`` starts its next run; those that start none are left out. Only
            from our server.
        paused_at: Since when its schedule is paused, if it is. Only from our server.
        limits: The limits that it declares; what was set since then is not shown here.
        outputs: Name of each output to the texts of its values.
        on_failure: The graph of which a run is started when one of its runs ends with errors.
        version: The version of the code that its runs need, if it names one.
    """

    nodes: list[PlaceModel]
    secrets: Annotated[dict[str, bool], BeforeValidator(_names_only)]
    retry_policy: RetryPolicy
    store_config: StoreConfig
    triggers: list[StoredTrigger]
    limits: list[LimitModel] = Field(default_factory=list)
    outputs: dict[str, list[str]] = Field(default_factory=dict)
    on_failure: str | None = None
    version: str | None = None
    created_at: Moment
    updated_at: Moment
    validation_status: ValidationStatus
    validation_errors: list[str]
    scheduled: dict[str, Moment] | None = None
    paused_at: Moment | None = None

    @property
    def schedules(self) -> dict[str, Priority]:
        return schedules_of(self.triggers)


class GraphInfo(GraphReply):
    """A graph in the list of them."""

    id: str = Field("", alias="_id")
    name: str
    namespace: str


class GraphsReply(Body):
    templates: list[GraphInfo]


class GraphsQuery(Body):
    """Query of the native list of graphs: those with names after ``after``."""

    after: Annotated[str, Field(max_length=MAX_NAME)] = ""


class GraphPage(Body):
    """A page of graphs, by name; ``next`` is the ``after`` of the next page, or None on the last one."""

    graphs: list[GraphInfo]
    next: str | None


class CancelledTriggers(Body):
    """The answer to ``DELETE /v0/namespace/{ns}/graph/{g}/triggers``."""

    namespace: str
    graph_name: str
    cancelled_count: int
    message: str
