"""What the tests of the state manager share: a service with its API, and a recount of its counters."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from exotrio._shared.settings import Settings
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.engine.workers import ClaimsKept
from exotrio.manager.queries.state_detail import chain
from exotrio.manager.security.access import local
from exotrio.manager.service import WaitingClaims
from exotrio.manager.store.clock import wall_clock
from exotrio.manager.store.tallies import RUN, WIDTHS, bucket_of
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support import postgres
from tests.support.helpers import SettableClock, node_name, ok, open_client, place
from tests.support.processes import Process

KEY = "manager-suite-key-77d1"
NO_SETTINGS = Settings()
WAITS_FOR_THREAD = 100.0


@dataclass(frozen=True)
class Manager:
    """A state manager without a socket.

    Attributes:
        api: In process, as an embedded runtime sees it.
        remote: As a client in another process sees it.
    """

    service: Service
    api: Api
    remote: Api


@asynccontextmanager
async def open_manager(
    db: str | Path = ":memory:",
    *,
    clock: Callable[[], int] = wall_clock,
    keep_ms: int | None = None,
    settings: Settings = NO_SETTINGS,
    **options: Any,
) -> AsyncIterator[Manager]:
    async with (
        open_service(db, clock=clock, keep_ms=keep_ms, settings=settings, **options) as service,
        apis_of(service) as manager,
    ):
        yield manager


@asynccontextmanager
async def open_second(manager: Manager) -> AsyncIterator[Manager]:
    """Open another state manager on the database of this one: it shares nothing else with it."""
    service = replace(manager.service, claims_kept=ClaimsKept(), waiting=WaitingClaims())
    async with apis_of(service) as second:
        yield second


ENGINES = ("SQLite", "PostgreSQL")
both_engines = pytest.mark.parametrize("engine", ENGINES)
"""For tests of what the engines may do differently: of each statement and lock at least one.

A test on PostgreSQL takes eight times as long, and the rules of the state manager do not know the engine.
Other tests run on SQLite only.
"""


@asynccontextmanager
async def open_two(engine: str, **options: Any) -> AsyncIterator[tuple[Manager, Manager]]:
    """Open two state managers on one database, which is in memory on SQLite."""
    if engine == "SQLite":
        async with open_manager(**options) as manager, open_second(manager) as second:
            yield manager, second
        return
    with postgres.database() as database:
        async with (
            open_manager(database.url, **options) as manager,
            open_manager(database.url, **options) as second,
        ):
            yield manager, second


@asynccontextmanager
async def apis_of(service: Service) -> AsyncIterator[Manager]:
    inside = embedded_in(service)
    outside = httpx.ASGITransport(create_app(service, key=KEY), raise_app_exceptions=False)
    async with open_client(transport=inside) as client, open_client(transport=outside, key=KEY) as other:
        yield Manager(service, Api(client, "tests"), Api(other, "tests"))


def embedded_in(service: Service) -> httpx.ASGITransport:
    """Return a transport to a service, as ``exotrio.manager.embedded`` gives it."""
    return httpx.ASGITransport(local(create_app(service, key=KEY)), raise_app_exceptions=False)


async def tallied(service: Service, clock: SettableClock) -> None:
    """Let what ended be counted: the store writes that with a commit of the next second."""
    clock.advance(1_000)
    await service.store.write(lambda tx: None)


async def refuse_states(manager: Manager) -> None:
    """Let each change of a state fail in the database, as on a full disk."""
    await manager.service.store.write(
        lambda tx: tx.execute(
            "CREATE TEMP TRIGGER no BEFORE UPDATE ON main.states BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )


async def take_states(manager: Manager) -> None:
    """Let the database accept them again."""
    await manager.service.store.write(lambda tx: tx.execute("DROP TRIGGER no"))


async def with_history(api: Api, finished: int) -> Flow:
    """Return a graph with a run that ended with so many states, and one that waits."""
    flow = await Flow.start(api, place("t", "b"), place("b"))
    await flow.run("t", *({"v": "1"} for _ in range(finished)))
    for claimed in ok(await api.claim([node_name("b")], finished))["states"]:
        ok(await api.prune(claimed["state_id"]))
    await flow.trigger()
    return flow


class Gate:
    """Holds up the thread that runs a use case or query, until the block ends or ``open`` is called."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def hold(self, *_: Any) -> None:
        """Be a use case, or part of one: wait here."""
        self._entered.set()
        assert self._opened.wait(WAITS_FOR_THREAD)

    def wait_entered(self) -> None:
        """Wait, in a thread, until a thread is held up."""
        assert self._entered.wait(WAITS_FOR_THREAD)

    def open(self) -> None:
        self._opened.set()


@contextmanager
def gate() -> Iterator[Gate]:
    held = Gate()
    try:
        yield held
    finally:
        held.open()


@asynccontextmanager
async def held_up(
    run: Callable[..., Awaitable[Any]], use_case: Callable[..., Any] | None = None
) -> AsyncIterator[trio.Nursery]:
    """Begin the block when a use case or a query is held up, and let it go on when the block ends.

    Args:
        run: The method of a store that runs it.
        use_case: Calls ``hold()`` of its keyword argument ``held``; by default it does nothing else.

    Yields:
        A nursery for others whose end is waited for, too.
    """
    with gate() as held:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, partial(use_case, held=held) if use_case else held.hold)
            try:
                await trio.to_thread.run_sync(held.wait_entered)
                yield nursery
            finally:
                held.open()


def running(script: str, db: Path) -> Process:
    """Run a script over a database in another process, which is killed in the end."""
    return Process([sys.executable, "-c", script, str(db)], cwd=db.parent)


# -- the counters, counted again


def recount(view: View) -> None:
    """Check every counter and index table against the states, walking every chain."""
    states = [dict(row) for row in view.execute("SELECT * FROM states ORDER BY seq")]
    runs = {row["id"]: dict(row) for row in view.execute("SELECT * FROM runs")}
    by_seq = {state["seq"]: state for state in states}
    counts: Counter[tuple[int, int, str]] = Counter()
    totals: Counter[tuple[int, str]] = Counter()
    groups: Counter[tuple[int, int, str]] = Counter()
    members: dict[tuple[int, int, bytes], int] = {}
    for state in states:
        run = runs[state["run"]]
        template = view.template(run["template"])
        status = state["status"]
        counts[state["run"], state["place"], COUNTS.get(status, "pending")] += 1
        totals[state["run"], TOTALS[status]] += 1
        if state["parent"] is not None:
            above_it = by_seq[state["parent"]]["status"]
            assert above_it == "SUCCESS" or {above_it, status} == {"RETRY_CREATED"}, f"{state} hangs wrongly"
        for above in chain(view, state["parent"]):
            place = template.places[above["place"]]
            if place.target and run["cancelled_at"] is None and status in STANDINGS:
                groups[above["seq"], state["place"], STANDINGS[status]] += 1
            if place.target and status == "SUCCESS" and state["place"] in template.aggregated[place.index]:
                members[above["seq"], state["place"], state["path"]] = state["seq"]
    assert _table(view, "counts", ("run", "place"), ("pending", *COUNTS.values())) == counts

    def was_claimed(state: dict[str, Any]) -> bool:
        """Whether the state ran, or the attempt whose outputs it has."""
        earlier = by_seq.get(state["retry_of"])
        return state["claimed_at"] is not None or (earlier is not None and was_claimed(earlier))

    further = Counter(
        (state["run"], state["place"], "further")
        for state in states
        if state["status"] == "SUCCESS" and not was_claimed(state)
    )
    # Those of earlier versions were not counted.
    assert _table(view, "counts", ("run", "place"), ("further",)) <= further
    for (key,) in view.execute("SELECT key FROM meta WHERE key LIKE 'retry %'").fetchall():
        totals[int(key.split()[-1]), "pending"] += 1  # a retry in portions holds its run
    assert _table(view, "runs", ("id",), ("pending", "success", "errored", "retried")) == totals
    cancelled = {state["seq"] for state in states if runs[state["run"]]["cancelled_at"] is not None}
    counted = _table(view, "unite_counters", ("target_state", "place"), ("pending", "failed", "succeeded"))
    assert {key: n for key, n in counted.items() if key[0] not in cancelled} == groups
    assert {
        (row["target_state"], row["place"], row["path"]): row["state"]
        for row in view.execute("SELECT * FROM unite_members")
    } == (members)
    sizes = {row["state"]: len(row["value"].encode()) for row in view.execute("SELECT * FROM checkpoints")}
    assert {seq: size for seq, state in by_seq.items() if (size := state["checkpoint_size"])} == sizes
    assert not {by_seq[seq]["status"] for seq in sizes} & {"SUCCESS", "NEXT_CREATED_ERROR", "PRUNED"}
    for number, run in runs.items():
        pending = totals[number, "pending"]
        assert (run["finished_at"] is None) == (pending > 0), f"{pending} pending, finished_at {run}"
    first = Counter(
        (state["parent"], state["place"])
        for state in states
        if state["united"] == 1 and not state["retry_count"] and state["manual_fanout_id"] is None
    )
    assert all(times == 1 for times in first.values()), "a united node ran twice for one group"


def recount_ended_runs(view: View) -> None:
    """Check that trends count each run that ended once, with its status and the time that it took."""
    ended: Counter[tuple[str, int]] = Counter()
    for run in view.execute("SELECT * FROM runs WHERE pending = 0").fetchall():
        idle = sum(
            until - since
            for since, until in view.execute(
                "SELECT since, until FROM idle_times WHERE run = ?", (run["id"],)
            )
        )
        status = "ERRORED" if run["errored"] else "SUCCESS"
        took_ms = run["finished_at"] - run["created_at"] - idle
        ended["CANCELLED" if run["cancelled_at"] else status, bucket_of(took_ms)] += 1
    for width in WIDTHS:
        counted: Counter[tuple[str, int]] = Counter()
        for status, bucket, count in view.execute(
            "SELECT status, bucket, sum(count) FROM trends WHERE node_id = ? AND width = ?"
            " GROUP BY slot, status, bucket HAVING sum(count) <> 0",
            (RUN, width),
        ):
            assert count > 0
            counted[status, bucket] += count
        assert counted == ended, f"in slots of {width} minutes"


COUNTS = {
    status: status.lower()
    for status in ("SUCCESS", "PRUNED", "ERRORED", "NEXT_CREATED_ERROR", "RETRY_CREATED")
}
TOTALS = {
    "CREATED": "pending",
    "QUEUED": "pending",
    "EXECUTED": "pending",
    "SUCCESS": "success",
    "PRUNED": "success",
    "ERRORED": "errored",
    "NEXT_CREATED_ERROR": "errored",
    "RETRY_CREATED": "retried",
}
STANDINGS = {
    "CREATED": "pending",
    "QUEUED": "pending",
    "EXECUTED": "pending",
    "ERRORED": "failed",
    "NEXT_CREATED_ERROR": "failed",
    "SUCCESS": "succeeded",
}


def _table(view: View, table: str, keys: tuple[str, ...], columns: tuple[str, ...]) -> Counter[Any]:
    return Counter(
        {
            (*(row[key] for key in keys), column): row[column]
            for row in view.execute(f"SELECT * FROM {table}")
            for column in columns
            if row[column]
        }
    )
