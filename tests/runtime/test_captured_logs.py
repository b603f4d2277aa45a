"""What nodes log and print is sent with their outcomes, wherever they run, and goes where it went before."""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import timedelta
from typing import Any

import anyio.to_thread
import httpx
import pytest
import trio
from pydantic import BaseModel

from exotrio import BaseNode, ConfigurationError, PruneSignal, ReQueueAfterSignal
from exotrio._execution.capture import capture_streams_again
from exotrio._execution.output import Line, Output
from exotrio._nodes.progress import ProgressView
from tests.support import process_nodes
from tests.support.doubles import Call, NativeServer, V0Server, reply, running, runtime

SECRET = "sesame-4711"
log = logging.getLogger("shop.prices")


class Talks(BaseNode):
    class Secrets(BaseModel):
        key: str

    async def execute(self) -> Any:
        print("begun with", self.secrets.key)
        log.warning("it is %s", "late")
        print("no end", end="", file=sys.stderr)


class TalksInThread(Talks):
    def execute(self) -> Any:
        print("begun with", self.secrets.key)
        log.warning("it is %s", "late")
        print("no end", end="", file=sys.stderr)


class TalksInTasks(Talks):
    async def execute(self) -> Any:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Talks.execute, self)


class TalksInOtherThread(Talks):
    async def execute(self) -> Any:
        await anyio.to_thread.run_sync(TalksInThread.execute, self)  # type: ignore[arg-type]


class TalksInAsyncio(Talks):
    runs_in = "asyncio"


class TalksAndFails(Talks):
    async def execute(self) -> Any:
        await super().execute()
        raise ValueError(SECRET)


class TalksAndIsTooLate(TalksInThread):
    timeout = 0.2

    def execute(self) -> Any:
        super().execute()
        while not self.stopping:
            pass


class ToStandardError(logging.Handler):
    """Writes to whatever is standard error at that moment, as the command line does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextmanager
def handled_by(handler: logging.Handler) -> Iterator[None]:
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


async def items_of(
    server: NativeServer, *nodes: type[BaseNode], count: int = 1, inputs: Any = (), **options: Any
) -> list[Any]:
    """Run each of these nodes, and return what the server was sent of each state, oldest first."""
    server.secrets = {"key": SECRET}
    for node in nodes:
        server.add(node.__name__, count, **dict(inputs))
    async with running(server, *nodes, **options):
        with trio.fail_after(20):
            await server.until(lambda: not server.statuses().keys() & {"CREATED", "QUEUED"})
    return [item for call in server.routes("outcomes") for item in call.body]


def lines_of(item: Any) -> list[tuple[Any, ...]]:
    return [(line["level"], line["logger"], line["text"]) for line in item.get("logs", ())]


def texts_of(item: Any) -> list[str]:
    return [line["text"] for line in item.get("logs", ())]


LINES = [
    ("stdout", None, "begun with ***"),
    ("WARNING", "shop.prices", "it is late"),
    ("stderr", None, "no end"),
]


PLACES = (Talks, TalksInThread, TalksInTasks, TalksInOtherThread, TalksInAsyncio)


@pytest.mark.parametrize("node", [*PLACES, TalksAndFails, TalksAndIsTooLate])
async def test_lines_that_a_node_logs_and_prints_are_sent_with_its_outcome(
    node: type[BaseNode], capsys: pytest.CaptureFixture[str]
) -> None:
    (item,) = await items_of(NativeServer(), node)
    assert lines_of(item) == LINES
    assert capsys.readouterr() == (f"begun with {SECRET}\n", "no end"), "it went to the terminal once"


@pytest.mark.parametrize("hangs", [False, True])
async def test_lines_of_a_node_in_a_worker_process_are_sent_even_if_that_is_killed(hangs: bool) -> None:
    (item,) = await items_of(NativeServer(), process_nodes.Talks, inputs={"hangs": str(hangs)})
    assert item["outcome"] == ("errored" if hangs else "executed")
    lines = [("stdout", None, "begun with ***"), ("WARNING", "tests.process_nodes", "it is late")]
    # What has no end yet is known when the node ends, unless it is killed.
    assert lines_of(item) == lines + [("stdout", None, "no end")] * (not hangs)


async def test_a_forked_child_logs_though_a_thread_of_its_parent_was_in_the_midst_of_a_line() -> None:
    (item,) = await items_of(NativeServer(), process_nodes.ForksAmidALine)
    assert item["outputs"] == [{"text": "0"}]
    texts = texts_of(item)
    assert "of a thread" in texts
    assert "of the child" not in texts


async def test_states_that_run_at_once_have_each_their_own_lines() -> None:
    class Says(BaseNode):
        class Inputs(BaseModel):
            word: str

        async def execute(self) -> Any:
            for number in range(3):
                print(self.inputs.word, end=" ")
                await trio.lowlevel.checkpoint()
                print(number)

    server = NativeServer()
    for word in "abc":
        server.add("Says", word=word)
    items = await items_of(server, Says, count=0)
    lines = {server.states[item["state_id"]].inputs["word"]: texts_of(item) for item in items}
    assert lines == {word: [f"{word} {number}" for number in range(3)] for word in "abc"}


@pytest.mark.parametrize("signal", [PruneSignal(), ReQueueAfterSignal(timedelta(hours=1))])
async def test_a_node_that_ends_by_a_signal_keeps_its_lines(signal: Exception) -> None:
    class Signals(BaseNode):
        async def execute(self) -> Any:
            print("so")
            raise signal

    (item,) = await items_of(NativeServer(), Signals)
    assert texts_of(item) == ["so"]


async def test_lines_that_the_runtime_itself_logs_about_a_state_are_not_among_the_lines_of_the_state(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Fails(BaseNode):
        async def execute(self) -> Any:
            logging.getLogger("exotrio.worker").warning("of the runtime")
            raise ValueError("it failed")

    with handled_by(ToStandardError()):
        (item,) = await items_of(NativeServer(), Fails)
    assert "of the runtime" in capsys.readouterr().err
    assert "logs" not in item


async def test_a_record_that_a_handler_writes_to_a_standard_stream_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with handled_by(ToStandardError()):
        (item,) = await items_of(NativeServer(), Talks)
    assert lines_of(item) == LINES
    assert capsys.readouterr().err.count("it is late") == 1


async def test_levels_and_filters_of_loggers_count_and_loggers_that_do_not_propagate_do_too() -> None:
    class Logs(BaseNode):
        async def execute(self) -> Any:
            log.info("below the level of the root")
            filtered.warning("no")
            alone.info("yes")

    filtered, alone = logging.getLogger("shop.filtered"), logging.getLogger("shop.alone")
    filtered.addFilter(lambda record: False)
    alone.setLevel(logging.INFO)
    alone.propagate = False
    (item,) = await items_of(NativeServer(), Logs)
    assert lines_of(item) == [("INFO", "shop.alone", "yes")]


async def test_a_record_has_its_traceback_without_secrets_and_may_be_one_that_cannot_be_formatted() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise ValueError("hostile")

    class Logs(Talks):
        async def execute(self) -> Any:
            try:
                raise KeyError(self.secrets.key)
            except KeyError:
                log.exception("a price is missing")
            log.warning("of %s", Hostile())

    logging.raiseExceptions, before = False, logging.raiseExceptions
    try:
        (item,) = await items_of(NativeServer(), Logs)
    finally:
        logging.raiseExceptions = before
    text, other = texts_of(item)
    assert text.startswith("a price is missing\nTraceback (most recent call last):\n")
    assert text.endswith("KeyError: '***'")
    assert other == "a log record that cannot be formatted"


async def test_lines_that_come_after_the_end_of_the_node_are_not_sent() -> None:
    goes_on, printed = threading.Event(), threading.Event()

    class Stuck(BaseNode):
        timeout = 0.2

        def execute(self) -> Any:
            print("in time")
            goes_on.wait(10)
            print("too late")
            printed.set()

    class Waits(BaseNode):
        async def execute(self) -> Any:
            goes_on.set()
            await trio.to_thread.run_sync(printed.wait, 10)

    server = NativeServer(Stuck=1)
    async with running(server, Stuck, Waits):
        await server.until(ERRORED=1)
        server.add("Waits")
        await server.until(EXECUTED=1)
    first, second = [item for call in server.routes("outcomes") for item in call.body]
    assert (texts_of(first), texts_of(second)) == (["in time"], [])


async def test_nothing_is_captured_if_that_is_switched_off_or_on_v0() -> None:
    class Looks(BaseNode):
        async def execute(self) -> Any:
            seen.append((sys.stdout, logging.Logger.callHandlers))
            print("so")

    seen: list[Any] = []
    before = (sys.stdout, logging.Logger.callHandlers)
    (item,) = await items_of(NativeServer(), Looks, capture_logs=False)
    assert "logs" not in item
    assert seen == [before], "nothing was replaced"
    server = V0Server(Looks=1)
    async with running(server, Looks):
        await server.until(EXECUTED=1)
    (call,) = server.routes("executed")
    assert call.body == {"outputs": []}
    with pytest.raises(ConfigurationError, match="capture_logs must be True or False"):
        runtime(server, Looks, capture_logs="no")


async def test_the_streams_are_replaced_while_any_runtime_runs_and_put_back_then() -> None:
    before = (sys.stdout, sys.stderr, logging.Logger.callHandlers)
    one, other = NativeServer(), NativeServer()
    one.secrets = {"key": SECRET}
    async with running(other, Talks, registered=True):
        async with running(one, Talks, registered=True):
            assert sys.stdout is not before[0]
            assert (sys.stdout.encoding, sys.stdout.fileno) == (before[0].encoding, before[0].fileno)
        one.add("Talks")
        assert sys.stdout is not before[0]
    assert (sys.stdout, sys.stderr, logging.Logger.callHandlers) == before


async def test_a_stream_that_other_code_replaced_meanwhile_is_left_alone() -> None:
    class Redirects(BaseNode):
        async def execute(self) -> Any:
            print("before")
            with redirect_stdout(theirs):
                print("theirs")
            print("after")

    theirs = io.StringIO()
    (item,) = await items_of(NativeServer(), Redirects)
    assert (texts_of(item), theirs.getvalue()) == (["before", "after"], "theirs\n")
    before, left = sys.stdout, io.StringIO()
    try:
        async with running(NativeServer(), Redirects, registered=True):
            sys.stdout = left
        assert sys.stdout is left
    finally:
        sys.stdout = before


async def test_a_stream_that_writes_to_ours_is_captured_without_its_decoration() -> None:
    class Decorates(io.StringIO):
        def write(self, text: str) -> int:
            return ours.write(f"<<{text}>>")

    class Prints(BaseNode):
        async def execute(self) -> Any:
            print("plain", end="")

    server = NativeServer()
    before = sys.stdout
    async with running(server, Prints, registered=True):
        ours, sys.stdout = sys.stdout, Decorates()
        capture_streams_again()
        server.add("Prints")
        await server.until(EXECUTED=1)
        sys.stdout = ours
    (item,) = server.routes("outcomes")[0].body
    assert texts_of(item) == ["plain"]
    assert sys.stdout is before


@pytest.mark.parametrize("status", [413, 422])
async def test_an_outcome_that_is_refused_with_its_lines_is_sent_without_them(status: int) -> None:
    async def refuse_lines(call: Call) -> httpx.Response | None:
        with_lines = call.route == "outcomes" and any("logs" in item for item in call.body)
        return reply(status) if with_lines else None

    server = NativeServer()
    server.before = refuse_lines
    items = await items_of(server, Talks)
    assert server.statuses() == {"EXECUTED": 1}
    assert ["logs" in item for item in items][-1] is False


async def test_a_thread_that_goes_on_logging_does_not_disturb_the_end_of_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = Output(ProgressView())
    ends: list[Any] = []

    def close() -> None:
        try:
            ends.append([line["text"] for line in output.close()])
        except Exception as error:
            ends.append(error)

    def size_while_another_thread_closes(line: Line) -> int:
        closing.start()
        closing.join(0.2)  # it waits for this line, and not the other way round
        return len(line.text)

    closing = threading.Thread(target=close)
    monkeypatch.setattr("exotrio._execution.output._size", size_while_another_thread_closes)
    output.log(logging.makeLogRecord({"msg": "a line"}))
    await trio.to_thread.run_sync(closing.join)
    assert ends == [["a line"]]


async def test_names_of_loggers_are_bounded_and_made_sendable_as_texts_are() -> None:
    class Names(BaseNode):
        async def execute(self) -> Any:
            for name in ("files.\udcff.txt", "long" * 10_000):
                logger = logging.getLogger(name)
                logger.propagate = False  # into the report of this test, which cannot be sent either
                logger.addHandler(logging.NullHandler())
                logger.warning("so")

    (item,) = await items_of(NativeServer(), Names)
    (_, odd, _), (_, long, _) = lines_of(item)
    assert odd == r"files.\udcff.txt"
    assert len(long) < 3_000


@pytest.mark.parametrize("server", [NativeServer, V0Server])
async def test_a_node_does_not_fail_by_what_it_prints_to_a_stream_without_a_reader(
    monkeypatch: pytest.MonkeyPatch, server: type[V0Server]
) -> None:
    """As after a terminal was closed, which a runtime takes for a request to drain."""

    class Flushes(Talks):
        async def execute(self) -> Any:
            await super().execute()
            sys.stderr.flush()

    manager = server(Flushes=1, TalksInThread=1)
    manager.secrets = {"key": SECRET}
    reading, writing = os.pipe()
    os.close(reading)
    raw = io.FileIO(writing, "w")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw)))
    async with running(manager, Flushes, TalksInThread):
        await manager.until(lambda: not manager.statuses().keys() & {"CREATED", "QUEUED"})
        assert manager.statuses()["EXECUTED"] == 2
        with pytest.raises(BrokenPipeError):
            print("what the program prints")
    raw.close()


async def test_a_captured_standard_stream_can_be_copied_and_read() -> None:
    class Uses(BaseNode):
        async def execute(self) -> Any:
            copy.copy(sys.stdout)
            with suppress(io.UnsupportedOperation, OSError):
                list(sys.stdout)

    (item,) = await items_of(NativeServer(), Uses)
    assert item["outcome"] == "executed", item
