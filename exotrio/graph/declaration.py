"""The parts of a graph, except its nodes, as users declare them, and the rules of their fields: blank names,
ranges, repeats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from exotrio._util.cron import check_expression, check_zone
from exotrio._util.words import listed, suggestion

L = TypeVar("L", bound="NamedLimit")

MAX_NAME = 256
"""Characters of a name in a URL path."""
MAX_NODES = 1_000
"""Nodes of one graph: the memory of the checks grows with the square of their number."""
MAX_LIMITS = 100
"""Limits that one graph declares."""
MAX_LIMITS_OF_NODE = 8
"""Limits that one node names: a claim locks those of all states that it takes."""
MAX_LIMIT = 1_000_000
"""States at once, or starts in a period: more are hardly a limit."""
MIN_PERIOD_MS, MAX_PERIOD_MS = 1_000, 31 * 86_400_000
"""Of a limit's starts: from a second to 31 days."""
MAX_LIMIT_KEY = 256
"""Characters of a key of a limit, with the values of its references."""
WAIT_NODE = "wait for event"
"""The node name of places that wait for an event; no class has such a name."""
GRAPH_NODE = "run graph"
"""The node name of places that run a graph; no class has such a name."""
WITHOUT_RUNTIME = (WAIT_NODE, GRAPH_NODE)
"""Nodes that no runtime runs."""
PART = 100
"""Entries of an object that are checked together. Problems of more entries than these are not reported."""


_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_name(name: str) -> str:
    """Return ``name`` if it can stand in a URL path and a log line; raise ValueError otherwise."""
    if len(name) > MAX_NAME:
        raise ValueError(f"is longer than {MAX_NAME} characters")
    if "/" in name or name in {".", ".."}:
        raise ValueError("cannot stand in a URL path: no '/', and not '.' or '..'")
    if _CONTROL.search(name):
        raise ValueError("contains a control character, or half of a surrogate pair")
    return name


def trimmed(name: str) -> str:
    name = name.strip()
    if not name:
        raise ValueError("cannot be blank")
    return name


def _not_store(identifier: str) -> str:
    if identifier == "store":
        raise ValueError("'store' is reserved for ${{ store.key }}")
    return identifier


def _store_key(key: str) -> str:
    key = trimmed(key)
    if "." in key:
        raise ValueError(f"store key {key!r} cannot contain '.'")
    return key


def no_repeats(names: list[str]) -> list[str]:
    repeated = sorted(name for name, uses in Counter(names).items() if uses > 1)
    if repeated:
        raise ValueError(f"repeated: {', '.join(repeated)}")
    return names


def _part_by_part(values: Any, check: Callable[[Any], Any]) -> Any:
    """Check the entries of an object in parts, and stop after the first part that has problems.

    If all were checked at once, an object of 2 MB would make a million problems, which take 2 GB.
    """
    if not isinstance(values, dict) or len(values) <= PART:
        return check(values)
    checked: dict[str, Any] = {}
    entries = iter(values.items())
    while part := dict(islice(entries, PART)):
        checked |= check(part)
    return checked


PartByPart: WrapValidator = WrapValidator(_part_by_part)
"""For an object in a request. Lists have ``fail_fast``, or a maximum length, for the same reason."""


def _no_repeated_keys(values: Any, check: Callable[[Any], Any]) -> Any:
    checked = check(values)
    # If two keys are equal when trimmed, the second would replace the first.
    if len(checked) < len(values):
        no_repeats([key.strip() for key in values])
    return checked


Name = Annotated[str, AfterValidator(trimmed), AfterValidator(check_name)]
Identifier = Annotated[Name, AfterValidator(_not_store)]
StoreKey = Annotated[str, AfterValidator(_store_key), AfterValidator(check_name)]


class Declaration(BaseModel):
    """Base of what users declare. Unknown fields are refused, since they are mistyped: if they were ignored,
    a default would be used instead. Bodies in requests ignore them (``_wire/graphs``)."""

    # Validators are built at first use, so that importing exotrio stays light.
    model_config: ClassVar[ConfigDict] = ConfigDict(defer_build=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _suggest(cls, values: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return check(values)
        except ValidationError as error:
            raise _with_suggestions(error, cls.model_fields) from None


def _with_suggestions(error: ValidationError, known: Collection[str]) -> ValidationError:
    """Return ``error``, with the known names where the model has no such field, or is no object."""
    errors = error.errors(include_url=False, include_context=False)
    if _UNKNOWN.isdisjoint(each["type"] for each in errors):
        return error
    details: list[InitErrorDetails] = []
    for each in errors:
        message, value = each["msg"], each["input"]
        if each["type"] == _NO_OBJECT and not each["loc"]:
            message = f"must be an object, with the fields {listed(known)}"  # not the name of its class
        elif each["type"] == "extra_forbidden" and len(each["loc"]) == 1:
            # The name instead of the value, which pydantic prints, and which may be secret.
            value = str(each["loc"][0])
            message = (
                f"there is no such field{suggestion(value, known) or f': the fields are {listed(known)}'}"
            )
        details.append(
            {"type": PydanticCustomError(each["type"], message), "loc": each["loc"], "input": value}
        )
    return ValidationError.from_exception_data(error.title, details)


_NO_OBJECT = "model_type"
_UNKNOWN = {"extra_forbidden", _NO_OBJECT}


class SparseDeclaration(Declaration):
    """One whose form on the wire and in the database leaves out fields that have their defaults, so that it
    does not change when a field is added."""

    LEFT_OUT: ClassVar[Mapping[str, Any]]
    """Fields that are left out, if they have this value."""

    @model_serializer(mode="wrap")
    def _given_only(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        left_out = self.LEFT_OUT
        return {
            name: value for name, value in fields.items() if name not in left_out or value != left_out[name]
        }


def _whole(value: object) -> object:
    """Return a value of a limit if it is a whole number: True and "5" are mistakes, in Python and in JSON."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"it is a whole number, not {value!r:.50}")
    return value


AtMost = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=MAX_LIMIT)]
PeriodMs = Annotated[int, BeforeValidator(_whole), Field(ge=MIN_PERIOD_MS, le=MAX_PERIOD_MS)]


class LimitModel(SparseDeclaration):
    """A limit of a namespace, as a graph declares it: how many states of the places that name it run at once,
    or start within a period, or both. 0 stops them.

    Args:
        at_most: States at once, for each key. Defaults to None: not limited.
        starts: Starts within any period of ``period_ms``, for each key. Defaults to None: not limited.
        period_ms: Milliseconds, from a second to 31 days; given if ``starts`` is.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = dict.fromkeys(("at_most", "starts", "period_ms"))

    name: Name
    at_most: AtMost | None = None
    starts: AtMost | None = None
    period_ms: PeriodMs | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if (self.starts is None) != (self.period_ms is None):
            raise ValueError("starts and the period belong together: give both, or neither")
        if self.at_most is None and self.starts is None:
            raise ValueError("limits nothing: give at_most (states at once), or starts with a period")
        return self

    @property
    def period(self) -> float | None:
        """The period in seconds."""
        return None if self.period_ms is None else self.period_ms / 1000


class NamedLimit(Protocol):
    @property
    def name(self) -> str: ...


def no_repeated_limits(limits: list[L]) -> list[L]:
    no_repeats([limit.name for limit in limits])
    return limits


class StoreConfigModel(Declaration):
    """Keys of the run's store.

    Args:
        required_keys: Keys that every trigger must give, even if they have a default.
        default_values: Values of keys that a trigger does not give.
    """

    required_keys: Annotated[list[StoreKey], Field(fail_fast=True), AfterValidator(no_repeats)] = Field(
        default_factory=list
    )
    default_values: Annotated[dict[StoreKey, str], PartByPart, WrapValidator(_no_repeated_keys)] = Field(
        default_factory=dict
    )

    @property
    def known_keys(self) -> Collection[str]:
        """The keys that nodes may read, the required ones first."""
        return dict.fromkeys((*self.required_keys, *self.default_values))


class CronTrigger(SparseDeclaration):
    """Start a run of the graph at each time of ``expression`` in ``timezone``.

    When clocks are put forward or back, an expression with times of a day (``30 2 * * *``) starts one run
    for each: right after the change if that skipped it, and at the first of two. One with a ``*`` at the
    beginning of its minute or hour (``0 * * * *``) starts one whenever the clock shows such a time. A state
    manager of exotrio refuses an expression whose times are all skipped.

    Args:
        expression: A cron expression, ``*/5 * * * *`` for example; also six fields (seconds last),
            seven (year), names and ``@hourly``.
        timezone: IANA name of a time zone, ``Europe/Berlin`` for example. Defaults to UTC. The stock state
            manager ignores it, in all releases so far.
        priority: ``"high"``, ``"normal"`` or ``"low"``: that of the runs that it starts. Needs our server.
            Defaults to ``"normal"``.
    """

    LEFT_OUT: ClassVar[Mapping[str, Any]] = {"timezone": "UTC", "priority": "normal"}

    expression: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_expression)]
    timezone: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_zone)] = "UTC"
    priority: Literal["high", "normal", "low"] = "normal"
