"""A state manager under test, and a real server process as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import httpx

from tests.support.helpers import BARE_SSL
from tests.support.processes import KEY, Process, server

ON_POSTGRES = ("postgres", "two-managers", "pooled")


@dataclass(frozen=True)
class Target:
    """A state manager under test.

    Attributes:
        others: URLs of more on the same database.
    """

    kind: str
    url: str = "http://embedded"
    key: str | None = None
    others: tuple[str, ...] = ()

    @property
    def is_on_postgres(self) -> bool:
        return self.kind in ON_POSTGRES


class RoundRobin(httpx.AsyncBaseTransport):
    """Sends each request to another server than the one before, as a load balancer does."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._servers = cycle([httpx.URL(url) for url in urls])
        self._transport = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=100), verify=BARE_SSL)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        server = next(self._servers)
        request.url = request.url.copy_with(host=server.host, port=server.port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


@contextmanager
def serving(folder: Path, *options: str, db: str | None = None) -> Iterator[tuple[Target, Process]]:
    """Run a server process in ``folder``, over the database there or another one, until the body ends."""
    # Not an argument: there a URL must not have a password.
    env = {"EXOTRIO_DATABASE_URL": db} if db else None
    with server(folder, *options, env=env) as started:
        yield Target("tcp", started.uri, KEY), started.process
