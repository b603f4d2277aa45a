"""One connection to a state manager, opened step by step, so that it can be told which step fails and how
long each takes. Beside httpx, which does all of them at once and keeps no times."""

from __future__ import annotations

import errno
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import h11
import trio

from exotrio._wire.vocabulary import KEY_HEADER

STEP = 10.0
"""Seconds for each step."""
LARGEST = 256 * 1024
"""Bytes of an answer that are read."""


class StepFailed(Exception):
    """A step failed; the text says how.

    Args:
        step: ``name``, ``connection``, ``TLS`` or ``answer``.
        fix: What can be done about it.
    """

    def __init__(self, step: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.step = step
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Got:
    """An answer.

    Attributes:
        sent, received: When its request was sent and when its head was there, in Unix seconds.
        took: Seconds between the two.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    sent: float
    received: float
    took: float


@dataclass(slots=True)
class Steps:
    """The steps that succeeded, each with what came of it and the seconds it took."""

    done: list[tuple[str, str, float]] = field(default_factory=list)

    def note(self, step: str, what: str, began: float) -> None:
        self.done.append((step, what, trio.current_time() - began))


class Line:
    """A connection, opened again where the other side closes it after an answer. One request at a time.

    Args:
        uri: A valid one.
        key: Sent with requests.
    """

    def __init__(self, uri: str, key: str | None) -> None:
        self._parts = urlsplit(uri)
        self._key = key
        self._stream: trio.abc.Stream | None = None
        self._http = h11.Connection(h11.CLIENT)

    async def open(self, steps: Steps) -> None:
        """Connect.

        Args:
            steps: Takes what succeeds.

        Raises:
            StepFailed: a step failed.
        """
        host = self._parts.hostname or ""
        secure = self._parts.scheme == "https"
        port = self._parts.port or (443 if secure else 80)
        address = await _resolve(host, port, steps)
        self._http = h11.Connection(h11.CLIENT)
        self._stream = await _connect(host, address, port, steps)
        if secure:
            self._stream = await _secure(self._stream, host, steps)

    async def aclose(self) -> None:
        """Close it, if it is open."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await trio.aclose_forcefully(stream)

    async def get(self, path: str, *, with_key: bool = True) -> Got:
        """Ask for something.

        Raises:
            StepFailed: no answer in HTTP came.
        """
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._stream is None or self._http.our_state is not h11.IDLE:
            await self.aclose()
            await self.open(Steps())
        fix = "check the port, and whether https:// or http:// is spoken there"
        try:
            with trio.fail_after(STEP):
                return await self._exchange(self._parts.path.rstrip("/") + path, self._headers(with_key))
        except trio.TooSlowError:
            what = f"nothing was answered within {STEP:g} s"
            raise StepFailed("answer", what, "is it overloaded, or stopped?") from None
        except h11.ProtocolError as error:
            raise StepFailed("answer", f"what answered is not HTTP ({error})", fix) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StepFailed("answer", "the connection was closed before an answer", fix) from error

    def _headers(self, with_key: bool) -> list[tuple[str, str]]:
        user, _, host = self._parts.netloc.rpartition("@")
        headers = [("host", host), ("accept", "application/json"), ("user-agent", "exotrio doctor")]
        if user:
            headers.append(("authorization", f"Basic {b64encode(unquote(user).encode()).decode()}"))
        if with_key and self._key is not None:
            headers.append((KEY_HEADER, self._key))
        return headers

    async def _exchange(self, target: str, headers: list[tuple[str, str]]) -> Got:
        assert self._stream is not None, "get opens it"
        request = h11.Request(method="GET", target=target, headers=headers)
        sent, began = time.time(), time.monotonic()
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await self._stream.send_all(data)
        head: h11.Response | None = None
        received = took = 0.0
        heard = False
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some(65_536))
                if not data and not heard:
                    raise trio.BrokenResourceError
                heard = True
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                head, received, took = event, time.time(), time.monotonic() - began
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > LARGEST:
                    raise StepFailed("answer", "what was answered is very long", "check where the URI leads")
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                named = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
                return Got(head.status_code, named, bytes(body), sent, received, took)
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError


async def _resolve(host: str, port: int, steps: Steps) -> str:
    began = trio.current_time()
    reason = f"no answer within {STEP:g} s"
    with trio.move_on_after(STEP):
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        else:
            addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
            steps.note("name", ", ".join(addresses), began)
            return addresses[0]
    raise StepFailed(
        "name",
        f"the name {host!r} cannot be resolved: {reason}",
        "check its spelling, DNS, and VPN if it needs one",
    )


async def _connect(host: str, address: str, port: int, steps: Steps) -> trio.SocketStream:
    began = trio.current_time()
    where = f"port {port} of {address}"
    with trio.move_on_after(STEP):
        try:
            # By name: of several addresses another one may answer.
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            codes = {each.errno for each in _leaves(error)}
            if errno.ECONNREFUSED in codes:
                raise StepFailed(
                    "connection",
                    f"nobody listens on {where}",
                    "is it started? a local one: python -m exotrio server; else check host and port",
                ) from error
            reason = next((each.strerror for each in _leaves(error) if each.strerror), str(error))
            raise StepFailed(
                "connection",
                f"{where} cannot be connected to: {reason}",
                "check the network between here and there",
            ) from error
        steps.note("connection", f"{where}", began)
        return stream
    raise StepFailed(
        "connection",
        f"{where} does not answer at all",
        "a firewall or network policy may drop packets; or the address is wrong",
    )


def _leaves(error: OSError) -> list[OSError]:
    """Return the errors of all addresses that were tried."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return [each for each in cause.exceptions if isinstance(each, OSError)]
    return [cause] if isinstance(cause, OSError) else [error]


async def _secure(stream: trio.abc.Stream, host: str, steps: Steps) -> trio.abc.Stream:
    began = trio.current_time()
    secured = trio.SSLStream(
        stream, ssl.create_default_context(), server_hostname=host, https_compatible=True
    )
    reason, fix = f"no answer within {STEP:g} s", "is it TLS that is spoken there? else write http://"
    with trio.move_on_after(STEP):
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            reason = str(cause or "the connection was closed")
            if isinstance(cause, ssl.SSLCertVerificationError):
                reason = cause.verify_message
                fix = "the certificate has to be trusted by this system, and be for that name"
        else:
            steps.note("TLS", str(secured.version()), began)
            return secured
    raise StepFailed("TLS", f"TLS cannot be agreed on: {reason}", fix)
