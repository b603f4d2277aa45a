"""What those who operate a state manager ask it: probes, metrics, the tasks of a worker."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio import DatabaseError
from exotrio.graph import pinned_name
from exotrio.manager import Service, create_app, open_service, serve
from exotrio.manager.api import metrics, operations
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.queries.load import MAX_COUNTED, backlog
from exotrio.manager.security.access import local
from exotrio.manager.store.sqlite.database import truncate_log
from exotrio.manager.store.sqlite.store import WRITABLE_FOR
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, SettableClock, declare, node_name, ok, open_client, place, refused
from tests.support.manager import (
    KEY,
    NO_SETTINGS,
    held_up,
    open_manager,
    running,
)
from tests.support.query_plans import connection_of, planned, refuses_scans
from tests.support.scrapes import labels_in, values_in
from tests.support.stores import put


@dataclass(frozen=True)
class Operated:
    """A state manager with metrics."""

    service: Service
    api: Api
    outside: httpx.AsyncClient

    async def values(self) -> dict[str, float]:
        """Return what a scrape shows, as ``name{label="value"}`` to value."""
        answer = await self.outside.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return values_in(answer.text)


@asynccontextmanager
async def operated(
    db: str | Path = ":memory:", *, open_metrics: bool = False, key: str | None = KEY, **options: Any
) -> AsyncIterator[Operated]:
    async with open_service(db, settings=NO_SETTINGS, **options) as service:
        metrics = ManagerMetrics(service.store, lambda: 3)
        app = create_app(service, key=KEY, metrics=metrics, open_metrics=open_metrics)
        inside = httpx.ASGITransport(local(app), raise_app_exceptions=False)
        outside = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            open_client(transport=inside) as client,
            open_client(transport=outside, key=key) as other,
        ):
            yield Operated(service, Api(client, "tests"), other)


@pytest.fixture
async def manager() -> AsyncIterator[Operated]:
    async with operated() as opened:
        yield opened


CRON = [{"type": "CRON", "value": {"expression": "0 0 * * *"}}]


def state(name: str, status: str) -> str:
    return f'exotrio_manager_states{{namespace="tests",node="{node_name(name)}",status="{status}"}}'


# -- who may ask


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
async def test_probes_need_no_key(path: str) -> None:
    async with operated(key=None) as manager:
        assert (await manager.outside.get(path)).status_code == 200
        assert (await manager.outside.head(path)).status_code == 200
        assert (await manager.outside.post(path)).status_code == 405


@pytest.mark.parametrize(
    ("key", "open_metrics", "status"),
    [(None, False, 401), ("wrong", False, 401), (KEY, False, 200), (None, True, 200)],
)
async def test_metrics_require_the_key_unless_they_are_open(
    key: str | None, open_metrics: bool, status: int
) -> None:
    async with operated(key=key, open_metrics=open_metrics) as manager:
        assert (await manager.outside.get("/metrics")).status_code == status
        assert (await manager.outside.get("/v0/namespaces")).status_code == (200 if key == KEY else 401)


async def test_a_separate_port_for_metrics_serves_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="exotrio.manager")
    async with trio.open_nursery() as nursery:
        run = partial(serve, port=0, metrics_port=0, db=":memory:", key=KEY, grace=0.1)
        (url,) = await nursery.start(run)
        (line,) = [text for text in caplog.messages if text.startswith("metrics are served on ")]
        apart = line.removeprefix("metrics are served on ")
        async with open_client(url=apart) as client:
            for path in ("/metrics", "/livez", "/readyz"):
                assert (await client.get(path)).status_code == 200
            refused(await client.get("/v0/namespaces"), 401)
            refused(await client.get("/v0/namespaces", headers={"x-api-key": KEY}), 404)
            refused(await client.get("/metrics", headers={"host": "a-page.example"}), 421)
        async with open_client(url=url) as client:
            refused(await client.get("/metrics"), 401)
        nursery.cancel_scope.cancel()


async def test_an_embedded_state_manager_has_no_metrics() -> None:
    async with open_manager() as embedded:
        assert (await embedded.remote.request("GET", "/metrics")).status_code == 404


# -- readiness


async def test_a_database_without_writes_ends_readiness_but_not_liveness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MAX_WRITE", 0.1)
    async with operated(tmp_path / "state.db") as manager, held_up(manager.service.store.write):
        answer = await manager.outside.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "a write did not end within 0.1 s\n")
        assert (await manager.outside.get("/livez")).status_code == 200


@asynccontextmanager
async def broken(manager: Operated) -> AsyncIterator[None]:
    """Let every statement fail in the block."""
    connection = await connection_of(manager.service.store)
    connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
    yield
    connection.set_authorizer(None)


async def test_a_database_that_fails_ends_the_readiness_until_it_works_again(
    manager: Operated, autojump_clock: MockClock
) -> None:
    async with broken(manager):
        answer = await manager.outside.get("/readyz")
        assert answer.status_code == 503
        assert answer.text == "the database cannot be written (DatabaseError)\n"
        assert manager.service.store.unwritable
    await trio.sleep(1)
    assert (await manager.outside.get("/readyz")).text == "ok\n"


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_missing_or_replaced_file_ends_the_readiness_and_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, is_replaced: bool
) -> None:
    monkeypatch.setattr(operations, "CACHED", 0.0)
    file, aside = tmp_path / f"state.db{suffix}", tmp_path / "aside"
    async with operated(tmp_path / "state.db") as manager:
        flow = await Flow.start(manager.api, place("a"))
        assert (await manager.outside.get("/readyz")).text == "ok\n"
        file.rename(aside)
        if is_replaced:
            file.write_bytes(aside.read_bytes())
        answer = await manager.outside.get("/readyz")
        reason = f"state.db{suffix} was removed or replaced while it was in use"
        assert (answer.status_code, answer.text) == (503, f"the database cannot be written ({reason})\n")
        refused(await manager.api.trigger("graph"), 503)
        aside.replace(file)
        assert (await manager.outside.get("/readyz")).text == "ok\n"
        await flow.run("a")


FULL_DISK = """
import resource, sys, httpx, trio
from exotrio.manager import create_app, open_service
from exotrio.manager.api import operations
from tests.support.stores import put

operations.CACHED = 0.0

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(path):
    async with open_service(path) as service:
        transport = httpx.ASGITransport(create_app(service, key="key"))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            async def ready():
                return (await client.get("/readyz")).status_code
            answers = [await ready()]
            limit(4096)
            try:
                await service.store.write(put, "something")
            except Exception as error:
                answers.append(type(error).__name__)
            answers += [await ready(), await ready()]
            limit(resource.RLIM_INFINITY)
            answers.append(await ready())
    print(*answers)

trio.run(main, sys.argv[1])
"""


def test_a_full_disk_ends_the_readiness_until_there_is_space(tmp_path: Path) -> None:
    with running(FULL_DISK, tmp_path / "state.db") as process:
        process.line("^200 NotCommitted 503 503 200$")


async def test_readiness_ends_although_no_other_request_writes(
    manager: Operated, autojump_clock: MockClock
) -> None:
    assert (await manager.outside.get("/readyz")).text == "ok\n"
    connection = await connection_of(manager.service.store)
    connection.execute(
        "CREATE TEMP TRIGGER no BEFORE INSERT ON main.meta BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    await trio.sleep(WRITABLE_FOR)
    assert (await manager.outside.get("/readyz")).status_code == 503
    connection.execute("DROP TRIGGER no")
    await trio.sleep(1)
    assert (await manager.outside.get("/readyz")).status_code == 200


@pytest.mark.parametrize("table", ["runs", "graphs"])
async def test_a_damaged_page_of_any_table_ends_the_readiness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(operations, "CACHED", 0.0)
    db = tmp_path / "state.db"
    async with operated(db) as manager:
        await Flow.start(manager.api, place("a"))
        await manager.service.store.write(lambda tx: tx.execute("PRAGMA cache_size = 0"))
        truncate_log(db)
        roots = await manager.service.store.read(
            lambda view: view.execute(
                "SELECT rootpage FROM sqlite_master WHERE tbl_name = ?", (table,)
            ).fetchall()
        )
        with db.open("r+b") as file:
            for root in roots:
                if root[0]:
                    file.seek((root[0] - 1) * 4096)
                    file.write(b"\xff" * 4096)
        refused(await manager.api.trigger("graph"), 503)
        for _ in range(2):
            assert (await manager.outside.get("/readyz")).status_code == 503


async def test_damage_found_by_a_use_case_ends_the_readiness_until_a_write_succeeds(
    manager: Operated, autojump_clock: MockClock
) -> None:
    def meet_damage(tx: Transaction) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(DatabaseError):
        await manager.service.store.write(meet_damage)
    await trio.sleep(60)
    assert (await manager.outside.get("/readyz")).status_code == 503
    await manager.service.store.write(put, "something")
    await trio.sleep(1)
    assert (await manager.outside.get("/readyz")).status_code == 200


async def test_probes_write_only_if_nothing_else_does(manager: Operated, autojump_clock: MockClock) -> None:
    written = manager.service.store.written
    for _ in range(20):
        await trio.sleep(1)
        assert (await manager.outside.get("/readyz")).status_code == 200
    assert manager.service.store.written - written <= 4
    for _ in range(20):
        await manager.service.store.write(put, str(trio.current_time()))
        written = manager.service.store.written
        await trio.sleep(1)
        assert (await manager.outside.get("/readyz")).status_code == 200
        assert manager.service.store.written - written <= 1, "the time at most"


async def test_while_the_database_fails_other_requests_are_503_in_json(
    manager: Operated, autojump_clock: MockClock
) -> None:
    async with broken(manager):
        assert ok(await manager.outside.get("/health")) == {"message": "OK"}
        refused(await manager.outside.get("/v0/namespaces"), 503)
        claim = await manager.outside.post(
            "/v0/namespace/n/states/enqueue", json={"nodes": ["A"], "batch_size": 1}
        )
        refused(claim, 503)


# -- metrics


async def test_metrics_count_waiting_held_and_ended_states(autojump_clock: MockClock) -> None:
    clock = SettableClock()
    async with operated(clock=clock) as manager:
        api = manager.api
        flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY, runs=3)
        await flow.trigger(start_delay=60_000)
        clock.advance(5_000)
        values = await manager.values()
        assert values[state("a", "CREATED")] == 4
        assert values[state("a", "QUEUED")] == 0
        labels = f'{{namespace="tests",node="{node_name("a")}"}}'
        assert values[f"exotrio_manager_eligible_states{labels}"] == 3
        assert values[f"exotrio_manager_oldest_eligible_seconds{labels}"] == 5
        assert values["exotrio_manager_connections"] == 3

        one, two, _ = ok(await api.claim([node_name("a")], 3))["states"]
        ok(await api.executed(one["state_id"], {"v": "1"}, {"v": "2"}))
        ok(await api.errored(two["state_id"]))
        await trio.sleep(6)
        later = await manager.values()
        assert later[state("a", "CREATED")] == later[state("a", "QUEUED")] == 1
        assert later[state("b", "CREATED")] == 2
        assert later[f"exotrio_manager_oldest_eligible_seconds{labels}"] == 0
        ended = 'exotrio_manager_states_ended_total{{namespace="tests",node="{}",status="{}"}}'.format
        assert later[ended(node_name("a"), "SUCCESS")] == 2, "each output of a fan-out is a state"
        assert later[ended(node_name("a"), "ERRORED")] == 1
        assert later["exotrio_manager_commit_group_size_count"] > 5
        clock.advance(2_500)
        await trio.sleep(6)
        # One is held.
        assert (await manager.values())[f"exotrio_manager_work_at_risk_seconds{labels}"] == 2.5


async def test_the_names_and_labels_of_metrics_are_stable(manager: Operated) -> None:
    flow = await Flow.start(manager.api, place("a"), triggers=CRON)
    await flow.run("a")
    await pinned_run(manager, "1")
    ok(await manager.api.native("PUT", "limit/l", json={"at_most": 1}))
    ok(await manager.api.heartbeat("w", phase="stopped", stop={"took_ms": 1}))
    text = (await manager.outside.get("/metrics")).text
    text += (await manager.outside.get("/metrics")).text  # now with the request before
    assert "HELP exotrio_manager_states_ended_total States that ended, " in text, "a retry takes none back"
    gauges = re.findall(r"# HELP (exotrio_manager_\S+) (.*)\n# TYPE \S+ gauge", text)
    at_once = {name for name, about in gauges if not about.endswith("Counted up to 5 s ago.")}
    assert {name for name in at_once if not name.endswith("_created")} == {
        "exotrio_manager_connections",
        "exotrio_manager_build_info",
    }
    assert labels_in(text) == {
        "exotrio_manager_states": {"namespace", "node", "status"},
        "exotrio_manager_event_waits": {"namespace", "node"},
        "exotrio_manager_buffered_states": {"namespace", "node"},
        "exotrio_manager_reporting_states": {"namespace", "node"},
        "exotrio_manager_work_at_risk_seconds": {"namespace", "node"},
        "exotrio_manager_eligible_states": {"namespace", "node"},
        "exotrio_manager_oldest_eligible_seconds": {"namespace", "node"},
        "exotrio_manager_node_paused": {"namespace", "node"},
        "exotrio_manager_schedule_paused": {"namespace", "graph"},
        "exotrio_manager_limit_held_states": {"namespace", "limit"},
        "exotrio_manager_limit_waiting_states": {"namespace", "limit"},
        "exotrio_manager_version_runs": {"namespace", "version"},
        "exotrio_manager_version_runtimes": {"namespace", "version"},
        "exotrio_manager_states_ended_total": {"namespace", "node", "status"},
        "exotrio_manager_runs_ended_total": {"namespace", "graph", "status"},
        "exotrio_manager_http_request_duration_seconds": {"route", "method", "code"},
        "exotrio_manager_stop_duration_seconds": {"namespace"},
        "exotrio_manager_work_lost_seconds_total": {"namespace", "end"},
        "exotrio_manager_commit_group_size": set(),
        "exotrio_manager_connections": set(),
        "exotrio_manager_build_info": {"version"},
    }


async def test_states_of_a_paused_node_are_not_eligible_in_metrics(
    manager: Operated,
) -> None:
    await Flow.start(manager.api, place("a"))
    ok(await manager.api.native("POST", f"node/{node_name('a')}/pause"))
    values = await manager.values()
    node = f'namespace="tests",node="{node_name("a")}"'
    assert values[f"exotrio_manager_node_paused{{{node}}}"] == 1
    assert values[f'exotrio_manager_states{{{node},status="CREATED"}}'] == 1
    assert values[f"exotrio_manager_eligible_states{{{node}}}"] == 0
    assert values[f"exotrio_manager_oldest_eligible_seconds{{{node}}}"] == 0


async def test_held_and_waiting_states_of_a_limit_are_in_the_metrics(manager: Operated) -> None:
    limits = [{"name": "l", "at_most": 1}]
    named = [{"name": "l", "key": "${{ store.k }}"}]
    store = {"required_keys": ["k"], "default_values": {}}
    flow = await Flow.deploy(manager.api, place("a", limits=named), limits=limits, store_config=store)
    for key in ("1", "1", "1", "2"):
        await flow.trigger(store={"k": key})
    assert len(ok(await manager.api.claim([node_name("a")], 10))["states"]) == 2
    values = await manager.values()
    labels = '{limit="l",namespace="tests"}'
    assert values[f"exotrio_manager_limit_held_states{labels}"] == 2, "all keys together"
    assert values[f"exotrio_manager_limit_waiting_states{labels}"] == 2


async def pinned_run(manager: Operated, version: str) -> None:
    name = pinned_name(node_name("p"), version)
    ok(await manager.api.register([declare(name)]))
    body = manager.api.body([place("p")], version=version)
    await (await Flow.put(manager.api, "pinned", body)).trigger()


async def test_runs_and_runtimes_of_versions_are_in_the_metrics(manager: Operated) -> None:
    await pinned_run(manager, "1")
    await pinned_run(manager, "1")
    await pinned_run(manager, "2")
    ok(await manager.api.native_claim({pinned_name(node_name("p"), "2"): 1}, limit=0, worker_id="w"))
    values = {name: value for name, value in (await manager.values()).items() if "_version_" in name}
    name = 'exotrio_manager_version_{}{{namespace="tests",version="{}"}}'.format
    assert values == {
        name("runs", "1"): 2,
        name("runtimes", "1"): 0,
        name("runs", "2"): 1,
        name("runtimes", "2"): 1,
    }


async def test_a_paused_schedule_is_in_the_metrics(manager: Operated) -> None:
    for graph, triggers in (("paused", CRON), ("other", CRON), ("without", [])):
        await Flow.deploy(manager.api, place("a"), graph=graph, triggers=triggers)
    for graph in ("paused", "without"):
        ok(await manager.api.native("POST", f"graph/{graph}/pause"))
    values = {name: value for name, value in (await manager.values()).items() if "schedule_paused" in name}
    name = 'exotrio_manager_schedule_paused{{graph="{}",namespace="tests"}}'.format
    assert values == {name("other"): 0, name("paused"): 1}


async def test_states_of_a_cancelled_run_count_as_ended_in_metrics(
    manager: Operated, autojump_clock: MockClock
) -> None:
    flow = await Flow.start(manager.api, place("a"))
    ok(await manager.api.native("POST", f"run/{flow.run_id}/cancel"))
    name = f'{{namespace="tests",node="{node_name("a")}",status="ERRORED"}}'
    assert (await manager.values())[f"exotrio_manager_states_ended_total{name}"] == 1


async def test_stops_and_the_work_that_they_cost_are_counted(
    manager: Operated, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_LABELS", 1)
    stop = {"took_ms": 4_000, "work_lost_ms": 2_500}
    for worker, api in (("a", manager.api), ("b", manager.api), ("c", manager.api.elsewhere())):
        ok(await api.heartbeat(worker, phase="stopped", stop=stop))
    values = await manager.values()
    for namespace, stops in (("tests", 2), (metrics.OTHER_NAMESPACES, 1)):
        name = f'namespace="{namespace}"'
        assert values[f"exotrio_manager_stop_duration_seconds_sum{{{name}}}"] == 4 * stops
        assert values[f"exotrio_manager_stop_duration_seconds_count{{{name}}}"] == stops
        assert values[f'exotrio_manager_work_lost_seconds_total{{end="stopped",{name}}}'] == 2.5 * stops


async def test_runs_that_ended_are_counted_by_graph(
    manager: Operated, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_LABELS", 2)

    async def counted() -> dict[tuple[str, ...], float]:
        await trio.sleep(6)
        pattern = re.compile(
            r'exotrio_manager_runs_ended_total\{graph="(.*)",namespace="tests",status="(.*)"\}'
        )
        values = (await manager.values()).items()
        return {match.groups(): value for name, value in values if (match := pattern.fullmatch(name))}

    flow = await Flow.deploy(manager.api, place("a"), graph="orders", retry_policy=NO_RETRY)
    assert await counted() == {("orders", "FAILED"): 0}, "so that a rate sees the first failure"
    await flow.trigger()
    await flow.fail("a", times=1)
    ok(await manager.api.retry_run(flow.run_id))
    await flow.fail("a", times=1)
    for graph in ("second", "third", "fourth"):
        other = await Flow.start(manager.api, place("a"), graph=graph)
        if graph == "fourth":
            ok(await manager.api.native("POST", f"run/{other.run_id}/cancel"))
        else:
            await other.run("a")
    assert await counted() == {
        ("orders", "FAILED"): 2,
        ("second", "FAILED"): 0,
        ("second", "SUCCESS"): 1,
        (metrics.OTHER_GRAPHS, "SUCCESS"): 1,
        (metrics.OTHER_GRAPHS, "CANCELLED"): 1,
    }


async def test_a_rolled_back_end_of_a_state_is_not_counted(
    manager: Operated, autojump_clock: MockClock
) -> None:
    flow = await Flow.start(manager.api, place("a"))
    held = await flow.one("a")
    store = manager.service.store
    await store.write(
        lambda tx: tx.execute(
            "CREATE TEMP TRIGGER no BEFORE UPDATE ON main.runs BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )
    assert (await manager.api.executed(held, {"v": "1"})).status_code == 503
    await store.write(lambda tx: tx.execute("DROP TRIGGER no"))
    assert not [name for name in await manager.values() if name.startswith("exotrio_manager_states_ended")]


async def test_requests_are_counted_by_pattern_never_by_path(
    manager: Operated, autojump_clock: MockClock
) -> None:
    flow = await Flow.deploy(Api(manager.outside, "tests"), place("a"))
    await flow.trigger()
    refused(await manager.outside.get("/v0/namespace/tests/graph/nothing"), 404)
    await manager.outside.get("/no/such/route/4711")
    await manager.outside.request("BREW", "/v0/namespaces/")
    await manager.outside.get("/v0/namespaces/", headers={"x-api-key": "wrong"})
    values = await manager.values()
    counts = {
        (route, method, code): values[name]
        for name in values
        if (match := re.fullmatch(r".*_duration_seconds_count\{(.*)\}", name))
        for code, method, route in [re.findall(r'"(.*?)"', match[1])]
    }
    graph = "/v0/namespace/{namespace}/graph/{graph}"
    assert counts[graph, "PUT", "201"] == 1
    assert counts[graph, "GET", "404"] == 1
    assert counts[f"{graph}/trigger", "POST", "200"] == 1
    assert counts["none", "GET", "404"] == 1
    assert counts["none", "GET", "401"] == 1
    assert counts["/v0/namespaces", "other", "405"] == 1
    assert not [name for name in values if flow.run_id in name or "4711" in name or "BREW" in name]


async def test_many_scrapes_share_one_query(manager: Operated, autojump_clock: MockClock) -> None:
    await Flow.start(manager.api, place("a"))
    connection = await connection_of(manager.service.store)
    looks: list[str] = []
    connection.set_trace_callback(lambda sql: looks.append(sql) if "AS held" in sql else None)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(manager.values)
    assert len(looks) == 1
    await trio.sleep(6)
    await manager.values()
    assert len(looks) == 2
    connection.set_trace_callback(None)


async def test_metrics_are_served_without_counts_while_the_database_fails(
    manager: Operated, autojump_clock: MockClock
) -> None:
    await Flow.start(manager.api, place("a"))
    assert state("a", "CREATED") in await manager.values()
    await trio.sleep(6)
    async with broken(manager):
        values = await manager.values()
    assert "exotrio_manager_connections" in values
    assert not [name for name in values if name.startswith("exotrio_manager_states{")]


async def test_metrics_are_served_while_a_read_hangs(
    manager: Operated, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(manager.service.store, "read", hang)
    with trio.fail_after(60):
        values = await manager.values()
    assert "exotrio_manager_connections" in values


async def test_the_query_of_metrics_reads_waiting_and_held_states_only(manager: Operated) -> None:
    await Flow.start(manager.api, place("a"))
    async with planned(manager.service.store) as plans:
        await manager.service.store.read(backlog)
    assert len(plans) >= 2
    allowed = re.compile(
        r"SCAN (states USING INDEX states_(held|leased|queued)|held|\(subquery-\d+\)|waits|waiting|nodes.*)$"
    )
    for sql, plan in refuses_scans(plans).items():
        assert [line for line in plan if line.startswith("SCAN") and not allowed.match(line)] == [], sql
    assert MAX_COUNTED == 100_000
