"""The checkpoint as a node sees it: what may be set, what is read, and what of older code fits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Any

import pytest
import trio
from pydantic import BaseModel, ConfigDict

from exotrio import (
    BaseNode,
    ConfigurationError,
    HandOver,
    Runtime,
)
from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._nodes.checkpoint import CheckpointView, NodeCheckpoint, text_of_checkpoint
from exotrio._nodes.outcome import CheckpointText, Report
from exotrio.testing import Errored, Executed, HandedOver, run_node


class Mode(Enum):
    FULL = "full"
    DELTA = "delta"


class Rows(BaseNode):
    class Checkpoint(BaseModel):
        row: int = 0
        day: date | None = None
        modes: list[Mode] = []

    async def execute(self) -> None: ...


class Required(BaseNode):
    class Checkpoint(BaseModel):
        page: str

    class Outputs(BaseModel):
        page: str

    async def execute(self) -> Outputs:
        before = self.checkpoint
        self.checkpoint = self.Checkpoint(page="2")
        return self.Outputs(page="none" if before is None else before.page)


async def run(node: type[BaseNode], stored: str | None = None) -> tuple[Report, Execution]:
    """Run a node of which this checkpoint is stored."""

    async def secrets(claim: Claim) -> dict[str, str]:
        return {}

    executor = Executor(nodes={node.__name__: node}, fetch_secrets=secrets)
    checkpoint = None if stored is None else CheckpointText(7, stored)
    execution = Execution(Claim("s", node.__name__, "it", {}, checkpoint=checkpoint))
    try:
        return await executor.run(execution), execution
    finally:
        await executor.aclose()


# -- values


def test_a_checkpoint_is_what_was_set_last_and_before_that_its_defaults() -> None:
    node, other = Rows(), Rows()
    assert node.checkpoint == Rows.Checkpoint()
    node.checkpoint = Rows.Checkpoint(row=3, day=date(2026, 9, 1), modes=[Mode.DELTA])
    assert node.checkpoint == Rows.Checkpoint(row=3, day=date(2026, 9, 1), modes=[Mode.DELTA])
    assert other.checkpoint == Rows.Checkpoint()


async def test_without_defaults_it_is_none_until_it_is_set() -> None:
    report, execution = await run(Required)
    assert report == Executed([{"page": "none"}])
    assert execution.checkpoint is not None
    assert execution.checkpoint.last == CheckpointText(1, '{"page":"2"}')
    report, execution = await run(Required, '{"page":"1"}')
    assert report == Executed([{"page": "1"}])
    assert execution.checkpoint is not None
    assert execution.checkpoint.last == CheckpointText(8, '{"page":"2"}'), "numbers continue"


def test_a_value_of_another_class_is_refused_where_it_is_set() -> None:
    node: Any = Rows()
    with pytest.raises(TypeError, match=r"assign a Rows.Checkpoint, not a Required.Checkpoint"):
        node.checkpoint = Required.Checkpoint(page="1")
    assert node.checkpoint == Rows.Checkpoint()


@pytest.mark.parametrize("text", ["x" * 65_525, "é" * 32_762 + "x"])
def test_64_kib_of_text_may_be_set_and_not_a_byte_more(text: str) -> None:
    node = Required()
    node.checkpoint = Required.Checkpoint(page=text)
    with pytest.raises(
        ValueError, match=r"Required.checkpoint: the value has 65,537 bytes.* 65,536 are"
    ) as raised:
        node.checkpoint = Required.Checkpoint(page=text + "x")
    assert "xx" not in str(raised.value)
    assert node.checkpoint == Required.Checkpoint(page=text)


def test_a_value_that_is_changed_in_place_is_named_when_it_is_read() -> None:
    node = Rows()
    node.checkpoint.row += 1
    with pytest.raises(TypeError, match="was changed after it was set, which saves nothing: assign a new"):
        node.checkpoint  # noqa: B018
    changed = Rows.Checkpoint()
    node.checkpoint = changed
    changed.modes.append(Mode.FULL)
    node.checkpoint = changed
    assert node.checkpoint.modes == [Mode.FULL]


def test_a_node_without_the_class_has_none() -> None:
    class Without(BaseNode):
        async def execute(self) -> None: ...

    node: Any = Without()
    for use in (lambda: node.checkpoint, lambda: setattr(node, "checkpoint", 1)):
        with pytest.raises(AttributeError, match=r"Without has no checkpoint: define class Checkpoint"):
            use()


def test_a_field_that_cannot_be_restored_from_text_is_refused_with_the_class() -> None:
    class Callback(BaseNode):
        class Checkpoint(BaseModel):
            done: object

        async def execute(self) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Callback.Checkpoint.done: object cannot be restored"):
        Runtime("ns", "r", [Callback])


# -- what other code stored


@pytest.mark.parametrize(
    ("stored", "problems"),
    [
        ('{"row":"5"}', ["row: it is stored, but is not a field", "page: Field required", "stored are: row"]),
        ("{}", ["page: Field required", "stored are: no fields"]),
        ('{"page":5}', ["page: Input should be a valid string", "stored are: page"]),
        ('["page"]', ["it is not an object in JSON"]),
        ("{", ["it is not an object in JSON"]),
    ],
)
async def test_a_stored_value_that_does_not_fit_is_an_error_that_names_the_field(
    stored: str, problems: list[str]
) -> None:
    report, execution = await run(Required, stored)
    assert isinstance(report, Errored)
    assert report.error.splitlines() == [
        "the stored checkpoint does not fit Required.Checkpoint:",
        *(f"  {problem}" for problem in problems),
        "deploy code that reads it, or retry the state from the beginning",
    ]
    assert report.retry, "another runtime may have code that reads it"
    assert execution.checkpoint is not None
    assert execution.checkpoint.unconfirmed is None, "what is stored stays"


async def test_a_value_of_another_type_is_an_error_that_does_not_quote_it() -> None:
    report, _ = await run(Rows, '{"row":"sesame","modes":"[\\"none\\"]"}')
    assert isinstance(report, Errored)
    assert "row: a text of 6 characters is not a valid int" in report.error
    assert "sesame" not in report.error


async def test_a_field_with_a_default_may_be_added_and_one_be_dropped_on_purpose() -> None:
    report, _ = await run(Rows, '{"row":"5"}')
    assert report == Executed([])

    class Tolerant(BaseNode):
        class Checkpoint(BaseModel):
            model_config = ConfigDict(extra="ignore")

            row: int = 0

        class Outputs(BaseModel):
            row: int

        async def execute(self) -> Outputs:
            return self.Outputs(row=self.checkpoint.row)

    report, _ = await run(Tolerant, '{"row":"5","total":"9"}')
    assert report == Executed([{"row": "5"}])


async def test_a_constructor_that_uses_the_checkpoint_does_not_start_from_zero_silently() -> None:
    class Early(Rows):
        def __init__(self) -> None:
            self.row = self.checkpoint.row

    report, _ = await run(Early, '{"row":"5"}')
    assert isinstance(report, Errored)
    assert "Early used self.checkpoint in __init__: it is known in execute" in report.error
    assert not report.retry


async def test_a_class_that_lost_its_checkpoint_does_not_start_from_zero_silently() -> None:
    class Lost(BaseNode):
        async def execute(self) -> None: ...

    report, _ = await run(Lost, '{"row":"5"}')
    assert isinstance(report, Errored)
    assert "the stored checkpoint does not fit Lost.Checkpoint:\n  the node has no such class" in report.error


# -- HandOver


async def test_a_node_hands_over() -> None:
    class Hands(BaseNode):
        async def execute(self) -> None:
            raise HandOver

    assert await run_node(Hands) == HandedOver()


async def test_a_node_in_a_group_of_tasks_hands_over() -> None:
    class Groups(BaseNode):
        async def execute(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.part)

        async def part(self) -> None:
            raise HandOver

    assert await run_node(Groups) == HandedOver()


async def test_the_last_of_two_threads_that_set_a_value_has_the_highest_number() -> None:
    """As if the interpreter switched to the other thread while the first one sets its value."""

    class Interrupted(CheckpointView):
        def set(self, text: str) -> int:
            if not others:
                others.append(
                    threading.Thread(target=lambda: setattr(node, "checkpoint", node.Checkpoint(row=2)))
                )
                others[0].start()
                others[0].join(0.1)
            return super().set(text)

    others: list[threading.Thread] = []
    node, view = Rows(), Interrupted()
    node._checkpoint = NodeCheckpoint("Rows", Rows.Checkpoint, view)
    node.checkpoint = node.Checkpoint(row=1)
    others[0].join()
    assert view.last is not None
    assert (view.last.number, f'"row":"{node.checkpoint.row}"' in view.last.value) == (2, True)


async def test_a_value_that_could_not_be_read_again_is_refused_where_it_is_set() -> None:
    class Page(BaseNode):
        class Checkpoint(BaseModel):
            page: str = ""

    value = Page.Checkpoint()
    value.page = 3  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"Page\.checkpoint: the value does not fit its class: "):
        text_of_checkpoint("Page", Page.Checkpoint, value)


async def test_defaults_that_do_not_fit_are_not_taken_for_a_stored_value() -> None:
    class Wrong(BaseNode):
        class Checkpoint(BaseModel):
            row: int = "x"  # type: ignore[assignment]

        async def execute(self) -> None: ...

    report = await run_node(Wrong)
    assert isinstance(report, Errored)
    assert (report.error.splitlines()[0], report.retry) == (
        "the defaults of Wrong.Checkpoint do not fit its fields:",
        False,
    )


async def test_several_tasks_of_a_node_hand_over_at_the_same_time() -> None:
    class Groups(BaseNode):
        parts: list[type[Exception]] = [HandOver, HandOver]

        async def execute(self) -> None:
            async with trio.open_nursery() as nursery:
                for part in self.parts:
                    nursery.start_soon(self.part, part)

        async def part(self, error: type[Exception]) -> None:
            raise error

    assert await run_node(Groups) == HandedOver()
    Groups.parts = [HandOver, ValueError]
    assert isinstance(await run_node(Groups), Errored), "an error is not hidden"


# -- waiting where nothing is stored, and where it would block


async def test_saving_waits_for_nothing_where_nothing_stores_it() -> None:
    class OnTrio(BaseNode):
        class Checkpoint(BaseModel):
            row: int = 0

        async def execute(self) -> None:
            await self.save_checkpoint(self.Checkpoint(row=1))

    class OnAsyncio(OnTrio):
        runs_in = "asyncio"

        async def execute(self) -> None:
            await asyncio.sleep(0)
            await self.save_checkpoint(self.Checkpoint(row=1))

    class InThread(OnTrio):
        def execute(self) -> None:  # type: ignore[override]
            self.save_checkpoint_sync(self.Checkpoint(row=1))

    for node in (OnTrio, OnAsyncio, InThread):
        with trio.fail_after(10):
            report, execution = await run(node)
        assert report == Executed([])
        assert execution.checkpoint is not None
        assert execution.checkpoint.last == CheckpointText(1, '{"row":"1"}')


def test_an_asyncio_loop_that_is_closed_when_its_checkpoint_is_stored_does_no_harm() -> None:
    class Late(CheckpointView):
        def when_stored(self, number: int, wake: Callable[[], object]) -> Callable[[], object]:
            wakes.append(wake)
            return super().when_stored(number, wake)

    wakes: list[Callable[[], object]] = []
    checkpoint = NodeCheckpoint("Rows", Rows.Checkpoint, Late())
    asyncio.run(checkpoint.save(Rows.Checkpoint(row=1)))
    wakes[0]()  # by the thread that sends heartbeats


async def test_a_call_that_would_block_an_event_loop_is_refused() -> None:
    class Blocks(Rows):
        async def execute(self) -> None:
            self.save_checkpoint_sync(self.Checkpoint(row=1))

    class BlocksAsyncio(Blocks):
        runs_in = "asyncio"

    for node in (Blocks, BlocksAsyncio):
        report, _ = await run(node)
        assert isinstance(report, Errored)
        assert "LifecycleError: " in report.error
        assert "write: await self.save_checkpoint(...)" in report.error
