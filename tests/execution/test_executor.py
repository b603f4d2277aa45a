"""From a claimed state to its outcome: what a node returns, raises, and is kept from doing."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import threading
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, PruneSignal, ReQueueAfterSignal
from exotrio._execution.error_text import error_text
from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio.cli.terminal.json_logs import JsonFormatter
from exotrio.testing import Errored, Executed, Pruned, Requeued, run_node
from tests.support.doubles import Call, V0Server, reply, running


class Text(BaseModel):
    text: str


def node(execute: Any, **parts: Any) -> type[BaseNode]:
    return type("Node", (BaseNode,), {"execute": execute, "Outputs": Text, **parts})


def raising(make: Any) -> type[BaseNode]:
    async def execute(self: BaseNode) -> None:
        raise make()

    return node(execute)


def returning(make: Any) -> type[BaseNode]:
    async def execute(self: BaseNode) -> Any:
        return make()

    return node(execute)


async def error_of(tested: type[BaseNode], inputs: dict[str, str] | None = None, **options: Any) -> str:
    outcome = await run_node(tested, inputs, **options)
    assert isinstance(outcome, Errored), outcome
    return outcome.error


@pytest.mark.parametrize(
    ("value", "outputs"),
    [
        (None, []),
        (Text(text="a"), [{"text": "a"}]),
        ([Text(text="a"), Text(text="b")], [{"text": "a"}, {"text": "b"}]),
        ((Text(text="a"),), [{"text": "a"}]),
        ([], []),
    ],
)
async def test_what_a_node_returns_is_its_outputs(value: Any, outputs: Any) -> None:
    assert await run_node(returning(lambda: value)) == Executed(outputs)


class Other(BaseModel):
    text: str


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("text", "is a str, not Node.Outputs"),
        ({"text": "a"}, "is a dict"),
        (Other(text="a"), "Other of another class"),
        ([Text(text="a"), 5], "item 1 of what Node.execute returned is a int"),
        ([None], "item 0"),
    ],
)
async def test_any_other_returned_value_is_an_error_that_names_it(value: Any, part: str) -> None:
    assert part in await error_of(returning(lambda: value))


async def test_signals_are_outcomes() -> None:
    assert await run_node(raising(lambda: PruneSignal({"why": "old"}))) == Pruned({"why": "old"})
    assert await run_node(raising(lambda: ReQueueAfterSignal(timedelta(minutes=1)))) == Requeued(60.0)


async def test_a_signal_in_nested_groups_of_one_is_an_outcome() -> None:
    async def execute(self: BaseNode) -> None:
        async with trio.open_nursery() as outer, anyio.create_task_group() as inner:
            inner.start_soon(trio.sleep, 0)
            outer.start_soon(trio.sleep, 0)
            raise PruneSignal({"deep": True})

    assert await run_node(node(execute)) == Pruned({"deep": True})


async def test_a_signal_among_other_errors_is_an_error() -> None:
    error = await error_of(raising(lambda: ExceptionGroup("two", [PruneSignal(), ValueError("more")])))
    assert "ValueError: more" in error


def recurse() -> BaseException:
    return recurse()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("plain"),
        lambda: SystemExit(3),
        lambda: GeneratorExit(),
        lambda: StopIteration(),
        lambda: BaseExceptionGroup("mixed", [SystemExit(1), ValueError("x")]),
        lambda: ReQueueAfterSignal(timedelta(days=40_000)),
        lambda: __import__("asyncio").CancelledError(),
        recurse,
    ],
)
async def test_any_exception_of_a_node_is_the_error_of_its_state(make: Any) -> None:
    assert await error_of(raising(make))


async def test_a_cancelled_that_a_node_kept_and_raises_again_is_an_error_of_its_state() -> None:
    async def execute(self: BaseNode) -> None:
        kept = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as cancelled:
                kept = cancelled
        assert kept is not None
        raise kept

    try:
        error = await error_of(node(execute))
    except trio.Cancelled:
        # Left alone, it would end the test without failing it.
        pytest.fail("the Cancelled got out")
    assert "Cancelled" in error


async def test_a_keyboard_interrupt_of_the_application_is_raised() -> None:
    with pytest.raises(KeyboardInterrupt):
        await run_node(raising(KeyboardInterrupt))


async def test_a_plain_function_runs_in_a_thread() -> None:
    def execute(self: BaseNode) -> Any:
        return Text(text=threading.current_thread().name)

    outcome = await run_node(node(execute))
    assert isinstance(outcome, Executed)
    assert outcome.outputs[0]["text"] != threading.current_thread().name


async def test_a_decorated_coroutine_function_runs_on_the_loop() -> None:
    async def inner(self: BaseNode) -> Any:
        await trio.lowlevel.checkpoint()
        return Text(text="from the loop")

    @functools.wraps(lambda self: None)
    def execute(self: BaseNode) -> Any:
        return inner(self)

    assert await run_node(node(execute)) == Executed([{"text": "from the loop"}])


async def test_every_execution_has_its_own_instance() -> None:
    seen = []

    async def execute(self: BaseNode) -> None:
        seen.append(self)

    tested = node(execute)
    await run_node(tested)
    await run_node(tested)
    assert seen[0] is not seen[1]


async def test_the_error_text_has_the_frames_of_the_node_its_causes_and_nothing_of_the_runtime() -> None:
    async def execute(self: BaseNode) -> None:
        async with trio.open_nursery():
            try:
                int("x")
            except ValueError as error:
                raise RuntimeError("outer") from error

    error = await error_of(node(execute))
    assert "ValueError: invalid literal" in error
    assert "RuntimeError: outer" in error
    assert 'int("x")' in error
    assert "exotrio/_execution/executor.py" not in error
    assert "trio/_core" not in error


async def test_a_long_error_keeps_its_head_and_its_tail() -> None:
    error = await error_of(raising(lambda: ValueError("ä" * 200_000 + " the end")))
    assert len(error.encode()) <= MAX_ERROR_BYTES
    assert error.startswith("Traceback")
    assert error.endswith("the end")


async def test_a_long_message_keeps_its_beginning_however_deep_it_was_raised() -> None:
    def fall(depth: int) -> None:
        if depth:
            climb(depth - 1)
        raise ValueError("it begins so" + "ä" * 200_000)

    def climb(depth: int) -> None:  # two of them: Python does not fold what is not the same line again
        fall(depth)

    async def execute(self: BaseNode) -> None:
        fall(400)

    error = await error_of(node(execute))
    assert len(error.encode()) <= MAX_ERROR_BYTES
    assert "\nValueError: it begins so" in error
    assert message_line(error).startswith("ValueError: it begins so")


@pytest.mark.parametrize(
    ("before", "behind"),
    [(4_566, 30_000), (30_000, 1_517), (466, 100)],
    ids=["what is kept of the beginning", "what is kept of the end", "the line in the log"],
)
async def test_a_secret_at_the_edge_of_a_cut_is_masked(before: int, behind: int) -> None:
    class Secrets(BaseModel):
        key: str

    async def execute(self: Any) -> None:
        raise ValueError("-" * before + key + "-" * behind)

    key = "0123456789abcdefghijklmnopqrstuvwxyz"
    parts = [key[start : start + 6] for start in range(len(key) - 5)]
    error = await error_of(node(execute))
    shown = error, message_line(error)
    assert any(key not in text and (parts[0] in text or parts[-1] in text) for text in shown), "not cut there"
    error = await error_of(node(execute, Secrets=Secrets), secrets={"key": key})
    assert not any(part in error or part in message_line(error) for part in parts)


async def test_secrets_are_masked_in_the_error() -> None:
    class Secrets(BaseModel):
        key: str
        pin: str
        pem: str
        codes: str

    async def execute(self: Any) -> None:
        error = KeyError(f"{self.secrets.key} {self.secrets.pin} {self.secrets.pem}")
        error.add_note(self.secrets.codes)  # each line of a note is formatted alone
        raise error

    secrets = {"key": 'it\'s \\ "hidden"', "pin": "12345", "pem": "-----BEGIN\nMIIEvQIBADANBgkqh\n"}
    secrets["codes"] = "8315\n6027\n4419"
    error = await error_of(node(execute, Secrets=Secrets), secrets=secrets)
    assert "hidden" not in error
    assert "MIIEvQ" not in error
    assert "6027" not in error
    assert "***" in error
    assert "12345" in error  # too short to be told from chance


async def test_secrets_that_do_not_fit_are_named_without_their_values() -> None:
    class Secrets(BaseModel):
        key: str
        other: str

    error = await error_of(node(lambda self: None, Secrets=Secrets), secrets={"key": 4815162342})
    assert "other" in error
    assert "4815162342" not in error


async def test_secrets_are_masked_in_what_a_node_and_its_libraries_log_as_json() -> None:
    class Secrets(BaseModel):
        key: str

    library = logging.Logger("library")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    library.addHandler(handler)

    def execute(self: BaseNode) -> None:
        library.info("connecting with %s", self.secrets.key)  # type: ignore[attr-defined]

    outcome = await run_node(node(execute, Secrets=Secrets), secrets={"key": "sesame-4711"})
    assert isinstance(outcome, Executed)
    assert json.loads(stream.getvalue())["message"] == "connecting with ***"


def test_a_lone_surrogate_in_an_error_can_be_sent() -> None:
    assert error_text(ValueError("\udc80")).encode()


async def test_nothing_a_state_does_ends_the_runtime(autojump_clock: Any) -> None:
    class Evil(BaseNode):
        class Inputs(BaseModel):
            how: str

        class Outputs(BaseModel):
            text: str

        async def execute(self) -> Any:
            match self.inputs.how:
                case "exit":
                    raise SystemExit
                case "surrogate":
                    return self.Outputs(text="\ud800")
                case "not json":
                    raise PruneSignal({"x": object()})
                case "unlike":
                    return self.Outputs.model_construct(text=object())
                case "tidy":
                    return self.Outputs(text="fine")
            self.__class__.Outputs = None  # type: ignore[assignment,misc]
            return None

    server = V0Server()
    states = {
        how: server.add("Evil", how=how)[0] for how in ("exit", "surrogate", "not json", "unlike", "tidy")
    }
    without_input = server.add("Evil")[0]
    async with running(server, Evil, workers=1):
        await server.until(lambda: not server.statuses()["CREATED"] and not server.statuses()["QUEUED"])
    assert server.states[states.pop("tidy")].status == "EXECUTED"
    for state in (*states.values(), without_input):
        assert server.states[state].status == "ERRORED"


async def test_outputs_that_are_not_unicode_are_named_and_not_retried() -> None:
    class Listing(BaseNode):
        class Outputs(BaseModel):
            name: str
            size: int | None = None

        async def execute(self) -> list[Outputs]:
            return [self.Outputs(name="fine é"), self.Outputs(name=os.fsdecode(b"\xff.txt"))]

    class Names(BaseNode):
        class Outputs(BaseModel):
            name: str

        async def execute(self) -> Outputs:
            return self.Outputs(name=os.fsdecode(b"\xff.txt"))

    nodes: list[type[BaseNode]] = [Listing, Names]
    for node in nodes:
        outcome = await run_node(node)
        assert isinstance(outcome, Errored)
        assert not outcome.retry
        assert "name: it has a lone surrogate" in outcome.error


async def test_a_state_for_a_node_that_is_not_here_is_errored(autojump_clock: Any) -> None:
    class Here(BaseNode):
        async def execute(self) -> None: ...

    class Confused(V0Server):
        def take(self, nodes: Any, limit: int) -> Any:
            return super().take(["Elsewhere"], limit)

    server = Confused()
    (state,) = server.add("Elsewhere")
    async with running(server, Here):
        await server.until(lambda: server.states[state].status == "ERRORED")
    assert "no node class named 'Elsewhere'; it has: Here" in server.states[state].result


async def test_most_states_with_secrets_survive_an_outage_of_two_seconds(
    autojump_clock: MockClock,
) -> None:
    class Secretive(BaseNode):
        class Secrets(BaseModel):
            key: str

        async def execute(self) -> None:
            pass

    server = V0Server()
    server.secrets = {"key": "value"}
    back_at = 0.0

    async def away(call: Call) -> httpx.Response | None:
        nonlocal back_at
        if call.route == "secrets":
            back_at = back_at or trio.current_time() + 2
            return reply(503) if trio.current_time() < back_at else None
        return None

    server.before = away
    server.add("Secretive", 40)
    async with running(server, Secretive, workers=40, batch_size=40) as rt:
        await server.until(EXECUTED=40)
    assert rt.summary.released < 15, "4 on an average"


@pytest.mark.parametrize("status", [500, 404, 401])
async def test_a_state_whose_secrets_cannot_be_fetched_is_released_and_never_errored(
    autojump_clock: Any, status: int
) -> None:
    from tests.support.doubles import Fails, reply

    class Keeps(BaseNode):
        class Secrets(BaseModel):
            key: str

        async def execute(self) -> None:
            assert self.secrets.key == "value"

    server = V0Server()
    server.secrets = {"key": "value"}
    server.before = Fails(("secrets",), lambda: reply(status), times=7)
    (state,) = server.add("Keeps")
    async with running(server, Keeps) as rt:
        await server.until(lambda: server.states[state].status == "EXECUTED")
    assert not server.routes("errored")
    assert server.states[state].deliveries == 2
    assert rt.summary.released == 1


async def test_the_claim_is_confirmed_last_before_its_node_begins() -> None:
    order: list[str] = []

    class Secretive(BaseNode):
        class Secrets(BaseModel):
            token: str

        async def execute(self) -> None:
            order.append("node")

    async def fetch(claim: Claim) -> dict[str, str]:
        order.append("secrets")
        return {"token": "t"}

    async def confirm() -> None:
        order.append("confirm")

    executor = Executor(nodes={"Secretive": Secretive}, fetch_secrets=fetch)
    claim = Claim(state_id="s", node_name="Secretive", identifier="s", inputs={})
    assert await executor.run(Execution(claim), confirm=confirm) == Executed([])
    assert order == ["secrets", "confirm", "node"]


async def test_a_node_that_was_cancelled_before_its_task_began_is_not_begun() -> None:
    begun: list[str] = []

    async def execute(self: BaseNode) -> None:
        begun.append("node")
        await trio.lowlevel.checkpoint()

    async def no_secrets(claim: Claim) -> dict[str, str]:
        return {}

    execution = Execution(Claim(state_id="s", node_name="Node", identifier="s", inputs={}))
    executor = Executor(nodes={"Node": node(execute)}, fetch_secrets=no_secrets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(executor.run, execution)
        await trio.lowlevel.checkpoint()
        execution.cancel()
    assert (begun, execution.began) == ([], False)
