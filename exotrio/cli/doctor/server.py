"""The server at a URI: whether a state manager answers there, its kind, and how fast it answers."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import StrEnum

import trio

from exotrio._http.client import HttpClient
from exotrio._http.discovery import discover, discover_native
from exotrio._http.endpoint import Endpoint
from exotrio._wire.vocabulary import NATIVE_VERSION
from exotrio.errors import ExotrioError

SAMPLES = 5
"""Requests that are timed."""


class Kind(StrEnum):
    NATIVE = "exotrio, native"
    V0 = "speaks only v0"


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a server, compared with the one of this machine.

    Attributes:
        ahead: Seconds by which the server's clock is ahead; negative if it is behind.
        uncertain: Seconds by which ``ahead`` may be wrong, in both directions.
    """

    ahead: float
    uncertain: float


@dataclass(slots=True, kw_only=True)
class Server:
    """What is known about a server.

    Attributes:
        failed: Why it is not known to be a state manager.
        times: Seconds of the answers that were timed, sorted.
    """

    failed: ExotrioError | None = None
    kind: Kind | None = None
    about: str = ""
    times: list[float] = field(default_factory=list)
    clock: Clock | None = None
    namespaces: list[str] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


async def examine_server(endpoint: Endpoint, namespace: str) -> Server:
    """Find out what answers, as every client does, but without repeating a request.

    Cancellation:
        Safe; nothing changes at the server.
    """
    server = Server()
    http = HttpClient(endpoint)
    try:
        native = await discover(http, namespace)  # connects, so that the others are timed without that
        for _ in range(SAMPLES):
            began = trio.current_time()
            await discover_native(http)
            server.times.append(trio.current_time() - began)
    except ExotrioError as error:
        server.failed = error
    else:
        server.times.sort()
        is_native = native is not None and native.version == NATIVE_VERSION
        server.kind = Kind.NATIVE if is_native else Kind.V0
        if native is not None and not is_native:
            server.about = f"version {native.version} of its native API is not known to this exotrio"
    finally:
        await http.aclose()
    return server
