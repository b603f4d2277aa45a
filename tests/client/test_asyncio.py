"""The client from asyncio."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import trio

from exotrio import GraphNodeModel, LifecycleError, NotFound, RequestRefused, StateManager
from exotrio._util.new_file import NewFile
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager import embedded
from tests.support import processes
from tests.support.commands import with_worker
from tests.support.stock import KEY, Stock, on_a_port

NODES = [GraphNodeModel(node_name="A", namespace="n", identifier="a", inputs={"p": "x"})]
BODY = b'{"validation_status": "VALID"}'
GRAPH = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


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


def test_a_graph_is_upserted_read_and_triggered(stock: Stock, manager: StateManager) -> None:
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
    assert stock.times("GET nodes") == 1, "what the server is is asked once, not with each call"


def test_more_calls_at_once_than_there_are_connections_wait_for_one(
    stock: Stock, manager: StateManager
) -> None:
    async def call() -> None:
        for _ in range(4):
            await manager.trigger("g")

    async def main() -> None:
        await manager.upsert_graph("g", NODES, {})
        await asyncio.gather(*(call() for _ in range(40)))

    asyncio.run(main())
    assert len(stock.runs) == 160


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_cancellation_ends_the_request_and_its_connection(is_sent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        manager = StateManager("n", f"http://127.0.0.1:{listener.getsockname()[1]}", KEY)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(manager.get_graph("g"))
            if is_sent:
                listener.setblocking(False)
                connection, _ = await loop.sock_accept(listener)
                connection.setblocking(False)
                assert b"GET " in await loop.sock_recv(connection, 10_000)
            else:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if is_sent:
                assert await loop.sock_recv(connection, 10_000) == b""
                connection.close()

        asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_call_can_be_made_from_either_event_loop(tmp_path: Path, backend: str) -> None:
    shown: list[RunStatus] = []
    split = GraphNodeModel(node_name="Split", namespace="n", identifier="s", inputs={"count": "1"})
    with with_worker(tmp_path) as running:

        async def main() -> None:
            async with StateManager("n", running.uri, processes.KEY) as manager:
                await manager.upsert_graph("g", [split], {})
                run_id = (await manager.trigger("g"))["run_id"]
                ended = await manager.wait(
                    run_id, timeout=20, on_progress=lambda run: shown.append(run.status)
                )
                assert ended.status is shown[-1] is RunStatus.SUCCESS
                assert (await manager.status(run_id)).status is RunStatus.SUCCESS
                (state,) = (await manager.run(run_id)).nodes
                assert (await manager.state("g", run_id, state.id)).identifier == "s"
                assert (await manager.history(state.id)).identifier == "s"
                assert len((await manager.states(run=run_id)).states) == 1
                assert len((await manager.find_runs()).runs) == len((await manager.runs()).runs) == 1
                for many in await manager.trigger_many("g", [{"count": "0"}] * 2):
                    assert (await manager.wait(many, timeout=20)).status is RunStatus.SUCCESS
                assert len(await manager.graphs()) == 1
                assert "Split" in {node.name for node in await manager.nodes()}
                await manager.overview()
                assert (await manager.depth())["Split"] == 0
                await manager.checkup()
                assert b"</html>" in await manager.export(run_id)
                assert await manager.backup(tmp_path / "copy.db") == (tmp_path / "copy.db").stat().st_size
                for refused in (manager.retry_run, manager.cancel):
                    with pytest.raises(RequestRefused):
                        await refused(run_id)
                with pytest.raises(NotFound):
                    await manager.manual_retry("0" * 24)
                (worker,) = (await manager.workers()).workers
                with pytest.raises(RequestRefused):
                    await manager.tasks(worker.worker_id)
                later = (await manager.trigger("g", start_delay=60_000))["run_id"]
                with pytest.raises(TimeoutError if backend == "asyncio" else trio.TooSlowError):
                    await manager.wait(later, timeout=0.1)
                await manager.drain(worker.worker_id)

        anyio.run(main, backend=backend)


def test_one_client_serves_several_event_loops_and_leaves_no_connection_open() -> None:
    closed: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        manager = StateManager("n", f"http://127.0.0.1:{listener.getsockname()[1]}", KEY)

        def serve() -> None:
            for _ in range(4):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(2)
                    try:
                        while connection.recv(10_000):
                            connection.sendall(GRAPH)
                        closed.append(True)
                    except TimeoutError:
                        closed.append(False)

        async def twice() -> None:
            for _ in range(2):
                assert (await manager.get_graph("g"))["validation_status"] == "VALID"

        async def twice_and_close() -> None:
            await twice()
            await manager.aclose()
            await manager.aclose()

        server = threading.Thread(target=serve)
        server.start()
        asyncio.run(twice())
        trio.run(twice)
        asyncio.run(twice_and_close())
        trio.run(twice_and_close)
        server.join()
    assert closed == [True] * 4, "one connection for each event loop"
    assert not manager._calls.http._connections._pools, "nothing is kept of event loops that have ended"


@pytest.mark.filterwarnings("ignore")  # of sockets that asyncio closes only as garbage
def test_nothing_is_kept_of_loops_that_are_closed_without_ending_their_generators(
    manager: StateManager,
) -> None:
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(manager.runs())
        loop.close()

    async def main() -> None:
        await manager.runs()
        await manager.aclose()

    asyncio.run(main())
    assert not manager._calls.http._connections._pools
    gc.collect()


def test_a_backup_that_is_cancelled_while_a_thread_creates_its_file_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    create = NewFile.open

    def create_late(file: NewFile) -> None:
        begun.set()
        go_on.wait(60)
        try:
            create(file)
        finally:
            ended.set()

    monkeypatch.setattr(NewFile, "open", create_late)

    async def main() -> None:
        backup = asyncio.create_task(StateManager("n", "http://127.0.0.1:9", KEY).backup(tmp_path / "b.db"))
        await asyncio.to_thread(begun.wait, 60)
        backup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await backup
        go_on.set()
        await asyncio.to_thread(ended.wait, 60)

    asyncio.run(main())
    assert ended.is_set()
    assert not list(tmp_path.iterdir())


async def test_a_state_manager_inside_a_trio_loop_cannot_be_called_from_asyncio() -> None:
    async with embedded(":memory:") as transport:
        manager = StateManager("n", transport=transport)

        def elsewhere() -> None:
            with pytest.raises(LifecycleError, match="runs in a Trio loop, and was called outside of it"):
                asyncio.run(manager.trigger("g"))

        await trio.to_thread.run_sync(elsewhere)
