"""One request and its answer, between the client and what carries them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from exotrio._http.response import invalid_response

if TYPE_CHECKING:
    from exotrio._http.event_loop import EventLoop, Scope

MAX_ANSWER = 128 * 1024 * 1024
"""Bytes of an answer that are read into memory."""

Sink = Callable[[bytes], Awaitable[None]]


class ConnectionFailed(Exception):
    """There is no answer; the text says why. ``Exchange.is_sent``: whether the request may have arrived."""


@dataclass(eq=False, slots=True)
class Exchange:
    """A request, and what came of its answer so far.

    A sender sets ``is_sent``, and calls ``begin``, ``take`` for each chunk of the body, and ``end``.

    Attributes:
        method: In capitals.
        path: Encoded, below the base URI, with the query.
        headers: By names in lower case; without ``host`` and those about the length of the body.
        content: The body; None if there is none.
        at, request_line: Names of the server and of the request, for messages.
        limit: The scope that bounds the exchange.
        sink, chunk_timeout: As in ``HttpClient.ask``.
        is_sent: Something of the request may have left.
        status: Of the answer; None before it began.
        answer_headers: By names in lower case.
        chunks: The body, unless it has a sink.
        received: Bytes of the body.
        is_complete: The whole answer is there.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    _: KW_ONLY
    at: str
    request_line: str
    loop: EventLoop
    limit: Scope
    sink: Sink | None = None
    chunk_timeout: float | None = None
    is_sent: bool = False
    status: int | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    received: int = 0
    is_complete: bool = False

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Take the head of the answer; raise InvalidResponse if the body has a content coding.

        None was requested, and a few bytes of one could become more than there is memory.
        """
        self.status, self.answer_headers = status, headers
        coding = headers.get("content-encoding", "identity")[:50]
        if coding.lower() != "identity":
            raise invalid_response(
                f"{self.at} answered in the coding {coding!r}, which was not requested", self.request_line
            )
        # An error is no part of what the sink is for.
        if not 200 <= status < 300 or headers.get("content-type") != self.headers.get("accept"):
            self.sink = None
        self._await_next()

    async def take(self, chunk: bytes) -> None:
        """Take a part of the body; raise InvalidResponse if it becomes too long."""
        self.received += len(chunk)
        if self.sink is None:
            if self.received > MAX_ANSWER:
                raise invalid_response(
                    f"{self.at} answered with more than {MAX_ANSWER} bytes", self.request_line
                )
            self.chunks.append(chunk)
        else:
            self.limit.deadline = math.inf
            await self.sink(chunk)
        self._await_next()

    def end(self) -> None:
        """Record that the answer is complete."""
        self.is_complete = True

    def broken(self, why: str) -> ConnectionFailed:
        """Return the error that a sender raises if the answer ends too early."""
        return ConnectionFailed(why)

    def _await_next(self) -> None:
        if self.chunk_timeout is not None:
            self.limit.deadline = self.loop.current_time() + self.chunk_timeout


@runtime_checkable
class Sender(Protocol):
    """What carries requests to one state manager."""

    async def send(self, exchange: Exchange) -> None:
        """Carry a request there and its answer back.

        Raises:
            ConnectionFailed: there is no answer, or only a part of it.
            InvalidResponse: what ``exchange`` raises.

        Cancellation:
            Safe for the sender; the request may have arrived.
        """
