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
from tests.chaos.user_graphs import NAMES as USERS
from tests.chaos.user_graphs import work_of
from tests.support.postgres import Database

OTHERS = USERS | {name.lower() for name in CALLERS}
"""Names of nodes in lower case."""


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
        of_others: Those of ``callers`` and ``users``, which are not among them: their ids, and what the
            journal of ``users`` calls the work.
        lost_leases: The state and its holder, for each lease that ended.
        lost_by_others: The work and its process, of those others.
        problems: What should not be there.
    """

    states: dict[str, State] = field(default_factory=dict)
    of_others: dict[str, str] = field(default_factory=dict)
    lost_leases: list[tuple[str, str | None]] = field(default_factory=list)
    lost_by_others: list[tuple[str, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_contents(folder: Path, database: Database | None) -> Contents:
    """Read the database, or without one the file in the folder."""
    contents = Contents()
    with _connection(folder, database, contents.problems) as connection:
        (meta,) = connection.execute("SELECT value FROM meta WHERE key = 'stamp'")
        stamp = meta["value"]
        rows = connection.execute(
            "SELECT states.*, nodes.name, runs.run_id FROM states JOIN nodes ON nodes.id = states.node_id"
            " JOIN runs ON runs.id = states.run"
            f" WHERE nodes.namespace = '{NAMESPACE}'"
        )
        for row in rows:
            if split_name(row["name"].lower())[0] in OTHERS:
                inputs = json.loads(row["inputs"])
                node = split_name(row["name"])[0]
                contents.of_others[_public_id(stamp, row["seq"])] = work_of(row["run_id"], node, inputs)
                continue
            state = _state(row, stamp)
            contents.states[state.id] = state
        for row in connection.execute("SELECT state FROM checkpoints"):
            contents.problems.append(f"state {_public_id(stamp, row['state'])} ended, and has a checkpoint")
        for row in connection.execute("SELECT state, worker FROM events WHERE kind = 'lease lost'"):
            if (state_id := _public_id(stamp, row["state"])) not in contents.of_others:
                contents.lost_leases.append((state_id, row["worker"]))
            elif row["worker"] is not None:
                pid = int(row["worker"].split(":")[-2])
                contents.lost_by_others.append((contents.of_others[state_id], pid))
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
