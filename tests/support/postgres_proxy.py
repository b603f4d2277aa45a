"""A TCP proxy before PostgreSQL that breaks connections where it hurts: around COMMIT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import trio

COMMIT = b"COMMIT\0"
"""A statement, and the tag with which the server says that it is done."""
READY = b"Z\0\0\0\x05"
"""The head of the message that ends the answer to a statement, whatever came of it."""


@dataclass(slots=True, eq=False)
class _Connection:
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    swallows: bool = False
    """Whether the server's answer to a COMMIT is on its way, which the client is not to see."""


class PostgresProxy:
    """Forwards from ``port`` to ``upstream``, both on 127.0.0.1.

    Attributes:
        upstream: Where new connections lead; ``cut`` those of before.
        commits: COMMITs seen.
        cuts: Connections cut.
        refuses: Whether new connections are cut at once.
        held: How much waits to be let through.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self._open: set[_Connection] = set()
        self._armed: list[tuple[Literal["before", "after"], int | None]] = []
        self._flows = trio.Event()
        self._flows.set()
        self.port = 0
        self.commits = 0
        self.cuts = 0
        self.refuses = False
        self.held = 0

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    def cut(self) -> int:
        """Cut all connections and return how many there were."""
        for connection in self._open:
            connection.scope.cancel()
        self.cuts += len(self._open)
        return len(self._open)

    def cut_at_commit(self, when: Literal["before", "after"], port: int | None = None) -> None:
        """Cut the connection that commits next: "before" the server hears of it, or "after" it is done.

        The client cannot tell one from the other. ``port`` is that of a client: only its connection counts.
        """
        self._armed.append((when, port))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let nothing through for the length of the block, and then all of it."""
        self._flows = trio.Event()
        try:
            yield
        finally:
            self._flows.set()

    async def _may_flow(self) -> None:
        self.held += 1
        await self._flows.wait()
        self.held -= 1

    async def _serve(self, client: trio.SocketStream) -> None:
        connection = _Connection()
        self._open.add(connection)
        try:
            with suppress(OSError), connection.scope:
                if self.refuses:
                    return
                server = await trio.open_tcp_stream("127.0.0.1", self.upstream)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._to_server, connection, client, server)
                        nursery.start_soon(self._to_client, connection, server, client)
                finally:
                    await trio.aclose_forcefully(server)
        finally:
            self._open.discard(connection)
            await trio.aclose_forcefully(client)

    async def _to_server(
        self, connection: _Connection, client: trio.SocketStream, server: trio.SocketStream
    ) -> None:
        before: bytes | bytearray = b""
        with suppress(trio.BrokenResourceError):
            async for data in client:
                await self._may_flow()
                if COMMIT in before + data:
                    self.commits += 1
                    port = client.socket.getpeername()[1]
                    armed = next((armed for armed in self._armed if armed[1] in (None, port)), None)
                    if armed is not None:
                        self._armed.remove(armed)
                        self.cuts += 1
                        if armed[0] == "before":
                            break
                        connection.swallows = True
                before = data[1 - len(COMMIT) :]
                await server.send_all(data)
        connection.scope.cancel()

    async def _to_client(
        self, connection: _Connection, server: trio.SocketStream, client: trio.SocketStream
    ) -> None:
        swallowed = b""
        with suppress(trio.BrokenResourceError):
            async for data in server:
                await self._may_flow()
                if connection.swallows:
                    swallowed += data
                    if READY in swallowed:
                        break
                else:
                    await client.send_all(data)
        connection.scope.cancel()
