"""The parts of a graph as users declare them, and the rules of their fields: blank names, ranges, repeats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
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

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.cron import check_expression, check_zone
from exotrio._util.words import listed, suggestion

MAX_NAME = 256
"""Characters of a name in a URL path."""
MAX_NODES = 1_000
"""Nodes of one graph: the memory of the checks grows with the square of their number."""
PART = 100
"""Entries of an object that are checked together. Problems of more entries than these are not reported."""


def check_name(name: str) -> str:
    """Return ``name`` if it can stand in a URL path and a log line; raise ValueError otherwise."""
    if len(name) > MAX_NAME:
        raise ValueError(f"is longer than {MAX_NAME} characters")
    if "/" in name or name in {".", ".."}:
        raise ValueError("cannot stand in a URL path: no '/', and not '.' or '..'")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ValueError("contains a control character")
    return name


def _trimmed(name: str) -> str:
    name = name.strip()
    if not name:
        raise ValueError("cannot be blank")
    return name


def _not_store(identifier: str) -> str:
    if identifier == "store":
        raise ValueError("'store' is reserved for ${{ store.key }}")
    return identifier


def _store_key(key: str) -> str:
    key = _trimmed(key)
    if "." in key:
        raise ValueError(f"store key {key!r} cannot contain '.'")
    return key


def _no_repeats(names: list[str]) -> list[str]:
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
        _no_repeats([key.strip() for key in values])
    return checked


Name = Annotated[str, AfterValidator(_trimmed), AfterValidator(check_name)]
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
    """Return ``error``, with the known names for fields that the model itself does not have."""
    errors = error.errors(include_url=False, include_context=False)
    if all(each["type"] != _UNKNOWN for each in errors):
        return error
    details: list[InitErrorDetails] = []
    for each in errors:
        message, value = each["msg"], each["input"]
        if each["type"] == _UNKNOWN and len(each["loc"]) == 1:
            # The name instead of the value, which pydantic prints, and which may be secret.
            value = str(each["loc"][0])
            message = (
                f"there is no such field{suggestion(value, known) or f': the fields are {listed(known)}'}"
            )
        details.append(
            {"type": PydanticCustomError(each["type"], message), "loc": each["loc"], "input": value}
        )
    return ValidationError.from_exception_data(error.title, details)


_UNKNOWN = "extra_forbidden"


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
        return unites.model_copy(update={"identifier": check_name(_trimmed(unites.identifier))})
    except ValueError as error:
        raise ValueError(f"the identifier {error}") from None


NamedTarget: AfterValidator = AfterValidator(_named_target)


class GraphNodeModel(Declaration):
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
    """

    node_name: Name
    namespace: Annotated[str, AfterValidator(check_name)]
    identifier: Identifier
    # Any, not str: a value that is not a string is an error of the graph (400), not of a field (422).
    inputs: dict[str, Any] = Field(default_factory=dict)
    next_nodes: (
        Annotated[list[Name], Field(fail_fast=True, max_length=MAX_NODES), AfterValidator(_no_repeats)] | None
    ) = None
    unites: Annotated[UnitesModel, NamedTarget] | None = None
    timeout_minutes: int | None = Field(default=None, gt=0, le=MAX_DELAY_MS // 60_000)

    @model_serializer(mode="wrap")
    def _without_no_timeout(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Like the stock SDK. So bodies that are stored, or shown to clients of v0, do not change.
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if (name, value) != ("timeout_minutes", None)}


class RetryStrategyEnum(StrEnum):
    """How the delay grows from retry to retry, and how much of it is random."""

    EXPONENTIAL = "EXPONENTIAL"
    EXPONENTIAL_FULL_JITTER = "EXPONENTIAL_FULL_JITTER"
    EXPONENTIAL_EQUAL_JITTER = "EXPONENTIAL_EQUAL_JITTER"
    LINEAR = "LINEAR"
    LINEAR_FULL_JITTER = "LINEAR_FULL_JITTER"
    LINEAR_EQUAL_JITTER = "LINEAR_EQUAL_JITTER"
    FIXED = "FIXED"
    FIXED_FULL_JITTER = "FIXED_FULL_JITTER"
    FIXED_EQUAL_JITTER = "FIXED_EQUAL_JITTER"


Jitter = Literal["full", "equal"] | None


class RetryPolicyModel(Declaration):
    """When a failed state is tried again. Fields are in milliseconds; ``fixed``, ``linear`` and
    ``exponential`` take seconds.

    Args:
        max_retries: Retries after the first attempt. Defaults to 3.
        strategy: How delays grow. Defaults to EXPONENTIAL.
        backoff_factor: Base delay in milliseconds. Defaults to 2000.
        exponent: Base of the exponential strategies. Defaults to 2.
        max_delay: Maximum delay in milliseconds, or None for no limit.
    """

    max_retries: int = Field(default=3, ge=0, le=1_000_000)
    strategy: RetryStrategyEnum = RetryStrategyEnum.EXPONENTIAL
    backoff_factor: int = Field(default=2000, gt=0, le=MAX_DELAY_MS)
    exponent: int = Field(default=2, gt=0, le=1_000_000)
    max_delay: int | None = Field(default=None, gt=0, le=MAX_DELAY_MS)

    @classmethod
    def fixed(cls, delay: float, *, retries: int = 3, jitter: Jitter = None) -> Self:
        """Try again after ``delay`` seconds each time.

        Args:
            delay: Seconds.
            retries: Retries after the first attempt. Defaults to 3.
            jitter: ``"full"``: each delay is random, up to that; ``"equal"``: at least half of that. So
                states that failed together are not retried together. Defaults to none.

        Raises:
            pydantic.ValidationError: a number is too small or too large.
        """
        return cls._of("FIXED", delay, retries, jitter)

    @classmethod
    def linear(
        cls, step: float, *, retries: int = 3, max_delay: float | None = None, jitter: Jitter = None
    ) -> Self:
        """Try again after ``step`` seconds, then after twice and three times as many, and so on.

        Args:
            step: Seconds.
            retries: Retries after the first attempt. Defaults to 3.
            max_delay: Maximum seconds between two attempts. Defaults to no limit.
            jitter: As in ``fixed``.

        Raises:
            pydantic.ValidationError: a number is too small or too large.
        """
        return cls._of("LINEAR", step, retries, jitter, max_delay=_ms(max_delay))

    @classmethod
    def exponential(
        cls,
        first: float,
        *,
        factor: int = 2,
        retries: int = 3,
        max_delay: float | None = None,
        jitter: Jitter = None,
    ) -> Self:
        """Try again after ``first`` seconds, then each time after ``factor`` times as many.

        Args:
            first: Seconds.
            factor: Defaults to 2.
            retries: Retries after the first attempt. Defaults to 3.
            max_delay: Maximum seconds between two attempts. Defaults to no limit.
            jitter: As in ``fixed``.

        Raises:
            pydantic.ValidationError: a number is too small or too large.
        """
        return cls._of("EXPONENTIAL", first, retries, jitter, exponent=factor, max_delay=_ms(max_delay))

    @classmethod
    def _of(cls, growth: str, delay: float, retries: int, jitter: Jitter, **rest: float | None) -> Self:
        strategy = growth if jitter is None else f"{growth}_{jitter.upper()}_JITTER"
        values = {"max_retries": retries, "strategy": strategy, "backoff_factor": _ms(delay), **rest}
        return cls.model_validate(values)


def _ms(seconds: float | None) -> float | None:
    # The field refuses infinity and NaN.
    return round(seconds * 1000) if seconds is not None and math.isfinite(seconds) else seconds


class StoreConfigModel(Declaration):
    """Keys of the run's store.

    Args:
        required_keys: Keys that every trigger must give, even if they have a default.
        default_values: Values of keys that a trigger does not give.
    """

    required_keys: Annotated[list[StoreKey], Field(fail_fast=True), AfterValidator(_no_repeats)] = Field(
        default_factory=list
    )
    default_values: Annotated[dict[StoreKey, str], PartByPart, WrapValidator(_no_repeated_keys)] = Field(
        default_factory=dict
    )


class CronTrigger(Declaration):
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
    """

    expression: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_expression)]
    timezone: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(check_zone)] = "UTC"

    @model_serializer(mode="wrap")
    def _without_utc(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Like the stock SDK.
        fields: dict[str, Any] = serialize(self)
        return {name: value for name, value in fields.items() if (name, value) != ("timezone", "UTC")}
