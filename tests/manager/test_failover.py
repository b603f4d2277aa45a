"""A state manager on PostgreSQL when another server becomes the primary, having lost commits or not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio import DatabaseError
from exotrio.manager.engine import leases, managers
from exotrio.manager.engine.leases import Terms
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.postgres import readers, writes
from exotrio.manager.store.postgres import store as store_of_postgres
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item
from tests.support import postgres
from tests.support.helpers import node_name, ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import Database
from tests.support.postgres_failover import Replicated, replicated
from tests.support.stores import TEST_TIMEOUT, keys, put, until


@pytest.fixture(scope="module")
def pair() -> Iterator[Replicated]:
    with replicated() as started:
        yield started


@pytest.fixture
async def servers(pair: Replicated, nursery: trio.Nursery) -> Replicated:
    pair.begin_again()
    await nursery.start(pair.proxy.serve)
    return pair


@pytest.fixture(params=["direct", "behind a pooler"])
def url(request: pytest.FixtureRequest, servers: Replicated) -> Iterator[str]:
    """The URL of the database, which leads to the primary."""
    with ExitStack() as stack:
        if request.param == "direct":
            yield servers.url
            return
        # Sessions of the pooler stay while those behind it lead to another server.
        pooler = stack.enter_context(postgres.pooler(servers.proxy.port))
        yield servers.database.url_at(pooler.port)


async def record(api: Api, states: list[dict[str, Any]]) -> list[str]:
    """Report states as executed, each with its id as output; return the ids of those that were recorded."""
    items = [executed_item(state, {"v": state["state_id"], "w": ""}) for state in states]
    answer = await api.outcomes(*items)
    return [item["state_id"] for item in ok(answer)["items"]] if answer.is_success else []


def named(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a heartbeat says of a state that runs."""
    return {"state_id": state["state_id"], "token": state["lease"]["token"], "running": True}


async def identifiers(manager: Manager, name: str) -> list[tuple[str, str]]:
    """Claim for a node; return the graph and the identifier of each state."""
    states = await claim(manager.remote, {node_name(name): 10})
    return [(state["graph_name"], state["identifier"]) for state in states]


async def test_a_node_gets_its_own_states_though_the_failover_lost_it(servers: Replicated, url: str) -> None:
    async with open_manager(url) as manager:
        api = manager.remote
        await Flow.start(api, place("kept"), graph="kept")
        servers.detach()
        lost = await Flow.start(api, place("lost"), graph="lost")
        assert await identifiers(manager, "lost") == [("lost", "lost")]
        assert await identifiers(manager, "kept") == [("kept", "kept")]
        servers.fail_over()
        assert ok(await api.nodes())["count"] == 1
        # It would get the number that the lost node has, as would its graph, its run and its state.
        await Flow.start(api, place("new"), graph="new")
        assert await identifiers(manager, "lost") == []
        await Flow.start(api, place("lost"), graph="again")
        assert await identifiers(manager, "lost") == [("again", "lost")]
        assert await identifiers(manager, "new") == [("new", "new")]
        # Its claim was lost.
        assert await identifiers(manager, "kept") == [("kept", "kept")]
        assert (await api.native_run(lost.run_id)).status_code == 404


async def test_no_number_is_assigned_again_after_a_failover(servers: Replicated) -> None:
    def numbers(view: View) -> tuple[int, ...]:
        tables = {"states": "seq", "runs": "id", "templates": "id", "nodes": "id", "graphs": "id"}
        return tuple(view.one(f"SELECT max({key}) FROM {table}")[0] for table, key in tables.items())

    async with open_manager(servers.url) as manager:
        servers.detach()
        await Flow.start(manager.remote, place("a"))
        before = await manager.service.store.read(numbers)
        servers.fail_over()
        await Flow.start(manager.remote, place("a"))
        after = await manager.service.store.read(numbers)
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))


async def test_a_claim_that_waits_for_a_node_that_the_failover_lost_asks_for_its_registration(
    servers: Replicated,
) -> None:
    answers: list[dict[str, Any]] = []

    async def wait(manager: Manager) -> None:
        answers.append(ok(await manager.remote.native_claim({node_name("a"): 10}, wait_ms=15_000)))

    async with open_manager(servers.url) as manager, trio.open_nursery() as nursery:
        servers.detach()
        await Flow.deploy(manager.remote, place("a"))
        nursery.start_soon(wait, manager)
        await until(lambda: manager.service.waiting.has_others("tests", "", [node_name("a")]))
        servers.fail_over()
        await until(lambda: answers)
        assert answers == [{"states": [], "register": True}]
        # It works at once.
        await Flow.start(manager.remote, place("a"))
        assert await identifiers(manager, "a") == [("graph", "a")]


async def test_a_failover_to_a_synchronous_standby_loses_nothing(servers: Replicated) -> None:
    servers.synchronize()
    recorded: list[str] = []

    async def execute(flow: Flow) -> None:
        while True:
            await trio.lowlevel.checkpoint()  # what it awaits below is shielded
            answer = await flow.api.native_claim({node_name("a"): 5})
            recorded.extend(await record(flow.api, answer.json()["states"] if answer.is_success else []))

    async with open_manager(servers.url) as manager:
        flow = await Flow.start(manager.remote, place("a"), runs=200)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute, flow)
            await until(lambda: len(recorded) > 50)
            servers.fail_over()
            nursery.cancel_scope.cancel()
        for state_id in recorded:
            shown = ok(await manager.remote.history(state_id))
            assert (shown["status"], shown["outputs"]) == ("SUCCESS", {"v": state_id, "w": ""})


async def test_a_primary_that_was_replaced_and_comes_back_is_refused(
    servers: Replicated, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shorter than what a probe waits for.
    monkeypatch.setattr(writes, "RETRY_FOR", 0.5)
    monkeypatch.setattr(readers, "RETRY_FOR", 0.5)
    says = r"on timeline \d+, but another one took over on timeline \d+: it is an old primary that came back"
    async with open_manager(url) as manager:
        store = manager.service.store
        await store.write(put, "before")
        servers.detach()
        servers.fail_over()
        await store.write(put, "after")
        servers.replaced[-1].start()
        servers.lead_to(servers.replaced[-1])
        with pytest.raises(DatabaseError, match=says):
            await store.write(put, "lost")
        with pytest.raises(DatabaseError, match=says):
            await store.read(keys)
        ready = await manager.remote.request("GET", "/readyz")
        assert ready.status_code == 503
        assert re.search(says, ready.text)
        servers.lead_to(servers.primary)
        assert await store.read(keys) == ["after", "before"]
        await store.write(put, "later")
    old = servers.replaced[-1].execute("SELECT key FROM store", database=servers.database.name)
    assert old == [("before",)]


async def test_of_several_hosts_the_one_that_was_replaced_is_refused_and_named_and_the_next_is_used(
    servers: Replicated, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = servers.database.url_at(servers.primary.port, servers.standby.port)
    async with open_manager(url) as manager:
        store = manager.service.store
        await store.write(put, "before")
        servers.detach()
        servers.take_over()
        await store.write(put, "after")
        old = servers.replaced[-1]
        old.start()
        servers.database.terminate()
        await store.write(put, "later")
        assert await store.read(keys) == ["after", "before", "later"]
        listening = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
        )
        await until(lambda: servers.database.execute(listening))
        async with open_store(url) as started:
            assert await started.read(keys) == ["after", "before", "later"]
        (refused,) = ok(await manager.remote.checkup())["database"]["postgres"]["refused"]
        assert refused.startswith(f"127.0.0.1:{old.port} is refused: the server is on timeline ")
        assert caplog.messages.count(refused) == 2, "once by each, however many connections it refused"
        monkeypatch.setattr(writes, "RETRY_FOR", 0.5)
        servers.primary.crash()
        try:
            both = rf"127.0.0.1:{old.port}: the server is on .*; 127.0.0.1:{servers.primary.port}: connection"
            with pytest.raises(DatabaseError, match=both):
                await store.write(put, "lost")
        finally:
            servers.primary.start()
    assert old.execute("SELECT key FROM store", database=servers.database.name) == [("before",)]


async def test_a_start_waits_for_a_standby_to_take_over(
    servers: Replicated, caplog: pytest.LogCaptureFixture
) -> None:
    async def take_over() -> None:
        await until(lambda: "recovery is in progress" in caplog.text)
        await trio.to_thread.run_sync(servers.take_over)

    servers.detach()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_over)
        async with open_store(servers.database.url_at(servers.standby.port)) as store:
            await store.write(put, "a")


async def test_another_server_behind_a_pooler_is_noticed_on_the_connections_of_before(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_of_postgres, "WRITERS", 1)

    def epoch(view: View) -> str:
        return str(view.one("SELECT value FROM meta WHERE key = 'epoch'")[0])

    with postgres.pooler(servers.proxy.port) as pooler:
        async with open_store(servers.database.url_at(pooler.port)) as store:
            before = await store.read(epoch)
            await store.write(put, "a")
            servers.detach()
            servers.fail_over()
            await store.write(put, "b")
            assert await store.read(epoch) != before


async def test_two_standbys_that_were_promoted_separately_differ_though_their_timeline_does_not(
    servers: Replicated,
) -> None:
    second = servers.standby
    first = servers.add_standby()
    async with open_manager(servers.url) as manager:
        servers.detach(first)
        servers.detach(second)
        servers.fail_over(to=first)
        await Flow.start(manager.remote, place("a"))
        assert await identifiers(manager, "a") == [("graph", "a")]
        servers.fail_over(to=second)
        await Flow.start(manager.remote, place("b"), graph="other")
        await Flow.start(manager.remote, place("a"), graph="again")
        assert await identifiers(manager, "a") == [("again", "a")]
        assert await identifiers(manager, "b") == [("other", "b")]


async def test_a_dump_that_is_restored_under_a_state_manager_begins_a_new_epoch(database: Database) -> None:
    def pg(program: str, *arguments: str) -> None:
        where = ["-h", str(database.server.folder), "-p", str(database.server.port), "-U", "postgres"]
        command = [str(database.server.binaries / program), *where, "-d", database.name, *arguments]
        subprocess.run(command, check=True, capture_output=True)

    async with open_manager(database.url) as manager:
        dump = str(Path(database.server.folder) / "dump")
        pg("pg_dump", "--format=custom", f"--file={dump}")
        await Flow.start(manager.remote, place("a"))
        assert await identifiers(manager, "a") == [("graph", "a")]
        pg("pg_restore", "--clean", dump)
        database.terminate()
        await Flow.start(manager.remote, place("b"), graph="other")
        await Flow.start(manager.remote, place("a"), graph="again")
        assert await identifiers(manager, "a") == [("again", "a")]
        assert await identifiers(manager, "b") == [("other", "b")]


async def test_a_state_inside_the_process_whose_outcome_was_lost_is_taken_back_and_no_other(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "SEEN_INTERVAL", 0.05)
    monkeypatch.setattr(leases, "NAMED_WITHIN_MS", 3_000)
    async with open_manager(servers.url, terms=Terms(lease_ttl_ms=6_000)) as manager:
        api = manager.api
        await Flow.start(api, place("a"), runs=2)
        reported, running = await claim(api, {node_name("a"): 2})
        servers.detach()
        assert await record(api, [reported]) == [reported["state_id"]]
        servers.fail_over()
        again: list[dict[str, Any]] = []

        async def claim_it() -> None:
            again.extend(await claim(api, {node_name("a"): 2}, wait_ms=15_000))

        with trio.fail_after(TEST_TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(claim_it)
                while not again:
                    answer = ok(await api.heartbeat(states=[named(running)]))
                    await trio.sleep(0.5)
        assert [item["result"] for item in answer["items"]] == ["ok"]
        assert [state["state_id"] for state in again] == [reported["state_id"]]
        assert await record(api, [running]) == [running["state_id"]]
