"""Limits, request heads, and the responses that the server makes itself. Pure, but for the date."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import h11


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may use of the server. Durations in seconds, sizes in bytes.

    Attributes:
        idle: A kept-alive connection without a request is closed after this. Longer than clients keep
            theirs (httpx 5, aiohttp 15), so that they close first and no request meets a closing socket.
        head: A request head must be complete this long after its first byte, and a new connection must
            send that byte within it; else slow clients could take every connection.
        body: The waits for one request's body may add up to this, plus a second for each ``body_rate``
            bytes. The time that the app spends between two receives does not count.
        body_rate: Bytes a second that a body must keep up if it is too long for ``body``.
        write: A client that does not read a piece of 64 KiB (or a shorter response) in this time is
            dropped. It limits a stall, not the whole response: long streams are fine.
        keyless: Total time of a connection, from its opening to the end of its one response, unless one
            of its requests is authenticated with the key or a session.
        max_head: Request line and headers. There is room for a long key, a proxy's headers, long names.
        max_body: Request body. There is room for a batch of outcomes with long tracebacks.
        max_in_flight: Bodies and responses above 64 KiB of all connections together, half for each
            (``budget.InFlight``). A body waits for room at most as long as ``body``.
        max_connections: Open connections, half of the usual limit of 1024 open files. ``ConnectionLimiter``
            closes some to make room. While there are none to close, no more are accepted, and new ones wait
            in the kernel's backlog, which costs nothing and loses no request.
    """

    idle: float = 75.0
    head: float = 10.0
    body: float = 60.0
    body_rate: int = 64 * 1024
    write: float = 20.0
    keyless: float = 30.0
    max_head: int = 32 * 1024
    max_body: int = 16 * 1024 * 1024
    max_in_flight: int = 128 * 1024 * 1024
    max_connections: int = 500


class Refusal(Exception):
    """The server responds itself, with this status, and closes the connection."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


PRIVATE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Headers of every response that does not set them itself: no cache keeps it, and no browser takes text of
users for a page or a script."""
_PRIVATE_LINES = b"".join(b"%s: %s\r\n" % header for header in PRIVATE)
_RETRY = {503: b"retry-after: 1\r\n"}
PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_QUOTED = re.compile(r":? (?:bytearray\()?b['\"].*", re.DOTALL)
"""What h11 quotes of a request. It may hold a key, and responses end up in logs."""
_ABSOLUTE_FORM = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


def refusal_of(error: h11.RemoteProtocolError) -> Refusal:
    """Return the refusal of a request that h11 could not parse: 431, 501, or else 400."""
    if error.error_status_hint == 431:
        return Refusal(431, "the request head, or a line between the chunks of its body, is too long")
    return Refusal(error.error_status_hint, f"malformed request: {_QUOTED.sub('', str(error))[:200]}")


def read_head(request: h11.Request, limits: Limits) -> tuple[dict[str, Any], int]:
    """Return what an ASGI scope has of a request head, and the announced length of the body.

    A bad head raises a Refusal.
    """
    if request.http_version not in (b"1.0", b"1.1"):
        raise Refusal(505, "this server speaks HTTP/1.1 and HTTP/1.0")
    headers = list(request.headers)
    # h11 measures only heads that arrive in pieces; one that arrived in a single chunk is measured here.
    size = len(request.target)
    length = None
    chunked = False
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if size > limits.max_head:
        raise Refusal(431, f"the request head is longer than {limits.max_head} bytes")
    if chunked and length is not None:
        # Proxies disagree on which of the two counts: the classic opening for request smuggling.
        raise Refusal(400, "malformed request: both content-length and transfer-encoding")
    if length is not None and length > limits.max_body:
        raise too_large(limits)
    path, raw_path, query = _read_target(request)
    return (
        {
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii").upper(),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": headers,
        },
        length or 0,
    )


def too_large(limits: Limits) -> Refusal:
    """Return the refusal of a body above the limit."""
    return Refusal(413, f"the request body is longer than {limits.max_body} bytes")


def _read_target(request: h11.Request) -> tuple[str, bytes, bytes]:
    target = request.target
    if request.method == b"CONNECT":
        raise Refusal(501, "this server is not a proxy: CONNECT is not supported")
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE_FORM.match(target)
        if absolute is None:
            raise Refusal(400, "malformed request: the target must be a path or an absolute URL")
        target = target[absolute.end() :]
    raw_path, _, query = target.partition(b"?")
    raw_path = raw_path or b"/"
    if b"%" not in raw_path:
        return raw_path.decode("ascii"), raw_path, query
    if _BAD_ESCAPE.search(raw_path):
        raise Refusal(400, "malformed request: a % in the path must be followed by two hex digits")
    try:
        return unquote_to_bytes(raw_path).decode("utf-8"), raw_path, query
    except UnicodeDecodeError:
        raise Refusal(400, "malformed request: the path is not UTF-8") from None


def json_response(status: int, content: Mapping[str, object], *, with_body: bool = True) -> bytes:
    """Return a whole response that closes the connection, without its body for HEAD.

    Not made by h11: after a malformed request or a failed app its state machine is in an error state, in
    which it writes nothing.
    """
    body = json.dumps(content).encode("ascii")
    head = (
        b"HTTP/1.1 %d %s\r\ndate: %s\r\ncontent-type: application/json\r\n%s"
        b"content-length: %d\r\n%sconnection: close\r\n\r\n"
    ) % (status, PHRASES.get(status, b""), http_date(), _PRIVATE_LINES, len(body), _RETRY.get(status, b""))
    return head + body if with_body else head


_date: tuple[int, bytes] = (0, b"")


def http_date() -> bytes:
    """Return the current date in HTTP's format, computed once per second."""
    global _date
    now = int(time.time())
    second, text = _date
    if second != now:
        text = formatdate(now, usegmt=True).encode("ascii")
        _date = (now, text)
    return text
