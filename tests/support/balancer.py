"""A load balancer before state managers: each connection goes to the next one that takes it."""

from __future__ import annotations

import re
from contextlib import suppress

import trio

FAILURE = re.compile(rb"HTTP/1\.1 (5\d\d)")


class Balancer:
    """Forwards connections from ``port`` to one of ``ports`` after the other, all on 127.0.0.1.

    It knows nothing of their health: one that takes no connection is passed over.

    Attributes:
        failures: The 5xx statuses of all answers.
        served: How many connections each port got.
    """

    def __init__(self, *ports: int) -> None:
        self.ports = [*ports]
        self.port = 0
        self.failures: list[int] = []
        self.served: dict[int, int] = {}

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            server = await self._connect()
            if server is None:
                return
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, client, server)
                    nursery.start_soon(self._forward, server, client)
            finally:
                await trio.aclose_forcefully(server)
        finally:
            await trio.aclose_forcefully(client)

    async def _connect(self) -> trio.SocketStream | None:
        for _ in self.ports:
            port = self.ports.pop(0)
            self.ports.append(port)
            with suppress(OSError):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                self.served[port] = self.served.get(port, 0) + 1
                return stream
        return None

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        # A connection that breaks ends both ways, as one that ends does.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                self.failures += [int(status) for status in FAILURE.findall(data)]
                await target.send_all(data)
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(target)
