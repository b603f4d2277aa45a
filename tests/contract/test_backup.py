"""The backup of a state manager: a sound database with what was committed, for holders of the key only."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.target import Target
from tests.support.helpers import open_client, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")

BACKUP = "/exotrio/v1/backup"


def in_file(target: Target) -> None:
    """For what only a database of the state manager's own can do."""
    if target.is_on_postgres:
        pytest.skip("PostgreSQL's own programs make its backups")


async def test_on_postgresql_the_answer_says_what_makes_a_backup(target: Target, api: Api) -> None:
    if not target.is_on_postgres:
        pytest.skip("a database of the state manager's own")
    assert "pg_dump" in refused(await api.request("GET", BACKUP), 409)


async def test_a_backup_is_a_sound_database_with_what_was_committed(
    target: Target, api: Api, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    in_file(target)
    flow = await Flow.start(api, place("a"), secrets={"token": "secret-canary-4711"})
    response = await client.get(BACKUP)
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["content-type"] == "application/vnd.sqlite3"
    assert b"secret-canary-4711" not in response.content
    path = tmp_path / "copy.db"
    path.write_bytes(response.content)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT run_id FROM runs WHERE namespace = ?", (api.namespace,)).fetchall()
    assert rows == [(flow.run_id,)]


async def test_a_backup_may_be_made_again_and_again(target: Target, client: httpx.AsyncClient) -> None:
    in_file(target)
    for _ in range(3):
        assert (await client.get(BACKUP)).status_code == 200


async def test_without_the_key_there_is_no_backup(keyed: Target) -> None:
    async with open_client(url=keyed.url) as client_without_key:
        refused(await client_without_key.get(BACKUP), 401)
