"""What an input takes, by the JSON schema that it is registered with."""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    create_model,
    field_validator,
)

from exotrio import FieldsInvalid, from_text
from exotrio._fields.declared import declared, typed_inputs
from exotrio._nodes.base import BaseNode
from exotrio._nodes.checks import declare


class Size(Enum):
    SMALL = "s"
    LARGE = 10


class Item(BaseModel):
    name: str


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")
    article: Annotated[str, Field(min_length=2)]
    price: Annotated[Decimal, Field(ge=0)]
    level: Level = Level.LOW
    due: date | None = None
    parts: list[Line] = []


class Trimmed(BaseModel):
    """Accepts more than its JSON schema says."""

    model_config = ConfigDict(str_strip_whitespace=True)
    name: Annotated[str, Field(max_length=2)]


class State(StrEnum):
    OPEN = "open"

    @classmethod
    def _missing_(cls, value: object) -> State | None:
        return cls.OPEN if str(value).lower() == "open" else None


class Order(BaseModel):
    state: State


def without_unit(value: object) -> object:
    return value.removesuffix(" kg") if isinstance(value, str) else value


Weight = Annotated[int, BeforeValidator(without_unit)]

NUMBERS = ("5", " 5", "0", "-1", "1.5", "1e3", "NaN", "99999999999999999999999")
TIMES = ("2026-01-31", "2026-02-31", "2026-01-31T14:30:00Z", "14:30", "14:30:00", "PT1H", "1:00:00")
OTHER_JSON = (
    "true",
    "null",
    '"null"',
    "[]",
    "[1, 2]",
    "[1, 1]",
    '["1"]',
    '["a"]',
    "[null]",
    "{}",
    '{"a": 1}',
)
OTHERS = ("", "yes", "s", "10", "S", '{"name": "x"}', "[", "plain", "two\nlines")
TEXTS = (*NUMBERS, *TIMES, *OTHER_JSON, *OTHERS, "c0ffee00-0000-4000-8000-000000000000")
EXACT: dict[Any, str] = {
    str: "",
    int: "a whole number",
    Annotated[int, Field(ge=1, lt=9)]: "a whole number, at least 1, below 9",
    float: "a number",
    Annotated[float, Field(multiple_of=0.5)]: "a number, a multiple of 0.5",
    bool: "true or false",
    date: "a date such as 2026-01-31",
    datetime: "a date and time such as 2026-01-31T14:30:00Z",
    time: "a time such as 14:30:00",
    timedelta: "a duration such as PT1H30M",
    UUID: "a UUID",
    Size: "one of s, 10",
    Literal["s", 5, True]: "one of s, 5, true",
    Literal["s"]: "one of s",
    list[int]: "a JSON array",
    list[str]: "a JSON array",
    Annotated[list[int], Field(min_length=1)]: "a JSON array, length at least 1",
    int | None: "a whole number, or null",
    Size | None: "one of s, 10, or null",
    str | None: "",
}
"""A type to how it is described. These are checked as strictly as by the node."""
LOOSE: dict[Any, tuple[str, str]] = {
    Decimal: ("a number", "[]"),
    list[Item]: ("a JSON array", "{}"),
    set[int]: ("a JSON array", '["a"]'),
    frozenset[Size]: ("a JSON array", '["m"]'),
    list[set[date]]: ("a JSON array", '[["2026-01-31", "soon"]]'),
    Annotated[set[int], Field(max_length=1)]: ("a JSON array", "{}"),
    dict[str, int]: ("a JSON object", '{"a": "x"}'),
    Item: ("a JSON object", '{"name": 5}'),
    Line: ("a JSON object", '{"article": "tea", "price": "dear"}'),
    list[Line]: ("a JSON array", '[{"article": "t", "price": 1}]'),
    dict[str, Line]: ("a JSON object", '{"one": {"article": "tea", "price": -1}}'),
    list[Line | None]: ("a JSON array", '[null, {"price": 1}]'),
    Item | None: ("a JSON object, or null", "[]"),
    tuple[int, str]: ("a JSON array, length at least 2, length at most 2", "{}"),
}
"""A type to its description, and to a text that is refused. Of others, some are left to the node."""


LINES = (
    '{"article": "tea", "price": 1}',
    '{"article": "tea", "price": "0.99999999999999999999"}',
    '{"article": "tea", "price": 1, "level": 1, "due": "2026-01-31"}',
    '{"article": "tea", "price": 1, "level": "1", "due": null}',
    '{"article": "tea", "price": 1, "level": 2}',
    '{"article": "tea", "price": 1, "due": "soon"}',
    '{"article": "tea", "price": 1, "more": 1}',
    '{"article": "tea", "price": 1, "parts": [{"article": "leaf", "price": 0}]}',
    '{"article": "tea"}',
)


def schema_of(annotation: Any) -> Any:
    class Node(BaseNode):
        Inputs = create_model("Inputs", value=(annotation, ...))

        async def execute(self) -> None: ...

    return declare(Node).inputs_schema["properties"]["value"]


def is_accepted(annotation: Any, text: str) -> bool:
    try:
        from_text(create_model("Inputs", value=(annotation, ...)), {"value": text})
    except FieldsInvalid:
        return False
    return True


@pytest.mark.parametrize("annotation", EXACT, ids=str)
def test_a_text_fits_the_registration_if_the_node_accepts_it(annotation: Any) -> None:
    values = declared(schema_of(annotation))
    assert values.description == EXACT[annotation]
    for text in TEXTS:
        problem = values.problem(text)
        assert (problem is None) == is_accepted(annotation, text), (text, problem)
        assert problem is None or problem.startswith(f"must be {values.description}")


@pytest.mark.parametrize("annotation", LOOSE, ids=str)
def test_no_text_is_refused_that_the_node_accepts(annotation: Any) -> None:
    description, refused = LOOSE[annotation]
    values = declared(schema_of(annotation))
    assert values.description == description
    assert values.problem(refused) is not None
    for text in (*TEXTS, *LINES, *(f"[{line}]" for line in LINES)):
        assert values.problem(text) is None or not is_accepted(annotation, text), text


def test_models_within_values_are_checked_and_what_is_wrong_is_named() -> None:
    line = declared(schema_of(Line))
    for text in LINES:
        # Only a part of a line is a line again, which would have no end.
        assert (line.problem(text) is None) == is_accepted(Line, text), text
    problem = declared(schema_of(list[Line])).problem('[{"article": "tea", "price": "dear"}]')
    assert problem is not None
    assert problem.startswith("must be a JSON array: element 0: price: Input should be a valid decimal")


class Lenient(BaseNode):
    class Inputs(BaseModel):
        name: Annotated[str, Field(max_length=2)]
        code: Annotated[str, Field(max_length=2)]
        weights: list[Weight]
        trimmed: list[Trimmed]
        order: Order
        count: Annotated[int, Field(ge=1)]
        state: Annotated[str, Field(pattern=re.compile("^(done|open)$", re.IGNORECASE))]

        @field_validator("name", mode="before")
        @classmethod
        def trim(cls, name: str) -> str:
            return name.strip()

    async def execute(self) -> None: ...


def test_a_field_that_accepts_more_than_its_schema_says_is_left_to_the_node() -> None:
    fields = declare(Lenient).inputs_schema["properties"]
    texts = {
        "name": "  a",
        "weights": '["5 kg"]',
        "trimmed": '[{"name": "  a"}]',
        "state": "Done",
        "order": '{"state": "OPEN"}',
    }
    assert [declared(fields[name]).problem(text) for name, text in texts.items()] == [None] * 5
    refused = {"code": "  a", "count": "0"}
    checked = typed_inputs(fields)
    assert None not in [checked[name].problem(text) for name, text in refused.items()]
    from_text(Lenient.Inputs, {**texts, "code": "a", "count": "1"})


def test_limits_of_a_text_are_checked_only_for_nodes_that_say_so() -> None:
    class OfSdk(BaseModel):
        code: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2)]

    assert typed_inputs(OfSdk.model_json_schema()["properties"]) == {}


def test_a_schema_that_is_large_or_without_an_end_is_read_in_no_time() -> None:
    part = {"$ref": "#/$defs/A"}
    definitions = {
        name: {
            "type": "object",
            "properties": {f"p{number}": {"$ref": f"#/$defs/{other}"} for number in range(40)},
        }
        for name, other in zip("ABCDEFGH", "BCDEFGHA", strict=True)
    }
    values = declared({"type": "string", "contentSchema": {**part, "$defs": definitions}})
    assert values.problem("[]") == "must be a JSON object: Input should be an object"
    assert values.problem('{"p0": {"p0": 5}}') is not None
    wide = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(5_000)}}
    assert declared({"type": "string", "contentSchema": wide}).problem('{"p1": "x"}') is None


def test_the_choices_and_the_limits_are_known() -> None:
    assert declared(schema_of(Size | None)).choices == ("s", "10")
    assert declared(schema_of(bool)).choices == ("true", "false")
    assert declared(schema_of(Annotated[int, Field(le=5)])).limits == {"maximum": 5}
    plain = declared({"type": "string", "maxLength": 3, "pattern": "^[A-Z]+$"})
    assert plain.description == "a text, length at most 3, like ^[A-Z]+$"
    assert [plain.problem(text) is None for text in ("AB", "ABCD", "ab")] == [True, False, False]


@pytest.mark.parametrize(
    "schema",
    [
        *(None, [], "integer", {}, {"type": 5}, {"type": ["string"]}, {"enum": 5}, {"$ref": "#/$defs/none"}),
        {"$defs": {"A": {"$ref": "#/$defs/A"}}, "$ref": "#/$defs/A"},
        {"type": "string", "minLength": "x"},
        {"type": "string", "pattern": "("},
        {"type": "string", "contentSchema": "integer"},
        {"anyOf": []},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"type": "array", "items": 3},
    ],
)
def test_a_schema_that_is_not_understood_accepts_any_text(schema: object) -> None:
    values = declared(schema)
    assert (values.type, values.description) == ("string", "")
    assert values.problem("anything") is None
