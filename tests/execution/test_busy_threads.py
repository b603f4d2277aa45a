"""Nodes that keep every thread of Trio's default limiter busy do not delay the runtime."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing

from exotrio import BaseNode
from exotrio._http.client import HttpClient
from exotrio._http.endpoint import Endpoint
from exotrio.manager import embedded
from exotrio.manager.store.base import CLOSING_GRACE
from exotrio.manager.store.sqlite.copy import copied
from tests.support.doubles import V0Server, running
from tests.support.http_doubles import tcp_server


@asynccontextmanager
async def busy() -> AsyncIterator[None]:
    """Keep all threads of the default limiter busy, as nodes may."""
    limiter = trio.to_thread.current_default_thread_limiter()
    gate = threading.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(int(limiter.total_tokens)):
            nursery.start_soon(partial(trio.to_thread.run_sync, gate.wait))
        try:
            await trio.testing.wait_all_tasks_blocked()
            assert limiter.available_tokens == 0
            with trio.fail_after(60):
                yield
        finally:
            gate.set()


async def pong(stream: trio.SocketStream, request: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


async def test_the_name_of_a_state_manager_is_looked_up() -> None:
    async with tcp_server(pong) as (uri, _), busy():
        http = HttpClient(Endpoint(uri.replace("127.0.0.1", "localhost"), "the-key"))
        assert (await http.ask("GET", "/ping")).status == 200
        await http.aclose()


async def test_a_resolver_of_the_application_is_used_and_remains_set() -> None:
    class Resolver(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
            return [(trio.socket.AF_INET, 1, 6, "", ("127.0.0.1", int(port)))]

        async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
            raise NotImplementedError

    resolver = Resolver()
    trio.socket.set_custom_hostname_resolver(resolver)
    async with tcp_server(pong) as (uri, _):
        http = HttpClient(Endpoint(uri.replace("127.0.0.1", "manager.invalid"), "the-key"))
        assert (await http.ask("GET", "/ping")).status == 200
        await http.aclose()
    assert trio.socket.set_custom_hostname_resolver(None) is resolver


async def test_outcomes_are_written_to_the_outbox_and_it_is_closed(tmp_path: Path) -> None:
    class Node(BaseNode):
        async def execute(self) -> None:
            return None

    server = V0Server(Node=3)
    async with busy(), running(server, Node, outbox=tmp_path / "outbox.db"):
        await server.until(lambda: server.statuses() == {"EXECUTED": 3})


async def test_the_state_manager_in_the_process_is_copied_and_closed(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    async with busy():
        async with embedded(db=db), copied(db) as copy:
            assert copy.stat().st_size
            ending = trio.current_time()
        assert trio.current_time() - ending < CLOSING_GRACE, "it gave up, though its thread has ended"


async def test_plain_nodes_run() -> None:
    class Plain(BaseNode):
        def execute(self) -> None:
            return None

    server = V0Server(Plain=1)
    async with busy(), running(server, Plain):
        await server.until(lambda: server.statuses() == {"EXECUTED": 1})
