"""``explore`` with a successor, and without a check: how runs end is compared with undisturbed ones."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from pydantic import AliasChoices, BaseModel, Field, create_model
from trio.testing import MockClock

from exotrio import BaseNode, ConfigurationError, Graph, RetryPolicyModel
from exotrio.testing import CheckFailed, CrashRun, Fault, Version, explore

Code = list[type[BaseNode]]


def code(by: str, *, output: str = "word", default: Any = ..., measured: str = "{}") -> Code:
    """Return two node classes as one version of the code has them.

    Args:
        by: What their outputs name as their author.
        output: Name of the first one's output.
        default: Default of the second one's input, which has the name ``text`` instead of ``word`` then.
        measured: Form of its output.
    """

    class Split(BaseNode):
        Outputs = type("Outputs", (BaseModel,), {"__annotations__": {output: str, "by": str}})

        async def execute(self) -> list[BaseModel]:
            await trio.sleep(0.1)
            return [self.Outputs(**{output: word, "by": by}) for word in ("three",)]

    class Measure(BaseNode):
        class Inputs(BaseModel):
            word: str

        class Outputs(BaseModel):
            length: str

        async def execute(self) -> Outputs:
            await trio.sleep(0.1)
            return self.Outputs(length=measured.format(len(self.inputs.word)))

    class Renamed(Measure):
        class Inputs(BaseModel):
            text: str = default

        async def execute(self) -> Measure.Outputs:
            return self.Outputs(length=measured.format(len(self.inputs.text)))

    Renamed.__name__ = "Measure"
    return [Split, Measure if default is ... else Renamed]


OLD = code("old")


def graph(nodes: Code = OLD) -> Graph:
    words = Graph("words", namespace="ns")
    words.add(nodes[1], word=words.add(nodes[0]).word)
    return words


async def test_runs_end_with_outputs_of_the_old_code_of_the_new_code_or_of_both(
    autojump_clock: MockClock,
) -> None:
    new = code("new", measured="{} letters")
    runs: list[CrashRun[None]] = []
    result = await explore(graph(), OLD, successor=new, check=runs.append)
    assert not result.failures
    assert result.changes == ()
    assert result.versions.keys() == set(Version)
    assert sum(result.versions.values()) == len(result.tried) == len(result.points)
    assert "; runs with outputs of the " in str(result)
    # The new code gives outputs wherever a second runtime took over.
    whose = {run.outputs("split")[0]["by"] for run in runs if run.point and run.point.place.node == "split"}
    assert whose == {"old", "new"}


async def test_an_input_that_was_renamed_is_named_and_the_advice_helps(autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed) as caught:
        await explore(graph(), OLD, successor=code("new", default=Field()), faults=[Fault.KILLED])
    head, change, *failures = str(caught.value).splitlines()
    assert head.endswith("; 1 change that may break runs; replay one with only=NUMBER:")
    assert change.startswith(
        "  Measure.Inputs.text (old code: word: a text; new code: a text): runs of the old"
    )
    assert change.endswith('text: str = Field("", validation_alias=AliasChoices("text", "word"))')
    assert any("input 'text' of 'measure' is not given by the graph" in each for each in failures)

    alias = Field("", validation_alias=AliasChoices("text", "word"))
    new = code("new", default=alias)
    result = await explore(graph(), OLD, successor=new, faults=[Fault.STOPPED])
    assert str(result).endswith("; not compared: all of measure, all of split")
    words = Graph("words", namespace="ns")
    words.add(new[1], text=words.add(new[0]).word)
    result = await explore(graph(), OLD, successor=new, successor_graph=words, faults=[Fault.STOPPED])
    assert (result.changes, result.not_compared) == ((), frozenset())
    assert result.versions.keys() == {Version.OLD, Version.NEW}


async def test_an_output_that_is_missing_is_named(autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed) as caught:
        await explore(graph(), OLD, successor=code("new", output="name"), faults=[Fault.STOPPED])
    assert "Split.Outputs.word (old code: a text; new code: no such field): in runs of the old" in str(
        caught.value
    )
    assert "'split' gave no output 'word'" in str(caught.value)
    # Faults show it only while Split runs: the classes are compared whatever struck.
    with pytest.raises(CheckFailed, match="the successor breaks runs that the old code began; tried 0 of 0"):
        await explore(graph(), OLD, successor=code("new", output="name"), faults=[Fault.DRAINED])


async def test_a_class_that_is_missing_is_named_before_anything_is_tried(autojump_clock: MockClock) -> None:
    with pytest.raises(
        CheckFailed, match="class that is missing:\n  Measure: the new code has no such class"
    ):
        await explore(graph(), OLD, successor=code("new")[:1])
    with pytest.raises(ConfigurationError, match="cannot be used as nodes"):
        await explore(graph(), OLD, successor=[dict])  # type: ignore[list-item]


def signing(by: str) -> type[BaseNode]:
    class Sign(BaseNode):
        class Inputs(BaseModel):
            by: str

        class Outputs(BaseModel):
            text: str
            ticket: float

        async def execute(self) -> Outputs:
            return self.Outputs(text=f"{self.inputs.by}, then {by}", ticket=random.random())

    return Sign


async def test_a_result_that_neither_version_has_is_a_failure_and_random_outputs_are_not_compared(
    autojump_clock: MockClock,
) -> None:
    signed = Graph("signed", namespace="ns")
    old, new = ([code(by)[0], signing(by)] for by in ("old", "new"))
    signed.add(old[1], by=signed.add(old[0]).by)
    result = await explore(signed, old, faults=[Fault.KILLED])
    assert result.not_compared == {("sign", "ticket")}
    with pytest.raises(CheckFailed) as caught:
        await explore(signed, old, successor=new, faults=[Fault.KILLED])
    (failure, *_) = caught.value.exploration.failures
    assert failure.what == (
        "AssertionError: sign.text is 'old, then new' instead of 'old, then old' (old code)"
        " or 'new, then new' (new code)"
    )


def counting(field: str) -> type[BaseNode]:
    fields: Any = {field: (int, 0)}

    class Import(BaseNode):
        Checkpoint = create_model("Checkpoint", **fields)

        async def execute(self) -> None:
            while (row := getattr(self.checkpoint, field)) < 2:
                await trio.sleep(1)
                self.checkpoint = self.Checkpoint(**{field: row + 1})

    return Import


async def test_a_checkpoint_that_new_code_cannot_read_is_named(autojump_clock: MockClock) -> None:
    imports = Graph("imports", namespace="ns", retry_policy=RetryPolicyModel(max_retries=0))
    imports.add(counting("row"))
    with pytest.raises(CheckFailed) as caught:
        await explore(imports, [counting("row")], successor=[counting("line")], faults=[Fault.STORED])
    _, change, failure = str(caught.value).splitlines()
    assert change.startswith("  Import.Checkpoint.row (old code: a whole number; new code: no such field)")
    assert "its checkpoint 1 stored: AssertionError: the run ended as FAILED: import: " in failure


# -- without a check


class Count(BaseNode):
    class Outputs(BaseModel):
        times: int

    begun = 0

    async def execute(self) -> Outputs:
        Count.begun += 1
        await trio.lowlevel.checkpoint()
        return self.Outputs(times=Count.begun)


def reset() -> None:
    Count.begun = 0


async def test_without_a_check_a_run_has_to_end_like_the_one_without_a_fault(
    autojump_clock: MockClock,
) -> None:
    counted = Graph("counted", namespace="ns")
    counted.add(Count)
    with pytest.raises(CheckFailed, match=r"count ran twice.*count.times is '2' instead of '1'"):
        await explore(counted, [Count], setup=reset)
