"""Typed fields: whatever a node gives, a node that takes the same type receives, whichever way it goes."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, Literal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, NaiveDatetime, create_model

from exotrio import FieldsInvalid, from_text, to_text
from exotrio._fields.declared import declared
from exotrio._fields.models import Fields


class Colour(StrEnum):
    RED = "red"
    NOTHING = "null"
    QUOTED = '"null"'


class Level(IntEnum):
    LOW = -1
    HIGH = 7


class Mixed(Enum):
    ONE = 1
    TEXT = "text"
    HALF = 0.5


class Point(BaseModel):
    x: float
    label: str | None = None
    tags: list[str] = []


class Tree(BaseModel):
    name: str
    at: datetime | None = None
    inside: list[Tree] = []
    by_day: dict[date, Decimal] = {}


OFFSETS = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(
    lambda delta: timezone(timedelta(minutes=delta // timedelta(minutes=1)))
)
# Lone surrogates cannot be sent at all, as text or within JSON.
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["null", '"null"', '"\\"null\\""', "[]", "{}", "1", '"', '"a"', "nan", ""]
)
POINTS = st.builds(Point, x=st.floats(), label=st.none() | TEXT, tags=st.lists(TEXT, max_size=3))
TREES = st.recursive(
    st.builds(Tree, name=TEXT, at=st.none() | st.datetimes(timezones=OFFSETS)),
    lambda inner: st.builds(
        Tree,
        name=TEXT,
        inside=st.lists(inner, max_size=2),
        by_day=st.dictionaries(st.dates(), st.decimals(allow_nan=False, allow_infinity=False), max_size=2),
    ),
    max_leaves=4,
)

Typed = tuple[Any, st.SearchStrategy[Any]]
PLAIN: list[Typed] = [
    (str, TEXT),
    (int, st.integers()),
    (float, st.floats()),
    (bool, st.booleans()),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (UUID, st.uuids()),
    (date, st.dates()),
    (datetime, st.datetimes() | st.datetimes(timezones=OFFSETS)),
    (AwareDatetime, st.datetimes(timezones=OFFSETS)),
    (NaiveDatetime, st.datetimes()),
    (time, st.times() | st.times(timezones=OFFSETS)),
    (timedelta, st.timedeltas()),
    (Colour, st.sampled_from(Colour)),
    (Level, st.sampled_from(Level)),
    (Mixed, st.sampled_from(Mixed)),
    (Literal["a", "null", 3, True], st.sampled_from(["a", "null", 3, True])),
    (Point, POINTS),
    (Tree, TREES),
    (dict[str, float], st.dictionaries(TEXT, st.floats(), max_size=3)),
    (dict[UUID, list[int]], st.dictionaries(st.uuids(), st.lists(st.integers(), max_size=2), max_size=2)),
    (dict[int, Level], st.dictionaries(st.integers(), st.sampled_from(Level), max_size=2)),
    (dict[Colour, Mixed], st.dictionaries(st.sampled_from(Colour), st.sampled_from(Mixed), max_size=2)),
    (tuple[int, str], st.tuples(st.integers(), TEXT)),
    (set[int], st.sets(st.integers(), max_size=3)),
]


def of_lists(typed: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return typed.map(lambda each: (list[each[0]], st.lists(each[1], max_size=4)))  # type: ignore[valid-type]


def of_maybe(typed: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    return typed.map(lambda each: (each[0] | None, st.none() | each[1]))


ANY_TYPE = st.recursive(st.sampled_from(PLAIN), lambda inner: of_lists(inner) | of_maybe(inner), max_leaves=3)


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN is itself, True is not 1, and 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return (math.isnan(one) and math.isnan(other)) or (
                one == other and math.copysign(1, one) == math.copysign(1, other)
            )
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case BaseModel():
            return same(dict(one), dict(other))
        case datetime() | time():
            return bool(one == other and one.utcoffset() == other.utcoffset())
    return bool(one == other)


def model_of(annotation: Any) -> type[BaseModel]:
    # A second field, so that also a model of str is one with typed fields.
    return create_model("Model", field=(annotation, ...), other=(int, 0))


def sent(annotation: Any, value: Any) -> str:
    return to_text(model_of(annotation)(field=value))["field"]


def received(annotation: Any, text: str) -> Any:
    return from_text(model_of(annotation), {"field": text}).field  # type: ignore[attr-defined]


@given(st.data())
def test_every_value_of_every_type_makes_the_round_trip(data: st.DataObject) -> None:
    annotation, values = data.draw(ANY_TYPE)
    value = data.draw(values)
    assert same(received(annotation, sent(annotation, value)), value)


@given(st.text(), st.data())
def test_the_registered_schema_refuses_no_text_that_the_node_accepts(text: str, data: st.DataObject) -> None:
    annotation, _ = data.draw(ANY_TYPE)
    model = model_of(annotation)
    values = declared(Fields(model).schema()["properties"]["field"])
    other, strategy = data.draw(ANY_TYPE)
    for each in (text, sent(other, data.draw(strategy))):
        try:
            received(annotation, each)
        except FieldsInvalid:
            continue
        assert values.problem(each) is None


@given(st.data())
def test_an_aggregate_of_outputs_is_a_list_of_their_values(data: st.DataObject) -> None:
    annotation, strategy = data.draw(ANY_TYPE)
    values = data.draw(st.lists(strategy, max_size=3))
    aggregate = json.dumps([sent(annotation, value) for value in values])
    assert same(received(list[annotation], aggregate), values)  # type: ignore[valid-type]


@given(st.data())
def test_lists_and_models_are_json_that_any_reader_takes(data: st.DataObject) -> None:
    annotation, values = data.draw(of_lists(ANY_TYPE))
    text = sent(annotation, data.draw(values))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert isinstance(json.loads(text, parse_constant=refuse), list)


@given(st.text(), st.data())
def test_any_text_is_a_value_or_an_error_that_names_the_field(text: str, data: st.DataObject) -> None:
    annotation, _ = data.draw(ANY_TYPE)
    try:
        received(annotation, text)
    except FieldsInvalid as error:
        (problem,) = error.problems
    else:
        return
    assert problem.startswith(f"field: a text of {len(text)} characters is not a valid ")
