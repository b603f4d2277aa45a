"""PostgreSQL while something is in its way: throughput and claims, each next to those without it."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from secrets import token_hex
from typing import Any

import httpx
import psycopg
import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.history import executed
from tests.bench.limits import NO_TLS
from tests.bench.places import Where, server, working
from tests.bench.throughput import fan_out
from tests.bench.work import FAN, NAMESPACE
from tests.support.postgres import Database, database

BATCH = 16
BEFORE = 3
"""Fan-outs before the one that is measured: what is in the way gets worse by the states that pass."""
READERS = 2
SCAN = "count(*) FROM states WHERE error LIKE '%scanned%'"
COMPUTE = "count(*) FROM generate_series(1, 20000) AS i WHERE i::text LIKE '%scanned%'"
"""Takes about as long as a scan, and touches no table."""
NOTE = (
    f"{READERS} readers take {READERS} cores, whatever they read; this is what their scans cost in addition"
)


def pressure(plan: Plan) -> Iterator[Sample]:
    """States per second and the time of a claim, next to each thing that is in the way."""
    rate, claim = _measure(plan, lambda used: nullcontext())
    yield Sample("states over TCP, PostgreSQL, nothing in the way", rate, "states/s")
    yield Sample(f"claim of {BATCH}, PostgreSQL, nothing in the way, p50", claim * 1000, "ms")
    finished = plan.histories[-1]
    computing, scanning = "readers that only compute", "readers that scan states"
    measured = {}
    for name, in_the_way in (
        ("an open snapshot", _snapshot),
        (computing, lambda used: _readers(used, COMPUTE)),
        (scanning, lambda used: _readers(used, SCAN)),
        (f"{finished:,} finished states", lambda used: _finished(used, finished)),
        ("autovacuum off", _no_autovacuum),
    ):
        rate_there, claim_there = measured[name] = _measure(plan, in_the_way)
        # Who only computes says what the machine has left, which is nothing that a database could reach.
        min_goal, max_goal = (None, None) if name == computing else (0.7, 1.5)
        yield Sample(f"states over TCP, PostgreSQL, {name}", rate_there, "states/s")
        yield Sample(f"states/s, {name} over nothing", rate_there / rate, "x", min_goal=min_goal)
        yield Sample(f"claim of {BATCH}, {name} over nothing", claim_there / claim, "x", max_goal=max_goal)
    (rate, claim), (rate_there, claim_there) = measured[computing], measured[scanning]
    yield Sample(f"states/s, {scanning} over {computing}", rate_there / rate, "x", min_goal=0.7, note=NOTE)
    yield Sample(f"claim of {BATCH}, {scanning} over {computing}", claim_there / claim, "x", max_goal=1.5)


def _measure(
    plan: Plan, in_the_way: Callable[[Database], AbstractContextManager[object]]
) -> tuple[float, float]:
    """Return the states per second, and the seconds of a claim."""
    with database() as used, server(used.url) as (where, _):
        trio.run(_states, where, [1])
        with in_the_way(used):
            rates = trio.run(_states, where, [plan.states] * (BEFORE + 1))
            return rates[-1], trio.run(_claim_seconds, where, plan.claims)


async def _states(where: Where, fans: Sequence[int]) -> list[float]:
    async with working(where, FAN, batch_size=BATCH) as manager:
        return [await fan_out(manager, states) for states in fans]


async def _claim_seconds(where: Where, claims: int) -> float:
    """Return the median seconds of a claim, while nothing else happens."""
    async with (
        StateManager(NAMESPACE, **where) as manager,
        httpx.AsyncClient(
            base_url=f"{where['state_manager_uri']}/exotrio/v1/namespace/{NAMESPACE}/",
            headers={"x-api-key": where["key"]},
            verify=NO_TLS,
            trust_env=False,
        ) as client,
    ):
        await manager.trigger(FAN.name)
        fan, _ = await _claim(client, "Fan", 1)
        await client.post("outcomes", json=[executed(fan[0], [{"i": "1"}] * (claims * BATCH))])
        timed = [await _claim(client, "Step", BATCH) for _ in range(claims)]
    assert all(len(states) == BATCH for states, _ in timed)
    return statistics.median(seconds for _, seconds in timed)


async def _claim(client: httpx.AsyncClient, node: str, limit: int) -> tuple[list[Any], float]:
    """Return the states that a claim takes, and its seconds."""
    body = {"worker_id": "bench", "limits": {node: limit}, "limit": limit, "claim_id": token_hex(8)}
    begin = time.perf_counter()
    reply = await client.post("claim", json=body)
    seconds = time.perf_counter() - begin
    return reply.raise_for_status().json()["states"], seconds


@contextmanager
def _snapshot(used: Database) -> Iterator[None]:
    """A session is idle in a transaction: no row that was replaced since can be cleared away."""
    with psycopg.connect(used.url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM states")
        yield


@contextmanager
def _readers(used: Database, query: str) -> Iterator[None]:
    """Sessions repeat one query: in the server, since this process has the runtime."""

    def ask(connection: psycopg.Connection) -> None:
        with suppress(psycopg.Error):  # it ends with its session
            connection.execute(f"DO $$ BEGIN LOOP PERFORM {query}; COMMIT; END LOOP; END $$".encode())

    connections = [psycopg.connect(used.url, autocommit=True) for _ in range(READERS)]
    threads = [threading.Thread(target=ask, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        used.terminate(*(connection.info.backend_pid for connection in connections))
        for thread, connection in zip(threads, connections, strict=True):
            thread.join()
            connection.close()


@contextmanager
def _finished(used: Database, states: int) -> Iterator[None]:
    """There is a history, copied in by SQL: running a million takes minutes."""
    with closing(psycopg.connect(used.url, autocommit=True)) as connection:
        connection.execute(
            "INSERT INTO states (run, place, node_id, status, inputs, outputs, parent, path, enqueue_after,"
            " created_at, updated_at, claimed_at, finished_at)"
            " SELECT run, place, node_id, status, inputs, outputs, parent, path, enqueue_after,"
            " created_at, updated_at, claimed_at, finished_at"
            " FROM generate_series(1, %s), (SELECT * FROM states WHERE status = 'SUCCESS' AND place = 1"
            " LIMIT 1) AS one",
            (states,),
        )
        connection.execute("VACUUM ANALYZE states")
    yield


@contextmanager
def _no_autovacuum(used: Database) -> Iterator[None]:
    for (table,) in used.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    ):
        used.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    yield
