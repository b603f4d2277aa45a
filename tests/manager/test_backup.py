"""Copies of a database in use: what is in them, what is left of them, and going on from one."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from pydantic import BaseModel
from starlette.types import ASGIApp
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    ConfigurationError,
    DatabaseError,
    Graph,
    GraphNodeModel,
    ManagerUnavailable,
    RequestRefused,
    Runtime,
    StateManager,
)
from exotrio._link.port import LinkKind
from exotrio.client import StateStatus
from exotrio.manager import create_app, open_service, serve
from exotrio.manager.api import backup as backups
from exotrio.manager.api.backup import SLOW_AFTER
from exotrio.manager.store.sqlite import copy as copy_sqlite
from exotrio.manager.store.sqlite.copy import copied
from exotrio.manager.store.sqlite.database import open_source
from exotrio.manager.store.sqlite.store import FileStore, open_store
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, executed_item, report
from tests.support.helpers import eventually, free_port, ok, open_client, place, refused, sql
from tests.support.http_doubles import tcp_server
from tests.support.manager import KEY, NO_SETTINGS, gate, open_manager
from tests.support.stores import PUT_KEYS, put

BACKUP = "/exotrio/v1/backup"


@asynccontextmanager
async def served(db: Path, port: int = 0) -> AsyncIterator[tuple[Api, StateManager]]:
    """Serve a database on a port until the block ends."""
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, port=port, db=db, key=KEY))
        async with open_client(url=url, key=KEY) as client, StateManager("tests", url, KEY) as manager:
            yield Api(client, "tests"), manager
        nursery.cancel_scope.cancel()


def next_to(db: Path) -> set[str]:
    """Return the names in the folder of a database that are not its own."""
    own = {db.name + suffix for suffix in ("", "-wal", "-shm", ".lock", ".secrets-key", ".api-key")}
    return {file.name for file in db.parent.iterdir()} - own


def restore(backup: Path, db: Path) -> None:
    for file in (db, *db.parent.glob(db.name + "-*")):
        file.unlink()
    shutil.copy(backup, db)


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.iterdir()]


async def test_a_state_manager_started_on_a_backup_goes_on_with_its_runs(tmp_path: Path) -> None:
    db, copy = tmp_path / "live" / "state.db", tmp_path / "copy.db"
    async with served(db) as (api, manager):
        places = (place("a", "b"), place("b"))
        flow = await Flow.start(api, *places, secrets={"token": "still a secret"}, runs=2)
        (held,) = await claim(api, {A: 1})
        size = await manager.backup(copy)
        assert size == copy.stat().st_size
        # What comes later is not in it.
        assert await report(api, executed_item(held)) == ["ok"]
        await flow.trigger()
        assert not next_to(db)
    shutil.copy(db.with_name("state.db.secrets-key"), copy.with_name("copy.db.secrets-key"))
    async with served(copy) as (api, manager):
        assert (await manager.runs()).total == 2
        holder = (await manager.history(held["state_id"])).holder
        assert holder is not None
        assert holder.ttl is not None
        assert 25 < holder.ttl <= 30, "its holder has a whole term to be heard of again"
        secrets = ok(await api.secrets(held["state_id"], held["lease"]["token"]))
        assert secrets == {"secrets": {"token": "still a secret"}}
        assert await report(api, executed_item(held)) == ["ok"]
        fresh = Flow(api, "graph", held["run_id"])
        await fresh.run("b")
        assert (await manager.status(fresh.run_id)).status == "SUCCESS"


class Echo(BaseNode):
    """Returns its input once the gate is open."""

    gate: trio.Event
    begun = 0

    class Inputs(BaseModel):
        n: str

    Outputs = Inputs

    async def execute(self) -> Inputs:
        Echo.begun += 1
        await Echo.gate.wait()
        return self.inputs


@pytest.mark.parametrize("link", ["native", "v0"])
async def test_runs_after_a_restored_backup_get_nothing_that_runtimes_did_before_it(
    tmp_path: Path, link: LinkKind
) -> None:
    async def trigger(manager: StateManager, name: str) -> dict[str, str]:
        values = [f"{name} {number}" for number in range(30)]
        return {(await manager.trigger("echo", {"n": n}))["run_id"]: n for n in values}

    async def all_claimed(manager: StateManager) -> None:
        assert len((await manager.states(status=StateStatus.QUEUED)).states) == 30

    async def all_begun() -> None:
        assert Echo.begun == 30

    db, copy, port = tmp_path / "state.db", tmp_path / "copy.db", free_port()
    Echo.gate, Echo.begun = trio.Event(), 0
    echo = GraphNodeModel(node_name="Echo", identifier="echo", namespace="tests", inputs={"n": "INITIAL"})
    uri = f"http://127.0.0.1:{port}"
    runtime = Runtime(
        "tests", "live", [Echo], state_manager_uri=uri, key=KEY, link=link, workers=60, batch_size=60
    )
    async with trio.open_nursery() as nursery:
        async with served(db, port) as (_, manager):
            await nursery.start(runtime.run)
            await manager.upsert_graph(Graph("echo", [echo]))
            await manager.backup(copy)
            await trigger(manager, "old")
            await eventually(all_begun)
        restore(copy, db)
        async with served(db, port) as (_, manager):
            expected = await trigger(manager, "new")
            await eventually(partial(all_claimed, manager), within=30)
            Echo.gate.set()
            for run_id in expected:
                assert (await manager.wait(run_id)).status == "SUCCESS"
            content = {
                run_id: (await manager.states(run=run_id, outputs=True)).states[0].outputs
                for run_id in expected
            }
            runtime.stop()
    assert content == {run_id: {"n": n} for run_id, n in expected.items()}
    assert (Echo.begun, runtime.summary.completed) == (60, 30)


async def test_writers_go_on_while_a_copy_is_made(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    async with open_store(db) as store:
        for number in range(50):
            await store.write(put, f"before {number}", os.urandom(2_000).hex())
        async with copied(db) as copy:
            await store.write(put, "during")
            assert len(sql(copy, PUT_KEYS)) == 50
        assert not next_to(db)


async def test_only_its_owner_may_read_a_backup_or_the_copy_it_is_made_from(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    umask = os.umask(0)
    try:
        async with open_store(db), copied(db) as copy:
            assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        async with served(db) as (_, manager):
            await manager.backup(tmp_path / "copy.db")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600


async def test_a_client_that_goes_away_leaves_no_copy_and_the_next_one_gets_its_backup(
    tmp_path: Path,
) -> None:
    db = tmp_path / "live" / "state.db"
    async with served(db) as (api, manager):
        await fill(api)
        await (await begin_backup(api)).aclose()

        async def again() -> None:
            try:
                await manager.backup(tmp_path / "copy.db", overwrite=True)
            except RequestRefused as error:
                raise AssertionError("the first is still being sent") from error

        await eventually(again)
        assert not next_to(db)


async def begin_backup(api: Api) -> trio.SocketStream:
    """Request a backup over a connection, and read no more than its status."""
    url = api.client.base_url
    stream = await trio.open_tcp_stream(url.host, url.port or 0)
    await stream.send_all(f"GET {BACKUP} HTTP/1.1\r\nhost: {url.host}\r\nx-api-key: {KEY}\r\n\r\n".encode())
    assert (await stream.receive_some(12)).startswith(b"HTTP/1.1 200")
    return stream


async def fill(api: Api) -> None:
    """Make the database larger than what a socket takes without a reader."""
    flow = await Flow.start(api, place("a"), runs=3)
    for state in await flow.take("a", 3):
        ok(await api.executed(state["state_id"], {"v": "x" * 4_000_000}))


@dataclass
class SlowClient:
    """A client that has the key, takes ``pause`` seconds for each piece of a backup, and notes its end."""

    app: ASGIApp
    pause: float
    ended: trio.Event = field(default_factory=trio.Event)

    async def fetch(self, sending: trio.Event) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sending.set()
                await trio.sleep(self.pause)

        async def receive() -> Any:
            await trio.sleep_forever()

        headers = [(b"x-api-key", KEY.encode())]
        scope = {"type": "http", "method": "GET", "path": BACKUP, "query_string": b"", "root_path": ""}
        await self.app({**scope, "headers": headers}, receive, send)
        self.ended.set()


@asynccontextmanager
async def a_slow_backup(pause: float) -> AsyncIterator[tuple[httpx.AsyncClient, SlowClient]]:
    """Begin a backup whose client takes ``pause`` seconds for each piece; give another client."""
    async with open_service(":memory:", settings=NO_SETTINGS) as service, trio.open_nursery() as nursery:
        app = create_app(service, key=KEY)
        slow = SlowClient(app, pause)
        sending = trio.Event()
        nursery.start_soon(slow.fetch, sending)
        await sending.wait()
        async with open_client(transport=httpx.ASGITransport(app), key=KEY) as client:
            yield client, slow
        nursery.cancel_scope.cancel()


async def test_a_second_backup_at_the_same_time_is_refused(autojump_clock: MockClock) -> None:
    async with a_slow_backup(pause=SLOW_AFTER - 1) as (client, slow):
        refused(await client.get(BACKUP), 409)
        await slow.ended.wait()
        assert (await client.get(BACKUP)).status_code == 200


async def test_a_client_that_reads_a_backup_slowly_makes_room_for_another_one(
    autojump_clock: MockClock,
) -> None:
    async with a_slow_backup(pause=math.inf) as (client, slow):
        await trio.sleep(SLOW_AFTER + 1)
        assert not slow.ended.is_set()
        with trio.fail_after(60):
            assert (await client.get(BACKUP)).status_code == 200
        assert slow.ended.is_set()


async def test_a_client_that_reads_a_backup_fast_enough_gets_all_of_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "PIECE", 1_024)
    monkeypatch.setattr(backups, "MIN_RATE", 1_000)
    async with a_slow_backup(pause=1) as (client, slow):
        await trio.sleep(3 * SLOW_AFTER)
        refused(await client.get(BACKUP), 409)
        assert not slow.ended.is_set()


async def test_the_connection_of_a_backup_that_made_room_is_closed_and_no_error_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backups, "SLOW_AFTER", 0)
    monkeypatch.setattr(backups, "MIN_RATE", math.inf)
    db = tmp_path / "live" / "state.db"
    async with served(db) as (api, manager):
        await fill(api)
        async with await begin_backup(api) as slow:

            async def another() -> None:
                try:
                    await manager.backup(tmp_path / "copy.db", overwrite=True)
                except RequestRefused as error:
                    raise AssertionError("the first one is still being made") from error

            await eventually(another)
            with trio.fail_after(60):
                while await slow.receive_some(65_536):
                    pass
        assert not next_to(db)
    problems = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.levelname for record in problems if record.name == "exotrio.manager.http"] == ["WARNING"]


async def test_a_copy_whose_client_is_gone_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "state.db"
    ended = trio.Event()
    token = trio.lowlevel.current_trio_token()
    copy_in_thread = copy_sqlite._copy

    def message(*arguments: Any) -> None:
        try:
            copy_in_thread(*arguments)
        finally:
            token.run_sync_soon(ended.set)

    async def copy() -> None:
        async with copied(db):
            raise AssertionError("it was cancelled before")

    async with open_store(db):
        with gate() as held:

            def late(path: Path) -> sqlite3.Connection:
                held.hold()
                return open_source(path)

            monkeypatch.setattr(copy_sqlite, "open_source", late)
            monkeypatch.setattr(copy_sqlite, "_copy", message)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy)
                await trio.to_thread.run_sync(held.wait_entered)
                nursery.cancel_scope.cancel()
        # By now SQLite makes the file once more: only the thread is left to remove it.
        await ended.wait()
        assert not next_to(db)


async def test_a_copy_that_a_killed_process_left_is_removed_and_nothing_else_is(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    left = tmp_path / ".state.db.copy-0123456789abcdef"
    kept = [
        ".state.db.copy-of-mine",
        ".state.db.copy-0123456789abcdef.bak",
        ".other.db.copy-0123456789abcdef",
    ]
    for name in (left.name, *kept):
        (tmp_path / name).touch()
    async with open_store(db) as store:
        assert isinstance(store, FileStore)
        assert next_to(db) == set(kept)


async def test_a_full_disk_is_an_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_manager(tmp_path / "state.db") as manager:
        monkeypatch.setattr("exotrio.manager.store.sqlite.copy.open_source", _full)
        output = refused(await manager.api.request("GET", "/exotrio/v1/backup"), 503)
        assert "disk is full" in output
        assert str(tmp_path) not in output
        assert not next_to(tmp_path / "state.db")


def _full(path: Path) -> sqlite3.Connection:
    raise sqlite3.OperationalError("database or disk is full")


# -- the client's side


@pytest.fixture
async def manager() -> AsyncIterator[StateManager]:
    async with open_manager() as manager:
        inside = manager.api.client._transport
        yield StateManager("tests", transport=inside)


async def test_a_file_that_exists_is_replaced_only_with_an_option(
    manager: StateManager, tmp_path: Path
) -> None:
    path = tmp_path / "copy.db"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="already exists"):
        await manager.backup(path)
    assert path.read_bytes() == b"mine"
    await manager.backup(str(path), overwrite=True)
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert names(tmp_path) == [path.name]


async def test_the_database_of_a_state_manager_is_never_replaced(
    manager: StateManager, tmp_path: Path
) -> None:
    db = tmp_path / "state.db"
    async with open_store(db) as store:
        await store.write(put, "a")
        before = db.read_bytes()
        with pytest.raises(ConfigurationError, match="state manager"):
            await manager.backup(db, overwrite=True)
        assert db.read_bytes() == before


async def test_a_file_made_meanwhile_is_not_replaced(
    manager: StateManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "copy.db"
    fsync = os.fsync

    def meanwhile(fd: int) -> None:
        path.write_bytes(b"theirs")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(ConfigurationError, match="already exists"):
        await manager.backup(path)
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == [path.name]


async def test_a_missing_folder_is_an_error(manager: StateManager, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot be created"):
        await manager.backup(tmp_path / "missing" / "copy.db")


class Pieces(httpx.AsyncByteStream):
    """A body that comes piece by piece, and may break off or never end."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            await trio.lowlevel.checkpoint()
            if isinstance(piece, Exception):
                raise piece
            if not piece:
                await trio.sleep_forever()
            yield piece


def backup_of(length: int, *pieces: bytes | Exception) -> httpx.Response:
    headers = {"content-type": "application/vnd.sqlite3", "content-length": str(length)}
    return httpx.Response(200, headers=headers, stream=Pieces(*pieces))


def answering(response: httpx.Response, requested: list[str] | None = None) -> StateManager:
    """Return a client of a server that is ours and answers the request for a backup with this."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("v1"):
            return httpx.Response(200, json={"version": "1", "capabilities": []})
        if requested is not None:
            requested.append(request.url.path)
        return response

    return StateManager("tests", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    "response",
    [
        backup_of(10, b"12345"),
        backup_of(3, b"12345"),
        backup_of(10, b"12345", httpx.ReadError("reset")),
        backup_of(10, b"12345", b""),
        httpx.Response(200, html="<html>who are you?</html>"),
        httpx.Response(200, json={"detail": "hello"}),
        httpx.Response(500, json={"detail": "an unexpected error"}),
    ],
    ids=["shorter", "longer", "reset", "stalled", "a page", "JSON", "500"],
)
async def test_a_backup_that_breaks_off_is_neither_kept_nor_repeated(
    tmp_path: Path, response: httpx.Response, autojump_clock: trio.testing.MockClock
) -> None:
    requested: list[str] = []
    # Autojump would overtake the threads that write.
    autojump_clock.autojump_threshold = 0.1
    with pytest.raises(ManagerUnavailable):
        await answering(response, requested).backup(tmp_path / "copy.db")
    assert not names(tmp_path)
    assert len(requested) == 1


async def test_a_connection_that_is_cut_within_a_backup_is_an_error(tmp_path: Path) -> None:
    async def respond(stream: trio.SocketStream, request: bytes) -> None:
        native = b'{"version": "1", "capabilities": []}'
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: %s\r\n\r\n"
        if b"/backup" in request:
            await stream.send_all(head % (1_000, b"application/vnd.sqlite3") + b"x" * 10)
            await stream.aclose()
        else:
            await stream.send_all(head % (len(native), b"application/json") + native)

    async with tcp_server(respond) as (url, _), StateManager("tests", url, KEY) as manager:
        with pytest.raises(ManagerUnavailable, match="broke"):
            await manager.backup(tmp_path / "copy.db")
    assert not names(tmp_path)


async def test_a_cancelled_backup_leaves_nothing(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        manager = answering(backup_of(10, b"12345", b""))
        nursery.start_soon(manager.backup, tmp_path / "copy.db")

        async def begun() -> None:
            assert sizes(tmp_path) == [5]

        await eventually(begun)
        nursery.cancel_scope.cancel()
    assert not names(tmp_path)


async def test_a_server_that_speaks_only_v0_has_no_backups(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v0/namespace/tests/nodes/":
            return httpx.Response(200, json={"namespace": "tests", "count": 0, "nodes": []})
        return httpx.Response(404, json={"detail": "Not Found"})

    with pytest.raises(RequestRefused, match="speaks only v0"):
        await StateManager("tests", transport=httpx.MockTransport(answer)).backup(tmp_path / "copy.db")
    assert not names(tmp_path)


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"x" * 5_000, b"<html>"])
async def test_a_backup_that_is_not_a_sound_database_is_not_kept(tmp_path: Path, content: bytes) -> None:
    manager = answering(backup_of(len(content), *([content] if content else [])))
    with pytest.raises(DatabaseError, match="not a sound database"):
        await manager.backup(tmp_path / "copy.db")
    assert not names(tmp_path)
