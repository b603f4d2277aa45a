"""Which state managers the contract suite runs against, and the fixtures that reach them.

``embedded`` in process, ``tcp`` (a real ``python -m exotrio server`` over a real file), and, if
``EXOTRIO_CONTRACT_URL`` and ``EXOTRIO_CONTRACT_KEY`` are set, ``foreign``: any server at all. Every
test works in a namespace of its own, so a server can be shared and needs no cleaning.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.contract.api import Api
from tests.support.helpers import open_client

FOREIGN_URL = os.environ.get("EXOTRIO_CONTRACT_URL")
KEY = "contract-suite-key-3f9c"
STARTUP_LIMIT = 20.0


@dataclass(frozen=True)
class Target:
    """A state manager under test."""

    kind: str
    url: str = "http://embedded"
    key: str | None = None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "deviates_from_stock(reason): expects what ours decides, not what the stock server does; skipped"
        " against a foreign server unless EXOTRIO_CONTRACT_OURS=1",
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run one server process for the whole session."""
    with serving(tmp_path_factory.mktemp("server")) as (target, _):
        yield target


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[Target, subprocess.Popen[bytes]]]:
    """Run a server process over the database in ``folder`` until the body ends."""
    log = folder / "log"
    command = [sys.executable, "-m", "exotrio", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--db", str(folder / "manager.db"), "--key", KEY, *options]
    ignored = ("EXOSPHERE_", "STATE_MANAGER_", "SECRETS_", "EXOTRIO_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ignored)}
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
                process.wait(timeout=15)
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


@pytest.fixture(params=["embedded", "tcp", *(["foreign"] if FOREIGN_URL else [])])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "tcp":
        server: Target = request.getfixturevalue("server")
        return server
    if request.param == "foreign":
        mark = request.node.get_closest_marker("deviates_from_stock")
        if mark is not None and os.environ.get("EXOTRIO_CONTRACT_OURS") != "1":
            pytest.skip(f"deviates from stock: {mark.args[0]}")
        return Target("foreign", FOREIGN_URL or "", os.environ.get("EXOTRIO_CONTRACT_KEY"))
    return Target("embedded")


@pytest.fixture
async def client(target: Target) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        transport = None
        if target.kind == "embedded":
            from exotrio.manager import embedded

            transport = await stack.enter_async_context(embedded(db=":memory:"))
        yield await stack.enter_async_context(
            # A stock server may close a connection under the request that follows an outcome or a graph.
            open_client(
                url=target.url, key=target.key, transport=transport, keep_alive=target.kind != "foreign"
            )
        )


@pytest.fixture
async def api(client: httpx.AsyncClient) -> Api:
    """The state manager, seen from a namespace that nobody else uses."""
    return Api(client, Api.fresh_namespace())


@pytest.fixture
def keyed(target: Target) -> Target:
    """The target, if it asks for a key; through the embedded transport none is needed."""
    if target.key is None:
        pytest.skip("no key is asked for in process")
    return target
