"""Who may come in: the Host header and the API key; and the request id of every reply."""

from __future__ import annotations

import hmac
import math
import uuid
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Protocol

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exotrio._httpd import host_name, mark_authenticated
from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER, from_ms
from exotrio.errors import DatabaseError
from exotrio.manager.engine.sign_in import FORGOTTEN_AFTER_MS, MAX_NETWORKS, TRIES, count_wrong_key
from exotrio.manager.store.port import Store

LOCAL = "exotrio.local"
"""Key in an ASGI scope: the request comes from inside this process. No header can set it."""
MAX_DELAY = 5.0
"""Seconds that a refusal is held back."""
_MAX_UUID = len("urn:uuid:12345678-1234-5678-1234-567812345678")


class SelfAuthenticatedApp(Protocol):
    """An app beside the API that checks by itself who may come in, not by a key in each request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def serves(self, path: str) -> bool:
        """Return whether a path is its own."""

    async def sign_in_link(self, url: str, to: str = "/") -> str:
        """Return an address below ``url`` that signs one browser in, once."""


@dataclass(frozen=True, slots=True)
class _Failures:
    """Wrong keys from one network: when all of them are forgotten, on Trio's clock, and the first of them."""

    until: float
    keys: Collection[str]


class Tries:
    """Counts wrong keys by the address they came from, and delays their refusals if they are many.

    The right key is accepted at once, also from that address. Only different keys count, so that a runtime
    that tries an old key again and again is refused without a delay. All state managers on one database
    count together.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        # A wrong key may be the right one of somebody elsewhere: the database must not tell which it was.
        self._digest_key = sha256(b"wrong keys" + key.encode("utf-8", "surrogatepass")).digest()
        # What is counted in the database, as this state manager saw it last.
        self._failures: dict[str, _Failures] = {}
        self._counting = trio.Lock()

    async def failed(self, address: str, key: str) -> float:
        """Count a wrong key and wait if many came from there; return the seconds waited."""
        network = _network(address)
        digest = hmac.digest(self._digest_key, key.encode("utf-8", "replace"), "sha256").hex()
        failures = self._counted(network, digest)
        if failures is None:
            # One after the other: strangers must not be able to keep the database busy.
            async with self._counting:
                failures = self._counted(network, digest) or await self._count(network, digest)
        delay = _delay(failures)
        if delay > 0:
            await trio.sleep(delay)
        return max(0.0, delay)

    def _counted(self, network: str, digest: str) -> _Failures | None:
        """Return the wrong keys of a network if this one, or enough others, were counted already."""
        failures = self._failures.get(network)
        if failures is None or failures.until <= trio.current_time():
            return None
        return failures if digest in failures.keys or _delay(failures) >= MAX_DELAY else None

    async def _count(self, network: str, digest: str) -> _Failures:
        try:
            left_ms, keys = await self._store.write(count_wrong_key, network, digest)
        except DatabaseError:
            # Nothing can be counted, so everybody is taken for one who guesses.
            return _Failures(math.inf, ())
        failures = _Failures(trio.current_time() + from_ms(left_ms), keys)
        self._failures.pop(network, None)
        while len(self._failures) >= MAX_NETWORKS:
            del self._failures[next(iter(self._failures))]
        self._failures[network] = failures
        return failures


def _delay(failures: _Failures) -> float:
    return min(MAX_DELAY, failures.until - from_ms(TRIES * FORGOTTEN_AFTER_MS) - trio.current_time())


def _network(address: str) -> str:
    """Return what an address is counted as: one subscriber has 2**64 addresses of IPv6."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return address


def client_address(scope: Scope) -> str:
    """Return the address that a request came from, or an empty string."""
    client = scope.get("client")
    return client[0] if client else ""


class Access:
    """ASGI middleware that lets only holders of the key in.

    It refuses before the body is read, so that strangers cannot make the server keep theirs in memory.

    Args:
        store: Wrong keys are counted there.
        allowed_hosts: Host header values (without port) to accept, or None for any. On loopback
            this is what keeps a web page from reaching the server through a name of its own.
        open_paths: Paths that ask for no key.
        dashboard: Serves its paths beside ``app``; only the Host is checked for it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        store: Store,
        key: str,
        allowed_hosts: Collection[str] | None,
        open_paths: Collection[str] = ("/health",),
        dashboard: SelfAuthenticatedApp | None = None,
    ) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)
        self._dashboard = dashboard
        self._key = key.encode()
        self._tries = Tries(store, key)
        self._allowed_hosts = (
            None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get(REQUEST_ID_HEADER))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        if scope.get(LOCAL):
            await self._app(scope, receive, send_with_id)
        elif not self._is_host_allowed(headers.get("host", "")):
            response = JSONResponse({"detail": "this Host is not served here; see --allowed-host"}, 421)
            await response(scope, receive, send_with_id)
        elif self._dashboard is not None and self._dashboard.serves(scope["path"]):
            await self._dashboard(scope, receive, send_with_id)
        elif self._is_key(key := headers.get(KEY_HEADER, "")):
            mark_authenticated(scope)
            await self._app(scope, receive, send_with_id)
        elif scope["path"] in self._open_paths:
            await self._app(scope, receive, send_with_id)
        else:
            if key:
                await self._tries.failed(client_address(scope), key)
            response = JSONResponse({"detail": f"the header {KEY_HEADER} is missing or wrong"}, 401)
            await response(scope, receive, send_with_id)

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._key)

    def _is_host_allowed(self, host: str) -> bool:
        return self._allowed_hosts is None or host_name(host) in self._allowed_hosts


def _request_id(given: str | None) -> str:
    """Return the caller's id as it is if it is a UUID, or a new one."""
    if given and len(given) <= _MAX_UUID and given.isascii() and given.isprintable():
        # UUID() accepts more than UUIDs, such as braces: hence the limits before it.
        with suppress(ValueError):
            uuid.UUID(given)
            return given
    return str(uuid.uuid4())


def local(app: ASGIApp) -> ASGIApp:
    """Return ``app`` for callers inside this process, which need no key."""

    async def from_inside(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, LOCAL: True}, receive, send)

    return from_inside
