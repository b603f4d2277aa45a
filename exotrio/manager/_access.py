"""Who may come in: the API key, the Host header, and the request id that every reply carries."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Collection
from contextlib import suppress
from typing import Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exotrio._wire import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.manager._http import prove
from exotrio.manager._json_api import reply

LOCAL = "exotrio.local"
"""Key in an ASGI scope: the request comes from inside this process. No header can set it."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_LONGEST_UUID = len("urn:uuid:12345678-1234-5678-1234-567812345678")


class Keyless(Protocol):
    """An app beside the API that asks for no key with each request, but finds out itself who may come in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def serves(self, path: str) -> bool:
        """Return whether a path is its own."""
        ...


class Access:
    """ASGI middleware that lets only holders of the key in.

    It answers before the body is read, so that strangers cannot make the server hold theirs.

    Args:
        app: What is protected.
        key: The API key.
        allowed_hosts: Host header values (without port) to accept, or None for any. On loopback
            this is what keeps a web page from reaching the server through a name of its own.
        open_paths: Paths that ask for no key.
        dashboard: Serves its paths beside ``app``; only the Host is checked for it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str,
        allowed_hosts: Collection[str] | None,
        open_paths: Collection[str] = ("/health",),
        dashboard: Keyless | None = None,
    ) -> None:
        self._app = app
        self._open_paths = frozenset(open_paths)
        self._dashboard = dashboard
        self._key = key.encode()
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
            response = reply({"detail": "this Host is not served here; see --allowed-host"}, 421)
            await response(scope, receive, send_with_id)
        elif self._dashboard is not None and self._dashboard.serves(scope["path"]):
            await self._dashboard(scope, receive, send_with_id)
        elif self._is_key(headers.get(KEY_HEADER, "")):
            prove(scope)
            await self._app(scope, receive, send_with_id)
        elif scope["path"] in self._open_paths:
            await self._app(scope, receive, send_with_id)
        else:
            response = reply({"detail": f"the header {KEY_HEADER} is missing or wrong"}, 401)
            await response(scope, receive, send_with_id)

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("latin-1", "replace"), self._key)

    def _is_host_allowed(self, host: str) -> bool:
        return self._allowed_hosts is None or host_name(host) in self._allowed_hosts


def host_name(host: str) -> str:
    """Return the name in a Host header, in small letters and without its port."""
    name, colon, port = host.rpartition(":")
    # A colon inside brackets belongs to an IPv6 address, not to a port.
    if not colon or not (port.isdigit() or port == "") or host.endswith("]"):
        name = host
    return name.lower()


def _request_id(given: str | None) -> str:
    """Return the caller's id as it is if it is a UUID, or a new one."""
    if given and len(given) <= _LONGEST_UUID and given.isascii() and given.isprintable():
        # UUID() takes any number of prefixes, and blanks: what it accepts is not yet fit to be echoed.
        with suppress(ValueError):
            uuid.UUID(given)
            return given
    return str(uuid.uuid4())


def local(app: ASGIApp) -> ASGIApp:
    """Return ``app`` for callers inside this process, who need no key."""

    async def from_inside(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, LOCAL: True}, receive, send)

    return from_inside
