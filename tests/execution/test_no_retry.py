"""Errors after which another attempt would be useless: which they are, and what their text says."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ConfigurationError, Graph, GraphNodeModel, NoRetry
from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._util.error_message import message_line
from exotrio.testing import Errored, run_graph, run_node
from tests.support.doubles import V0Server, runtime


class Declined(NoRetry):
    pass


class Text(BaseModel):
    text: str


class Number(BaseModel):
    count: int


def raises(error: BaseException, cause: BaseException | None = None, **parts: Any) -> type[BaseNode]:
    async def execute(self: BaseNode) -> None:
        raise error from cause

    return made(execute, **parts)


def made(execute: Any, **parts: Any) -> type[BaseNode]:
    return type("Charge", (BaseNode,), {"execute": execute, "Inputs": Text, "Outputs": Text, **parts})


async def errored(node: type[BaseNode], **options: Any) -> Errored:
    inputs = options.pop("inputs", {"text": "a"})
    outcome = await run_node(node, inputs, **options)
    assert isinstance(outcome, Errored), outcome
    return outcome


LISTED: dict[str, Any] = {"no_retry": (ValueError, OSError)}
RAISED = "not to be retried: Charge raised NoRetry"
IN_CLASS = "not to be retried: Charge.no_retry has ValueError"


@pytest.mark.parametrize(
    ("node", "message", "why"),
    [
        (raises(NoRetry("card declined")), "exotrio.NoRetry: card declined", RAISED),
        (raises(Declined("no"), KeyError("cause")), f"{__name__}.Declined: no", "Charge raised Declined"),
        (
            raises(ExceptionGroup("one", [NoRetry("deep")])),
            "ExceptionGroup of 1: exotrio.NoRetry: deep",
            RAISED,
        ),
        (raises(ExceptionGroup("two", [KeyError("k"), NoRetry("n")])), "exotrio.NoRetry: n", RAISED),
        (raises(ValueError("bad"), **LISTED), "ValueError: bad", IN_CLASS),
        (raises(UnicodeError("bad"), **LISTED), "UnicodeError: bad", IN_CLASS),
        (raises(ExceptionGroup("g", [ValueError("v"), KeyError("k")]), **LISTED), "ValueError: v", IN_CLASS),
        (raises(ExceptionGroup("g", [KeyError()]), no_retry=(ExceptionGroup,)), "KeyError", "ExceptionGroup"),
        (raises(SystemExit(3), no_retry=(SystemExit,)), "SystemExit: 3", "SystemExit"),
    ],
)
async def test_what_a_node_raises_or_lists_is_not_to_be_retried(
    node: type[BaseNode], message: str, why: str
) -> None:
    outcome = await errored(node)
    assert not outcome.retry
    assert why in outcome.error
    # The line that lists show is that of the error, as ever.
    assert message.removeprefix("ExceptionGroup of 1: ") in message_line(outcome.error)
    assert "not to be" not in message_line(outcome.error)


@pytest.mark.parametrize(
    "node",
    [
        raises(KeyError("k")),
        raises(KeyError("k"), **LISTED),
        raises(KeyError("k"), NoRetry("only its cause"), **LISTED),
        raises(ImportError("another runtime may have it")),
        raises(AttributeError("as a service may bring about")),
        raises(UnboundLocalError("as a service may bring about")),
    ],
)
async def test_other_errors_are_retried(node: type[BaseNode]) -> None:
    outcome = await errored(node)
    assert outcome.retry
    assert "not to be retried" not in outcome.error


async def test_errors_from_threads_and_from_asyncio_count_as_well() -> None:
    def in_thread(self: BaseNode) -> None:
        raise subprocess.CalledProcessError(1, "pay")

    async def in_asyncio(self: BaseNode) -> None:
        raise NoRetry("declined")

    listed = (subprocess.SubprocessError,)
    assert not (await errored(made(in_thread, no_retry=listed))).retry
    assert not (await errored(made(in_asyncio, runs_in="asyncio"))).retry


class Counted(BaseModel):
    count: int = 0


def _typos() -> list[Any]:
    async def name(self: Any) -> None:
        jsn.dumps({})  # type: ignore[name-defined]  # noqa: F821

    async def field(self: Any) -> None:
        str(self.inputs.txt)

    async def method(self: Any) -> None:
        self.exceute()

    async def secret(self: Any) -> None:
        str(self.secrets.pasword)

    async def checkpoint(self: Any) -> None:
        str(self.checkpoint.conut)

    async def other_type(self: Any) -> Any:
        return {"text": "a"}

    async def other_item(self: Any) -> Any:
        return [self.Outputs(text="a"), None]

    async def wrong_values(self: Any) -> Any:
        return self.Outputs.model_construct(count="many")

    return [name, field, method, secret, checkpoint, other_type, other_item, (wrong_values, Number)]


@pytest.mark.parametrize("typo", _typos())
async def test_errors_that_only_a_change_of_the_code_corrects_are_not_to_be_retried(typo: Any) -> None:
    execute, outputs = typo if isinstance(typo, tuple) else (typo, Text)
    outcome = await errored(made(execute, Outputs=outputs, Checkpoint=Counted))
    assert not outcome.retry
    assert "not to be retried: the code of the node has to be corrected" in outcome.error


async def test_inputs_that_do_not_fit_are_not_to_be_retried_and_secrets_are() -> None:
    class Secrets(BaseModel):
        key: str

    async def execute(self: BaseNode) -> None: ...

    for inputs in (Text, Number):
        outcome = await errored(made(execute, Inputs=inputs), inputs={"count": "many"})
        assert not outcome.retry
        assert outcome.error.endswith("\nnot to be retried: the inputs stay the same")
    assert (await errored(made(execute, Secrets=Secrets))).retry, "they are read again, and can be corrected"


async def test_an_unknown_node_class_is_not_to_be_retried() -> None:
    async def no_secrets(claim: Claim) -> dict[str, str]:
        return {}

    executor = Executor(nodes={}, fetch_secrets=no_secrets)
    outcome = await executor.run(Execution(Claim("s", "Chrage", "c", {})))
    assert isinstance(outcome, Errored)
    assert not outcome.retry


async def test_a_timeout_is_retried_unless_the_node_then_says_no(autojump_clock: MockClock) -> None:
    async def sleeps(self: BaseNode) -> None:
        await trio.sleep_forever()

    async def says_no(self: BaseNode) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise NoRetry("whether the card was charged is not known")

    assert (await errored(made(sleeps, timeout=30, no_retry=(Exception, TimeoutError)))).retry
    outcome = await errored(made(says_no, timeout=30))
    assert not outcome.retry
    assert outcome.error.startswith("timed out after 30 s")
    assert RAISED in outcome.error


@pytest.mark.parametrize(
    ("no_retry", "problem"),
    [
        (ValueError, r"Charge\.no_retry is <class 'ValueError'>: .* such as \(ValueError,\)"),
        ([ValueError], r"Charge\.no_retry is \[<class 'ValueError'>\]: it must be a tuple"),
        (None, r"Charge\.no_retry is None: it must be a tuple"),
        ((ValueError, "KeyError"), r"Charge\.no_retry\[1\] is 'KeyError': it must be an exception class"),
        ((ValueError("x"), int), r"(?s)Charge\.no_retry\[0\] is .*Charge\.no_retry\[1\] is <class 'int'>"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_what_is_wrong(no_retry: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        runtime(V0Server(), raises(KeyError(), no_retry=no_retry))


async def test_a_run_ends_at_the_first_error_that_is_not_to_be_retried(autojump_clock: MockClock) -> None:
    node = raises(NoRetry("declined"))
    graph = Graph(
        "pay", [GraphNodeModel(node_name="Charge", namespace="ns", identifier="charge", inputs={"text": "a"})]
    )
    began = trio.current_time()
    run = await run_graph(graph, [node])
    assert [state.status for state in run.states] == ["ERRORED"]
    assert trio.current_time() - began < 1, "virtual seconds: no backoff was waited for"
    assert RAISED in run.errors[0]
