"""Requests through a transport of httpx that the caller passed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from exotrio._http.endpoint import Endpoint
from exotrio._http.exchange import ConnectionFailed, Exchange
from exotrio._util.slim_httpx import httpx

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class GivenTransport:
    """Sends through a transport of httpx. Its owner closes it: other clients may use it."""

    def __init__(self, transport: httpx.AsyncBaseTransport, endpoint: Endpoint) -> None:
        self._transport = transport
        self._uri = endpoint.uri

    async def send(self, exchange: Exchange) -> None:
        # It reports no progress: any request that it was given may have arrived.
        exchange.is_sent = True
        try:
            request = httpx.Request(
                exchange.method,
                f"{self._uri}{exchange.path}",
                content=exchange.content,
                headers=exchange.headers,
            )
            if exchange.content:
                request.stream = _Body(exchange.content)
            response = await self._transport.handle_async_request(request)
            try:
                exchange.begin(response.status_code, response.headers)
                stream = cast("AsyncGenerator[bytes]", aiter(cast("httpx.AsyncByteStream", response.stream)))
                async with aclosing(stream):
                    async for chunk in stream:
                        await exchange.take(chunk)
                exchange.end()
            finally:
                await response.aclose()
        except _UNSENT as error:
            exchange.is_sent = False
            raise ConnectionFailed(_brief(error)) from error
        except (httpx.HTTPError, OSError) as error:
            raise ConnectionFailed(_brief(error)) from error


class _Body(httpx.AsyncByteStream):
    """A body in one chunk. Trio warns of httpx's, an async generator, if it is not read to its end."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> _Body:
        return _Body(self._content)

    async def __anext__(self) -> bytes:
        chunk, self._content = self._content, b""
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
