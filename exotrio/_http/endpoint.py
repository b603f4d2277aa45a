"""Which state manager to use, and with which key: resolved in one place for runtime and client.

A command that runs a user's file chooses its state manager by a context variable, which the runtime and its
nodes inherit: the *ambient* state manager. ``ambient_endpoint(None)`` says that it is chosen later, after the
file is loaded. A state manager of last resort is used only where neither arguments nor settings name one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from exotrio._shared.settings import (
    FROM_FILE,
    KEY_VARIABLE,
    URI_VARIABLE,
    read_settings,
    source_of,
    source_of_key,
)
from exotrio._util.database_url import is_loopback
from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

log = logging.getLogger("exotrio")

EMBEDDED_URI = "http://exotrio.embedded"
"""Replaces the URI when there is a transport: its name is never resolved."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A state manager: its URI without a trailing slash, and the API key, if any.

    ``transport`` leads to one in this process; None: it is reached over the network. An idle connection is
    closed after ``max_idle`` seconds. Common servers close theirs after 5 s, and no request must meet that.
    The key is from ``key_file``, if that is not None, and is read again when it is refused.
    """

    uri: str
    key: str | None = field(repr=False)
    transport: httpx.AsyncBaseTransport | None = field(default=None, repr=False)
    max_idle: float = 4.0
    key_file: str | None = None

    @property
    def shown(self) -> str:
        """The URI without user name and password, for logs."""
        parts = urlsplit(self.uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def name(self) -> str:
        """What messages call it. The placeholder URI of an embedded one is not shown."""
        if self.uri == EMBEDDED_URI:
            return "the embedded state manager"
        return f"the state manager at {self.shown}"

    @property
    def plaintext(self) -> bool:
        """Whether the key would cross a network readable by others."""
        parts = urlsplit(self.uri)
        host = parts.hostname or ""
        is_here = is_loopback(host) or host.endswith(".localhost")
        return self.transport is None and parts.scheme == "http" and not is_here


@dataclass(frozen=True, slots=True)
class Ambient:
    """The state manager that a command chose; ``endpoint`` is None until it is chosen.

    ``is_last_resort``: it is used only where neither arguments nor settings name one.
    """

    endpoint: Endpoint | None
    is_last_resort: bool = False


_ambient: ContextVar[Ambient | None] = ContextVar("exotrio_endpoint", default=None)


@contextmanager
def ambient_endpoint(endpoint: Endpoint | None, *, is_last_resort: bool = False) -> Iterator[None]:
    """Let the runtimes that are built and run in the body use ``endpoint``, whatever state manager they name.

    Clients in the body use it if they name none. None: it is chosen later, so that a runtime may be built
    without one, but not started. ``is_last_resort`` is as in ``Ambient``.
    """
    token = _ambient.set(Ambient(endpoint, is_last_resort))
    try:
        yield
    finally:
        _ambient.reset(token)


def ambient() -> Ambient | None:
    """Return the state manager that a command chose; None if no command did."""
    return _ambient.get()


def resolve_endpoint(
    state_manager_uri: str | None,
    key: str | None,
    transport: httpx.AsyncBaseTransport | None = None,
    *,
    uri_source: str = "argument state_manager_uri",
    key_source: str = "argument key",
) -> tuple[Endpoint | None, list[str]]:
    """Find the state manager: the first that is named by these, in this order.

    The arguments; the ambient one; the environment and ``.env``; an ambient one of last resort.

    With a transport the URI does not matter, and no key is needed. Problems name the sources of URI and key.

    Returns:
        The endpoint and no problems, or None and every problem, each as text with what to do.
    """
    if transport is not None:
        problems = key_problems(key, key_source)
        return None if problems else Endpoint(EMBEDDED_URI, key or None, transport), problems
    supplied = ambient()
    chosen = None if supplied is None else supplied.endpoint
    is_last_resort = supplied is not None and supplied.is_last_resort
    if not state_manager_uri and chosen is not None and not is_last_resort:
        return chosen, []
    key_argument, key_file = key, None
    if not state_manager_uri or not key:
        try:
            settings = read_settings()
        except ConfigurationError as error:
            return None, [str(error).replace("\n", "; ")]
        if not state_manager_uri:
            state_manager_uri, uri_source = settings.state_manager_uri, source_of(URI_VARIABLE)
        if not key:
            key, key_file = settings.api_key, settings.api_key_file
            key_source = source_of_key(settings)
    if not state_manager_uri and chosen is not None:
        problems = key_problems(key_argument, key_source)
        return None if problems else replace(chosen, key=key_argument or chosen.key), problems
    problems = _uri_problems(state_manager_uri, uri_source) + key_problems(key, key_source)
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
    endpoint = Endpoint(state_manager_uri.strip().rstrip("/"), key, key_file=key_file)
    uri_in_file, key_in_file = uri_source.endswith(FROM_FILE), key_source.endswith(FROM_FILE)
    if uri_in_file != key_in_file and (uri_in_file or uri_source == source_of(URI_VARIABLE)):
        _warn_of_sources(endpoint.shown, uri_source, key_source)
    return endpoint, []


@cache
def _warn_of_sources(uri: str, uri_source: str, key_source: str) -> None:
    """Warn, once, of a key that may not be meant for this address: another user may have written ``.env``."""
    log.warning(
        "the API key (%s) is sent to %s (%s): if they do not belong together, name both in one place",
        key_source,
        uri,
        uri_source,
    )


def argument_problems(
    state_manager_uri: str | None, key: str | None, transport: httpx.AsyncBaseTransport | None
) -> list[str]:
    """Return the problems of these arguments of ``resolve_endpoint``, without looking for missing ones."""
    uri = state_manager_uri if transport is None else None
    return _uri_problems(uri, "argument state_manager_uri") + key_problems(key, "argument key")


def version_problems(state_manager_version: str) -> list[str]:
    """Return what is wrong with ``state_manager_version``, which exists because the stock SDK has it."""
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
    example = f"({source}); an example is http://127.0.0.1:8000"
    return [f"the state manager URI{problem} {example}"] if problem else []


def key_problems(key: str | None, source: str) -> list[str]:
    """Return what is wrong with a key, without quoting it."""
    # Checked here because errors of h11 and httpx quote an illegal header value, which would show the key.
    if not key or (key.isascii() and key.isprintable() and key == key.strip()):
        return []
    return [
        f"the API key ({source}) cannot be sent in a header: it needs printable ASCII, no blanks around it"
    ]
