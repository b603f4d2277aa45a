"""What a client may send on a connection: requests in a row, cut, joined, folded, doubled and slow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from tests.fuzz.connection import Piece
from tests.fuzz.requests import any_requests
from tests.fuzz.wire import HEAD_END, chunks
from tests.fuzz.world import World

ODD_BYTES = [
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b":"),
    *(b"\0", b"\xff", b"\x0b", b"0", b"GET / HTTP/1.1\r\n"),
]
LENGTHS = [
    *(b"0", b"1", b"5, 5", b"5, 6", b"+5", b"-1", b" 5", b"5;", b"0x5", b"1e3", b""),
    *(b"9" * 30, b"16777217", "\uff15".encode()),
]
CODINGS = [
    *(b"chunked", b"Chunked", b"chunked, chunked", b"gzip, chunked"),
    *(b"identity", b"xchunked", b"\x0bchunked", b""),
]
SIZES = [
    *(b"5", b"05", b"-1", b"+5", b"0x5", b"5 ", b" 5", b"g", b""),
    *(b"F" * 17, b"F" * 300, b"5;a=b", b"5;" + b"x" * 20_000),
]
LINES = [
    b"GET / HTTP/1.0",
    b"GET / HTTP/0.9",
    b"GET / HTTP/1.2",
    b"GET / HTTP/2.0",
    b"PRI * HTTP/2.0",
    b"GET / http/1.1",
    b"GET  / HTTP/1.1",
    b"GET /",
    b"GET",
    b"get /health HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"CONNECT localhost:80 HTTP/1.1",
    b"GET http://evil.example/health HTTP/1.1",
    b"GET https://localhost:8000/v0/namespaces HTTP/1.1",
    b"GET //evil.example/%2e%2e HTTP/1.1",
    b"GET /\xff HTTP/1.1",
    b"GET /%zz HTTP/1.1",
    b"GET /%00 HTTP/1.1",
    b"GET ?x HTTP/1.1",
    b"GET /" + b"a" * 40_000 + b" HTTP/1.1",
    b"GET /?" + b"a=b&" * 7_000 + b" HTTP/1.1",
    b"X" * 40_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
EXTRA = [
    b"expect: 100-continue",
    b"expect: something",
    b"connection: close",
    b"connection: upgrade\r\nupgrade: h2c",
    b"host: evil.example",
    b"content-length: 3",
    b"transfer-encoding: chunked",
    b"x-folded: one\r\n two",
    b" folded: at the start",
    b"x-no-colon",
    b"x bad: name",
    b"x-nul: a\0b",
    b": no name",
    b"x-key : blank",
    b"x-long: " + b"a" * 40_000,
    b"\r\n".join(b"x-%d: y" % number for number in range(3_000)),
]
PAUSES = [0.0, 0.0, 0.0, 0.01, 1.0, 9.0, 11.0, 70.0]
"""Seconds: within and beyond what the server waits for a head, a body and a next request."""

Edit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Stream:
    """All that a client sends on one connection.

    Attributes:
        pieces: With pauses between them.
        requests: How many requests it would be answered, if nothing were wrong with it.
        edited: Whether something is.
        half_close: Whether the client closes its side in the end.
    """

    pieces: Sequence[Piece]
    requests: int
    edited: bool
    half_close: bool


@st.composite
def streams(draw: st.DrawFn, made: World) -> Stream:
    """Draw a stream."""
    whole = [request.as_bytes() for request in draw(st.lists(any_requests(made), min_size=1, max_size=4))]
    edits = draw(
        st.lists(st.sampled_from([_byte, _cut, _line, _extra, _length, _coding, _chunk]), max_size=2)
    )
    for edit in edits:
        index = draw(st.integers(0, len(whole) - 1))
        whole[index] = edit(draw, whole[index])
    data = b"".join(whole)
    half_close = draw(st.integers(0, 5)) == 0
    return Stream(_pieces(draw, data), len(whole), bool(edits), half_close)


def _pieces(draw: st.DrawFn, data: bytes) -> list[Piece]:
    how = draw(st.sampled_from(["whole", "whole", "cut", "drip"]))
    if how == "whole":
        return [(data, 0.0)]
    if how == "drip":
        # Byte by byte, but not all of a body of megabytes.
        pause = draw(st.sampled_from([0.0, 0.1, 0.3]))
        return [(data[index : index + 1], pause) for index in range(min(len(data), 40))] + [(data[40:], 0.0)]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), min_size=1, max_size=4)))
    ends = [0, *cuts, len(data)]
    return [(data[a:b], draw(st.sampled_from(PAUSES))) for a, b in pairwise(ends)]


# -- edits of one request


def _byte(draw: st.DrawFn, data: bytes) -> bytes:
    """Put something in between, or in place of something."""
    at = draw(st.integers(0, min(len(data), 600)))
    taken = draw(st.integers(0, 3))
    return data[:at] + draw(st.sampled_from(ODD_BYTES) | st.binary(max_size=5)) + data[at + taken :]


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data)))]


def _line(draw: st.DrawFn, data: bytes) -> bytes:
    """Begin with another line."""
    return draw(st.sampled_from(LINES)) + b"\r\n" + data.partition(b"\r\n")[2]


def _extra(draw: st.DrawFn, data: bytes) -> bytes:
    """Add a header."""
    line, _, rest = data.partition(b"\r\n")
    return line + b"\r\n" + draw(st.sampled_from(EXTRA)) + b"\r\n" + rest


def _length(draw: st.DrawFn, data: bytes) -> bytes:
    """Say another length, in addition to the right one or in its place."""
    length = b"\r\ncontent-length: " + draw(st.sampled_from(LENGTHS)) + HEAD_END
    head, _, body = data.partition(HEAD_END)
    if draw(st.booleans()):
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
    return head + length + body


def _coding(draw: st.DrawFn, data: bytes) -> bytes:
    """Say that the body is coded, whether it is or not."""
    head, _, body = data.partition(HEAD_END)
    coding = b"\r\ntransfer-encoding: " + draw(st.sampled_from(CODINGS)) + HEAD_END
    return head + coding + (chunks(body) if draw(st.booleans()) else body)


def _chunk(draw: st.DrawFn, data: bytes) -> bytes:
    """Send a body in chunks of which one is wrong."""
    head, _, body = data.partition(HEAD_END)
    head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"content-length"))
    ending = draw(st.sampled_from([b"\r\n", b"\n", b"", b"x\r\n"]))
    last = draw(
        st.sampled_from(
            [b"0\r\n\r\n", b"0\r\nx-trailer: y\r\n\r\n", b"0\r\nx\0: y\r\n\r\n", b"0", b"-0\r\n\r\n"]
        )
    )
    wrong = draw(st.sampled_from(SIZES)) + b"\r\n" + body[:5] + ending
    return head + b"\r\ntransfer-encoding: chunked" + HEAD_END + wrong + last
