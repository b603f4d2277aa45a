"""A database of an earlier version becomes one of the present version when it is opened, or is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from exotrio.errors import DatabaseError, DatabaseTooNew
from exotrio.manager.store import schema
from exotrio.manager.store.sqlite import database
from tests.support.manager import open_manager

STEPS = {
    1: "CREATE TABLE later (value TEXT); INSERT INTO later VALUES ('first');",
    2: "ALTER TABLE later ADD COLUMN more TEXT; UPDATE later SET more = 'second';",
}


def rows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT value, more FROM later").fetchall()


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return found


async def opened(path: Path) -> None:
    async with open_manager(path):
        pass


@pytest.fixture
async def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of version 1, opened from now on by an exotrio that knows version 3."""
    path = tmp_path / "state.db"
    await opened(path)
    assert version(path) == schema.VERSION
    monkeypatch.setattr(database, "VERSION", schema.VERSION + 2)
    for step, sql in STEPS.items():
        monkeypatch.setitem(schema.MIGRATIONS, schema.VERSION - 1 + step, sql)
    return path


async def test_every_step_runs_once(first: Path) -> None:
    for _ in range(2):
        await opened(first)
        assert (version(first), rows(first)) == (schema.VERSION + 2, [("first", "second")])


async def test_a_step_that_breaks_off_leaves_the_file_at_the_version_before(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(schema.MIGRATIONS, schema.VERSION + 1, STEPS[2] + "SELECT * FROM no_such_table;")
        with pytest.raises(DatabaseError, match="no_such_table"):
            await opened(first)
    assert version(first) == schema.VERSION + 1
    await opened(first)
    assert rows(first) == [("first", "second")]


async def test_an_earlier_exotrio_refuses_what_a_later_one_wrote(
    first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(first)
    monkeypatch.setattr(database, "VERSION", schema.VERSION)
    with pytest.raises(DatabaseTooNew, match="upgrade exotrio"):
        await opened(first)


async def test_a_file_from_before_the_first_release_is_refused_and_the_error_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    await opened(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA application_id = {database.UNRELEASED_ID}")
        connection.execute("PRAGMA user_version = 5")
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="before the first release") as caught:
        await opened(path)
    assert "move it away" in str(caught.value)
    assert "--db FILE" in str(caught.value)
    assert path.read_bytes() == before
