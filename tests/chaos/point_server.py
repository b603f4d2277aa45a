"""A state manager that can be killed and started again, in process and under virtual time.

It is the real one, from ``open_service`` to the ASGI application. Only two things stand in: its
store passes every write through the points "before" and "after the commit of", and the connection
is this module instead of a socket. Every request is served in a task of the server's own, as over
a network: a client that gives up does not stop it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, cast
from unittest import mock

import httpx
import trio

from exotrio._shared.settings import Settings
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms
from exotrio.manager.store.port import Store
from exotrio.manager.store.sqlite.store import MemoryStore, open_store

KEY = "chaos-points-key-5512"
SETTINGS = Settings(secrets_encryption_key=b64encode(bytes(32)).decode())
TERMS = Terms(lease_ttl_ms=6_000, claim_timeout_ms=15_000, poison_limit=1_000)
DOWN = 1.5
"""Seconds a restart takes."""
EPOCH_MS = 1_700_000_000_000

ASKER: ContextVar[Any] = ContextVar("ASKER", default=None)
"""The worker whose request is being served."""


class Watcher(Protocol):
    """Sees, and may disturb, what the server does."""

    async def reach_commit(self, when: str, use_case: str, result: Any) -> None: ...
    def committed(self, use_case: str, args: tuple[Any, ...], result: Any) -> None: ...
    def defect(self, error: BaseException) -> None: ...


def virtual_ms() -> int:
    return round(trio.current_time() * 1000)


@dataclass(eq=False)
class Exchange:
    """One request on its way. ``gone``: nobody waits for the reply; ``cut``: the server is gone."""

    request: httpx.Request
    body: bytes
    asker: Any
    answered: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    cut: bool = False
    refused: bool = False
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content: bytes = b""

    def give_up(self) -> None:
        self.gone.set()

    def fail(self, *, refused: bool = False) -> None:
        self.cut, self.refused = True, refused
        self.answered.set()

    def response(self) -> httpx.Response:
        if self.refused:
            raise httpx.ConnectError("chaos: nobody listens")
        if self.cut:
            raise httpx.ReadError("chaos: the server went away")
        return httpx.Response(self.status, headers=self.headers, content=self.content)


class _Process:
    """One life of the server."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.dead = False
        self.open: set[Exchange] = set()
        self.app: Any = None
        self.nursery: trio.Nursery

    def kill(self) -> None:
        self.dead = True
        for exchange in self.open:
            exchange.fail()
        self.scope.cancel()


class _Watched:
    """The store of one process: a dead one neither writes nor says that it did."""

    path = None
    is_shared = False
    lease_clock = None

    def __init__(self, memory: MemoryStore, process: _Process, watcher: Watcher) -> None:
        self._memory = memory
        self._process = process
        self._watcher = watcher

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = use_case.__name__
        await self._reach("before", name, None)
        result = await self._memory.write(use_case, *args, **kwargs)
        self._watcher.committed(name, args, result)
        await self._reach("after", name, result)
        return result

    async def write_once_ready(self, longest: float, use_case: Callable[..., Any], *args: Any) -> Any:
        name = use_case.__name__
        await self._reach("before", name, None)
        result = await self._memory.write_once_ready(longest, use_case, *args)
        if result is not None:
            self._watcher.committed(name, args, result)
            await self._reach("after", name, result)
        return result

    async def measure_clock(self) -> None:
        await self._memory.measure_clock()

    def write_later(self, use_case: Callable[..., Any]) -> None:
        if not self._process.dead:
            self._memory.write_later(use_case)

    async def read(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._memory.read(query, *args, **kwargs)

    async def read_with_deadline(self, query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._memory.read_with_deadline(query, *args, **kwargs)

    async def _reach(self, when: str, name: str, result: Any) -> None:
        if not self._process.dead:
            await self._watcher.reach_commit(when, name, result)
        if self._process.dead:
            await trio.sleep_forever()


class Server:
    """A state manager in memory, whose database outlives its process.

    Attributes:
        store: The database, past all points.
        ahead_ms: By how much its wall clock is set ahead.
    """

    def __init__(self, memory: MemoryStore, nursery: trio.Nursery, watcher: Watcher, *, native: bool) -> None:
        self.store: Store = memory
        self._memory = memory
        self._nursery = nursery
        self._watcher = watcher
        self._native = native
        self._process: _Process | None = None
        self.ahead_ms = 0

    def wall_ms(self) -> int:
        return EPOCH_MS + virtual_ms() + self.ahead_ms

    async def boot(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Live once, until killed."""
        process = _Process()
        process.scope = trio.CancelScope()

        @asynccontextmanager
        async def open_ours(*args: Any, **options: Any) -> AsyncIterator[Store]:
            yield cast(Store, _Watched(self._memory, process, self._watcher))

        with process.scope:
            with mock.patch("exotrio.manager.service.open_store", open_ours):
                service = open_service(
                    ":memory:", clock=self.wall_ms, monotonic=virtual_ms, terms=TERMS, settings=SETTINGS
                )
                opened = await service.__aenter__()
            try:
                process.app = create_app(opened, key=KEY, native=self._native)
                async with trio.open_nursery() as process.nursery:
                    self._process = process
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                await service.__aexit__(None, None, None)

    def restart(self) -> None:
        """Kill the process in the middle of whatever it does, and start another one."""
        if self._process is not None:
            self._process.kill()
            self._process = None
            self._nursery.start_soon(self._boot_later)

    async def _boot_later(self) -> None:
        await trio.sleep(DOWN)
        await self.boot()

    def deliver(self, exchange: Exchange) -> None:
        """Let a request arrive."""
        process = self._process
        if process is None:
            exchange.fail(refused=True)
        else:
            process.open.add(exchange)
            process.nursery.start_soon(self._serve, process, exchange)

    async def _serve(self, process: _Process, exchange: Exchange) -> None:
        ASKER.set(exchange.asker)
        request = exchange.request
        url = request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "server": ("chaos", 80),
        }
        messages = [{"type": "http.request", "body": exchange.body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await exchange.gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if exchange.gone.is_set() or exchange.cut:
                raise OSError("chaos: the client is gone")
            if message["type"] == "http.response.start":
                exchange.status, exchange.headers = message["status"], list(message["headers"])
            else:
                exchange.content += message.get("body", b"")
                if not message.get("more_body", False):
                    exchange.answered.set()

        try:
            await process.app(scope, receive, send)
        except Exception as error:
            if not (exchange.gone.is_set() or exchange.cut):
                self._watcher.defect(error)
                exchange.fail()
        finally:
            process.open.discard(exchange)


@asynccontextmanager
async def open_server(nursery: trio.Nursery, watcher: Watcher, *, native: bool) -> AsyncIterator[Server]:
    """Run a server in ``nursery``, which the caller cancels in the end."""
    server: Server
    async with open_store(":memory:", clock=lambda: server.wall_ms()) as memory:
        assert isinstance(memory, MemoryStore)
        server = Server(memory, nursery, watcher, native=native)
        await nursery.start(server.boot)
        yield server
