"""A database with something of everything in it.

It is made once in each process, through the API; each example begins with a fresh copy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

import httpx
import trio

from exotrio._util.times import timestamp
from exotrio.manager import Service, open_service
from exotrio.manager.store.sqlite.database import open_writer
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item, item_for, report
from tests.fuzz.knowledge import SECRETS, World, browse, models, note
from tests.fuzz.routes import KEY, ORIGIN, TARGETS, application, sign_in
from tests.support.helpers import SettableClock, declare, node_name, ok, open_client, place, run_place
from tests.support.manager import NO_SETTINGS

NAMESPACE = "shop"
RUN = "7b0d1f9e-0000-4000-8000-00000000000a"
WORKER = "worker-1"
OUTPUTS = {"v": "1", "w": "2"}
SETTINGS = replace(NO_SETTINGS, secrets_encryption_key="QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=")


@dataclass(frozen=True)
class Opened:
    """A service over a copy of the world.

    Attributes:
        cookie: Of a browser that is signed in.
    """

    service: Service
    app: Any
    cookie: bytes


@cache
def world() -> World:
    """Return the world of this process."""
    return trio.run(_make)


@asynccontextmanager
async def opened(made: World) -> AsyncIterator[Opened]:
    """Open a fresh copy of the world in memory."""

    def restored(path: None) -> sqlite3.Connection:
        connection = open_writer(path)
        connection.deserialize(made.database)
        return connection

    with mock.patch("exotrio.manager.store.sqlite.store.open_writer", restored):
        manager = open_service(":memory:", clock=made.clock, monotonic=made.clock, settings=SETTINGS)
        service = await manager.__aenter__()
    try:
        app = application(service)
        async with open_client_to(app) as client:
            # Runtimes are known by their heartbeats only, which no database keeps.
            for target, bodies in made.bodies.items():
                if target.path.endswith("/heartbeat"):
                    ok(await Api(client, NAMESPACE).native("POST", "heartbeat", json=bodies[0]))
            yield Opened(service, app, await sign_in(client))
    finally:
        await manager.__aexit__(None, None, None)


OWN_NOTES = {"writable", "clock_latest", "clock_ahead"}
"""Keys of ``meta``: that something could be written, and what the clock showed."""


def dump(view: View | sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that a database holds, but for what a state manager writes down for itself."""
    names = [row[0] for row in view.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    rows = {name: [tuple(row) for row in view.execute(f"SELECT * FROM {name}")] for name in sorted(names)}
    rows["meta"] = [(key, value) for key, value in rows["meta"] if key not in OWN_NOTES]
    # Not when they were used, nor what their next page says: a request that changes nothing is a use, and may
    # be one for that page.
    rows["sessions"] = [row[:2] for row in rows["sessions"]]
    # Nor when keys were used.
    rows["keys"] = [row[:-1] for row in rows["keys"]]
    # A sweep forgets starts that count no more.
    del rows["starts"]
    return rows


# -- making it


async def _make() -> World:
    made = World()
    async with open_service(":memory:", clock=made.clock, monotonic=made.clock, settings=SETTINGS) as service:
        app = application(service)
        with models(made):
            async with open_client_to(app, made) as client:
                await _fill(Api(client, NAMESPACE), made.clock)
                await browse(client, made)
        made.known["state_id"] += 4 * await service.store.read(_held)
        async with service.store.copied() as (size, read):
            made.database = await read(size)
    for name in {name for target in TARGETS for name in target.parameters}:
        assert made.known[name], f"nothing is known to put in place of {{{name}}}"
    return made


def _held(view: View) -> list[str]:
    """Return the states whose outcome would be taken."""
    return [view.state_id(row[0]) for row in view.execute("SELECT seq FROM states WHERE status = 'QUEUED'")]


def open_client_to(app: Any, made: World | None = None) -> httpx.AsyncClient:
    client = open_client(transport=httpx.ASGITransport(app), url=ORIGIN, key=KEY)
    if made is not None:

        async def noting(response: httpx.Response) -> None:
            await response.aread()
            note(made, response)

        client.event_hooks["response"].append(noting)
    return client


async def _fill(api: Api, clock: SettableClock) -> None:
    """Send every kind of request that changes something, most of them with every field they have."""
    orders = await _deploy(api)
    await _run_to_its_end(orders, clock)
    ok(await api.retry_run(await _run_to_its_end(orders, clock)))
    await orders.run("work")
    await orders.run("last")  # again, with what was retried
    await _run_to_its_end(orders, clock)
    (failed,) = await orders.states("work", "ERRORED")
    ok(await api.native("POST", f"run/{await orders.trigger(store={'key': 'k'})}/cancel"))
    for name in ("stripe", "unused"):
        ok(await api.native("PUT", f"limit/{name}", json={"at_most": 9, "starts": 500, "period_ms": 60_000}))
    ok(await api.native("DELETE", "limit/unused", params={"force": "true"}))
    await _use_leases(api, orders)

    # Left in the middle: states that are pruned, requeued, held through v0, and that wait.
    await orders.trigger(store={"key": "k"}, start_delay=0)
    await orders.run("first", OUTPUTS, OUTPUTS, OUTPUTS, OUTPUTS)
    pruned, requeued, *_ = await orders.take("work", 4)
    ok(await api.prune(pruned["state_id"], {"why": "pruned"}))
    ok(await api.requeue(requeued["state_id"], 3_600_000))
    ok(await api.native_trigger("orders", RUN, inputs={"note": "n"}, store={"key": ""}, start_delay=0))
    again = {"run_id": RUN, "inputs": {"note": "n"}, "store": {"key": ""}, "start_delay": 0}
    ok(await api.trigger_many("orders", again))

    ok(await api.manual_retry(failed["id"]))

    # An output that the next place cannot use, and a graph that is invalid.
    places = (place("x", "y"), place("y", inputs={"p": "${{ x.outputs.v }}"}))
    gap = await Flow.start(api, *places, graph="gap")
    await gap.run("x", {"other": "field"}, {"v": "fine"})
    ok(await api.put_graph("invalid", api.body([place("nowhere")])), 201)
    await _use_events(api, clock)
    await _use_runs_below(api)


async def _use_events(api: Api, clock: SettableClock) -> None:
    """Send events in every way, and leave a run that waits for one, with links to it."""
    wait = {"event": "approved", "outputs": {"by": {"type": "string"}}, "timeout_ms": 86_400_000}
    place = {"node_name": "wait for event", "namespace": api.namespace, "identifier": "wait", "inputs": {}}
    flow = await Flow.deploy(api, {**place, "wait": wait}, graph="waits")
    until = timestamp(clock() + 86_400_000)
    for sent in (True, False):
        run = await flow.trigger()
        ok(await api.native("POST", f"run/{run}/events", json={"name": "early", "value": {"a": "b"}}))
        body = {"name": "approved", "value": {"by": "ada"}, "until": until}
        link = ok(await api.native("POST", f"run/{run}/event-link", json=body))["path"]
        for method in ("GET", "POST") if sent else ("GET",):
            assert (await api.request(method, link)).status_code == 200
        ok(await api.native("GET", f"run/{run}/events"))


async def _use_runs_below(api: Api) -> None:
    """Let a place and a node start runs of a graph with a version; move one to another, and let it fail."""
    versions = [declare(f"{node_name('last')}@{version}", ["x"], ["v"]) for version in ("1", "2")]
    ok(await api.register(versions, "runtime"))
    below = place("last", inputs={"x": "${{ store.k }}"})
    config = {"required_keys": ["k"], "default_values": {}}
    fields = {"version": "1", "outputs": {"v": "${{ last.outputs.v }}"}, "on_failure": "gap"}
    await Flow.put(api, "below", api.body([below], store_config=config, **fields))
    places = [
        place("first", "place"),
        run_place("place", graph="below", inputs={"k": "${{ first.outputs.v }}"}),
    ]
    flow = await Flow.start(api, *places, graph="above")
    (state,) = await claim(api, {node_name("first"): 1}, limit=1)
    calls = [{"id": "a", "graph": "below", "inputs": {"k": "called"}}]
    assert await report(api, item_for(state, outcome="calling", calls=calls)) == ["ok"]
    (called,) = await claim(api, {f"{node_name('last')}@1": 1}, limit=1, wait_ms=5_000)
    ok(await api.native("POST", f"run/{called['run_id']}/repin", json={"version": "2"}))
    ok(await api.native("POST", "version/1/repin", json={"version": "2"}))
    assert await report(api, item_for(called, outcome="errored", error="e", final=True)) == ["ok"]
    ok(await api.native("GET", f"runs?parent={flow.run_id}"))


async def _deploy(api: Api) -> Flow:
    loose = declare("Loose", {"a": {"type": "string"}, "n": {"type": "integer"}}, ["v"], ["token"])
    ok(await api.register([loose], "runtime"))
    return await Flow.deploy(
        api,
        place("first", "work", inputs={"note": "${{ store.key }} and text"}),
        place(
            "work",
            "last",
            inputs={"p": "${{ first.outputs.v }}"},
            limits=[{"name": "stripe"}, {"name": "customer", "key": "${{ store.more }} and text"}],
        ),
        place("last", inputs={"all": "${{ work.outputs.w }}"}, unites="first", strategy="ALL_DONE"),
        graph="orders",
        secrets=SECRETS,
        retry_policy={
            "max_retries": 1,
            "strategy": "EXPONENTIAL_FULL_JITTER",
            "backoff_factor": 10,
            "exponent": 2,
            "max_delay": 5_000,
        },
        store_config={"required_keys": ["key"], "default_values": {"more": "default"}},
        triggers=[{"type": "CRON", "value": {"expression": "0 3 * * *", "kept": "too"}}],
        limits=[
            {"name": "stripe", "at_most": 9, "starts": 500, "period_ms": 60_000},
            {"name": "customer", "at_most": 9},
        ],
    )


async def _run_to_its_end(flow: Flow, clock: SettableClock) -> str:
    """Let one of two branches fail twice, and return the run."""
    run_id = await flow.trigger(inputs={"note": "n"}, store={"key": "k", "more": "m"})
    await flow.run("first", OUTPUTS, OUTPUTS)
    one, two = await flow.take("work", 2)
    ok(await flow.api.executed(one["state_id"], OUTPUTS))
    ok(await flow.api.errored(two["state_id"], "it broke"))
    clock.advance(10_000)
    await flow.fail("work", times=1, error="it broke again")
    for state in await flow.take("last", 2):
        ok(await flow.api.executed(state["state_id"], OUTPUTS))
    return run_id


async def _use_leases(api: Api, flow: Flow) -> None:
    """Report in every way what is held under one, and leave one held."""
    await flow.trigger(store={"key": "k"})
    (state,) = await claim(api, {node_name("first"): 1}, claim_id="first-claim", wait_ms=10, worker_id=WORKER)
    ok(
        await api.outcomes(
            executed_item(state),
            item_for(state, outcome="errored", error="it broke"),
            item_for(state, outcome="pruned", data={"why": "pruned"}),
            item_for(state, outcome="requeued", delay_ms=5),
        )
    )
    ok(await api.release(states=[{"state_id": state["state_id"], "token": "gone"}], delay_ms=5))
    ok(await api.release(claim_id="another-claim", delay_ms=5))
    held = await claim(api, {node_name("work"): 1}, claim_id="held-claim", worker_id=WORKER)
    ok(await api.secrets(held[0]["state_id"], held[0]["lease"]["token"]))
    ok(await api.native("POST", "heartbeat", json=_heartbeat(held[0])))
    ok(await api.native("POST", f"worker/{WORKER}/drain"))
    ok(await api.native("POST", f"worker/{WORKER}/tasks"))


def _heartbeat(state: dict[str, Any]) -> dict[str, Any]:
    beat = {
        "state_id": state["state_id"],
        "token": state["lease"]["token"],
        "running": True,
        "progress": {"fraction": 0.5, "text": "half"},
    }
    return {
        "worker_id": WORKER,
        "runtime": "runtime",
        "phase": "running",
        "busy": 1,
        "buffered": 0,
        "workers": 4,
        "shows_tasks": True,
        "tasks": "a task tree",
        "states": [beat],
    }
