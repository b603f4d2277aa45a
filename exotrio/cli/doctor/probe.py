"""Connects to any server, step by step, and sends it requests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from exotrio._util.exceptions import first_leaf
from exotrio._util.slim_httpx import httpx
from exotrio._wire.vocabulary import KEY_HEADER

STEP = 10.0
"""Seconds for each step."""
MAX_BODY = 256 * 1024
"""Bytes of an answer that are read."""


class StepFailed(Exception):
    """A step (``name``, ``connection``, ``TLS`` or ``answer``) failed; the text says why."""

    def __init__(self, step: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.step = step
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer.

    Attributes:
        took: Seconds until its headers arrived.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    took: float


class Probe:
    """Connects to a server to time each step, then sends requests over another connection."""

    def __init__(self, uri: str, key: str | None) -> None:
        self.steps: list[tuple[str, str, float]] = []
        """The steps that succeeded, each with its result and its seconds."""
        self._uri = uri
        self._key = key
        # Certificates are trusted as by every client of exotrio.
        self._tls = ssl.create_default_context() if uri.startswith("https:") else None
        self._client = httpx.AsyncClient(
            verify=self._tls or False,
            trust_env=False,
            timeout=None,
            headers={
                "accept": "application/json",
                "accept-encoding": "identity",
                "user-agent": "exotrio doctor",
            },
        )

    async def connect(self) -> None:
        """Look the name up, connect and start TLS; then close the connection.

        Raises:
            StepFailed: one of these failed.
        """
        parts = urlsplit(self._uri)
        host, port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        unresolved, fix = (
            f"the name {host!r} cannot be resolved",
            "check its spelling, DNS, and VPN if it needs one",
        )
        with self._step("name", f"{unresolved}: nothing was answered within {STEP:g} s", fix) as results:
            try:
                entries = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                raise StepFailed("name", f"{unresolved}: {_reason(error)}", fix) from error
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            results.append(", ".join(addresses))
        where = f"port {port} of {addresses[0]}"
        fix = "a firewall or network policy may drop packets; or the address is wrong"
        with self._step("connection", f"{where} does not answer at all", fix) as results:
            try:
                stream = await trio.open_tcp_stream(host, port)
            except OSError as error:
                cause = first_leaf(error.__cause__ or error)
                what = f"{where} cannot be connected to: {_reason(cause)}"
                fix = "check the network between this machine and that one"
                if isinstance(cause, ConnectionRefusedError):
                    what = f"no program listens on {where}"
                    fix = "is it started? a local one: python -m exotrio server; else check host and port"
                raise StepFailed("connection", what, fix) from error
            results.append(where)
        async with stream:
            if self._tls is not None:
                await self._start_tls(trio.SSLStream(stream, self._tls, server_hostname=host))

    async def _start_tls(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        failed, fix = "the TLS handshake failed", "does the server speak TLS? else write http://"
        with self._step("TLS", f"{failed}: nothing was answered within {STEP:g} s", fix) as results:
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as error:
                cause = error.__cause__
                reason = _reason(cause) if cause is not None else "the connection was closed"
                if isinstance(cause, ssl.SSLCertVerificationError):
                    reason = cause.verify_message
                    fix = "the certificate has to be trusted by this system, and be for that name"
                raise StepFailed("TLS", f"{failed}: {reason}", fix) from error
            results.append(str(stream.version()))

    async def get(self, path: str, *, with_key: bool = True) -> Reply:
        """Send a GET request.

        Raises:
            StepFailed: there was no answer in HTTP.
        """
        headers = {KEY_HEADER: self._key} if with_key and self._key is not None else {}
        began = trio.current_time()
        with trio.move_on_after(STEP):
            try:
                async with self._client.stream("GET", f"{self._uri}{path}", headers=headers) as response:
                    took = trio.current_time() - began
                    body = b""
                    async for chunk in response.aiter_raw():
                        body += chunk
                        if len(body) > MAX_BODY:
                            break
            except (httpx.InvalidURL, UnicodeError) as error:  # it is stricter than name lookups
                what = f"the URI cannot be used: {error}"
                raise StepFailed("answer", what, "check its spelling") from error
            except httpx.TransportError as error:
                what = "the connection was closed before an answer in HTTP"
                inner = error.__cause__ or error
                cause = inner.__cause__ or inner.__context__  # httpcore hides some causes
                if type(cause).__module__.startswith("h11"):
                    what = f"the answer is not HTTP ({cause})"
                fix = "check the port, and whether the server speaks https:// or http://"
                raise StepFailed("answer", what, fix) from error
            return Reply(status=response.status_code, headers=response.headers, body=body, took=took)
        late = f"nothing was answered within {STEP:g} s"
        raise StepFailed("answer", late, "is it overloaded, or stopped?")

    async def aclose(self) -> None:
        await self._client.aclose()

    @contextmanager
    def _step(self, step: str, late: str, fix: str) -> Iterator[list[str]]:
        """Time a step, to whose list the body appends the result; fail with ``late`` if it takes too long."""
        began, results = trio.current_time(), list[str]()
        with trio.move_on_after(STEP) as scope:
            yield results
        if scope.cancelled_caught:
            raise StepFailed(step, late, fix)
        self.steps.append((step, results[0], trio.current_time() - began))


def _reason(error: BaseException) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
