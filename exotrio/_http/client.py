"""One HTTP exchange with a state manager: its result is a JSON answer or an error of ``exotrio.errors``.

Nothing is repeated here and no redirect is followed: the caller knows what may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from uuid import uuid4

from pydantic import BaseModel

from exotrio._http.connections import Connections
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint, key_problems
from exotrio._http.event_loop import event_loop
from exotrio._http.exchange import ConnectionFailed, Exchange, Sink
from exotrio._http.response import Answer, M, ResponseTooSlow, invalid_response, parse_response
from exotrio._shared.events import Events, Requested
from exotrio._shared.settings import URI_VARIABLE, read_key_file
from exotrio._util.json import NotJson, encode
from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.errors import ConfigurationError, ManagerUnavailable

if TYPE_CHECKING:
    import trio

log = logging.getLogger("exotrio")

REQUEST_TIMEOUT = 30.0
_REQUEST_ID = REQUEST_ID_HEADER.lower()
_KEY = KEY_HEADER.lower()
MIN_BANDWIDTH = 32 * 1024
"""Bytes a second; an exchange has as much more time as its request body takes at this rate."""


class Options(TypedDict, total=False):
    """Arguments of ``HttpClient.ask``, which documents them."""

    body: bytes | BaseModel | Mapping[str, Any] | None
    headers: Mapping[str, str]
    timeout: float
    scope: trio.CancelScope | None
    accept: Collection[int]
    close_after: bool
    chunk_timeout: float | None


class HttpClient:
    """Exchanges requests and responses with one state manager, and emits an event for each exchange.

    It can be used from Trio and from asyncio, also from several event loops: each has separate connections,
    which open when first used. A client that was closed opens new ones when used again.

    Args:
        tasks: Exchanges at once, in each event loop; more of them wait.
    """

    def __init__(self, endpoint: Endpoint, *, tasks: int = 16, events: Events | None = None) -> None:
        self.endpoint = endpoint
        self._shown = "" if endpoint.uri == EMBEDDED_URI else endpoint.shown
        self._at = endpoint.name
        # Not `or`: Events without observers are false.
        self._events = Events() if events is None else events
        self._connections = Connections(endpoint, tasks)
        self._headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "exotrio",
            **({} if endpoint.key is None else {_KEY: endpoint.key}),
        }
        # Made once: asking the kernel for randomness for each request was 8 % of the time of short ones.
        self._request_ids = map(f"{str(uuid4())[:24]}{{:012x}}".format, count(1))

    async def fetch(self, model: type[M], method: str, path: str, **options: Unpack[Options]) -> M:
        """Send a request, as ``ask`` does, and return the answer as ``model``."""
        return (await self.ask(method, path, **options)).parse(model)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | BaseModel | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = REQUEST_TIMEOUT,
        scope: trio.CancelScope | None = None,
        accept: Collection[int] = (),
        close_after: bool = False,
        chunk_timeout: float | None = None,
        sink: Sink | None = None,
    ) -> Answer:
        """Send one request and return its JSON answer.

        Args:
            path: Encoded path below the base URI.
            body: JSON text, or what to encode as such.
            headers: Headers besides the usual ones.
            timeout: Seconds for the whole exchange, connecting and reading included; more for a large body.
            scope: A fresh scope to bound the exchange with, for callers who move its deadline
                meanwhile or shield it.
            accept: Statuses other than 2xx to return instead of raising.
            close_after: Close the connection after the answer. For requests on which a stock server works on
                after its answer: if that work fails, it closes the connection without an answer to the next
                request, which it may have executed.
            chunk_timeout: Seconds until the next chunk, once the answer has begun, in place of ``timeout``.
                For answers that must not be lost.
            sink: Gets the chunks of an answer that has the media type in ``headers``. Then the body of the
                ``Answer`` is its length. The time that ``sink`` takes does not count.

        Raises:
            ManagerUnavailable: no usable answer; ``sent`` says whether the request may have arrived.
            InvalidResponse: the same, and what answered is not a state manager.
            ResponseTooSlow: the same, and the answer had begun to arrive.
            KeyRefused: 401 or 403.
            NotFound: 404.
            RequestRefused: any other 4xx, and redirects.
            LifecycleError: called outside of an event loop, or in another one than that of an embedded
                state manager.
            ConfigurationError: ``body`` has no JSON form, or the URI cannot be used.

        Cancellation:
            Safe for the connections. The request may have arrived all the same.
        """
        loop = event_loop()
        pool = await self._connections.pool()
        request_line = f"{method} {self._shown}{path}"
        try:
            content = body if isinstance(body, bytes) or body is None else encode(body)
        except NotJson as error:
            raise ConfigurationError(
                f"an argument cannot be sent as JSON: {error}", where=f"request: {request_line}"
            ) from error
        all_headers = {**self._headers, _REQUEST_ID: next(self._request_ids)}
        if content is not None:
            all_headers["content-type"] = "application/json"
        if headers:
            all_headers |= {name.lower(): text for name, text in headers.items()}
        if close_after:
            all_headers["connection"] = "close"
        timeout += len(content or b"") / MIN_BANDWIDTH
        since = loop.current_time()
        with scope or nullcontext(), loop.CancelScope(deadline=since + timeout) as limit:
            is_refused = True
            while is_refused:
                exchange = Exchange(
                    method,
                    path,
                    all_headers,
                    content,
                    at=self._at,
                    request_line=request_line,
                    loop=loop,
                    limit=limit,
                    sink=sink,
                    chunk_timeout=chunk_timeout,
                )
                async with pool.limiter:
                    began = loop.current_time() if self._events else since
                    try:
                        await pool.sender.send(exchange)
                    except ConnectionFailed as error:
                        raise self._failed(exchange, request_line, error) from error
                    finally:
                        if self._events:
                            code = exchange.status if exchange.is_complete else None
                            self._events.emit(Requested(_op(path), code, loop.current_time() - began))
                is_refused = exchange.status == 401 and self._has_another_key(all_headers)
        if exchange.status is None:
            raise ManagerUnavailable(
                f"{self._at} did not answer within {loop.current_time() - since:.3g} s",
                sent=exchange.is_sent,
                where=f"request: {request_line}",
                fix="is it overloaded, or is the network to it down?",
            )
        if not exchange.is_complete:
            raise ResponseTooSlow(
                f"the answer of {self._at} did not arrive as a whole within "
                f"{chunk_timeout or timeout:.0f} s: {exchange.received} bytes did",
                where=f"request: {request_line}",
                fix="is the network to it slow, or overloaded?",
            )
        if exchange.sink is None:
            return parse_response(
                exchange.status,
                exchange.answer_headers,
                b"".join(exchange.chunks),
                at=self._at,
                request_line=request_line,
                accept=accept,
            )
        if exchange.answer_headers.get("content-length") != str(exchange.received):
            what = f"{self._at} answered with {exchange.received} bytes, not with the length it had announced"
            raise invalid_response(what, request_line)
        return Answer(exchange.status, exchange.received, request_line)

    def _has_another_key(self, headers: dict[str, str]) -> bool:
        """Read the file of a key that was refused; return whether ``headers`` have another key now."""
        if self.endpoint.key_file is None:
            return False
        try:
            key = read_key_file(self.endpoint.key_file, "read again, since its key is refused")
        except ConfigurationError as error:
            log.warning("%s; %s", error.what, error.where)
            return False
        if problems := key_problems(key, f"file {self.endpoint.key_file}"):
            log.warning("%s", problems[0])
            return False
        is_other, self._headers[_KEY] = key != headers[_KEY], key
        headers[_KEY] = key
        return is_other

    async def download(self, path: str, sink: Sink, *, timeout: float, media_type: str) -> int:
        """Fetch something large and pass it to ``sink`` chunk by chunk; return its length.

        Args:
            timeout: Seconds until the answer begins. Between two chunks it is ``REQUEST_TIMEOUT``.
            media_type: Of a usable answer.

        Raises:
            As ``ask`` does, and what ``sink`` raises; ManagerUnavailable also if the answer breaks off or is
            longer or shorter than its announced length.
        """
        answer = await self.ask(
            "GET",
            path,
            headers={"accept": media_type},
            timeout=timeout,
            chunk_timeout=REQUEST_TIMEOUT,
            sink=sink,
        )
        if not isinstance(answer.body, int):
            raise invalid_response(f"{self._at} answered without {media_type}", answer.request_line)
        return answer.body

    async def aclose(self) -> None:
        """Close the connections of the caller's event loop. Safe to call twice."""
        await self._connections.aclose()

    def _failed(self, exchange: Exchange, request_line: str, error: ConnectionFailed) -> ManagerUnavailable:
        where = f"request: {request_line}"
        if exchange.is_sent:
            return ManagerUnavailable(
                f"the connection to {self._at} broke before an answer: {error}", where=where
            )
        return ManagerUnavailable(
            f"{self._at} cannot be reached: {error}",
            sent=False,
            where=where,
            fix=f"is one running there? start one with `python -m exotrio server`, or set {URI_VARIABLE}",
        )


_OPS = {"v1": "discover", "nodes": "register", "enqueue": "claim"}


def _op(path: str) -> str:
    """Return the operation that a path names: its last segment, never an id in requests of runtimes."""
    last = path.rstrip("/").rpartition("/")[2]
    return _OPS.get(last, last)
