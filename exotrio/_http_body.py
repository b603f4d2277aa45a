"""The body of a request, in one piece.

httpx's own is an async generator. A request that is cancelled between its piece and its end leaves that
behind, to be collected as garbage, of which Trio warns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx


class OnePiece(httpx.AsyncByteStream):
    """A body that can be sent again from its beginning, and needs no closing."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once:
    def __init__(self, content: bytes) -> None:
        self._left = [content] if content else []

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()
