"""Queries that people wait for: they hold up nothing that runtimes wait for, and have a deadline."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from exotrio.errors import DatabaseError
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.rules.errors import InvalidRequest
from exotrio.manager.security import sessions
from exotrio.manager.store import readers
from exotrio.manager.store.sqlite.readers import READS
from exotrio.manager.store.sqlite.store import open_store
from exotrio.manager.store.view import View
from exotrio.manager.web import Dashboard
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim_one, executed_item, item_for, report
from tests.support.helpers import ok, open_client, place, refused
from tests.support.manager import KEY, NO_SETTINGS, gate
from tests.support.stores import keys, put

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {})"


async def test_reads_of_a_file_that_fail_are_logged_when_that_begins_and_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="exotrio.manager.store")
    path = tmp_path / "state.db"
    async with open_store(path) as store:
        await store.write(put, "a")
        path.rename(tmp_path / "elsewhere")
        for way in (store.read, store.read_with_deadline, store.read):
            with pytest.raises(DatabaseError, match="could not be read"):
                await way(keys)
        (tmp_path / "elsewhere").rename(path)
        for _ in range(2):
            assert await store.read(keys) == ["a"]
    lines = [(each.levelname, each.getMessage()) for each in caplog.records if "read" in each.getMessage()]
    assert [level for level, _ in lines] == ["ERROR", "INFO"], lines
    assert "reading the database works again" in lines[1][1]


def count_without_end(view: View) -> object:
    return view.execute(f"{NUMBERS.format(-1)} SELECT count(*) FROM n").fetchone()


def go_through_long_texts(view: View) -> object:
    # Few steps, each of which takes milliseconds.
    text = "hex(zeroblob(1000000 + i))"
    return view.execute(
        f"{NUMBERS.format(200)} SELECT count(*) FROM n WHERE {text} LIKE '%1' || i"
    ).fetchone()


def run_short_statements(view: View) -> object:
    for number in range(10**9):
        view.execute("SELECT ?", (number,))
    return None


def find_short_rows(view: View) -> object:
    for number in range(10**9):
        view.row("SELECT ?", (number,))
    return None


@asynccontextmanager
async def searches_held_up(read: Callable[..., Awaitable[object]]) -> AsyncIterator[None]:
    """Keep every thread for searches busy in the block."""
    with ExitStack() as stack:
        gates = [stack.enter_context(gate()) for _ in range(readers.SEARCHES)]
        async with trio.open_nursery() as nursery:
            for each in gates:
                nursery.start_soon(read, each.hold)
                await trio.to_thread.run_sync(each.wait_entered)
            yield
            for each in gates:
                each.open()


@asynccontextmanager
async def served(db: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with open_service(db, settings=NO_SETTINGS) as service:
        app = create_app(service, key=KEY, dashboard=Dashboard(service, key=KEY))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with open_client(transport=transport, key=KEY) as client:
            yield service, client


async def test_requests_of_runtimes_are_answered_during_searches(tmp_path: Path) -> None:
    async with served(tmp_path / "state.db") as (service, client):
        api = Api(client, "tests")
        flow = await Flow.start(api, place("a"), secrets={"token": "s3cret-value"}, runs=2)
        async with searches_held_up(service.store.read_with_deadline):
            state = await claim_one(api, limits={A: 1})
            assert ok(await api.secrets(state["state_id"], state["lease"]["token"]))["secrets"]
            ok(await api.native("POST", "heartbeat", json={"worker_id": "w", "states": [item_for(state)]}))
            assert await report(api, executed_item(state)) == ["ok"]
            assert ok(await api.native_run(flow.run_id))["run_id"] == flow.run_id
            assert ok(await api.get_graph("graph"))["validation_status"] == "VALID"
            assert (await client.get("/readyz")).status_code == 200


async def test_sessions_and_links_are_looked_up_while_others_search(tmp_path: Path) -> None:
    async with served(tmp_path / "state.db") as (service, client):
        origin = {"origin": "http://embedded"}
        assert (await client.post("/sign-in", data={"key": KEY}, headers=origin)).status_code == 303
        async with searches_held_up(service.store.read_with_deadline):
            assert (await client.get("/guide")).status_code == 200
            assert (await client.get("/sign-in?link=guess")).status_code == 200, "signed in anyway"
            client.cookies.clear()
            assert (await client.get("/sign-in?link=guess")).status_code == 401
            guess = {"cookie": f"exotrio={'x' * 43}"}
            assert (await client.get("/sign-in", headers=guess)).status_code == 200


async def test_guessed_sessions_take_one_of_the_threads_that_runtimes_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gate() as held:
        monkeypatch.setattr(sessions, "is_session_open", held.hold)
        async with served(tmp_path / "state.db") as (_, client), trio.open_nursery() as nursery:
            api = Api(client, "tests")
            await Flow.start(api, place("a"))
            for _ in range(2 * READS):
                nursery.start_soon(partial(client.get, "/sign-in", headers={"cookie": f"exotrio={'x' * 43}"}))
            await trio.to_thread.run_sync(held.wait_entered)
            await trio.testing.wait_all_tasks_blocked()
            try:
                with trio.fail_after(20):
                    assert ok(await api.get_graph("graph"))["validation_status"] == "VALID"
            finally:
                held.open()


async def test_pages_lists_and_exports_wait_for_their_turn_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "DEADLINE", 0.05)
    async with served(tmp_path / "state.db") as (service, client):
        api = Api(client, "tests")
        flow = await Flow.start(api, place("a"))
        state = await claim_one(api, limits={A: 1})
        async with searches_held_up(service.store.read_with_deadline):
            for answer in (
                await api.nodes(),
                await api.namespaces(),
                await api.graphs(),
                await api.runs(),
                await api.run_graph(flow.run_id),
                await api.state("graph", flow.run_id, state["state_id"]),
                await api.find_runs(),
                await api.states(),
                await api.history(state["state_id"]),
                await api.overview(),
                await api.checkup(),
                await api.native("GET", "workers"),
                await api.native("GET", f"run/{flow.run_id}/export"),
            ):
                refused(answer, 503)
                assert "other pages and searches took all of 0.05 s" in answer.json()["detail"]
            link = await client.post("/sign-in", data={"key": KEY}, headers={"origin": "http://embedded"})
            assert link.status_code == 303
            for path in ("/ns/tests", "/ns/tests/runs", f"/ns/tests/runs/{flow.run_id}"):
                page = await client.get(path)
                assert page.status_code == 503, path
                assert "took all of 0.05 s" in page.text


@pytest.mark.parametrize(
    "search", [count_without_end, go_through_long_texts, run_short_statements, find_short_rows]
)
async def test_a_search_that_takes_too_long_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: Callable[[View], object]
) -> None:
    monkeypatch.setattr(readers, "DEADLINE", 0.05)
    async with open_store(tmp_path / "state.db") as store:
        await store.write(put, "there")
        with trio.fail_after(60):
            for _ in range(readers.SEARCHES + 1):
                with pytest.raises(
                    InvalidRequest, match=r"took longer than 0\.05 s and was ended; ask for less"
                ):
                    await store.read_with_deadline(search)
        assert await store.read(keys) == ["there"]
