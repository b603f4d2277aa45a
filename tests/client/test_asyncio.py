"""The stock SDK's calls of the client, made from asyncio: programs that change only their import."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import trio

from exotrio import GraphNodeModel, LifecycleError, NotFound, StateManager
from exotrio.manager import embedded
from tests.support.stock import KEY, Stock, on_a_port

NODES = [GraphNodeModel(node_name="A", namespace="n", identifier="a", inputs={"p": "x"})]


@pytest.fixture
def stock() -> Stock:
    stock = Stock(time.monotonic)
    stock.looks_pending = 0
    stock.nodes["n", "A"] = {}
    return stock


@pytest.fixture
def manager(stock: Stock) -> Iterator[StateManager]:
    with on_a_port(stock) as uri:
        yield StateManager("n", uri, KEY)


def test_a_graph_is_put_looked_at_and_triggered(stock: Stock, manager: StateManager) -> None:
    async def main() -> None:
        shown = await manager.upsert_graph("g", NODES, {})
        assert shown["validation_status"] == "VALID"
        assert (await manager.get_graph("g"))["nodes"][0]["inputs"] == {"p": "x"}
        reply = await manager.trigger("g", inputs={"p": "y"})
        assert list(stock.runs) == [reply["run_id"]]
        with pytest.raises(NotFound, match="404"):
            await manager.trigger("other")

    asyncio.run(main())
    assert [state.inputs for state in stock.states.values()] == [{"p": "y"}]
    assert stock.times("GET v1") == 1, "what the server is has to be asked once, not with each call"


def test_calls_at_once_are_made_at_once(stock: Stock, manager: StateManager) -> None:
    all_here = threading.Barrier(8)

    def wait_for_the_others(method: str, path: str) -> str:
        if path.endswith("/trigger"):
            all_here.wait(20)
        return ""

    async def main() -> None:
        await manager.upsert_graph("g", NODES, {})
        stock.proxy = wait_for_the_others  # type: ignore[assignment]
        replies = await asyncio.gather(*(manager.trigger("g") for _ in range(8)))
        assert {reply["run_id"] for reply in replies} == set(stock.runs)

    asyncio.run(main())
    assert len(stock.runs) == 8


@pytest.mark.parametrize("asked", [True, False])
def test_a_cancellation_ends_the_request_and_its_connection(asked: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        manager = StateManager("n", f"http://127.0.0.1:{listener.getsockname()[1]}", KEY)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(manager.get_graph("g"))
            if asked:
                listener.setblocking(False)
                connection, _ = await loop.sock_accept(listener)
                connection.setblocking(False)
                assert b"GET " in await loop.sock_recv(connection, 10_000)
            else:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if asked:
                assert await loop.sock_recv(connection, 10_000) == b""
                connection.close()

        asyncio.run(asyncio.wait_for(main(), 20))


def test_the_other_calls_say_that_they_are_for_trio(manager: StateManager) -> None:
    async def main() -> None:
        for call in (lambda: manager.runs(), lambda: manager.wait("r", timeout=1), lambda: manager.graphs()):
            with pytest.raises(LifecycleError, match="this is not a Trio task"):
                await call()

    asyncio.run(main())


async def test_a_state_manager_inside_a_trio_loop_cannot_be_called_from_asyncio() -> None:
    async with embedded(":memory:") as transport:
        manager = StateManager("n", transport=transport)

        def elsewhere() -> None:
            with pytest.raises(LifecycleError, match="lives in a Trio loop, and this is asyncio"):
                asyncio.run(manager.trigger("g"))

        await trio.to_thread.run_sync(elsewhere)
