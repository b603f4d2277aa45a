"""The two checks on each request: its Host header, for all that is served, and the API key, for the API."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exotrio._httpd import host_name, mark_authenticated
from exotrio._wire.vocabulary import KEY_HEADER, REQUEST_ID_HEADER
from exotrio.errors import DatabaseError
from exotrio.manager.rules.access import IN_PROCESS, Caller, NamedKey
from exotrio.manager.rules.errors import Unavailable
from exotrio.manager.security.keys import Keys, wrong_key
from exotrio.manager.security.refusals import Refusals, WrongKeys

LOCAL = "exotrio.local"
"""Key in an ASGI scope: the request comes from inside this process. No header can set it."""
KEY = "exotrio.key"
"""Key in an ASGI scope: the ``NamedKey`` that the request was sent with; absent for the root key."""
_KEYS = "exotrio.keys"
"""Key in an ASGI scope: the ``Keys`` that have it."""
REQUEST_ID = "exotrio.request_id"
"""Key in an ASGI scope: the id in the header of the response."""
_WRONG = f"the header {KEY_HEADER} is missing or wrong"
_MAX_UUID = len("urn:uuid:12345678-1234-5678-1234-567812345678")


def local(app: ASGIApp) -> ASGIApp:
    """Return ``app`` for callers inside this process, which need no key."""

    async def from_inside(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, LOCAL: True}, receive, send)

    return from_inside


def client_address(scope: Scope) -> str:
    """Return the address that a request came from, or an empty string."""
    client = scope.get("client")
    return client[0] if client else ""


def caller_of(scope: Scope, via: str = "api") -> Caller:
    """Return who sent a request that was let in."""
    if LOCAL in scope:
        return IN_PROCESS
    return Caller(
        key=scope.get(KEY), via=via, address=client_address(scope), request_id=scope.get(REQUEST_ID, "")
    )


def owner_of(scope: Scope) -> str | None:
    """Return to which key belongs what a request claims: the name of its named key, if it has one."""
    key: NamedKey | None = scope.get(KEY)
    return None if key is None else key.name


class CheckedHost:
    """ASGI middleware that checks the Host header, and gives each response a request id.

    Args:
        app: Called for requests with an allowed Host.
        allowed_hosts: Host header values (without port) to accept, or None for any. On loopback this
            prevents that a web page reaches the server under another name.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] | None) -> None:
        self._app = app
        self._allowed_hosts = (
            None if allowed_hosts is None else frozenset(host.lower() for host in allowed_hosts)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        headers = Headers(scope=scope)
        request_id = scope[REQUEST_ID] = _request_id(headers.get(REQUEST_ID_HEADER))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        if scope.get(LOCAL) or self._is_allowed(headers.get("host", "")):
            await self._app(scope, receive, send_with_id)
        else:
            response = JSONResponse({"detail": "this Host is not served here; see --allowed-host"}, 421)
            await response(scope, receive, send_with_id)

    def _is_allowed(self, host: str) -> bool:
        return self._allowed_hosts is None or host_name(host) in self._allowed_hosts


def _request_id(sent_id: str | None) -> str:
    """Return the client's id as it is if it is a UUID, or a new one."""
    if sent_id and len(sent_id) <= _MAX_UUID and sent_id.isascii() and sent_id.isprintable():
        # UUID() accepts more than UUIDs, such as braces: hence the limits before it.
        with suppress(ValueError):
            uuid.UUID(sent_id)
            return sent_id
    return str(uuid.uuid4())


def let_in(keys: Keys, key: NamedKey, scope: Scope, receive: Receive) -> Receive:
    """Let a request with a named key in; return what receives its body. What takes long in the request has to
    be done ``while_valid``."""

    async def receive_while_valid() -> Message:
        message = await receive()
        # A client may send a body slowly, until after its key was revoked.
        if message["type"] == "http.request" and keys.known(key.id) is None:
            raise HTTPException(401, keys.ending_of(key) or _WRONG)
        return message

    scope[KEY], scope[_KEYS] = key, keys
    mark_authenticated(scope)
    return receive_while_valid


@contextmanager
def while_valid(scope: Scope) -> Iterator[None]:
    """Cancel the body when the named key of a request, if it has one, is revoked or expires; raise
    HTTPException (401) then.

    For waits and streams. For each request it would cost more than finding the key.
    """
    key: NamedKey | None = scope.get(KEY)
    if key is None:
        yield
        return
    keys: Keys = scope[_KEYS]
    with keys.using(key) as using:
        yield
    if using.cancelled_caught:
        raise HTTPException(401, keys.ending_of(key) or _WRONG)


class EndsWithKey(Response):
    """A response that takes long; it breaks off if the key of its request is revoked or expires."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self._response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(HTTPException), while_valid(scope):
            await self._response(scope, receive, send)


def log_forbidden(scope: Scope) -> None:
    """Log that a request was refused for what its key may do, if it has a named key."""
    key: NamedKey | None = scope.get(KEY)
    if key is not None:
        refused(scope[_KEYS].refusals, f"the key {key.name!r} ({key.id})", scope)


def refused(refusals: Refusals, key: str, scope: Scope) -> None:
    """Log that a request was refused; ``key`` is as in ``Refusals.log``."""
    refusals.log(key, client_address(scope), scope["method"], scope["path"])


class KeyRequired:
    """ASGI middleware that lets only requests with the API key or a named key in, and any request to an open
    path.

    It refuses before the body is read, so that unauthenticated clients cannot make the server keep theirs in
    memory.
    """

    def __init__(self, app: ASGIApp, *, key: str, keys: Keys, open_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)
        self._key = key.encode()
        self._wrong_keys = WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get(LOCAL):
            await self._app(scope, receive, send)
        elif self._is_key(key := Headers(scope=scope).get(KEY_HEADER, "")):
            mark_authenticated(scope)
            await self._app(scope, receive, send)
        elif scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
        elif (named := self._keys.recall(key)) is not None:
            await self._app(scope, let_in(self._keys, named, scope, receive), send)
        else:
            try:
                named = await self._keys.find(key)
            except (DatabaseError, Unavailable):
                # Not the error, which may name the database: the client is not authenticated.
                detail = "the keys cannot be read at this time; try again later"
                await JSONResponse({"detail": detail}, 503)(scope, receive, send)
                return
            if named is not None:
                await self._app(scope, let_in(self._keys, named, scope, receive), send)
                return
            if key:
                refused(self._keys.refusals_of_wrong_keys, wrong_key(key), scope)
                await self._wrong_keys.delay_refusal(client_address(scope), key)
            response = JSONResponse({"detail": self._keys.ending(key) or _WRONG}, 401)
            await response(scope, receive, send)

    def _is_key(self, sent_key: str) -> bool:
        return hmac.compare_digest(sent_key.encode("latin-1", "replace"), self._key)
