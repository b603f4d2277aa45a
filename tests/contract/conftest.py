"""Which state managers the contract suite runs against, and the fixtures that reach them.

``embedded`` in process, ``tcp`` (a real ``python -m exotrio server`` over a real file), ``two-managers`` (two
on one PostgreSQL, each request to another one), if ``EXOTRIO_CONTRACT_ALL`` is 1, ``postgres`` (one on
PostgreSQL) and ``pooled`` (the two behind pgbouncer), and, if ``EXOTRIO_CONTRACT_URL`` and
``EXOTRIO_CONTRACT_KEY`` are set, ``foreign``: any server at all. Every test works in its own namespace,
so a server can be shared and needs no cleaning.

``embedded`` has each row of each test. ``two-managers`` has one row of each, and all rows of tests with
``stored_values``, which an engine may refuse or store differently. Tests that use the fixture ``target`` or
``keyed`` have each row everywhere; with ``EXOTRIO_CONTRACT_ALL`` all tests have. But tests that are
``before_the_store`` are never run on PostgreSQL: one row of each goes through HTTP, to ``tcp``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from inspect import signature

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.target import ON_POSTGRES, RoundRobin, Target, serving
from tests.support import postgres
from tests.support.helpers import open_client

ALL = os.environ.get("EXOTRIO_CONTRACT_ALL") == "1"
FOREIGN_URL = os.environ.get("EXOTRIO_CONTRACT_URL")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run one server process for the whole session."""
    with serving(tmp_path_factory.mktemp("server")) as (target, _):
        yield target


@pytest.fixture(scope="session")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run one server process over PostgreSQL for the whole session."""
    with (
        postgres.database() as database,
        serving(tmp_path_factory.mktemp("one"), db=database.url) as (one, _),
    ):
        yield replace(one, kind="postgres")


@pytest.fixture(scope="session")
def two_managers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run two of them over one database."""
    # In one folder, since there they find the same keys.
    folder = tmp_path_factory.mktemp("two")
    with (
        postgres.database() as database,
        serving(folder, db=database.url) as (one, _),
        serving(folder, db=database.url) as (other, _),
    ):
        yield replace(one, kind="two-managers", others=(other.url,))


@pytest.fixture(scope="session")
def behind_pooler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Run two of them over one database, which they reach through pgbouncer in transaction mode."""
    folder = tmp_path_factory.mktemp("pooled")
    with (
        postgres.database() as database,
        postgres.pooler() as pooler,
        serving(folder, db=database.url_at(pooler.port)) as (one, _),
        serving(folder, db=database.url_at(pooler.port)) as (other, _),
    ):
        yield replace(one, kind="pooled", others=(other.url,))


SERVERS = {"tcp": "server", "two-managers": "two_managers"}
if ALL:
    SERVERS |= {"postgres": "on_postgres", "pooled": "behind_pooler"}
TARGETS = ["embedded", *SERVERS, *(["foreign"] if FOREIGN_URL else [])]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        before_the_store = metafunc.definition.get_closest_marker("before_the_store")
        whole = ALL or uses_target(metafunc.function)
        left_out = ON_POSTGRES if before_the_store else () if whole else ("tcp",)
        metafunc.parametrize("target", [kind for kind in TARGETS if kind not in left_out], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep one row of a test at a server, where further rows prove nothing more."""
    seen: set[tuple[object, object]] = set()

    def is_needed(item: pytest.Item) -> bool:
        if not isinstance(item, pytest.Function) or "target" not in item.fixturenames:
            return True
        row = item.function, item.callspec.params["target"]
        is_first = row not in seen
        seen.add(row)
        has_stored_values = row[1] != "tcp" and item.get_closest_marker("stored_values") is not None
        return is_first or has_stored_values or row[1] not in SERVERS or uses_target(item.function)

    if not ALL:
        items[:] = [item for item in items if is_needed(item)]


def uses_target(test: Callable[..., object]) -> bool:
    return not {"target", "keyed"}.isdisjoint(signature(test).parameters)


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    if request.param in SERVERS:
        server: Target = request.getfixturevalue(SERVERS[request.param])
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
        transport: httpx.AsyncBaseTransport | None = None
        if target.kind == "embedded":
            from exotrio.manager import embedded

            transport = await stack.enter_async_context(embedded(db=":memory:"))
        elif target.others:
            transport = RoundRobin([target.url, *target.others])
        yield await stack.enter_async_context(
            # A stock server may close a connection under the request that follows an outcome or a graph.
            open_client(
                url=target.url, key=target.key, transport=transport, keep_alive=target.kind != "foreign"
            )
        )


@pytest.fixture
async def api(client: httpx.AsyncClient) -> Api:
    """The state manager, seen from a namespace that no other test uses."""
    return Api(client, Api.fresh_namespace())


@pytest.fixture
def keyed(target: Target) -> Target:
    """The target, if it asks for a key; through the embedded transport none is needed."""
    if target.key is None:
        pytest.skip("no key is asked for in process")
    return target
