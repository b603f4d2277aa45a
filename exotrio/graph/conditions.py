"""Conditions under which edges of a graph are taken: their form, their truth for a text, their checks. Pure.

Values between nodes are texts, so the value that a condition compares with says how the text is read:

=====================  ==========================================================================
a string               the text itself is compared
true or false          the text is read as for an input of type bool
a number               the text is read as for an input of type int, or else float
null                   the text is ``null``
=====================  ==========================================================================

Where a truth value or a number is expected, the text ``null`` equals none, and is not in any order. Any other
text that cannot be read is an error. The type of an output, where it is known, allows only values that it can
have, each in the form of its text.
"""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator
from pydantic_core import to_json

from exotrio._fields.codecs import Codec, choices_of, codec_of, name_of, optional, plain_of, resolved, text_of
from exotrio._util.words import listed, shortened, suggestion
from exotrio.errors import GraphInvalid
from exotrio.graph.declaration import Declaration

MAX_VALUES = 1_000
"""Values that one condition compares with."""
MAX_TRIED = 1_000
"""Comparisons that show whether facts about one value can be true together; beyond that it is assumed."""
MAX_DIGITS = 4_300
"""Characters of a text that is read as a number, as many as Python reads. More would take long."""
MAX_SUGGESTED = 100
"""Members of an Enum or a Literal of which one may be suggested."""
MAX_SHOWN = 60
"""Characters of a value in a message, and in a picture."""
UNKNOWN: Any = object
"""The type of an output whose type is not known."""

Operator = Literal["==", "!=", "<", "<=", ">", ">=", "in"]
_Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Value = StrictBool | _Number | StrictStr | None
_ORDER: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_NULL = "null"
_NUMBERS = (int, float, Decimal)
_COMPARABLE = "a str, bool, number, Enum or Literal, or one of these or None"


class ConditionModel(Declaration):
    """A comparison of one value of a run.

    Args:
        of: What is compared: ``${{ identifier.outputs.field }}`` or ``${{ store.key }}``, and nothing else.
        operator: ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=`` or ``in``.
        value: What it is compared with: a string, a number, true, false or null. A number for those that
            compare by order; for ``in`` a list, not empty.
    """

    of: str
    operator: Operator
    value: Value | Annotated[list[Value], Field(min_length=1, max_length=MAX_VALUES, fail_fast=True)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.operator == "in") != isinstance(self.value, list):
            raise ValueError("a list of values is for the operator in, which needs one")
        kinds = {_kind(value) for value in self.values} - {"null"}
        if self.operator in _ORDER and kinds != {"number"}:
            raise ValueError(f"the operator {self.operator} compares with a number")
        if len(kinds) > 1:
            raise ValueError(f"the values are of several types: {listed(sorted(kinds))}")
        try:
            _ = [float(value) for value in self.values if isinstance(value, int)]
        except OverflowError:
            raise ValueError("a number is compared with one that a float can be, up to 1.7e308") from None
        return self

    @property
    def values(self) -> list[Any]:
        return self.value if isinstance(self.value, list) else [self.value]

    def __str__(self) -> str:
        """Return it as users write it, such as ``check.kind == "book"``."""
        of = self.of.removeprefix("${{").removesuffix("}}").strip().replace(".outputs.", ".")
        if (self.operator, self.value) == ("==", True) and self.value is True:
            return of
        return f"{of} {self.operator} {shortened(to_json(self.value).decode(), MAX_SHOWN)}"

    def holds(self, text: str) -> bool:
        """Return whether the condition is true of a text; raise ValueError if that cannot be read."""
        values = self.values
        if self.operator in _ORDER:
            return _ORDER[self.operator](_number(text), values[0])
        equal = (None in values or _NULL in values) if text == _NULL else self._read(text) in values
        return equal is not (self.operator == "!=")

    def _read(self, text: str) -> object:
        kinds = {type(value) for value in self.values}
        if bool in kinds:
            return _truth(text)
        return _number(text) if kinds & {int, float} else text


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "truth value"
    return "number" if isinstance(value, int | float) else "string"


def _truth(text: str) -> bool:
    try:
        return bool(codec_of(bool).from_text(text))
    except ValueError:
        raise ValueError("it is neither true nor false") from None


def _number(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it is not a number: it has more than {MAX_DIGITS:,} characters")
    for kind in (int, float):
        try:
            number: float = codec_of(kind).from_text(text)
        except ValueError:
            continue
        return number
    raise ValueError("it is not a number")


# -- conditions in Python


class Condition:
    """A comparison, such as ``check.kind == "book"``, which is true or false only in a run."""

    __slots__ = ("annotation", "model", "reference")
    reference: Any
    annotation: Any
    model: ConditionModel

    def __init__(self, reference: Any, annotation: Any, model: ConditionModel) -> None:
        self.reference = reference
        self.annotation = annotation
        self.model = model

    def __bool__(self) -> NoReturn:
        raise GraphInvalid(
            f"{self.model} is neither true nor false yet",
            fix="pass one comparison as when=...; for several values write .is_in(...), and for all others"
            " otherwise=True",
        )

    def __repr__(self) -> str:
        return f"<condition {self.model}>"


def compared(reference: Any, annotation: Any, sign: Operator, value: object) -> Condition:
    """Return the condition that compares a reference to a value of this type.

    Raises:
        GraphInvalid: values of the type are never so, or cannot be compared.
    """
    try:
        values = value if sign == "in" and isinstance(value, tuple) else (value,)
        if not values:
            raise ValueError("is in nothing: give is_in the values")
        if sign == "in" and any(isinstance(each, list | tuple | set | frozenset) for each in values):
            raise ValueError("is compared with a list: give is_in the values separately, as in is_in(1, 2)")
        choices = _choices(annotation)
        plain = [_plain(annotation, choices, sign, each) for each in values]
        model = ConditionModel(of=str(reference), operator=sign, value=plain if sign == "in" else plain[0])
    except ValueError as error:
        reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error
        raise GraphInvalid(f"{reference!r} {str(reason).removeprefix('Value error, ')}") from None
    return Condition(reference, annotation, model)


def type_problem(model: ConditionModel, annotation: Any) -> str | None:
    """Return why an output of this type cannot be compared so, or never has the value; None if it can."""
    try:
        choices = _choices(annotation)
        for value in model.values:
            _plain(annotation, choices, model.operator, value, is_text=True)
    except ValueError as error:
        return str(error)
    return None


def _choices(annotation: Any) -> dict[str, None]:
    """Return the text of each member of an Enum or a Literal; nothing for anything else."""
    full = resolved(annotation)
    inner = optional(full)
    choices = choices_of(full if inner is None else resolved(inner))
    codec = codec_of(full) if choices else Codec()
    return {codec.to_text(plain_of(choice)): None for choice in choices}


def _plain(
    annotation: Any, choices: Collection[str], sign: str, value: object, *, is_text: bool = False
) -> Any:
    """Return the value that a condition in JSON has for one in Python, or for one in JSON if ``is_text``."""
    plain = plain_of(value)
    if isinstance(plain, Decimal):  # as JSON has it
        plain = int(plain) if plain.is_finite() and plain == int(plain) else float(plain)
    if annotation is UNKNOWN:
        if _kind(plain) == "string" and not isinstance(plain, str):
            raise ValueError(f"cannot be compared with a {type(value).__name__}")
        if isinstance(plain, float) and not math.isfinite(plain):
            raise ValueError(f"cannot be compared with {plain}: compare it with a finite number")
        return plain
    full, annotation = resolved(annotation), resolved(annotation)
    if (inner := optional(full)) is not None:
        annotation = resolved(inner)
        if plain is None and sign not in _ORDER:
            return None
    if sign in _ORDER and (full is not annotation or annotation not in _NUMBERS):
        raise ValueError(f"is {name_of(full)}, which has no order: {sign} is for numbers")
    if choices:
        text = text_of(plain) if is_text else codec_of(full).to_text(plain)
        if text not in choices:
            shown = shortened(repr(plain), MAX_SHOWN)
            similar = suggestion(text[:MAX_SHOWN], islice(choices, MAX_SUGGESTED))
            known = listed(shortened(choice, MAX_SHOWN) for choice in choices)
            raise ValueError(f"is never {shown}: it is one of {known}{similar}")
        return text
    declared = name_of(full)
    if annotation not in (str, bool, *_NUMBERS):
        raise ValueError(f"is {declared}, which cannot be compared: declare it as {_COMPARABLE}")
    kind = {str: "string", bool: "truth value"}.get(annotation, "number")
    if kind == "number" and isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(f"is {declared}: compare it with a finite number")
    if _kind(plain) != kind or (kind == "string" and not isinstance(plain, str)):
        raise ValueError(f"is {declared}, which is never {shortened(repr(value), MAX_SHOWN)}")
    if annotation is int and sign not in _ORDER and plain != math.floor(plain):
        raise ValueError(f"is {declared}, which is never {plain}")
    return plain if is_text or kind != "string" else codec_of(full).to_text(plain)


# -- branches that are never taken


@dataclass(frozen=True, slots=True, eq=False)
class Fact:
    """What is known wherever a state of a node exists: a condition that holds, or one that does not."""

    model: ConditionModel
    annotation: Any
    holds: bool

    def __hash__(self) -> int:
        return hash((id(self.model), self.holds))

    def __eq__(self, other: object) -> bool:
        # By identity: true and 1 are equal in Python.
        return isinstance(other, Fact) and self.model is other.model and self.holds is other.holds


def contradiction(facts: Iterable[Fact]) -> str | None:
    """Return the facts of one value that cannot be true together; None if all can, or if they are many."""
    by_value: defaultdict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_value[fact.model.of].append(fact)
    for of_one in by_value.values():
        size = sum(len(fact.model.values) for fact in of_one)
        if size > MAX_TRIED:
            continue
        kinds = {_kind(value) for fact in of_one for value in fact.model.values} - {"null"}
        if len(kinds) > 1:  # of an unknown type: a number and a truth value have several texts
            continue
        examples = list(islice(_examples(of_one), MAX_TRIED))
        if size * len(examples) <= MAX_TRIED and not any(_all_true(of_one, text) for text in examples):
            return listed(sorted(f"{'' if fact.holds else 'not '}({fact.model})" for fact in of_one))
    return None


def _all_true(facts: Iterable[Fact], text: str) -> bool:
    try:
        return all(fact.model.holds(text) is fact.holds for fact in facts)
    except ValueError:
        return False


def _examples(facts: Iterable[Fact]) -> Iterator[str]:
    """Yield texts of a value of the type, of each kind that these conditions distinguish."""
    facts = list(facts)
    annotation = resolved(facts[0].annotation)
    choices = _choices(annotation)
    if (inner := optional(annotation)) is not None or annotation is UNKNOWN:
        yield _NULL
        annotation = annotation if inner is None else resolved(inner)
    values = [value for fact in facts for value in fact.model.values if value is not None]
    if choices:
        yield from choices
        return
    if annotation in (bool, UNKNOWN):
        yield from ("true", "false")
    if annotation in (str, UNKNOWN):
        texts = [value for value in values if isinstance(value, str)]
        yield from (*texts, "".join(texts) + "-")
    numbers = [value for value in values if not isinstance(value, str | bool)] or [0]
    if annotation in (int, UNKNOWN):
        yield from (str(math.floor(number) + step) for number in numbers for step in (-1, 0, 1, 2))
    if annotation in (float, Decimal, UNKNOWN):
        near = (math.nextafter(number, end) for number in numbers for end in (-math.inf, math.inf))
        yield from map(text_of, (*numbers, *near, math.nan))
