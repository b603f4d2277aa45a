"""Typed fields of nodes: how they are declared, checked on arrival, refused, and reported when wrong."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from enum import Enum, Flag, StrEnum
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest
import trio
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    create_model,
)
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    ConfigurationError,
    FieldsInvalid,
    Graph,
    Runtime,
    StateManager,
    from_text,
    to_text,
)
from exotrio._fields.models import fields_of
from exotrio._nodes.checks import declare
from exotrio.manager import embedded
from exotrio.testing import Errored, Executed, run_graph, run_node
from tests.support.doubles import V0Server, runtime

Kilo = NewType("Kilo", int)


class Size(StrEnum):
    SMALL = "s"
    LARGE = "l"


class Item(BaseModel):
    name: str
    price: Decimal = Decimal("0.10")


class Inputs(BaseModel):
    plain: str
    count: Annotated[int, Field(gt=0, description="How many.")]
    day: date | None = None
    size: Size = Size.SMALL
    items: list[Item] = []
    weight: Kilo = Kilo(1)


class Outputs(Inputs):
    pass


class Echo(BaseNode):
    Inputs = Inputs
    Outputs = Outputs

    async def execute(self) -> Any:
        return Outputs(**dict(self.inputs))


async def errors(tested: type[BaseNode], **inputs: str) -> str:
    outcome = await run_node(tested, inputs)
    assert isinstance(outcome, Errored), outcome
    return outcome.error


def test_typed_fields_are_declared_as_plain_strings() -> None:
    schema = declare(Echo).inputs_schema
    assert schema["properties"]["count"] == {
        "title": "Count",
        "description": "How many.",
        "type": "string",
        "contentSchema": {"type": "integer", "exclusiveMinimum": 0},
    }
    assert all(field["type"] == "string" for field in schema["properties"].values())
    assert schema["required"] == ["plain", "count"]
    assert "$defs" not in schema


def test_a_model_of_strings_needs_no_codec() -> None:
    class Plain(BaseModel):
        text: Annotated[str, Field(min_length=2)] = "default"

    assert fields_of(Plain) is None


def test_texts_and_values_are_converted_outside_of_nodes() -> None:
    values = Inputs(plain="a", count=2, day=date(2024, 2, 29))
    assert from_text(Inputs, to_text(values)) == values
    assert to_text(values)["day"] == "2024-02-29"
    with pytest.raises(
        FieldsInvalid, match="the texts do not fit Inputs:\n  - count: a text of 3 characters"
    ):
        from_text(Inputs, {"plain": "a", "count": "two"})
    with pytest.raises(FieldsInvalid, match="count: its type is int, but it holds a float"):
        to_text(Inputs.model_construct(plain="a", count=2.5))
    with pytest.raises(ConfigurationError, match="secret: SecretStr cannot be restored"):
        to_text(Deep())


TEXTS = ("null", '"null"', '"\\"null\\""', '"a"', '"', "", "[]", '["null"]', "a")


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (str | None, (None, *TEXTS)),
        (list[str | None], [[None, *TEXTS], []]),
        (list[str | None] | None, [None, [None, *TEXTS]]),
        (list[list[str | None]], [[[None, *TEXTS], []]]),
        (list[list[str | None] | None], [[None, [None, *TEXTS]]]),
        (list[list[str]], [[list(TEXTS), []]]),
        (Literal["null", "a"] | None, (None, "null", "a")),
        (list[Literal["null", "a"] | None], [["null", None]]),
        (dict[str, str | None], [{"null": None, "": "null"}]),
    ],
)
def test_none_and_texts_that_resemble_it_are_distinguished(annotation: Any, values: Any) -> None:
    one = create_model("One", field=(annotation, ...))
    many = create_model("Many", field=(list[annotation], ...))
    texts = [to_text(one(field=value))["field"] for value in values]
    assert [from_text(one, {"field": text}).field for text in texts] == list(values)  # type: ignore[attr-defined]
    assert from_text(many, {"field": json.dumps(texts)}).field == list(values)  # type: ignore[attr-defined]


def test_a_model_of_strings_has_texts_and_values_too() -> None:
    assert to_text(Item(name="a")) == {"name": "a", "price": "0.10"}

    class Plain(BaseModel):
        text: str

    assert from_text(Plain, to_text(Plain(text="null"))) == Plain(text="null")


async def test_values_arrive_typed_and_leave_as_text() -> None:
    inputs = {
        "plain": "null",
        "count": "3",
        "day": "2024-02-29",
        "size": "l",
        "items": '[{"name": "ä"}]',
        "weight": "7",
    }
    outcome = await run_node(Echo, inputs)
    assert outcome == Executed([inputs | {"items": '[{"name":"ä","price":"0.10"}]'}])
    few = await run_node(Echo, {"plain": "", "count": "1"})
    assert few == Executed(
        [{"plain": "", "count": "1", "day": "null", "size": "s", "items": "[]", "weight": "1"}]
    )


async def test_inputs_that_do_not_fit_are_all_named_without_their_values() -> None:
    error = await errors(Echo, plain="x", count="canary-1", day="canary-2", size="canary", items="[1, canary")
    assert error.splitlines()[0] == "the inputs do not fit Echo.Inputs:"
    for part in (
        "  count: a text of 8 characters is not a valid int: Input should be a valid integer",
        "  day: a text of 8 characters is not a valid datetime.date | None: ",
        "  size: a text of 6 characters is not a valid Size: it must be one of s, l",
        "  items: a text of 10 characters is not a valid list[",
    ):
        assert part in error
    assert "canary" not in error


async def test_the_model_itself_validates_the_values() -> None:
    assert "  count: Input should be greater than 0" in await errors(Echo, plain="x", count="0")
    assert "  count: Field required" in await errors(Echo, plain="x")


async def test_a_secret_in_an_input_is_not_shown() -> None:
    class Telling(BaseNode):
        class Inputs(BaseModel):
            number: Annotated[int, AfterValidator(refuse)]

        class Secrets(BaseModel):
            token: str

        async def execute(self) -> None: ...

    outcome = await run_node(Telling, {"number": "8151623"}, secrets={"token": "8151623"})
    assert isinstance(outcome, Errored)
    assert "I will not take ***" in outcome.error


async def test_an_element_that_does_not_fit_is_named_by_its_position() -> None:
    assert "items: a text of 24 characters is no" in await errors(
        Echo, plain="", count="1", items='[{"name": "a"}, "plain"]'
    )
    error = await errors(Echo, plain="", count="1", items='[{"name": "a"}, {"x": 1}]')
    assert "element 1: name: Field required" in error


async def test_outputs_that_are_not_of_their_types_are_an_error() -> None:
    class Wrong(BaseNode):
        class Outputs(BaseModel):
            count: int = 0
            names: list[str] = []

        async def execute(self) -> Any:
            return self.Outputs.model_construct(count="canary", names=["\ud800"])

    error = await errors(Wrong)
    assert error.startswith("what Wrong.execute returned does not fit Wrong.Outputs:\n")
    assert "count: its type is int, but it holds a str" in error
    assert "canary" not in error


async def test_an_aggregate_reaches_a_typed_list_as_values_and_a_string_as_it_is() -> None:
    class Gather(BaseNode):
        class Inputs(BaseModel):
            numbers: list[int]
            items: list[Item]
            texts: list[str]
            raw: str

        class Outputs(BaseModel):
            seen: str

        async def execute(self) -> Any:
            return self.Outputs(seen=repr(self.inputs))

    outcome = await run_node(
        Gather,
        {
            "numbers": json.dumps(["1", "-2"]),
            "items": json.dumps(['{"name":"a"}']),
            "texts": json.dumps(["1", "[]"]),
            "raw": json.dumps(["1"]),
        },
    )
    assert isinstance(outcome, Executed)
    assert outcome.outputs[0]["seen"] == (
        "Inputs(numbers=[1, -2], items=[Item(name='a', price=Decimal('0.10'))], "
        "texts=['1', '[]'], raw='[\"1\"]')"
    )


def refuse(value: int) -> int:
    raise ValueError(f"I will not take {value}")


class Early(BaseModel):
    later: Later
    others: list[Later]


class Later(BaseModel):
    last: Last


class Last(BaseModel):
    text: str


def test_a_type_may_be_defined_below_the_fields_that_have_it() -> None:
    node = type("Node", (BaseNode,), {"Inputs": Early, "execute": Echo.execute})
    assert runtime(V0Server(), node)
    values = Early(later=Later(last=Last(text="a")), others=[])
    assert to_text(values) == {"later": '{"last":{"text":"a"}}', "others": "[]"}


class Permission(Flag):
    READ = 1


class Twins(Enum):
    NUMBER = 1
    TEXT = "1"


class Odd(Enum):
    PAIR = (1, 2)


class Hides(BaseModel):
    kept: int
    lost: int = Field(0, exclude=True)


class Renames(BaseModel):
    one: int = Field(1, serialization_alias="uno")


class Aliased(BaseModel):
    one: int = Field(1, alias="uno")


class AliasedBothWays(Aliased):
    model_config = ConfigDict(serialize_by_alias=True)


class Rooted(RootModel[int]):
    pass


class Deep(BaseModel):
    inside: list[Deep] = []
    secret: SecretStr = SecretStr("")


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (Any, "Any cannot be restored from a text: use str, int"),
        (bytes, "bytes cannot be restored"),
        (object, "object cannot be restored"),
        (list, "list cannot be restored"),
        (dict, "dict cannot be restored"),
        (None, "NoneType cannot be restored"),
        ("Nowhere", "Nowhere is not defined where the model is"),
        (int | str, r"int \| str cannot be restored"),
        (int | str | None, "cannot be restored"),
        (list[dict[str, bytes]], "bytes cannot be restored"),
        (dict[float, str], "keys of type float cannot be restored from JSON"),
        (dict[bool, str], "keys of type bool"),
        (Permission, "Permission is a Flag"),
        (Twins, "Twins: two of its values are the same text"),
        (Literal[1, "1"], "two of its values are the same text"),
        (Odd, "Odd: its values must be text, numbers or truth values"),
        (Hides, "Hides.lost is excluded and would be lost"),
        (list[Renames], "Renames.one has different names for reading and writing"),
        (Aliased, "Aliased.one has an alias: set serialize_by_alias=True"),
        (Rooted, "Rooted cannot be restored"),
        (Deep, "Deep.secret: SecretStr cannot be restored"),
        (Annotated[int, Field(alias="other")], "field: a typed field has to keep its own name"),
        (Annotated[int, Field(exclude=True)], "field: the value of an excluded field would be lost"),
    ],
)
def test_a_field_that_cannot_make_the_round_trip_is_refused(annotation: Any, problem: str) -> None:
    model = type("Model", (BaseModel,), {"__annotations__": {"field": annotation}})
    for part in ("Inputs", "Outputs"):
        node = type("Refused", (BaseNode,), {part: model, "execute": Echo.execute})
        with pytest.raises(ConfigurationError, match=problem):
            Runtime("ns", "rt", [node], transport=V0Server())


class Named(BaseModel):
    text: str = Field(alias="says")
    count: int = 3


class NamedOnlyWhenRead(BaseModel):
    text: str = Field(validation_alias="says", serialization_alias="said")


class NamedInOneOfTwoWays(NamedOnlyWhenRead):
    model_config = ConfigDict(serialize_by_alias=True)
    text: str = Field(validation_alias=AliasChoices("says", "tells"), serialization_alias="said")


@pytest.mark.parametrize("model", [Named, NamedOnlyWhenRead, NamedInOneOfTwoWays])
async def test_a_text_travels_by_the_name_that_the_schema_of_its_model_has(
    autojump_clock: MockClock, model: type[BaseModel]
) -> None:
    class Says(BaseNode):
        Inputs = Outputs = model

        async def execute(self) -> Any:
            return self.inputs

    graph = Graph("chat", namespace="test")
    first = graph.add(Says, says="hello")
    graph.add(Says, identifier="second", says=first.says)
    run = await run_graph(graph, [Says])
    assert [outputs["says"] for outputs in run.outputs("second")] == ["hello"]
    assert from_text(model, to_text(model.model_validate({"says": "bye"}))).model_dump() == (
        model.model_validate({"says": "bye"}).model_dump()
    )


async def test_an_alias_that_works_both_ways_is_fine_within_a_model() -> None:
    class Keeps(BaseNode):
        class Inputs(BaseModel):
            one: AliasedBothWays

        class Outputs(Inputs):
            pass

        async def execute(self) -> Any:
            return self.Outputs(one=self.inputs.one)

    assert await run_node(Keeps, {"one": '{"uno":5}'}) == Executed([{"one": '{"uno":5}'}])


def test_all_refused_fields_are_named_at_once() -> None:
    class Many(BaseNode):
        class Inputs(BaseModel):
            a: bytes
            b: list[Any]
            c: int

        class Outputs(BaseModel):
            d: complex

        async def execute(self) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        Runtime("ns", "rt", [Many], transport=V0Server())
    assert len(caught.value.problems) == 3


# -- through a state manager


class Measurement(BaseModel):
    at: timedelta
    value: float | None


class Plan(BaseNode):
    class Outputs(BaseModel):
        number: int
        of: UUID

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(number=number, of=UUID(int=7)) for number in (3, 1, 2)]


class Measure(BaseNode):
    class Inputs(BaseModel):
        number: int
        of: UUID
        scale: float

    class Outputs(BaseModel):
        measurement: Measurement
        even: bool
        label: str

    async def execute(self) -> Outputs:
        number = self.inputs.number
        assert self.inputs.of == UUID(int=7)
        value = None if number == 1 else number * self.inputs.scale
        measurement = Measurement(at=timedelta(hours=number), value=value)
        return self.Outputs(measurement=measurement, even=number % 2 == 0, label=f'"{number}"')


class Collect(BaseNode):
    received: list[Any] = []

    class Inputs(BaseModel):
        measurements: list[Measurement]
        even: list[bool]
        labels: list[str]
        raw: str

    async def execute(self) -> None:
        self.received.append(self.inputs)


@pytest.mark.parametrize("link", ["v0", "native"])
async def test_typed_nodes_work_through_a_state_manager_on_either_api(link: Any) -> None:
    graph = Graph("typed", namespace="ns")
    plan = graph.add(Plan)
    measure = graph.add(Measure, number=plan.number, of=plan.of, scale=0.5)
    every = measure.every
    graph.add(
        Collect,
        unites=plan,
        measurements=every.measurement,
        even=every.even,
        labels=every.label,
        raw=every.even,
    )
    # The united node hangs below one state of plan, so there is one for each.
    Collect.received.clear()
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        rt = Runtime("ns", "rt", [Plan, Measure, Collect], transport=transport, link=link, poll_interval=0.01)
        await nursery.start(rt.run)
        await manager.upsert_graph(graph)
        run = await manager.wait((await manager.trigger("typed"))["run_id"])
        assert run.status == "SUCCESS"
        rt.stop()
    seen = sorted(Collect.received, key=lambda inputs: inputs.labels)
    assert [inputs.labels for inputs in seen] == [['"1"'], ['"2"'], ['"3"']]
    assert seen[0].measurements == [Measurement(at=timedelta(hours=1), value=None)]
    assert seen[1].measurements == [Measurement(at=timedelta(hours=2), value=1.0)]
    assert (seen[1].even, seen[1].raw) == ([True], '["true"]')
