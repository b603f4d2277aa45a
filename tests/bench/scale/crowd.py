"""Clients that do what runtimes do, without what runs nodes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import trio

from tests.bench.history import executed
from tests.bench.work import KEY, NAMESPACE

BATCH = 16


class Crowd:
    """Clients that do what runtimes do: register, ask for states and wait, report, and send heartbeats.

    They are in one process, so they speak HTTP without a library, on two connections each.

    Attributes:
        executed: States whose outcome was accepted.
        connected: Clients that have a connection for states.
    """

    def __init__(self, ports: list[int], clients: int) -> None:
        self.executed = 0
        self.connected: set[int] = set()
        self._changed = trio.Event()
        self._claims = count()
        self._ports = ports
        self._clients = clients

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for what follows from ``executed`` and ``connected``."""
        while not is_so():
            await self._changed.wait()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(self._clients):
                nursery.start_soon(self._forever, number, self._work)
                nursery.start_soon(self._forever, number, self._beat)

    async def _forever(self, number: int, use: Callable[[Connection, int], Awaitable[None]]) -> None:
        failures = 0
        while True:
            try:
                async with await Connection.to(self._ports[number % len(self._ports)]) as connection:
                    failures = 0
                    await use(connection, number)
            except (OSError, trio.BrokenResourceError, EOFError):
                failures += 1
                await trio.sleep(random.uniform(0, min(0.1 * 2**failures, 10)))

    async def _work(self, connection: Connection, number: int) -> None:
        try:
            while True:
                self._wait_or_not(number, waits=True)
                body = {
                    "worker_id": f"crowd-{number}",
                    "limits": {"Mark": BATCH},
                    "limit": BATCH,
                    "wait_ms": 15_000,
                    "claim_id": f"{number} {next(self._claims)}",
                }
                if states := (await connection.post("claim", body))["states"]:
                    await connection.post("outcomes", [executed(state, [{"i": "1"}]) for state in states])
                    self.executed += len(states)
                    self._tell()
        finally:
            self._wait_or_not(number, waits=False)

    def _wait_or_not(self, number: int, *, waits: bool) -> None:
        (self.connected.add if waits else self.connected.discard)(number)
        self._tell()

    async def _beat(self, connection: Connection, number: int) -> None:
        await trio.sleep(random.uniform(0, 10))
        while True:
            body = {
                "worker_id": f"crowd-{number}",
                "runtime": "crowd",
                "busy": 0,
                "buffered": 0,
                "states": [],
            }
            await connection.post("heartbeat", body)
            await trio.sleep(10)


class Connection(trio.abc.AsyncResource):
    """One connection to a state manager, with one request at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    @classmethod
    async def to(cls, port: int) -> Connection:
        return cls(await trio.open_tcp_stream("127.0.0.1", port))

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def post(self, route: str, body: Any) -> Any:
        content = json.dumps(body).encode()
        head = (
            f"POST /exotrio/v1/namespace/{NAMESPACE}/{route} HTTP/1.1\r\n"
            f"host: 127.0.0.1\r\nx-api-key: {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        await self._stream.send_all(head.encode() + content)
        received = b""
        while b"\r\n\r\n" not in received:
            received += await self._more()
        first, _, rest = received.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: *(\d+)", first.lower())[1])  # type: ignore[index]
        while len(rest) < length:
            rest += await self._more()
        if first.startswith(b"HTTP/1.1 5"):
            raise EOFError(first)
        assert first.startswith(b"HTTP/1.1 200"), (route, first, rest)
        return json.loads(rest)

    async def _more(self) -> bytes:
        if not (data := await self._stream.receive_some()):
            raise EOFError("closed")
        return data
