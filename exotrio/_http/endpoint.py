"""Which state manager to talk to, and with which key: resolved in one place for runtime and client.

A command that runs a user's file chooses the state manager for it: it is *ambient*, a context variable,
in which the runtime runs and so do its nodes. ``ambient_endpoint(None)`` says that it is chosen later,
while the file is loaded. Or it has one for what names none, in arguments or settings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from exotrio._shared.settings import FROM_FILE, KEY_VARIABLE, URI_VARIABLE, read_settings, source_of
from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("exotrio")

EMBEDDED_URI = "http://exotrio.embedded"
"""Stands in for the URI when a transport is given: no name is ever resolved."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A state manager: where it is (a URI without a trailing slash), and the key that opens it, if any.

    A transport is the way to one in this process; None: over the network.
    """

    uri: str
    key: str | None = field(repr=False)
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URI as it may stand in a log: without user name and password."""
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def name(self) -> str:
        """What messages call it: the URI that stands in for that of an embedded one helps nobody."""
        if self.uri == EMBEDDED_URI:
            return "the embedded state manager"
        return f"the state manager at {self.shown}"

    @property
    def plaintext(self) -> bool:
        """Whether the key would cross a network readable by others."""
        parts = urlsplit(self.uri)
        return self.transport is None and parts.scheme == "http" and not _is_loopback(parts.hostname or "")


@dataclass(frozen=True, slots=True)
class Ambient:
    """What a command supplies; ``endpoint`` is None while that is not chosen yet.

    ``is_last_resort``: it is only for what names no state manager, and for which no setting does.
    """

    endpoint: Endpoint | None
    is_last_resort: bool = False


_ambient: ContextVar[Ambient | None] = ContextVar("exotrio_endpoint", default=None)


@contextmanager
def ambient_endpoint(endpoint: Endpoint | None, *, is_last_resort: bool = False) -> Iterator[None]:
    """Let the runtimes that are built and run in the body use ``endpoint``, whatever they name.

    Everything else in the body uses it where it names no state manager. None: it is chosen later, so
    that a runtime may be built without one, and not be started. ``is_last_resort`` is as in ``Ambient``.
    """
    token = _ambient.set(Ambient(endpoint, is_last_resort))
    try:
        yield
    finally:
        _ambient.reset(token)


def ambient() -> Ambient | None:
    """Return what a command supplies; None if this program was not begun by one that does."""
    return _ambient.get()


def resolve_endpoint(
    state_manager_uri: str | None,
    key: str | None,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    uri_source: str = "argument state_manager_uri",
    key_source: str = "argument key",
) -> tuple[Endpoint | None, list[str]]:
    """Find the state manager from arguments, then the ambient one, then from the environment and ``.env``, or
    last an ambient one of last resort.

    With a transport the URI does not matter, and no key is needed. The sources say where URI and key came
    from, for problems with them.

    Returns:
        The endpoint and no problems, or None and every problem, each as text that says what to do.
    """
    if transport is not None:
        problems = _key_problems(key, key_source)
        return None if problems else Endpoint(EMBEDDED_URI, key or None, transport), problems
    supplied = ambient()
    chosen = None if supplied is None else supplied.endpoint
    is_last_resort = supplied is not None and supplied.is_last_resort
    if not state_manager_uri and chosen is not None and not is_last_resort:
        return chosen, []
    given = key
    if not state_manager_uri or not key:
        try:
            settings = read_settings()
        except ConfigurationError as error:
            return None, [str(error).replace("\n", "; ")]
        if not state_manager_uri:
            state_manager_uri, uri_source = settings.state_manager_uri, source_of(URI_VARIABLE)
        if not key:
            key, key_source = settings.api_key, source_of(KEY_VARIABLE)
    if not state_manager_uri and chosen is not None:
        problems = _key_problems(given, key_source)
        return None if problems else replace(chosen, key=given or chosen.key), problems
    problems = _uri_problems(state_manager_uri, uri_source) + _key_problems(key, key_source)
    if not state_manager_uri:
        problems.append(
            f"no state manager is named: pass state_manager_uri=..., or set {URI_VARIABLE} "
            "in the environment or in .env (a local one: python -m exotrio server, in this folder)"
        )
    if not key:
        problems.append(
            f"no API key is given: pass key=..., or set {KEY_VARIABLE} in the environment or in .env"
        )
    if problems or not state_manager_uri:
        return None, problems
    endpoint = Endpoint(state_manager_uri.strip().rstrip("/"), key)
    uri_in_file, key_in_file = uri_source.endswith(FROM_FILE), key_source.endswith(FROM_FILE)
    if uri_in_file != key_in_file and (uri_in_file or uri_source == source_of(URI_VARIABLE)):
        _warn_of_sources(endpoint.shown, uri_source, key_source)
    return endpoint, []


@cache
def _warn_of_sources(uri: str, uri_source: str, key_source: str) -> None:
    """Warn, once, of a key that may not be meant for this address: ``.env`` may be somebody else's."""
    log.warning(
        "the API key (%s) is sent to %s (%s): if they do not belong together, name both in one place",
        key_source,
        uri,
        uri_source,
    )


def argument_problems(
    state_manager_uri: str | None, key: str | None, transport: httpx.AsyncBaseTransport | None
) -> list[str]:
    """Return what is wrong with these arguments of ``resolve_endpoint``, whatever it finds for others."""
    uri = state_manager_uri if transport is None else None
    return _uri_problems(uri, "argument state_manager_uri") + _key_problems(key, "argument key")


def version_problems(state_manager_version: str) -> list[str]:
    """Return what is wrong with ``state_manager_version``, which is kept for stock's signature."""
    if state_manager_version == "v0":
        return []
    return [f"state_manager_version is {state_manager_version!r}: only 'v0' exists; leave it out"]


def _uri_problems(uri: str | None, source: str) -> list[str]:
    if not uri:
        return []
    problem = ""
    try:
        parts: SplitResult = urlsplit(uri.strip())
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        problem = f" cannot be parsed: {error}"
    else:
        # The text itself may hold a password, so problems quote its parts only.
        if parts.scheme not in {"http", "https"}:
            instead = f", not {parts.scheme}://" if "://" in uri else ""
            problem = f" must start with http:// or https://{instead}"
        elif not host:
            problem = " names no host"
        elif parts.query or parts.fragment:
            problem = " must not have a '?' or '#' part"
    looks = f"({source}); it looks like http://127.0.0.1:8000"
    return [f"the state manager URI{problem} {looks}"] if problem else []


def _key_problems(key: str | None, source: str) -> list[str]:
    # Checked here because h11 and httpx quote an illegal header value, that is the key, in their errors.
    if not key or (key.isascii() and key.isprintable() and key == key.strip()):
        return []
    return [f"the API key ({source}) cannot stand in a header: printable ASCII only, and no blanks around it"]


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
