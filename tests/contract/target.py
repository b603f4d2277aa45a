"""A state manager under test, and a real server process as one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import httpx

from tests.support.helpers import BARE_SSL

KEY = "contract-suite-key-3f9c"
ON_POSTGRES = ("postgres", "two-managers", "pooled")

STARTUP_LIMIT = 60.0


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
def serving(
    folder: Path, *options: str, db: str | None = None
) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """Run a server process in ``folder``, over the database there or another one, until the body ends."""
    log = folder / f"log {len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "exotrio", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--key", KEY, *options, *([] if db else ["--db", str(folder / "manager.db")])]
    ignored = ("EXOSPHERE_", "STATE_MANAGER_", "SECRETS_", "EXOTRIO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
    if db:
        # Not an argument: there a URL must not have a password.
        environment["EXOTRIO_DATABASE_URL"] = db
    with (
        log.open("wb") as sink,
        subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, cwd=folder, env=environment
        ) as process,
    ):
        try:
            yield Target("tcp", _address(process, log), KEY), process
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTUP_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.02)
    raise RuntimeError(f"the server printed no address:\n{log.read_text()}")
