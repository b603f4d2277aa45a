"""Who owns a database file, what it lets others see, and which files are refused."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exotrio import DatabaseBusy, DatabaseError, DatabaseTooNew
from exotrio.manager.store.schema import VERSION
from exotrio.manager.store.sqlite.store import open_store
from exotrio.manager.store.transaction import Transaction
from tests.support.manager import open_manager, running
from tests.support.processes import Process
from tests.support.stores import keys, put

OWNER = """
import sys, trio
from exotrio.manager.store.sqlite.store import open_store

async def main():
    async with open_store(sys.argv[1]):
        print("owned", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def owner(path: Path) -> Iterator[Process]:
    """Own a database in another process."""
    with running(OWNER, path) as process:
        process.line("owned")
        yield process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def content(path: Path) -> bytes:
    return path.read_bytes()


def fill(path: Path, text: bytes) -> None:
    path.write_bytes(text)


async def make(path: Path, *names: str) -> None:
    async with open_store(path) as store:
        for name in names:
            await store.write(put, name)


async def refusal(path: Path, kind: type[DatabaseError]) -> str:
    with pytest.raises(kind) as caught:
        async with open_store(path):
            pass
    assert type(caught.value) is kind
    return str(caught.value)


# -- durability


async def test_each_commit_is_synced_whatever_sqlite_was_built_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lax(sqlite3.Connection):
        """As builds of SQLite are that do not sync a commit in WAL mode unless they are told to."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.execute("PRAGMA synchronous = NORMAL")

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Lax))
    async with open_store(path) as store:
        await store.write(put, "made")
        assert await store.write(pragma, "synchronous") == FULL
        assert await store.write(pragma, "journal_mode") == "wal"


FULL = 2


def pragma(tx: Transaction, name: str) -> object:
    return tx.execute(f"PRAGMA {name}").fetchone()[0]


# -- ownership


async def test_a_second_store_in_the_same_process_is_refused(path: Path) -> None:
    async with open_store(path):
        message = await refusal(path, DatabaseBusy)
    assert f"in use by process {os.getpid()}" in message
    assert "--db FILE" in message
    await make(path, "free again")


async def test_two_names_of_one_file_are_one_database(path: Path) -> None:
    await make(path)
    other = path.with_name("link.db")
    other.symlink_to(path)
    async with open_store(path):
        await refusal(other, DatabaseBusy)


async def test_a_database_owned_by_another_process_is_refused_until_that_is_killed(path: Path) -> None:
    with owner(path) as process:
        assert f"in use by process {process.pid}" in await refusal(path, DatabaseBusy)
        process.kill()
        await make(path, "after the kill")


async def test_two_databases_may_be_open_at_once(path: Path) -> None:
    async with open_store(path) as one, open_store(path.with_name("other.db")) as two:
        await one.write(put, "one")
        await two.write(put, "two")
        assert (await one.read(keys), await two.read(keys)) == (["one"], ["two"])


# -- files


async def test_only_their_owner_may_read_the_folder_and_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    before = os.umask(0)
    try:
        async with open_manager(folder / "state.db") as manager:
            await manager.api.nodes()
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {"state.db", "state.db.lock", "state.db.secrets-key", "state.db-wal"} <= set(modes)
    assert set(modes.values()) == {0o600}, modes


async def test_a_sqlite_file_of_another_program_is_refused_and_stays_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
    before = content(path)
    assert "was not made by exotrio" in await refusal(path, DatabaseError)
    # WAL mode, for one, is written into the file.
    assert content(path) == before


async def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(path: Path) -> None:
    text = b"not a database at all\n" * 100
    fill(path, text)
    for _ in range(2):  # its lock is free again after a refusal
        assert "not a database" in await refusal(path, DatabaseError)
    assert content(path) == text


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    fill(path, b"")
    await make(path, "a")


async def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    await make(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    message = await refusal(path, DatabaseTooNew)
    assert f"schema {VERSION + 1}" in message
    assert "upgrade exotrio" in message


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = await refusal(tmp_path / "file" / "state.db", DatabaseError)
    assert str(tmp_path / "file" / "state.db") in message


async def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "cannot be opened" in await refusal(tmp_path / "folder", DatabaseError)
    assert os.listdir(tmp_path) == ["folder"], "no lock is made next to it"
