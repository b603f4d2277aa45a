"""Which types of outputs fit which types of inputs."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter

from exotrio._fields.codecs import codec_of
from exotrio._fields.fit import fits


class Rate(StrEnum):
    FULL = "full"
    HALF = "half"


class Count(IntEnum):
    ONE = 1
    TWO = 2


class Line(BaseModel):
    article: str
    count: int


class Longer(BaseModel):
    article: str
    count: int
    rate: str


class LongerLine(Line):
    rate: str


FIT: list[tuple[Any, Any]] = [
    (str, UUID),
    (Line, str),
    (int, float),
    (float, Decimal),
    (Annotated[int, Field(gt=0)], int),
    (Count, int),
    (Rate, Literal["half", "full", "none"]),
    (Rate, Rate | None),
    (int, float | None),
    (int | None, Decimal | None),
    (date, datetime),
    (datetime, AwareDatetime),
    (list[int], tuple[float, ...]),
    (tuple[int, int], list[float]),
    (list[list[int]], list[list[float]]),
    (dict[str, int], dict[str, float]),
    (dict[str, int], Line),
    (Longer, Line),
    (LongerLine, Line),
    (list[date], list[str]),
    (list[Rate], list[str | None]),
    (list[str], list[int]),
    (dict[int, UUID], dict[str, str]),
]
DO_NOT: list[tuple[Any, Any]] = [
    (float, int),
    (bool, int),
    (int, bool),
    (UUID, int),
    (int | None, int),
    (datetime, date),
    (Rate, int),
    (Rate, Literal["full"]),
    (int, Count),
    (int, list[int]),
    (list[int], int),
    (list[float], list[int]),
    (list[int | None], list[int]),
    (tuple[int, int], tuple[int, int, int]),
    (dict[str, float], dict[str, int]),
    (Line, list[int]),
    (Line, Longer),
    (Line, int),
    (list[int], list[str]),
    (list[Count], set[str]),
    (list[list[str]], list[str]),
    (dict[str, float], dict[str, str | None]),
]


@pytest.mark.parametrize(
    ("source", "target", "expected"), [(*p, True) for p in FIT] + [(*p, False) for p in DO_NOT]
)
def test_a_type_fits_if_it_has_no_value_that_the_other_lacks(
    source: Any, target: Any, expected: bool
) -> None:
    assert fits(source, target) is expected


@pytest.mark.parametrize(
    ("source", "value", "target"),
    [
        (list[date], [date(2024, 1, 31)], list[str]),
        (dict[int, UUID], {1: UUID(int=2)}, dict[str, str]),
        (list[int], [1], list[str]),
        (dict[str, float], {"a": 1.5}, dict[str, str]),
        (list[Count], [Count.ONE], set[str]),
    ],
)
def test_the_answer_for_texts_in_json_is_true_of_an_example(source: Any, value: Any, target: Any) -> None:
    text = codec_of(source).to_text(TypeAdapter(source).dump_python(value, mode="json"))
    try:
        codec_of(target).from_text(text)
    except ValueError:
        assert not fits(source, target)
    else:
        assert fits(source, target)
