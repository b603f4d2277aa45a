"""What the database holds after a campaign."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from exotrio.graph import split_name
from tests.chaos.callers import NODES as CALLERS
from tests.chaos.graph import NAMESPACE
from tests.chaos.journal import key_of
from tests.support.postgres import Database


@dataclass(frozen=True, slots=True)
class State:
    """A row of the database."""

    id: str
    key: str
    identifier: str
    status: str
    outputs: dict[str, Any]
    data: str | None
    error: str | None
    worker: str | None
    sibling: bool

    @property
    def by(self) -> str | None:
        """The execution whose outcome is stored."""
        content = json.loads(self.data) if self.data else self.outputs
        return content.get("by")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in it.

    Attributes:
        states: By their public ids.
        of_callers: Ids of those of ``callers``, which are not among them.
        lost_leases: The state and its holder, for each lease that ended.
        problems: What should not be there.
    """

    states: dict[str, State] = field(default_factory=dict)
    of_callers: set[str] = field(default_factory=set)
    lost_leases: list[tuple[str, str | None]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_contents(folder: Path, database: Database | None) -> Contents:
    """Read the database, or without one the file in the folder."""
    contents = Contents()
    with _connection(folder, database, contents.problems) as connection:
        (meta,) = connection.execute("SELECT value FROM meta WHERE key = 'stamp'")
        stamp = meta["value"]
        rows = connection.execute(
            "SELECT states.*, nodes.name FROM states JOIN nodes ON nodes.id = states.node_id"
            f" WHERE nodes.namespace = '{NAMESPACE}'"
        )
        for row in rows:
            if row["name"] in CALLERS:
                contents.of_callers.add(_public_id(stamp, row["seq"]))
                continue
            state = _state(row, stamp)
            contents.states[state.id] = state
        for row in connection.execute("SELECT state FROM checkpoints"):
            contents.problems.append(f"state {_public_id(stamp, row['state'])} ended, and has a checkpoint")
        for row in connection.execute("SELECT state, worker FROM events WHERE kind = 'lease lost'"):
            if (state_id := _public_id(stamp, row["state"])) not in contents.of_callers:
                contents.lost_leases.append((state_id, row["worker"]))
    return contents


@contextmanager
def _connection(folder: Path, database: Database | None, problems: list[str]) -> Iterator[Any]:
    if database is not None:
        with psycopg.connect(database.url, row_factory=dict_row) as postgres:
            yield postgres
        return
    with closing(sqlite3.connect(f"file:{folder / 'state.db'}?mode=ro", uri=True)) as sqlite:
        sqlite.row_factory = sqlite3.Row
        (check,) = sqlite.execute("PRAGMA integrity_check").fetchone()
        if check != "ok":
            problems.append(f"the database is damaged: {check}")
        yield sqlite


def _public_id(stamp: str, seq: int) -> str:
    return f"{stamp}{seq:016x}"


def _state(row: Mapping[str, Any] | sqlite3.Row, stamp: str) -> State:
    name = split_name(row["name"].lower())[0]
    return State(
        id=_public_id(stamp, row["seq"]),
        key=key_of(name, json.loads(row["inputs"])),
        identifier=name,
        status=row["status"],
        outputs=json.loads(row["outputs"]),
        data=row["data"],
        error=row["error"],
        worker=row["worker"],
        sibling=row["claimed_at"] is None,
    )
