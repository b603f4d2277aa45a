"""Every query answers the same on SQLite and on PostgreSQL, and reads an index on both."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from exotrio._wire.v0 import NodeDeclaration
from exotrio.graph import pinned_name
from exotrio.manager import queries
from exotrio.manager.engine import leases
from exotrio.manager.engine.versions import is_drained
from exotrio.manager.queries.broken_runs import check_registration
from exotrio.manager.queries.checkup import last_backup, show_managers
from exotrio.manager.queries.limits import load_of_limits
from exotrio.manager.queries.load import backlog, claimed_by, oldest_graphs, schedules_paused
from exotrio.manager.queries.state_detail import newest_event
from exotrio.manager.queries.versions import load_of_versions
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, executed_item, item_for, report
from tests.support.both_engines import copied, plain
from tests.support.helpers import NO_RETRY, SettableClock, declare, node_name, ok, open_client, place
from tests.support.manager import tallied
from tests.support.postgres import Database, database
from tests.support.query_plans import add_history, scans_on_postgres, watched_on_postgres
from tests.support.web import KEY, NAMESPACE, ORIGIN, Site, open_site

Shown = tuple[str, str, str]
"""Graph, run, state."""
Query = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
PLACES = [
    place("t", "b", inputs={"s": "${{store.k}}"}),
    place("b", "u", inputs={"p": "${{t.outputs.v}}"}),
    place("u", unites="t", inputs={"all": "${{b.outputs.v}}"}),
]
LONG = "x" * 70_000 + " the end: ÄÖ \N{SNOWMAN} 100 % of a_b"
NARROW = {"type": "string", "contentSchema": {"type": "string", "maxLength": 1}}
RELEASE = {
    "runtimes": ["contract"],
    "nodes": [declare(node_name("t"), {"s": NARROW}, ["v"]), declare(node_name("b"), {"p": NARROW}, ["v"])],
    "secrets": {"united": []},
}
CRON = {"type": "CRON", "value": {"expression": "0 5 * * *"}}


async def fill(site: Site, clock: SettableClock, remote: Api) -> list[Shown]:
    """Bring states into every condition, and return runs with one state of each."""
    api, store = site.api, site.service.store
    united = await Flow.deploy(
        api,
        *PLACES,
        graph="united",
        store_config={"required_keys": ["k"], "default_values": {"d": "1"}},
        secrets={"token": "a-secret-of-the-graph"},
        triggers=[CRON],
    )
    await united.trigger(store={"k": "v"})
    clock.advance(1_000)
    await united.run("t", {"v": "1"}, {"v": LONG}, {"v": "3"})
    one, two, three = [state["state_id"] for state in await united.take("b", 3)]
    ok(await api.executed(one, {"v": LONG}))
    ok(await api.prune(two, {"why": "no need"}))
    ok(await api.errored(three, LONG))
    clock.advance(90_000)
    shown = [(united.graph, united.run_id, state_id) for state_id in (one, three)]
    failing = await Flow.start(api, place("x"), graph="fail\N{LATIN SMALL LETTER I WITH DIAERESIS}ng")
    failed = ""
    for _ in range(3):
        failed = await failing.fail("x", times=1, error="it broke: \N{SNOWMAN}")
        clock.advance(10_000)
    ok(await api.manual_retry(failed))
    shown.append((failing.graph, failing.run_id, failed))
    only = await Flow.start(api, place("once"), graph="only", retry_policy=NO_RETRY)
    failed = await only.fail("once", times=1, error="A traceback\n  in Line 2")
    shown.append((only.graph, only.run_id, failed))
    await only.trigger()
    ok(await api.native("POST", f"run/{only.run_id}/cancel"))
    held = await Flow.start(remote, place("held"), graph="held")
    for _ in range(5):
        await held.trigger()
    for claimer in (api, remote):
        ok(await claimer.claim([node_name("held")], 1))
    await held.trigger(start_delay=60_000)
    lost = ok(await remote.native_claim({node_name("held"): 1}, worker_id="w-lost"))["states"][0]
    run_id = ok(await api.history(lost["state_id"]))["run_id"]
    shown.append((held.graph, run_id, lost["state_id"]))
    await store.write(leases.expire, site.service.monotonic() + 10**7, site.service.terms)
    held_by_w1 = ok(await remote.native_claim({node_name("held"): 1}, worker_id="w-1"))["states"][0]
    checkpoint = {"number": 1, "value": '{"row": "\N{SNOWMAN}"}'}
    running = item_for(held_by_w1, running=True, checkpoint=checkpoint)
    ok(await remote.heartbeat("w-1", runtime="r", nodes={node_name("held"): "() -> ()"}, states=[running]))
    clock.advance(2_000)
    shown.append((held.graph, held_by_w1["run_id"], held_by_w1["state_id"]))
    limits = [{"name": "calls", "at_most": 1}, {"name": "rate", "starts": 2, "period_ms": 3_600_000}]
    named = [{"name": "calls", "key": "\N{SNOWMAN}"}, {"name": "rate"}]
    limited = await Flow.start(api, place("limited", limits=named), graph="limited", limits=limits, runs=3)
    ok(await remote.native_claim({node_name("limited"): 3}, worker_id="w-1"))
    clock.advance(1_000)
    (waiting, *_) = ok(await api.states(run=limited.run_id))["states"]
    shown.append((limited.graph, limited.run_id, waiting["id"]))
    done = await Flow.start(api, place("done"), graph="done")
    shown.append((done.graph, done.run_id, await done.run("done", {"v": LONG}, {"v": "2"})))
    wait = {"event": "\N{SNOWMAN}", "outputs": {"by": {"type": "string"}}, "timeout_ms": 3_600_000}
    waits = {"node_name": "wait for event", "namespace": api.namespace, "identifier": "waits", "inputs": {}}
    again = await Flow.start(api, place("p", "q"), place("q"), graph="again")
    await again.fail("p", times=1)
    clock.advance(10_000)
    await again.run("p")
    shown.append((again.graph, again.run_id, await again.run("q")))
    events = await Flow.start(api, {**waits, "wait": wait}, graph="events", runs=2)
    ok(await api.native("POST", f"run/{events.run_id}/events", json={"name": "early"}))
    clock.advance(1_000)
    (state,) = ok(await api.states(run=events.run_id, status="WAITING"))["states"]
    shown.append((events.graph, events.run_id, state["id"]))
    late = await Flow.start(
        api,
        {**waits, "wait": {**wait, "timeout_ms": 500, "on_timeout": {"by": "none"}}, "next_nodes": ["k"]},
        place("k"),
        graph="late",
    )
    (state,) = ok(await api.states(run=late.run_id, status="WAITING"))["states"]
    clock.advance(1_000)
    ok(
        await api.native(
            "POST", f"run/{late.run_id}/events", json={"name": "\N{SNOWMAN}", "value": {"by": "ada"}}
        )
    )
    shown.append((late.graph, late.run_id, state["id"]))
    woken = await Flow.start(api, place("woken"), graph="woken")
    for item in ({"outcome": "waiting", "event": "e"}, {"outputs": [{}], "buffered_ms": 1, "ran_ms": 2}):
        state = await claim_one(remote, limits={node_name("woken"): 1})
        clock.advance(1_000)
        assert await report(remote, {**executed_item(state), **item}) == ["ok"]
        ok(await api.native("POST", f"run/{woken.run_id}/events", json={"name": "e"}))
    shown.append((woken.graph, woken.run_id, state["state_id"]))
    alerting = await Flow.start(api, place("z"), graph="z", on_failure="done", retry_policy=NO_RETRY)
    shown.append((alerting.graph, alerting.run_id, await alerting.fail("z", times=1)))
    (alert,) = await done.take("done")
    (child,) = ok(await api.native_run(alerting.run_id))["children"]
    shown.append((done.graph, child["run_id"], alert["state_id"]))
    there = await Flow.start(api.elsewhere("other"), place("there"), graph="there")
    await there.run("there")
    await there.trigger()
    old, new = (declare(pinned_name("Versioned", version)) for version in ("1", "2"))
    ok(await remote.register([old, new]))
    pinned = api.body([place("v", node_name="Versioned")], version="2")
    for _ in range(2):
        await (await Flow.put(api, "pinned", pinned)).trigger()
    ok(await remote.native_claim({new["name"]: 1}, worker_id="w-2"))
    ok(await api.worker("POST", "w-1", "drain"))
    await tallied(site.service, clock)
    return shown


async def read_everything(site: Site, shown: list[Shown]) -> None:
    """Request every page and every route that reads."""
    api = site.api
    for filters in (
        *({}, {"graph": "only"}, {"since": "2020-01-01T00:00:00Z"}, {"parent": shown[0][1]}),
        *({"status": status} for status in ("PENDING", "FAILED", "SUCCESS")),
    ):
        page = ok(await api.find_runs(**filters, limit=2))
        ok(await api.find_runs(**filters, before=page["next"] or "1.1"))
    places = [{"run": shown[0][1]}, {"graph": "united"}]
    for narrowed in (
        *places,
        *({**each, "identifier": identifier} for each in places for identifier in ("b", "not there")),
        *({"node": node_name("b")}, {}),
    ):
        for statuses in ([], ["ERRORED", "NEXT_CREATED_ERROR"], ["QUEUED", "CREATED"], ["WAITING"]):
            page = ok(await api.states(**narrowed, status=statuses, limit=2))
            if page["next"]:
                ok(await api.states(**narrowed, status=statuses, before=page["next"]))
    for answer in (
        await api.states(graph="united", outputs="true"),
        await api.nodes(),
        *(await api.graphs(), await api.get_graph("united"), await api.namespaces()),
        *(await api.runs(1, 5), await api.runs(2, 5)),
        *(await api.overview(), await api.depth(), await api.checkup(), await api.workers()),
        await api.worker("GET", "w-1", "tasks"),
        *[await api.native("GET", path) for path in ("limits", "limit/calls", "limit/rate")],
    ):
        ok(answer)
    ok(await api.native("POST", "release/check", json=RELEASE))
    assert len(ok(await api.native("GET", "versions"))["versions"]) == 1
    moment = "2020-01-01T00:00:00Z"
    for query in (
        *({}, {"limit": 2}, {"before": 3}, {"who": "root"}, {"who": "absent"}, {"action": "graph"}),
        *({"target": "united"}, {"target": "un"}, {"since": moment}, {"until": moment}),
    ):
        ok(await api.request("GET", "/exotrio/v1/audit", params=query))
        ok(await api.native("GET", "changes", params=query))
    ok(await api.request("GET", "/exotrio/v1/audit", params={"namespace": "other"}))
    pages = ["", "/runs", "/graphs", "/graphs/united", "/nodes", f"/nodes/{node_name('b')}", "/runtimes"]
    pages += ["/limits", "/limits/calls", "/limits/rate", "/audit", "/audit?target=un"]
    pages += ["?range=7d", "/graphs/united?range=24h"]
    searches = ({"q": "A_B"}, {"q": "TRACEBACK\n"}, {"q": "100 %"}, {"q": '"'}, {"status": "failed"})
    pages += [f"/runs?{urlencode(each)}" for each in (*searches, {"graph": "only", "since": "1h"})]
    for graph, run_id, state_id in shown:
        ok(await api.native_run(run_id))
        ok(await api.run_graph(run_id))
        ok(await api.state(graph, run_id, state_id))
        ok(await api.history(state_id))
        ok(await api.native("GET", f"run/{run_id}/events"))
        for values in ("true", "false"):
            exported = await api.native("GET", f"run/{run_id}/export", params={"values": values})
            assert exported.status_code == 200
        pages += [f"/states/{state_id}", f"/runs/{run_id}", f"/runs/{run_id}?status=failed"]
        pages += [f"/runs/{run_id}?sort={order}" for order in ("newest", "oldest", "slowest", "node")]
        for text in (run_id[:7], run_id, state_id, state_id[-6:], graph[:3], "it broke", "key-\N{SNOWMAN}"):
            await site.browser.get(f"/ns/{site.api.namespace}/search?{urlencode({'q': text})}")
    for page in pages:
        await site.browser.page(f"/ns/{site.api.namespace}{page}")
    assert (await site.browser.get("/")).status_code == 303


@contextmanager
def recorded(site: Site) -> Iterator[list[Query]]:
    """Record the queries that the store runs within the block."""
    store, queries_run = site.service.store, list[Query]()
    read = store.read

    def describe(view: View) -> dict[str, Any]:
        """Return the same for both: the conditions of the databases themselves differ."""
        return {"in_memory": True, "size": 0, "log_size": 0, "schema_version": 0, "free_disk": None}

    async def recording(query: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        same = tuple(describe if each == store.describe else each for each in args)
        queries_run.append((query, same, kwargs))
        return await read(query, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "read", recording)
        patch.setattr(store, "read_with_deadline", recording)
        yield queries_run


@dataclass(frozen=True)
class Both:
    """The recorded queries, and both databases to run them again."""

    queries: list[Query]
    sqlite: Store
    postgres: Store
    database: Database


@asynccontextmanager
async def both(folder: Path) -> AsyncIterator[Both]:
    clock = SettableClock()
    async with open_site(clock=clock, monotonic=clock) as site:
        outside = httpx.ASGITransport(site.app, raise_app_exceptions=False)
        async with open_client(transport=outside, url=ORIGIN, key=KEY) as client:
            shown = await fill(site, clock, Api(client, NAMESPACE))
        with recorded(site) as queries_run:
            await read_everything(site, shown)
        # Those of metrics and live pages.
        queries_run += [
            (backlog, (), {}),
            (schedules_paused, (), {}),
            (oldest_graphs, (9,), {}),
            (load_of_limits, (9,), {}),
            (lambda view: load_of_versions(view, backlog(view), 9), (), {}),
            (is_drained, (NAMESPACE, "2"), {}),
            (is_drained, (NAMESPACE, "1"), {}),
            (newest_event, (), {}),
        ]
        former = {node_name("b"): NodeDeclaration(**declare(node_name("b"), ["p", "q"], ["v", "w"]))}
        queries_run.append((check_registration, (NAMESPACE, former), {}))
        # Those of the page of the system, except the condition of the database; and what is read if states
        # wait although runtimes claim them.
        queries_run += [(show_managers, (), {}), (last_backup, (), {}), (claimed_by, ("shop",), {})]
        file = folder / "db"
        async with site.service.store.copied() as (size, read):
            file.write_bytes(await read(size))
    # Without a service, which would change leases and times.
    with database() as empty:
        async with (
            open_store(file, clock=clock, lease_clock=clock) as sqlite,
            copied(file, empty, clock) as postgres,
        ):
            yield Both(queries_run, sqlite, postgres, empty)


def answer(view: View, query: Query) -> Any:
    function, args, kwargs = query
    try:
        return plain(function(view, *args, **kwargs))
    except Refused as refused:
        return repr(refused)


async def test_every_query_answers_the_same_on_both_engines_and_scans_no_table_that_grows(
    tmp_path: Path,
) -> None:
    ran: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            ran.add(frame.f_code)

    def noted(view: View, query: Query) -> Any:
        sys.setprofile(note)
        try:
            return answer(view, query)
        finally:
            sys.setprofile(None)

    async with both(tmp_path) as recording:
        with watched_on_postgres() as statements:
            for query in recording.queries:
                expected = await recording.sqlite.read(answer, query)
                assert await recording.postgres.read(noted, query) == expected, query
        add_history(recording.database)
        scans = scans_on_postgres(recording.database, statements)
    assert len(statements) > 50
    assert scans == {}
    left = {f"{module}.{name}" for module, name, code in all_queries() if code not in ran}
    assert left == {"run.show_run_once_ended"}, "it is a use case, and shows a run as show_run does"


def all_queries() -> Iterator[tuple[str, str, CodeType]]:
    for module in pkgutil.iter_modules(queries.__path__):
        members = vars(import_module(f"{queries.__name__}.{module.name}"))
        for name, function in members.items():
            if not inspect.isfunction(function) or not function.__module__.endswith(f"queries.{module.name}"):
                continue
            if next(iter(inspect.signature(function).parameters), "") in ("view", "tx"):
                yield module.name, name, function.__code__
