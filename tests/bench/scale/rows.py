"""What requests, pages, a start, a backup and retention cost next to many states."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from exotrio import StateManager
from tests.bench.history import executed
from tests.bench.places import Where, server, working
from tests.bench.scale.place import Place, Row, memory, row, start_seconds
from tests.bench.work import FAN, KEY, NAMESPACE, ONE

RUN_STATES = 1_000
"""States of each finished run, besides the one from which they come."""
WAITING_RUN_STATES = 10_000
REPEATS = 20
BATCH = 16
RETENTION_SECONDS = 60.0


def rows(place: Place, options: argparse.Namespace) -> Iterator[Row]:
    with server(place.db) as (where, _):
        trio.run(_one_run, where)
    finished = max(options.finished // RUN_STATES, 1)
    waiting = max(options.waiting // WAITING_RUN_STATES, 1)
    begin = time.perf_counter()
    _fill(place, finished, RUN_STATES, is_finished=True)
    _fill(place, waiting, WAITING_RUN_STATES, is_finished=False)
    with place.connect() as execute:
        execute("ANALYZE")
    yield row("filling it", [time.perf_counter() - begin], "s")
    states = finished * (RUN_STATES + 1) + waiting * (WAITING_RUN_STATES + 1)
    yield row(f"{states:,} states, database, of each", [place.bytes() / states], "bytes")
    yield row("start, until it listens", [start_seconds(place) for _ in range(5)], "s")
    with server(place.db) as (where, pid):
        yield from trio.run(_requests, place, where, pid)
        yield row("memory of the state manager", [memory(pid)], "MiB")
        if place.postgres is None:
            begin = time.perf_counter()
            size = trio.run(_backup, where, Path(place.db).with_suffix(".copy"))
            yield row("backup", [time.perf_counter() - begin], "s")
            yield row("its size", [size / 2**20], "MiB")
    with server(place.db, "--keep", "1h") as (where, pid):
        yield from trio.run(_retention, place, where)


def _fill(place: Place, runs: int, states: int, *, is_finished: bool) -> None:
    """Copy the only run by SQL: to run so many states takes hours."""
    with place.connect() as execute:
        columns = {
            table: [each[0] for each in execute(f"SELECT * FROM {table} LIMIT 0").description]
            for table in ("runs", "states", "counts")
        }
        execute("DROP TABLE IF EXISTS numbers")
        execute("CREATE TABLE numbers (i INTEGER PRIMARY KEY)")
        execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
            f"{max(runs, states)}) INSERT INTO numbers SELECT i FROM n"
        )
        (newest,) = execute("SELECT max(id) FROM runs").fetchone()
        (model,) = execute("SELECT min(id) FROM runs").fetchone()
        ended = 1_000_000_000_000  # in the past: retention finds it
        key = "lpad(CAST(i AS TEXT), 24, '0')" if place.postgres else "printf('%024d', i)"
        changed = {
            "run_id": f"'{'f' if is_finished else 'e'}' || substr({key}, 2)",
            "success": str(states + 1 if is_finished else 1),
            "pending": "0" if is_finished else str(states),
            "finished_at": f"{ended} + i" if is_finished else "NULL",
            "created_at": f"{ended} + i" if is_finished else "created_at",
        }
        names, values = _copied(columns["runs"], changed, without="id")
        execute(
            f"INSERT INTO runs ({names}) SELECT {values} FROM runs, numbers"
            f" WHERE id = {model} AND i <= {runs} ORDER BY i"
        )
        names, values = _copied(columns["counts"], {"run": "r.id"}, table="c")
        execute(
            f"INSERT INTO counts ({names}) SELECT {values} FROM counts c, runs r"
            f" WHERE c.run = {model} AND r.id > {newest}"
        )
        field = "success" if is_finished else "pending"
        execute(f"UPDATE counts SET success = 0 WHERE place = 1 AND run > {newest}")
        execute(f"UPDATE counts SET {field} = {states} WHERE place = 1 AND run > {newest}")
        names, values = _copied(columns["states"], {"run": "r.id"}, without="seq", table="s")
        execute(
            f"INSERT INTO states ({names}) SELECT {values} FROM states s, runs r"
            f" WHERE s.run = {model} AND s.place = 0 AND r.id > {newest}"
        )
        changed = {
            "run": "p.run",
            "parent": "p.seq",
            "status": "'SUCCESS'" if is_finished else "'CREATED'",
            "enqueue_after": "s.enqueue_after" if is_finished else "0",
            "finished_at": "s.finished_at" if is_finished else "NULL",
        }
        names, values = _copied(columns["states"], changed, without="seq", table="s")
        for first in range(newest, newest + runs, 100):
            execute(
                f"INSERT INTO states ({names}) SELECT {values} FROM states s, states p, numbers"
                f" WHERE s.run = {model} AND s.place = 1 AND p.place = 0 AND i <= {states}"
                f" AND p.run > {first} AND p.run <= {min(first + 100, newest + runs)} ORDER BY p.run, i"
            )
        execute("DROP TABLE numbers")


def _copied(
    columns: list[str], changed: dict[str, str], without: str = "", table: str = ""
) -> tuple[str, str]:
    """Return the columns of an INSERT, and what a SELECT puts into them."""
    kept = [column for column in columns if column != without]
    prefix = f"{table}." if table else ""
    return ", ".join(kept), ", ".join(changed.get(column, prefix + column) for column in kept)


async def _one_run(where: Where) -> None:
    async with working(where, FAN, ONE) as manager:
        run = await manager.trigger(FAN.name, inputs={"n": "1"})
        await manager.wait(run["run_id"])


async def _requests(place: Place, where: Where, pid: int) -> list[Row]:
    with place.connect() as execute:
        newest = "SELECT run_id FROM runs WHERE run_id LIKE '{}000%' ORDER BY id DESC LIMIT 1"
        small, large = (execute(newest.format(letter)).fetchone()[0] for letter in "fe")
    api = f"/exotrio/v1/namespace/{NAMESPACE}"
    async with httpx.AsyncClient(
        base_url=where["state_manager_uri"], headers={"x-api-key": KEY}, timeout=600, follow_redirects=False
    ) as client:
        signed_in = await client.post(
            "/sign-in", data={"key": KEY}, headers={"origin": where["state_manager_uri"]}
        )
        assert signed_in.status_code == 303

        async def claim_and_report(number: int) -> None:
            body = {
                "worker_id": "bench",
                "limits": {"Step": BATCH},
                "limit": BATCH,
                "claim_id": f"scale {number}",
            }
            reply = (await client.post(f"{api}/claim", json=body)).raise_for_status()
            items = [executed(state, []) for state in reply.json()["states"]]
            assert len(items) == BATCH
            (await client.post(f"{api}/outcomes", json=items)).raise_for_status()

        async def get(path: str, _: int) -> None:
            (await client.get(path)).raise_for_status()

        measured: list[Row] = []

        async def measure(name: str, ask: Callable[[int], Awaitable[Any]]) -> None:
            walls, used = [], []
            for number in range(REPEATS):
                begin, cpu = time.perf_counter(), place.cpu_seconds(pid)
                await ask(number)
                walls.append((time.perf_counter() - begin) * 1000)
                used.append((place.cpu_seconds(pid) - cpu) * 1000)
            measured.append(row(name, walls, "ms"))
            measured.append(row(f"{name}: processor time", used, "ms"))

        await measure(f"claim and outcomes of {BATCH}", claim_and_report)
        async with StateManager(NAMESPACE, **where) as manager:
            await measure("trigger", lambda _: manager.trigger(ONE.name, inputs={"i": "1"}))
        pages = f"/ns/{NAMESPACE}"
        for name, path in {
            "overview": pages,
            "page of runs": f"{pages}/runs",
            "page of a finished run": f"{pages}/runs/{small}",
            f"page of a run with {WAITING_RUN_STATES:,} waiting states": f"{pages}/runs/{large}",
            "page of nodes": f"{pages}/nodes",
            "metrics": "/metrics",
        }.items():
            await measure(name, partial(get, path))
    return measured


async def _backup(where: Where, path: Path) -> int:
    async with StateManager(NAMESPACE, **where) as manager:
        return await manager.backup(path)


async def _retention(place: Place, where: Where) -> list[Row]:
    """A state manager deletes the finished runs; a client claims meanwhile."""
    with place.connect() as execute:

        def left() -> bool:
            ended = execute("SELECT 1 FROM runs WHERE run_id LIKE 'f000%' LIMIT 1").fetchone()
            return bool(ended or execute("SELECT 1 FROM discarded LIMIT 1").fetchone())

        walls: list[float] = []
        begin = time.perf_counter()
        async with httpx.AsyncClient(
            base_url=where["state_manager_uri"], headers={"x-api-key": KEY}, timeout=600
        ) as client:
            (first,) = execute("SELECT count(*) FROM states").fetchone()
            while time.perf_counter() - begin < RETENTION_SECONDS and left():
                asked = time.perf_counter()
                body = {"worker_id": "bench", "limits": {"Step": 1}, "limit": 1, "claim_id": f"{len(walls)}"}
                path = f"/exotrio/v1/namespace/{NAMESPACE}/claim"
                (await client.post(path, json=body)).raise_for_status()
                walls.append((time.perf_counter() - asked) * 1000)
                await trio.sleep(0.5)
            seconds = time.perf_counter() - begin
            (last,) = execute("SELECT count(*) FROM states").fetchone()
    return [
        row("retention, states deleted", [(first - last) / seconds], "per s"),
        row("claims meanwhile", walls, "ms"),
    ]
