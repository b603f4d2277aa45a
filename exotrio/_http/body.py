"""The bodies of requests and of responses, in place of httpx's own classes for them.

httpx's body of a request is an async generator: a request that is cancelled between its chunk and its end
leaves the generator to be collected as garbage, of which Trio warns.

The body of a response has a limit, and is never decoded: a few bytes of a content coding that was not
requested could become more than there is memory.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import cast

from exotrio._http.event_loop import closing_scope
from exotrio._http.response import invalid_response
from exotrio._util.slim_httpx import httpx


class RequestBody(httpx.AsyncByteStream):
    """A body in one chunk, which can be sent again from its beginning and needs no closing."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> RequestBody:
        return RequestBody(self._content)

    async def __anext__(self) -> bytes:
        chunk, self._content = self._content, b""
        if not chunk:
            raise StopAsyncIteration
        return chunk


async def body_chunks(
    response: httpx.Response, at: str, request_line: str, max_size: float
) -> AsyncGenerator[bytes]:
    """Yield the body of a response chunk by chunk, and close the response.

    Raises:
        InvalidResponse: the body is longer than ``max_size`` bytes, or compressed.
    """
    size = 0
    chunks: AsyncGenerator[bytes] | None = None
    try:
        coding = response.headers.get("content-encoding", "identity")[:50]
        if coding.lower() != "identity":
            raise invalid_response(
                f"{at} answered in the coding {coding!r}, which was not requested", request_line
            )
        chunks = cast("AsyncGenerator[bytes]", aiter(cast("httpx.AsyncByteStream", response.stream)))
        async for chunk in chunks:
            size += len(chunk)
            if size > max_size:
                raise invalid_response(f"{at} answered with more than {max_size} bytes", request_line)
            yield chunk
    finally:
        with closing_scope():
            await response.aclose()
            if chunks is not None:
                # One more step, which is an error now. Otherwise httpcore's nested generators stay suspended
                # until they are collected as garbage, of which Trio warns.
                with suppress(Exception):
                    await anext(chunks, None)
                await chunks.aclose()
