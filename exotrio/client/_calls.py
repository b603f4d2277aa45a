"""Makes the calls of the public client: chooses the API, and repeats a call where that does no harm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Never, TypeVar, Unpack
from urllib.parse import urlencode

import anyio
from pydantic import BaseModel, ValidationError

from exotrio._http.client import HttpClient, Options
from exotrio._http.discovery import discover, not_a_manager
from exotrio._util.backoff import WITHIN_CALL
from exotrio._util.json import sendable
from exotrio._util.words import readable_errors
from exotrio._wire.vocabulary import NATIVE_VERSION, native_path, v0_path
from exotrio.errors import (
    ConfigurationError,
    InvalidResponse,
    ManagerUnavailable,
    NotFound,
    RequestRefused,
)

if TYPE_CHECKING:
    from exotrio._http.endpoint import Endpoint

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

OURS = "use exotrio's server (python -m exotrio server)"
UNKNOWN_ROUTE = "answered 404: Not Found"
"""The error of a server without such a route."""
TRIES = 4
MAX_PAUSE = 5.0


class Calls:
    """Calls to one namespace of one state manager.

    Attributes:
        long_polls: Calls that wait at the server; each takes one of the connections.
    """

    def __init__(self, endpoint: Endpoint, namespace: str) -> None:
        self.http = HttpClient(endpoint)
        self.namespace = namespace
        self.long_polls = 0
        self._capabilities: frozenset[str] | None = None  # not known yet

    def v0(self, *segments: str | int) -> str:
        """Return a path of v0 below the namespace."""
        return v0_path(self.namespace, *named(segments))

    def native(self, *segments: str | int, query: BaseModel | None = None) -> str:
        """Return a path of the native API below the namespace."""
        return with_query(native_path(self.namespace, *named(segments)), query)

    async def fetch(self, model: type[M], method: str, path: str, **options: Unpack[Options]) -> M:
        """Make an idempotent request, and repeat it while the state manager is unavailable."""
        return await self.repeat(lambda: self.http.fetch(model, method, path, **options))

    async def fetch_list(self, model: type[M], what: str, *segments: str | int) -> M:
        """Fetch a list of v0. Every state manager has these, so a server that answers 404 is not one."""

        async def fetch() -> M:
            try:
                return await self.http.fetch(model, "GET", v0_path(self.namespace, what, *segments))
            except NotFound as error:
                raise not_a_manager(self.http, f"its {what}", "it answered 404", error) from error

        return await self.repeat(fetch)

    async def prefer_native(
        self, native: Callable[[], Awaitable[T]], otherwise: Callable[[], Awaitable[T]]
    ) -> T:
        """Make the native call if the server is ours, otherwise the other one.

        After a 404 from a native route the server's APIs are discovered again, since another server may have
        replaced it.
        """
        if await self.is_native():
            try:
                return await native()
            except NotFound:
                self._capabilities = None
                if await self.is_native():  # the server is the same, and has no such object
                    raise
        return await otherwise()

    async def fetch_native(
        self,
        model: type[M],
        method: str,
        path: str | Sequence[str],
        query: BaseModel | None = None,
        **options: Unpack[Options],
    ) -> M:
        """Make an idempotent request to the native API; ``path`` is what is below the namespace, in segments,
        or the whole path."""
        whole = with_query(path, query) if isinstance(path, str) else self.native(*path, query=query)
        return await self.native_only(
            lambda: self.fetch(model, method, whole, **options), no_request(method, whole)
        )

    async def native_only(self, native: Callable[[], Awaitable[T]], what: str) -> T:
        """Make a native call; raise RequestRefused if the server lacks it, as ``refuse_v0`` does."""

        async def otherwise() -> Never:
            self.refuse_v0(what)

        try:
            return await self.prefer_native(native, otherwise)
        except NotFound as error:
            if not error.what.endswith(UNKNOWN_ROUTE):
                raise
            what = f"{what}: {self._too_old()}"
            raise RequestRefused(what, status=error.status, where=error.where, fix="upgrade it") from error

    def refuse_v0(self, what: str, instead: str = "") -> Never:
        """Raise the error of a call that needs the native API.

        Args:
            what: What cannot be done, as a sentence.
        """
        raise RequestRefused(
            f"{what}: {self.http.endpoint.name} speaks only v0, which cannot do that",
            fix=f"{instead}; or {OURS}" if instead else OURS,
        )

    async def repeat(self, call: Callable[[], Awaitable[T]], *, sent: bool = True) -> T:
        """Make a call, and repeat it a few times while the state manager is not available.

        Args:
            sent: Also repeat it if the request may have arrived.
        """
        for attempt in range(TRIES - 1):
            try:
                return await call()
            except ManagerUnavailable as error:
                self._capabilities = None  # another server may answer next
                if isinstance(error, InvalidResponse) or (error.sent and not sent):
                    raise
                await anyio.sleep(min(WITHIN_CALL.pause(attempt, error.retry_after), MAX_PAUSE))
        return await call()

    async def is_native(self) -> bool:
        """Return whether the server is ours: whether it speaks the native API."""
        return bool(await self._known_capabilities())

    async def require(self, capability: str, what: str, instead: str = "") -> None:
        """Raise RequestRefused, as ``refuse_v0`` does, if the server lacks a capability."""
        known = await self._known_capabilities()
        if not known:
            self.refuse_v0(what, instead)
        if capability not in known:
            fix = f"upgrade it, or {instead}" if instead else "upgrade it"
            raise RequestRefused(f"{what}: {self._too_old()}", fix=fix)

    def _too_old(self) -> str:
        return f"{self.http.endpoint.name} is an exotrio too old for that"

    async def _known_capabilities(self) -> frozenset[str]:
        """Return the version and the capabilities of the native API; none if it speaks only v0."""
        if self._capabilities is None:
            native = await self.repeat(lambda: discover(self.http, self.namespace))
            is_ours = native is not None and native.version == NATIVE_VERSION
            self._capabilities = frozenset(
                (native.version, *native.capabilities) if native and is_ours else ()
            )
        return self._capabilities


def named(segments: Sequence[str | int]) -> Sequence[str | int]:
    """Return segments of a path; raise ConfigurationError if one would make it the path of something else,
    or cannot be sent."""
    for what, name in pairwise(segments):
        if name in ("", ".", "..") or sendable(str(name)) != str(name):
            raise ConfigurationError(f"{name!r} is not the name or the id of a {what}")
    return segments


def no_request(method: str, path: str) -> str:
    """Return the sentence for a request that a server does not answer. Values in a query may be long."""
    return f"{method} {path.partition('?')[0]} cannot be requested"


def with_query(path: str, query: BaseModel | None) -> str:
    """Return a path with the fields of a query that are not defaults."""
    fields = None if query is None else query.model_dump(mode="json", exclude_defaults=True)
    return f"{path}?{urlencode(fields, doseq=True, errors='surrogatepass')}" if fields else path


def checked_query(model: type[M], **fields: Any) -> M:
    """Return a query; raise ConfigurationError for invalid fields before anything is sent."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError("the request is invalid", readable_errors(error)) from error
