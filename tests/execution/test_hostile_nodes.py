"""Nodes that break what they can reach: each state is an error, and the next node runs as usual."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
import trio

from exotrio import BaseNode, PruneSignal, Runtime
from exotrio.testing import Errored, run_node
from tests.support.doubles import V0Server, running, runtime


class Tidy(BaseNode):
    async def execute(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)


class TidyThread(BaseNode):
    def execute(self) -> None:
        return None


class TidyAsyncio(BaseNode):
    runs_in = "asyncio"

    async def execute(self) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))


def nested(leaf: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        leaf = BaseExceptionGroup("deeper", [leaf])
    return leaf


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("str")

    def __repr__(self) -> str:
        raise KeyboardInterrupt("repr")


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit("name")


class Unnamed(Exception, metaclass=Nameless):
    """An error whose class has no name."""


class Unclassified(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise SystemExit("class")


class Partless(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> Any:
        raise SystemExit("exceptions")


class BrokenSignal(PruneSignal):
    def __init__(self) -> None:
        """Leave out what the signal would do: it reads its data."""

    @property
    def data(self) -> Any:
        raise SystemExit("data")

    @data.setter
    def data(self, value: Any) -> None: ...


RAISED: dict[str, Callable[[], BaseException]] = {
    "a group too deep to be split": lambda: nested(ValueError("leaf"), 5_000),
    "an error without a text": Unspeakable,
    "a builtin error whose text is user code": lambda: RuntimeError(Unspeakable()),
    "an error whose class has no name": Unnamed,
    "an error without a class": Unclassified,
    "a group without parts": lambda: Partless("group", [ValueError()]),
    "a signal without data": BrokenSignal,
}


def raise_it(name: str) -> Callable[[BaseNode], Any]:
    async def execute(self: BaseNode) -> None:
        raise RAISED[name]()

    return execute


async def leave_a_scope_open(self: BaseNode) -> None:
    trio.CancelScope().__enter__()


async def leave_a_nursery_open(self: BaseNode) -> None:
    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(trio.sleep_forever)


async def leave_a_nursery_open_in_which_a_task_fails(self: BaseNode) -> None:
    async def fail() -> None:
        raise ValueError("a task that no code waits for")

    nursery = await trio.open_nursery().__aenter__()
    nursery.start_soon(fail)
    await trio.lowlevel.checkpoint()


async def leave_a_nursery_open_and_raise(self: BaseNode) -> None:
    await trio.open_nursery().__aenter__()
    raise ValueError("raised after it")


async def cancel_the_nursery_around(self: BaseNode) -> None:
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    nursery.cancel_scope.cancel()
    await trio.sleep(1)


async def start_a_task_that_fails_in_the_nursery_around(self: BaseNode) -> None:
    async def fail() -> None:
        raise ValueError("a task next to the node")

    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    nursery.start_soon(fail)
    await trio.sleep(1)


async def give_the_task_away(self: BaseNode) -> None:
    from outcome import Value

    await trio.lowlevel.permanently_detach_coroutine_object(Value(None))


async def await_what_trio_does_not_know(self: BaseNode) -> None:
    await asyncio.sleep(0)


async def change_the_limits_of_the_class(self: BaseNode) -> None:
    type(self).concurrency = "many"  # type: ignore[assignment]
    type(self).no_retry = ValueError  # type: ignore[assignment]
    type(self).timeout = "short"  # type: ignore[assignment]
    raise ValueError("and then this")


DONE = [
    leave_a_scope_open,
    leave_a_nursery_open,
    leave_a_nursery_open_in_which_a_task_fails,
    leave_a_nursery_open_and_raise,
    cancel_the_nursery_around,
    start_a_task_that_fails_in_the_nursery_around,
    give_the_task_away,
    await_what_trio_does_not_know,
    change_the_limits_of_the_class,
]


async def survive(rt: Runtime) -> None:
    """Run it; what it raises is not shown, since these errors are more than pytest can take."""
    try:
        await rt.run()
    except BaseException as error:
        kind = type.__repr__(type(error))
    else:
        return
    raise AssertionError(f"a node ended the runtime with {kind}")


async def error_before(execute: Callable[[BaseNode], Any], tidy: type[BaseNode], **parts: Any) -> str:
    """Run two states of a hostile node and one of ``tidy`` by one worker; return the error of the first."""
    hostile = type("Hostile", (BaseNode,), {"execute": execute, **parts})
    server = V0Server()
    first = server.add("Hostile")[0]
    rt = runtime(server, hostile, tidy, workers=1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(survive, rt)
            await server.until(lambda: server.statuses() == {"ERRORED": 1})
            server.add(tidy.__name__)
            await server.until(lambda: server.statuses() == {"ERRORED": 1, "EXECUTED": 1})
            server.add("Hostile")
            await server.until(lambda: server.statuses() == {"ERRORED": 2, "EXECUTED": 1})
            rt.stop()
    assert (rt.summary.errored, rt.summary.completed) == (2, 1)
    error = server.states[first].result
    assert isinstance(error, str)
    return error


@pytest.mark.parametrize("name", RAISED)
async def test_any_exception_is_the_error_of_its_node_and_the_runtime_continues(
    autojump_clock: Any, name: str
) -> None:
    error = await error_before(raise_it(name), Tidy)
    assert ("ValueError: leaf" in error) >= (name == "a group too deep to be split"), (
        "the leaf is named at any depth"
    )


@pytest.mark.parametrize("name", RAISED)
@pytest.mark.parametrize("tidy", [TidyThread, TidyAsyncio])
async def test_any_exception_in_a_thread_is_the_error_of_its_node_and_the_runtime_continues(
    tidy: type[BaseNode], name: str
) -> None:
    execute = raise_it(name)
    if tidy is TidyThread:

        def execute(self: BaseNode) -> None:
            raise RAISED[name]()

    await error_before(execute, tidy, **({} if tidy is TidyThread else {"runs_in": "asyncio"}))


@pytest.mark.parametrize("execute", DONE)
async def test_damage_to_its_task_is_the_error_of_a_node_and_the_runtime_continues(
    autojump_clock: Any, execute: Callable[[BaseNode], Any]
) -> None:
    assert await error_before(execute, Tidy)


LEFT_BY = ContextVar("left_by", default="no node")


def around() -> trio.Nursery:
    nursery = trio.lowlevel.current_task().parent_nursery
    assert nursery is not None
    return nursery


LEFT: dict[str, Callable[[], object]] = {
    "a context variable": lambda: LEFT_BY.set("the node before"),
    "a task": lambda: around().start_soon(trio.sleep_forever),
    "a deadline": lambda: setattr(around().cancel_scope, "deadline", trio.current_time() + 1),
    "a shield": lambda: setattr(around().cancel_scope, "shield", True),
    "a cancelled nursery": lambda: around().cancel_scope.cancel(),
}


@pytest.mark.parametrize("what", LEFT)
async def test_contexts_that_a_node_leaves_open_end_with_its_state(autojump_clock: Any, what: str) -> None:
    class Leaves(BaseNode):
        async def execute(self) -> None:
            LEFT[what]()

    class Finds(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(2)
            scope = around().cancel_scope
            assert (LEFT_BY.get(), len(around().child_tasks)) == ("no node", 1)
            assert (scope.deadline, scope.shield, scope.cancel_called) == (math.inf, False, False)

    server = V0Server()
    async with running(server, Leaves, Finds, workers=1):
        for each, count in (("Leaves", 1), ("Finds", 2), ("Leaves", 3), ("Finds", 4)):
            server.add(each)
            await server.until(lambda: server.statuses() == {"EXECUTED": count})  # noqa: B023


class Holds:
    """What a node holds: a file, a connection."""


class Drops(BaseNode):
    held: weakref.ref[Holds]

    async def execute(self) -> None:
        held = Holds()
        Drops.held = weakref.ref(held)
        raise ValueError


async def test_objects_of_a_failed_node_are_freed_with_its_state() -> None:
    gc.collect()
    gc.disable()
    try:
        assert isinstance(await run_node(Drops), Errored)
        assert Drops.held() is None
    finally:
        gc.enable()


async def test_a_deep_group_raised_by_a_cancelled_node_releases_its_state(autojump_clock: Any) -> None:
    class Groups(BaseNode):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            except trio.Cancelled as error:
                raise nested(error, 5_000) from None

    server = V0Server(Groups=1)
    rt = runtime(server, Groups, shutdown_grace=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(survive, rt)
        await server.until(lambda: server.statuses() == {"QUEUED": 1})
        rt.stop()
    assert server.statuses() == {"CREATED": 1}
    assert rt.summary.cancelled == 1


def interrupt_a_thread(self: BaseNode) -> None:
    raise KeyboardInterrupt


async def interrupt_asyncio(self: BaseNode) -> None:
    raise KeyboardInterrupt


async def test_a_keyboard_interrupt_out_of_a_thread_is_an_error_of_its_state() -> None:
    assert threading.current_thread() is threading.main_thread(), "where a Ctrl-C would arrive"
    assert "KeyboardInterrupt" in await error_before(interrupt_a_thread, TidyThread)


async def test_a_keyboard_interrupt_out_of_the_asyncio_thread_is_an_error_of_its_state() -> None:
    assert "KeyboardInterrupt" in await error_before(interrupt_asyncio, TidyAsyncio, runs_in="asyncio")


def old_factory(loop: Any, coroutine: Any) -> Any:
    return asyncio.Task(coroutine, loop=loop)


def broken_factory(loop: Any, coroutine: Any, **options: Any) -> Any:
    coroutine.close()
    raise SystemExit("no task")


@pytest.mark.parametrize("factory", [old_factory, broken_factory])
async def test_a_task_factory_that_a_node_sets_does_not_stop_other_nodes(factory: Any) -> None:
    async def execute(self: BaseNode) -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        raise ValueError("set")

    class Waits(BaseNode):
        runs_in = "asyncio"

        async def execute(self) -> None:
            await asyncio.sleep(0)

    assert "set" in await error_before(execute, Waits, runs_in="asyncio")
