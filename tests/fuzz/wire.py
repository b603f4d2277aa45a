"""Requests as bytes, and answers read back from bytes, without a library that would repair either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

HEAD_END = b"\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([^\r\n\0]*)")


@dataclass(frozen=True)
class Request:
    """One request; nothing of it needs to be right.

    Attributes:
        target: As it stands in the first line.
        headers: Without the length of the body, which ``as_bytes`` adds.
    """

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    chunked: bool = False

    def as_bytes(self) -> bytes:
        """Return the request as it goes over the wire."""
        lines = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target)]
        lines += [name + b": " + value for name, value in self.headers]
        if self.chunked:
            lines.append(b"transfer-encoding: chunked")
        elif self.body:
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + HEAD_END + (chunks(self.body) if self.chunked else self.body)


def chunks(body: bytes, size: int = 700) -> bytes:
    """Return a body in the chunked coding."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def fill(path: str, values: dict[str, str]) -> bytes:
    """Return a route's path with values for its parameters, escaped."""
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", quote(value.encode("utf-8", "surrogatepass"), safe=""))
    return path.encode()


@dataclass(frozen=True)
class Response:
    """One answer.

    Attributes:
        whole: Whether its body came to its end.
    """

    status: int
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = True

    def header(self, name: bytes) -> bytes:
        """Return the only header of this name, or nothing."""
        values = [value for known, value in self.headers if known.lower() == name]
        assert len(values) <= 1, f"{name!r} stands {len(values)} times"
        return values[0] if values else b""

    @property
    def media_type(self) -> bytes:
        return self.header(b"content-type").partition(b";")[0]


def read_responses(data: bytes) -> list[Response]:
    """Return the final answers in what a server sent; fail on anything that is no answer."""
    responses = []
    while data:
        head, end, data = data.partition(HEAD_END)
        if not end:
            assert STATUS_LINE.match(head) or b"HTTP/1.1 ".startswith(head[:9]), f"no answer: {head[:300]!r}"
            break
        response = _read_head(head)
        if response.status >= 200:
            response, data = _read_body(response, data)
            responses.append(response)
    return responses


def _read_head(head: bytes) -> Response:
    first, *lines = head.split(b"\r\n")
    status = STATUS_LINE.fullmatch(first)
    assert status, f"no status line: {first[:300]!r}"
    pairs = []
    for line in lines:
        pair = FIELD.fullmatch(line)
        assert pair, f"no header: {line[:300]!r}"
        pairs.append((pair[1], pair[2]))
    return Response(int(status[1]), pairs)


def _read_body(response: Response, data: bytes) -> tuple[Response, bytes]:
    status, headers = response.status, response.headers
    # The answer to HEAD has a length and no body; no body of ours begins like an answer.
    if status in (204, 304) or data.startswith(b"HTTP/1.1 "):
        return response, data
    if response.header(b"transfer-encoding") == b"chunked":
        return _read_chunks(response, data)
    length = response.header(b"content-length")
    if not length:
        return Response(status, headers, data, response.header(b"connection") == b"close"), b""
    size = int(length)
    return Response(status, headers, data[:size], len(data) >= size or not data), data[size:]


def _read_chunks(response: Response, data: bytes) -> tuple[Response, bytes]:
    body = b""
    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            return Response(response.status, response.headers, body, whole=False), b""
        size = int(line, 16)
        if size == 0:
            assert rest.startswith(b"\r\n"), f"no end of chunks: {rest[:100]!r}"
            return Response(response.status, response.headers, body), rest[2:]
        if len(rest) < size + 2:
            return Response(response.status, response.headers, body + rest[:size], whole=False), b""
        assert rest[size : size + 2] == b"\r\n", "a chunk does not end with its length"
        body, data = body + rest[:size], rest[size + 2 :]
