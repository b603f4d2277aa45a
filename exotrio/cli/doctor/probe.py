"""Requests to any server, with the time of each step: name lookup, TCP connection, TLS, answer."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio

from exotrio._http.body import body_chunks
from exotrio._http.client import send
from exotrio._http.connections import Connections, HandshakeTrace
from exotrio._http.endpoint import Endpoint
from exotrio._util.slim_httpx import httpx
from exotrio._wire.vocabulary import KEY_HEADER
from exotrio.errors import InvalidResponse

STEP = 10.0
"""Seconds for each step."""
MAX_BODY = 256 * 1024
"""Bytes of an answer that are read."""
_STEPS = {"connect_tcp": "connection", "start_tls": "TLS", "send_request_headers": "answer"}
"""An event of httpcore's trace to the step that it begins."""


class StepFailed(Exception):
    """A step (``name``, ``connection``, ``TLS`` or ``answer``) failed; the text says why."""

    def __init__(self, step: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.step = step
        self.fix = fix


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: float
    """When its request was sent, in Unix seconds."""
    received: float
    """When its headers arrived, in Unix seconds."""
    took: float


class Probe(HandshakeTrace):
    """Sends one request after another, over one connection while the server keeps it open."""

    def __init__(self, uri: str, key: str | None) -> None:
        self.steps: list[tuple[str, str, float]] = []
        """The steps that succeeded, each with its result and its seconds."""
        self._endpoint = Endpoint(uri, key)
        self._connections = Connections(self._endpoint, tasks=1)
        parts = urlsplit(uri)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._where = f"port {self._port} of {self._host}"
        self._step = "answer"
        self._began = self._sent = self._received = self._took = 0.0
        self._limit = trio.CancelScope()

    async def resolve(self) -> None:
        """Look the name up. When httpx connects, that is not a separate step.

        Raises:
            StepFailed: it has no address.
        """
        began = trio.current_time()
        reason = f"nothing was answered within {STEP:g} s"
        with trio.move_on_after(STEP):
            try:
                entries = await trio.socket.getaddrinfo(self._host, self._port, type=trio.socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            else:
                addresses = list(dict.fromkeys(str(each[4][0]) for each in entries))
                self._where = f"port {self._port} of {addresses[0]}"
                self.steps.append(("name", ", ".join(addresses), trio.current_time() - began))
                return
        raise StepFailed(
            "name",
            f"the name {self._host!r} cannot be resolved: {reason}",
            "check its spelling, DNS, and VPN if it needs one",
        )

    async def get(self, path: str, *, with_key: bool = True) -> Reply:
        """Send a GET request.

        Raises:
            StepFailed: there was no answer in HTTP.
        """
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "user-agent": "exotrio doctor",
        }
        if with_key and self._endpoint.key is not None:
            headers[KEY_HEADER] = self._endpoint.key
        url = f"{self._endpoint.uri}{path}"
        try:
            request = httpx.Request("GET", url, headers=headers, extensions={"trace": self.trace})
        except (httpx.InvalidURL, UnicodeError) as error:  # it is stricter than name lookups
            raise StepFailed(self._step, f"the URI cannot be used: {error}", "check its spelling") from error
        with trio.CancelScope() as self._limit:
            try:
                response = await send(await self._connections.pool(), request)
                chunks = body_chunks(response, "it", path, MAX_BODY)
                async with aclosing(chunks):
                    body = b"".join([chunk async for chunk in chunks])
            except InvalidResponse as error:
                raise StepFailed("answer", error.what, error.fix) from error
            except httpx.TransportError as error:
                raise self._failure(error) from error
            return Reply(
                status=response.status_code,
                headers=response.headers,
                body=body,
                sent=self._sent,
                received=self._received,
                took=self._took,
            )
        raise self._failure(None)

    async def aclose(self) -> None:
        await self._connections.aclose()

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle httpcore's events, such as ``connection.connect_tcp.started``."""
        await super().trace(event, info)
        _, action, phase = event.split(".")
        if phase == "started" and action in _STEPS:
            self._step, self._began, self._sent = _STEPS[action], trio.current_time(), time.time()
            self._limit.deadline = self._began + STEP
        elif phase == "complete" and action == "connect_tcp":
            self._add_step(self._where)
        elif phase == "complete" and action == "start_tls":
            self._add_step(str(info["return_value"].get_extra_info("ssl_object").version()))
        elif phase == "complete" and action == "receive_response_headers":
            self._received, self._took = time.time(), trio.current_time() - self._began

    def _add_step(self, what: str) -> None:
        if self._step not in (step for step, _, _ in self.steps):  # else it was connected again
            self.steps.append((self._step, what, trio.current_time() - self._began))

    def _failure(self, error: httpx.TransportError | None) -> StepFailed:
        """Return how the current step failed; with None, it took too long."""
        causes = list(_causes(error)) if error is not None else []
        reasons = [str(each) for each in causes if str(each)]
        late = f"nothing was answered within {STEP:g} s"
        if self._step == "connection":
            if any(isinstance(each, ConnectionRefusedError) for each in causes):
                what = f"no program listens on {self._where}"
                fix = "is it started? a local one: python -m exotrio server; else check host and port"
            elif error is not None:
                texts = [each.strerror for each in causes if isinstance(each, OSError) and each.strerror]
                what = f"{self._where} cannot be connected to: {texts[-1] if texts else error}"
                fix = "check the network between this machine and that one"
            else:
                what = f"{self._where} does not answer at all"
                fix = "a firewall or network policy may drop packets; or the address is wrong"
        elif self._step == "TLS":
            why = reasons[-1] if reasons else "the connection was closed"
            fix = "does the server speak TLS? else write http://"
            for each in causes:
                if isinstance(each, ssl.SSLCertVerificationError):
                    why = each.verify_message
                    fix = "the certificate has to be trusted by this system, and be for that name"
            what = f"the TLS handshake failed: {why if error is not None else late}"
        elif error is None:
            what, fix = late, "is it overloaded, or stopped?"
        else:
            what = "the connection was closed before an answer in HTTP"
            fix = "check the port, and whether the server speaks https:// or http://"
            if any(type(each).__module__.startswith("h11") for each in causes):
                what = f"the answer is not HTTP ({reasons[-1]})"
        return StepFailed(self._step, what, fix)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the causes of an error, each error of a group included."""
    cause = error.__cause__ or error.__context__  # httpcore hides some causes
    for each in cause.exceptions if isinstance(cause, BaseExceptionGroup) else [cause]:
        if each is not None:
            yield each
            yield from _causes(each)
