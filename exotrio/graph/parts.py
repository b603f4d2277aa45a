"""What a graph declares besides its nodes: its store, limits and outputs, and what its failures start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Self, TypedDict, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    field_validator,
    model_validator,
)

from exotrio._fields.models import plain_text
from exotrio._util.words import readable_errors
from exotrio.errors import GraphInvalid
from exotrio.graph.conditions import UNKNOWN
from exotrio.graph.declaration import (
    PART,
    CronTrigger,
    Declaration,
    LimitModel,
    Name,
    StoreConfigModel,
    check_name,
    no_repeated_limits,
)
from exotrio.graph.inputs import Inputs
from exotrio.graph.limits import Limit, period_in_ms
from exotrio.graph.nodes import GraphNode
from exotrio.graph.references import OutputReference, StoreReference
from exotrio.graph.retry_policy import RetryPolicyModel

_REQUIRED = object()
Outputs = Annotated[
    dict[
        Name,
        Annotated[
            list[str],
            BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
            Field(min_length=1, max_length=PART),
        ],
    ],
    Field(max_length=PART),
]
"""Name of each output of a graph to the texts of its values, of which the first that has one counts."""


class Parts(TypedDict, total=False):
    """Arguments of ``Graph``, which documents them."""

    secrets: Mapping[str, str]
    retry_policy: RetryPolicyModel
    store_config: StoreConfigModel
    triggers: list[CronTrigger]
    limits: list[LimitModel]
    outputs: Mapping[str, str | list[str]]
    on_failure: GraphParts | str
    version: str | None


class GraphParts(Declaration):
    """The base of ``Graph``, which documents the fields."""

    name: Name
    store_config: StoreConfigModel = Field(default_factory=StoreConfigModel)
    limits: Annotated[list[LimitModel], AfterValidator(no_repeated_limits)] = Field(default_factory=list)
    outputs: Outputs = Field(default_factory=dict)
    on_failure: Name | None = None
    namespace: Annotated[str, AfterValidator(check_name)] | None = None

    _added: dict[str, GraphNode] = PrivateAttr(default_factory=dict)
    _types: dict[str, Any] = PrivateAttr(default_factory=dict)
    _named: dict[str, Self] = PrivateAttr(default_factory=dict)

    @field_validator("on_failure", mode="before")
    @classmethod
    def _name_of_other(cls, other: object) -> object:
        return other.name if isinstance(other, GraphParts) else other

    @model_validator(mode="after")
    def _fails_into_another(self) -> Self:
        if self.on_failure == self.name:
            raise ValueError("on_failure names the graph itself: give it another graph")
        return self

    def name_graph(self, other: object) -> None:
        """Let ``named_graphs`` return another graph, if ``other`` is one, with those that it names."""
        if isinstance(other, type(self)):
            self._named[other.name] = cast("Self", other)

    def named_graphs(self) -> list[Self]:
        """Return the graphs that this one names and that were given as objects, and those that they name:
        each before those that name it, as far as they do not name each other."""
        found: dict[str, Self] = {}
        entered = {self.name}

        def enter(graph: GraphParts) -> None:
            for other in graph._named.values():
                if other.name not in entered:
                    entered.add(other.name)
                    enter(other)
                    found[other.name] = cast("Self", other)

        enter(self)
        return list(found.values())

    def warnings(self) -> list[str]:
        """Return what is allowed, but seldom intended, of the nodes that were added: a line for each input.

        ``graph check``, ``graph apply`` and ``run`` print them.
        """
        return [
            f"node {identifier!r}, input {name!r}: {doubt}"
            for identifier, node in self._added.items()
            for name, doubt in node.doubts.items()
        ]

    def store(self, key: str, default: object = _REQUIRED) -> StoreReference:
        """Declare a key of the run's store, and return a reference to it.

        Args:
            default: Its value, or the text of it, for triggers without one. Without a default, each trigger
                has to give the key, unless it was declared before.

        Raises:
            GraphInvalid: the key is not valid, or was declared in another way before.
        """
        __tracebackhide__ = True
        config = self.store_config
        known = key in config.known_keys
        try:
            text = None if default is _REQUIRED else plain_text(default)
            if known and (text is None or config.default_values.get(key) == text):
                return StoreReference(key)
            if known:
                raise ValueError("it was declared before, with another default or none")
            update: dict[str, Any]
            if text is None:
                update = {"required_keys": [*config.required_keys, key]}
            else:
                update = {"default_values": {**config.default_values, key: text}}
            # A new object: other graphs may use the present one too.
            self.store_config = StoreConfigModel(**{**dict(config), **update})
        except ValueError as error:
            what = f"store key {key!r} of graph {self.name!r}"
            raise GraphInvalid(f"{what} cannot be declared", readable_errors(error)) from None
        return StoreReference(key)

    def limit(
        self,
        name: str,
        *,
        at_most: int | None = None,
        starts: int | None = None,
        period: float | timedelta | None = None,
    ) -> Limit:
        """Declare a limit of the namespace, and return it for ``limits=`` of ``add``.

        It applies to all runtimes and all graphs of the namespace that name it, together. Storing the graph
        makes the limit, or changes it if the graph says something else of it than when it was stored last.
        With the name alone, a limit that was made elsewhere is named: by another graph, or by ``limits set``.

        Args:
            at_most: States at once; 0 stops all. Defaults to no limit.
            starts: Starts within any ``period`` seconds; 0 stops all. Defaults to no limit.
            period: Seconds, or a timedelta, from 1 s to 31 days. Given if ``starts`` is.

        Raises:
            GraphInvalid: an argument is not valid, or the limit was declared in another way before.
        """
        __tracebackhide__ = True
        what = f"limit {name!r} of graph {self.name!r}"
        try:
            if at_most is starts is period is None:
                return Limit(LimitModel(name=name, at_most=0).name, namespace=self.namespace)
            period_ms = None if period is None else period_in_ms(period)
            limit = LimitModel(name=name, at_most=at_most, starts=starts, period_ms=period_ms)
        except ValueError as error:
            raise GraphInvalid(f"{what} cannot be declared", readable_errors(error)) from None
        if limit not in self.limits:
            if any(other.name == limit.name for other in self.limits):
                raise GraphInvalid(f"{what} was declared before, with other values")
            self.limits = [*self.limits, limit]
        return Limit(limit.name, namespace=self.namespace)

    def output(self, name: str, value: object, /, *others: object) -> None:
        """Declare an output of the graph: of each place of another graph that runs this one.

        Args:
            value: An output of a node, a key of the store, or text with such references, by an f-string. Each
                node that it refers to has to succeed exactly once in a run.
            others: Values for runs in which a node that the values before refer to did not succeed, as on the
                other branches.

        Raises:
            GraphInvalid: a value is not one, or the output was declared before.
        """
        __tracebackhide__ = True
        what = f"output {name!r} of graph {self.name!r}"
        inputs = Inputs("", {}, self._added, self.store_config)
        if name in self._types:
            raise GraphInvalid(f"{what} was declared before")
        try:
            texts = [inputs.output(each) for each in (value, *others)]
            self.outputs = TypeAdapter(Outputs).validate_python({**self.outputs, name: texts})
        except ValueError as error:
            raise GraphInvalid(f"{what} cannot be declared", readable_errors(error)) from None
        types = [each.annotation if isinstance(each, OutputReference) else str for each in (value, *others)]
        # That of this graph, where it runs itself, is this one.
        known = [each for each in types if each is not UNKNOWN] or [UNKNOWN]
        self._types[name] = known[0] if all(each == known[0] for each in known) else UNKNOWN


def list_of_limits(given: Limit | Iterable[Limit]) -> list[Limit]:
    """Return what ``limits=`` has, one limit or several, as a list; a mistake, too: see ``wrong_limits``."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def wrong_limits(limits: Iterable[object], namespace: str | None) -> Iterator[str]:
    """Yield which of the limits given to a node of a graph are none, or of another namespace."""
    for limit in limits:
        if not isinstance(limit, Limit):
            shown = f"graph.limit({limit!r})" if isinstance(limit, str) else "graph.limit(NAME)"
            yield f"limits= takes what limit() returned, and no {type(limit).__name__}: write {shown}"
        elif limit.namespace != namespace and None not in (limit.namespace, namespace):
            what = f"limit {limit.name!r} is one of namespace {limit.namespace!r}, not of {namespace!r}"
            yield f"{what}: write graph.limit({limit.name!r})"
