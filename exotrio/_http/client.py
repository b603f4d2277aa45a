"""One HTTP exchange with a state manager: its result is a JSON answer or an error of ``exotrio.errors``.

Nothing is repeated here and no redirect is followed: the caller knows what may be repeated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, contextmanager, nullcontext
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, Unpack
from uuid import uuid4

import trio
from pydantic import BaseModel

from exotrio._http.connections import Connections, HandshakeTrace, InsideAnswer, InsideTransport, Pool
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._http.event_loop import event_loop
from exotrio._http.response import Answer, ResponseTooSlow, invalid_response, parse_response
from exotrio._shared.events import Events, Requested
from exotrio._shared.settings import URI_VARIABLE
from exotrio._util.json import NotJson, encode
from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.errors import ConfigurationError, ManagerUnavailable

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("exotrio")

M = TypeVar("M", bound=BaseModel)

REQUEST_TIMEOUT = 30.0
MAX_ANSWER = 128 * 1024 * 1024
"""Bytes of an answer that are read into memory."""
MIN_BANDWIDTH = 32 * 1024
"""Bytes a second; an exchange has as much more time as its request body takes at this rate."""
CONNECT_TIMEOUT = 5.0
"""Below REQUEST_TIMEOUT, so that a host that drops packets is known to have received nothing."""
# The scope in ask limits the whole exchange; httpx's read timeout restarts with every read.
_TIMEOUT = {"connect": CONNECT_TIMEOUT, "pool": CONNECT_TIMEOUT, "read": None, "write": None}


class Options(TypedDict, total=False):
    """Arguments of ``HttpClient.ask``, which documents them."""

    body: bytes | BaseModel | Mapping[str, Any] | None
    headers: Mapping[str, str]
    timeout: float
    scope: trio.CancelScope | None
    accept: Collection[int]
    close_after: bool
    chunk_timeout: float | None


class _Sending(HandshakeTrace):
    """Whether anything of a request may have left."""

    def __init__(self) -> None:
        self.sent = False

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            self.sent = True
        elif event.startswith("connection."):
            await super().trace(event, info)


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
        sink: Callable[[bytes], Awaitable[None]] | None = None,
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
            ConfigurationError: ``body`` has no JSON form, or httpx cannot use the URI.

        Cancellation:
            Safe for the connections. The request may have arrived all the same.
        """
        from exotrio._http.body import body_chunks  # here, since it imports httpx

        loop = event_loop()
        pool = await self._connections.pool()
        request_line = f"{method} {self._shown}{path}"
        try:
            content = body if isinstance(body, bytes) or body is None else encode(body)
        except NotJson as error:
            raise ConfigurationError(
                f"an argument cannot be sent as JSON: {error}", where=f"request: {request_line}"
            ) from error
        timeout += len(content or b"") / MIN_BANDWIDTH
        sending = _Sending()
        if pool.inside is not None and sink is None:
            with scope or nullcontext(), trio.move_on_after(timeout):
                async with pool.limiter:
                    sending.sent = True  # as far as is known: it may take effect from here on
                    return await self._ask_inside(pool.inside, method, path, content, headers or {}, accept)
            raise self._unanswered(timeout, request_line, sent=sending.sent)
        response: httpx.Response | None = None
        chunks: list[bytes] = []
        received, is_complete = 0, False
        since = loop.current_time()
        with scope or nullcontext(), loop.CancelScope(deadline=since + timeout) as limit:
            async with pool.limiter:
                began = loop.current_time()
                try:
                    with self._translate_errors(request_line, sending):
                        request = self._request(method, path, content, headers or {}, sending)
                        if close_after:
                            request.headers["connection"] = "close"
                        response = await send(pool, request)
                        # Headers of httpx are slow to read: only where they matter.
                        if sink is not None and (
                            not response.is_success
                            or response.headers.get("content-type") != request.headers["accept"]
                        ):
                            sink = None
                        max_size = math.inf if sink else MAX_ANSWER
                        async with aclosing(
                            body_chunks(response, self._at, request_line, max_size)
                        ) as arriving:
                            if chunk_timeout is not None:
                                limit.deadline = loop.current_time() + chunk_timeout
                            async for chunk in arriving:
                                received += len(chunk)
                                if sink is None:
                                    chunks.append(chunk)
                                else:
                                    limit.deadline = math.inf
                                    await sink(chunk)
                                if chunk_timeout is not None:
                                    limit.deadline = loop.current_time() + chunk_timeout
                        is_complete = True
                finally:
                    if self._events:
                        code = response.status_code if response is not None and is_complete else None
                        self._events.emit(Requested(_op(path), code, loop.current_time() - began))
        if response is None:
            raise self._unanswered(loop.current_time() - since, request_line, sent=sending.sent)
        if not is_complete:
            raise ResponseTooSlow(
                f"the answer of {self._at} did not arrive as a whole within "
                f"{chunk_timeout or timeout:.0f} s: {received} bytes did",
                where=f"request: {request_line}",
                fix="is the network to it slow, or overloaded?",
            )
        if sink is None:
            return parse_response(
                response, b"".join(chunks), at=self._at, request_line=request_line, accept=accept
            )
        if response.headers.get("content-length") != str(received):
            what = f"{self._at} answered with {received} bytes, which is not the length it had announced"
            raise invalid_response(what, request_line)
        return Answer(response.status_code, received, request_line)

    async def _ask_inside(
        self,
        inside: InsideTransport,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        accept: Collection[int],
    ) -> Answer:
        """Ask a state manager in this process, as ``ask`` says."""
        began = trio.current_time()
        answer: InsideAnswer | None = None
        try:
            answer = await inside.answer(method, path, headers, content)
        finally:
            if self._events:
                code = None if answer is None else answer.status_code
                self._events.emit(Requested(_op(path), code, trio.current_time() - began))
        request_line = f"{method} {self._shown}{path}"
        return parse_response(answer, answer.content, at=self._at, request_line=request_line, accept=accept)

    def _unanswered(self, seconds: float, request_line: str, *, sent: bool) -> ManagerUnavailable:
        return ManagerUnavailable(
            f"{self._at} did not answer within {seconds:.3g} s",
            sent=sent,
            where=f"request: {request_line}",
            fix="is it overloaded, or is the network to it down?",
        )

    async def download(
        self, path: str, sink: Callable[[bytes], Awaitable[None]], *, timeout: float, media_type: str
    ) -> int:
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

    def _request(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], sending: _Sending
    ) -> httpx.Request:
        import httpx  # here, since `import exotrio` must not wait for it

        from exotrio._http.body import RequestBody  # which imports httpx

        all_headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "exotrio",
            REQUEST_ID_HEADER: next(self._request_ids),
        }
        if self.endpoint.key is not None:
            all_headers[KEY_HEADER] = self.endpoint.key
        if content is not None:
            all_headers["content-type"] = "application/json"
        request = httpx.Request(
            method,
            _url(f"{self.endpoint.uri}{path}"),
            content=content,
            headers={**all_headers, **headers},
            extensions={"trace": sending.trace, "timeout": _TIMEOUT},
        )
        request.stream = RequestBody(content or b"")
        return request

    @contextmanager
    def _translate_errors(self, request_line: str, sending: _Sending) -> Iterator[None]:
        """Raise errors of httpx as errors of ``exotrio.errors``."""
        import httpx

        # Transports in process report no progress: any request that they were given may have arrived.
        sending.sent = sending.sent or self.endpoint.transport is not None
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unreachable(request_line, error) from error
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"the state manager URI cannot be used: {error}") from error
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            if not sending.sent:
                raise self._unreachable(request_line, error) from error
            raise ManagerUnavailable(
                f"the connection to {self._at} broke before an answer: {_brief(error)}",
                where=f"request: {request_line}",
            ) from error

    async def aclose(self) -> None:
        """Close the connections of the caller's event loop. Safe to call twice."""
        await self._connections.aclose()

    def _unreachable(self, request_line: str, error: Exception) -> ManagerUnavailable:
        return ManagerUnavailable(
            f"{self._at} cannot be reached: {_brief(error)}",
            sent=False,
            where=f"request: {request_line}",
            fix=f"is one running there? start one with `python -m exotrio server`, or set {URI_VARIABLE}",
        )


async def send(pool: Pool, request: httpx.Request) -> httpx.Response:
    """Send a request and return the response once its head is there.

    It uses the transport directly: cookies, redirects and authentication of httpx's client are not used here,
    and cost 75 us of the 120 that a short request in process took.
    """
    if request.url.userinfo:
        import httpx

        next(httpx.BasicAuth(request.url.username, request.url.password).auth_flow(request))
    return await pool.transport.handle_async_request(request)


@lru_cache(maxsize=64)
def _url(text: str) -> httpx.URL:
    """Parse a URL, which takes 40 us; the native API has few of them."""
    import httpx

    return httpx.URL(text)


_OPS = {"v1": "discover", "nodes": "register", "enqueue": "claim"}


def _op(path: str) -> str:
    """Return the operation that a path names: its last segment, never an id in requests of runtimes."""
    last = path.rstrip("/").rpartition("/")[2]
    return _OPS.get(last, last)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
