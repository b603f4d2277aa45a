"""The way to a state manager for clients in the same process."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import unquote

import trio
from starlette.types import Message

from exotrio._util.slim_httpx import httpx
from exotrio.errors import LifecycleError
from exotrio.manager.api.routing import Api
from exotrio.manager.security.access import LOCAL, CheckedHost, local

logger = logging.getLogger("exotrio.manager.http")


class Exchange(Protocol):
    """A request of exotrio's client, which gets its answer in parts."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    is_sent: bool

    def begin(self, status: int, headers: Mapping[str, str]) -> None: ...
    async def take(self, chunk: bytes) -> None: ...
    def end(self) -> None: ...
    def broken(self, why: str) -> Exception: ...


class InsideTransport(httpx.ASGITransport):
    """A transport for httpx, and a shorter way for the clients of exotrio, which use ``send``.

    An endpoint takes the same bodies and gives the same replies on both ways. The messages of HTTP, and the
    layers of ASGI that only check what comes from outside, took a third of the processor time of a hop.

    Args:
        api: From ``create_api``.
    """

    def __init__(self, api: Api) -> None:
        super().__init__(local(CheckedHost(api, None)), raise_app_exceptions=False)
        self._api = api
        self._loop = trio.lowlevel.current_trio_token()

    async def send(self, exchange: Exchange) -> None:
        """Answer a request.

        Raises:
            LifecycleError: called from another Trio loop, where the store would wait without end.

        Cancellation:
            Of the endpoint. What a claim took is released then, as the store does it.
        """
        if trio.lowlevel.current_trio_token() is not self._loop:
            raise LifecycleError(
                "an embedded state manager was called from another Trio loop than its own",
                fix="call it from that loop; or serve it on a port, with python -m exotrio server",
            )
        path, _, query = exchange.path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "method": exchange.method,
            "path": unquote(path),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), text.encode()) for name, text in exchange.headers.items()],
            LOCAL: True,
        }
        is_whole = is_the_clients = False

        async def pass_on(message: Message) -> None:
            nonlocal is_whole, is_the_clients
            try:
                if message["type"] == "http.response.start":
                    headers = {name.decode(): text.decode("latin-1") for name, text in message["headers"]}
                    exchange.begin(message["status"], headers)
                else:
                    if part := message.get("body"):
                        await exchange.take(bytes(part))
                    is_whole = not message.get("more_body", False)
            except Exception:
                is_the_clients = True
                raise

        exchange.is_sent = True  # as far as is known: it may take effect from here on
        try:
            await self._api(scope, _receive_of(exchange.content or b""), pass_on)
        except Exception as error:
            if is_the_clients:
                raise
            logger.exception("%s %s failed", exchange.method, path)
            if not is_whole:
                raise exchange.broken("the server failed while it answered; its log says why") from error
        exchange.end()


def _receive_of(content: bytes) -> Any:
    sent = False

    async def receive() -> Message:
        nonlocal sent
        if sent:
            await trio.sleep_forever()  # the client does not disconnect: it cancels
        sent = True
        return {"type": "http.request", "body": content, "more_body": False}

    return receive
