"""The client of a connection: its bytes, read one chunk ahead, and ours, written within limits.

A separate task reads, so that a disconnect is noticed while the app does something else. At most one chunk
waits to be taken, and TCP slows down a client that sends more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import trio

CHUNK_SIZE = 64 * 1024
PIECE_SIZE = 64 * 1024
LINGER = 2.0
"""Seconds to wait for the client to close after our last response."""

_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)


class ClientDisconnected(OSError):
    """No response can reach the client: it disconnected, stopped reading, or was refused."""


class Peer:
    """The client of one connection, which has ``write`` seconds for a piece of 64 KiB.

    Attributes:
        gone: Whether no more bytes can be exchanged. A client that closed only its sending side counts as
            gone, too: TCP cannot tell it from one that closed both, and a response written to the latter
            would seem delivered.
        changed: Parking lot of tasks that wait for ``gone``; also woken when a response is complete.
        waits: Scopes to cancel when it is gone.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, write: float) -> None:
        self._stream = stream
        self._write = write
        # Not a channel, in which each chunk would take two more steps of the loop.
        self._chunk = b""
        self._is_read = False
        self._exchanged = trio.lowlevel.ParkingLot()
        self.gone = False
        self.changed = trio.lowlevel.ParkingLot()
        self.waits: set[trio.CancelScope] = set()

    def abandon(self) -> None:
        """Stop writing, and end all that waits while the client is there."""
        self.gone = True
        self.changed.unpark_all()
        for scope in self.waits:
            scope.cancel()

    async def read_ahead(self) -> None:
        """Read until the client closes its side or the connection breaks."""
        try:
            with suppress(*_BROKEN):
                while chunk := await self._stream.receive_some(CHUNK_SIZE):
                    self._chunk = bytes(chunk)
                    self._exchanged.unpark_all()
                    while self._chunk:
                        await self._exchanged.park()
        finally:
            self._is_read = True
            self._exchanged.unpark_all()
        self.abandon()

    async def more(self) -> bytes:
        """Return the next chunk, or ``b""`` after the last. Safe to cancel: no chunk is lost."""
        while not (self._chunk or self._is_read):
            await self._exchanged.park()
        return self.ready()

    def ready(self) -> bytes:
        """Return the chunk that has already been read, or ``b""``."""
        chunk, self._chunk = self._chunk, b""
        if chunk:
            self._exchanged.unpark_all()
        return chunk

    async def write(self, *parts: bytes) -> None:
        """Send parts of a message, in one call to the kernel if they are small.

        Raises:
            ClientDisconnected: the client is gone, or did not take a piece in time.

        Cancellation:
            The client is abandoned: half a message leaves the connection unusable.
        """
        if self.gone:
            raise ClientDisconnected("the client closed the connection")
        sent = False
        try:
            for piece in _pieces(parts):
                with trio.CancelScope(deadline=trio.current_time() + self._write) as writing:
                    await self._stream.send_all(piece)
                if writing.cancelled_caught:
                    raise ClientDisconnected(f"the client did not read for {self._write:g} s")
            sent = True
        except _BROKEN as error:
            raise ClientDisconnected("the client closed the connection") from error
        finally:
            if not sent:
                self.abandon()

    async def linger(self) -> None:
        """Close our side, then discard what arrives until the client closes, for at most ``LINGER``.

        Closing a socket with unread bytes resets the connection, and a reset can overtake a response that
        the client has not read yet.
        """
        with trio.move_on_after(LINGER), suppress(*_BROKEN):
            if not self.gone:
                await self._stream.send_eof()
                while await self.more():
                    pass


def _pieces(parts: tuple[bytes, ...]) -> Iterator[bytes | memoryview]:
    if sum(map(len, parts)) <= PIECE_SIZE:
        yield b"".join(parts)
        return
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), PIECE_SIZE):
            yield view[start : start + PIECE_SIZE]
