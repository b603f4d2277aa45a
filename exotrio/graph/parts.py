"""What a graph declares besides its nodes: its store, its limits, and the graph that its failures start."""

from __future__ import annotations

from typing import Annotated, Any, Self, cast

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator, model_validator

from exotrio._fields.models import plain_text
from exotrio._util.words import readable_errors
from exotrio.errors import GraphInvalid
from exotrio.graph.declaration import (
    MAX_PERIOD_MS,
    MIN_PERIOD_MS,
    Declaration,
    LimitModel,
    Name,
    StoreConfigModel,
    no_repeated_limits,
)
from exotrio.graph.limits import Limit
from exotrio.graph.references import StoreReference

_REQUIRED = object()


class GraphParts(Declaration):
    """The base of ``Graph``, which documents the fields."""

    name: Name
    store_config: StoreConfigModel = Field(default_factory=StoreConfigModel)
    limits: Annotated[list[LimitModel], AfterValidator(no_repeated_limits)] = Field(default_factory=list)

    on_failure: Name | None = None

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
        each before those that name it."""
        found: dict[str, Self] = {}
        for graph in self._named.values():
            found |= {each.name: each for each in (*graph.named_graphs(), graph)}
        return list(found.values())

    def store(self, key: str, default: object = _REQUIRED) -> StoreReference:
        """Declare a key of the run's store, and return a reference to it.

        Args:
            key: Its name.
            default: Its value, or the text of it, for triggers without one. Without a default, each trigger
                has to give the key, unless it was declared before.

        Raises:
            GraphInvalid: the key is not valid, or was declared in another way before.
        """
        __tracebackhide__ = True
        config = self.store_config
        known = key in config.default_values or key in config.required_keys
        try:
            text = None if default is _REQUIRED else plain_text(default)
            if known and (text is None or config.default_values.get(key) == text):
                return StoreReference(key)
            if known:
                raise ValueError("was declared before, with another default or none")
            update: dict[str, Any]
            if text is None:
                update = {"required_keys": [*config.required_keys, key]}
            else:
                update = {"default_values": {**config.default_values, key: text}}
            # A new object: other graphs may use the present one too.
            self.store_config = StoreConfigModel(**{**dict(config), **update})
        except ValidationError as error:
            raise GraphInvalid(
                f"store key {key!r} of graph {self.name!r} cannot be declared", readable_errors(error)
            ) from None
        except ValueError as error:
            raise GraphInvalid(f"store key {key!r} of graph {self.name!r} {error}") from None
        return StoreReference(key)

    def limit(
        self,
        name: str,
        *,
        at_most: int | None = None,
        starts: int | None = None,
        period: float | None = None,
    ) -> Limit:
        """Declare a limit of the namespace, and return it for ``limits=`` of ``add``.

        It applies to all runtimes and all graphs of the namespace that name it, together. Storing the graph
        makes the limit, or changes it if the graph says something else of it than when it was stored last.
        With the name alone, a limit that was made elsewhere is named: by another graph, or by ``limits set``.

        Args:
            name: Its name in the namespace.
            at_most: States at once; 0 stops all. Defaults to no limit.
            starts: Starts within any ``period`` seconds; 0 stops all. Defaults to no limit.
            period: Seconds, from 1 to 31 days. Given if ``starts`` is.

        Raises:
            GraphInvalid: an argument is not valid, or the limit was declared in another way before.
        """
        __tracebackhide__ = True
        what = f"limit {name!r} of graph {self.name!r}"
        if period is not None and not MIN_PERIOD_MS <= period * 1000 <= MAX_PERIOD_MS:
            days = MAX_PERIOD_MS // 86_400_000
            raise GraphInvalid(f"the period of {what} must be from 1 s to {days} days, not {period:g} s")
        try:
            if at_most is starts is period is None:
                return Limit(LimitModel(name=name, at_most=0).name)
            period_ms = None if period is None else round(period * 1000)
            limit = LimitModel(name=name, at_most=at_most, starts=starts, period_ms=period_ms)
        except ValidationError as error:
            raise GraphInvalid(f"{what} cannot be declared", readable_errors(error)) from None
        if limit not in self.limits:
            if any(other.name == limit.name for other in self.limits):
                raise GraphInvalid(f"{what} was declared before, with other values")
            self.limits = [*self.limits, limit]
        return Limit(limit.name)
