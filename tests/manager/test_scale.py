"""No full scans, no costs that grow faster than the work: looked up in query plans and counted in steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from exotrio._wire.graphs import GraphBody
from exotrio.graph import MAX_NODES
from exotrio.manager.engine import leases, managers, retention, schedules
from exotrio.manager.engine.due_work import Step
from exotrio.manager.queries.graphs import find_node, last_failures
from exotrio.manager.rules.template import Template
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for, report
from tests.support.due import clear, discard, handle_due
from tests.support.helpers import FAST_RETRY, NO_RETRY, SettableClock, node_name, ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import Database, empty_database
from tests.support.query_plans import (
    add_history,
    bitmap_scans,
    indexes_by_number,
    planned,
    refuses_scans,
    scans_on_postgres,
    steps_of,
    watched_on_postgres,
)

PLACES = [
    place("t", "b", inputs={"s": "${{store.k}}"}),
    place(
        "b",
        "u",
        inputs={"p": "${{t.outputs.v}}"},
        limits=[{"name": "service", "key": "${{store.k}}"}, {"name": "rate"}],
    ),
    place("u", unites="t", inputs={"all": "${{b.outputs.v}}"}),
]
# Only at the start, and only what is held, a partial index, or claimed in the last minutes.
AT_THE_START = re.compile(
    r"SCAN (children_to_cancel|(states|claims|runs|alerts) USING (COVERING )?INDEX"
    r" (states_held|claims_by_age|runs_to_deliver|alerts_due))$"
)


async def everything_once(manager: Manager) -> None:
    """Take every kind of step there is."""
    api, store = manager.api, manager.service.store
    flow = await Flow.deploy(
        api,
        *PLACES,
        store_config={"required_keys": ["k"], "default_values": {}},
        secrets={"token": "t"},
        limits=[
            {"name": "service", "at_most": 2},
            {"name": "rate", "starts": 1_000_000, "period_ms": 60_000},
        ],
    )
    for _ in range(3):
        await flow.trigger(store={"k": "v"})
    names = {node_name(each["identifier"]): 5 for each in PLACES}
    for wait_ms in (0, 1):
        ok(await api.native_claim({node_name("u"): 1}, run_id=flow.run_id, wait_ms=wait_ms))
    for number in range(3):
        (state,) = ok(await api.native_claim({node_name("t"): 1}, claim_id=f"c{number}"))["states"]
        ok(await api.native_claim({node_name("t"): 1}, claim_id=f"c{number}"))
        item = {"state_id": state["state_id"], "token": state["lease"]["token"]}
        ok(await api.secrets(state["state_id"], state["lease"]["token"]))
        ok(await api.heartbeat("w", states=[{**item, "running": True}]))
        if number == 0:
            ok(await api.release(states=[item]))
            ok(await api.release(claim_id="c0"))
        elif number == 1:
            ok(await api.outcomes({**item, "outcome": "requeued", "delay_ms": 1}))
        else:
            ok(await api.outcomes({**item, "outcome": "executed", "outputs": [{"v": "1"}, {"v": "2"}]}))
    one, two = (state["state_id"] for state in ok(await api.claim([node_name("b")], 5))["states"])
    ok(await api.errored(one))
    ok(await api.executed(two, {"v": "2"}))
    later = manager.service.monotonic() + 10**9
    await store.write(managers.sweep, "", later, manager.service.terms, later - 10**8)
    await store.write(managers.sweep, "", later, manager.service.terms, None)
    await leases_that_end(manager)
    for _ in range(4):
        for state in ok(await api.claim(list(names), 50))["states"]:
            ok(await api.prune(state["state_id"]))
    ok(await api.claim(list(names), 50))
    ok(await api.manual_retry(two), 409)
    ok(await api.native_run(flow.run_id))
    ok(await api.runs(1, 5))
    ok(await api.runs(3, 5))
    shown = ok(await api.run_graph(flow.run_id))
    ok(await api.state("graph", flow.run_id, shown["nodes"][0]["id"]))
    ok(await api.native("POST", f"run/{await flow.trigger(store={'k': 'v'})}/cancel"))
    ok(await api.graphs())
    await everything_awaited(manager)
    await everything_managed(manager, flow)


WAITS = {"outputs": {"by": {"type": "string"}}, "timeout_ms": 1}


async def everything_awaited(manager: Manager) -> None:
    """Wait for events at places and in a node, and send some early, in time and too late."""
    api = manager.api
    places = [
        place("f", "w"),
        place("w", node_name="wait for event", wait={"event": "go-${{ f.outputs.v }}", **WAITS}),
    ]
    await api.register_for(places[:1])
    flow = await Flow.put(api, "awaiting", api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    state = await claim_one(api, limits={node_name("f"): 1})
    assert await report(api, item_for(state, outcome="waiting", event="go-0")) == ["ok"]
    for name in ("go-0", "go-1", "go-1"):
        path, event = f"run/{flow.run_id}/events", {"name": name, "value": {"by": "ada"}}
        ok(await api.native("POST", path, json=event))
    state = await claim_one(api, limits={node_name("f"): 1}, wait_ms=5_000)
    outputs = [{"v": str(number), "w": ""} for number in range(1, 4)]
    assert await report(api, item_for(state, outcome="executed", outputs=outputs)) == ["ok"]
    ok(await api.native("GET", f"run/{flow.run_id}/events"))
    ok(await api.native("POST", f"run/{flow.run_id}/events", json={**event, "name": "go-2"}))
    await trio.sleep(0.002)
    while await handle_due(manager.service, Step.WAIT):
        pass


async def leases_that_end(manager: Manager) -> None:
    """Let the lease of a state end that its runtime regains; then let the state end as poison."""
    (state,) = ok(await manager.remote.native_claim({node_name("t"): 1}))["states"]
    item = {**item_for(state), "running": True, "checkpoint": {"number": 1, "value": "{}"}}
    for poison_limit in (5, 1):
        ok(await manager.remote.heartbeat("w", states=[item]))
        terms = leases.Terms(poison_limit=poison_limit)
        now = manager.service.monotonic() + 2 * terms.lease_ttl_ms
        assert await manager.service.store.write(leases.expire, now, terms) == 1


async def everything_managed(manager: Manager, flow: Flow) -> None:
    """Look into runs and states in every way, retry a run, and delete one."""
    api, store = manager.api, manager.service.store
    joined = place("x"), place("j", unites="w", strategy="ALL_DONE", inputs={"p": "${{x.outputs.v}}"})
    saved = await Flow.start(api, place("s"), graph="saved", retry_policy=FAST_RETRY)
    for outcome in ({"outcome": "errored", "error": "x"}, {"outcome": "executed", "outputs": []}):
        state = await claim_one(api, limits={node_name("s"): 1}, wait_ms=5_000)
        checkpoint = {"checkpoint": {"number": 1, "value": "{}"}}
        assert await report(api, item_for(state, **outcome, **checkpoint)) == ["ok"]
    assert (await saved.run_summary())["status"] == "SUCCESS"
    only = await Flow.start(
        api, place("w", "x", "y"), place("y", "j"), *joined, graph="only", retry_policy=NO_RETRY
    )
    for identifier in ("w", "y"):
        await only.run(identifier)
    state_id = await only.fail("x", times=1)
    await only.run("j")
    ok(await api.history(state_id))
    node = ok(await api.native("GET", f"state/{state_id}"))["node_name"]
    number = (await store.read(find_node, api.namespace, node))["id"]
    assert len(await store.read(last_failures, number, 200)) == 1
    places: list[dict[str, str]] = [{"run": only.run_id}, {"graph": "only"}, {"run": flow.run_id}]
    for narrowed in (
        *places,
        *({**each, "identifier": "x"} for each in places),
        {"node": node_name("x")},
        {},
    ):
        for statuses in ([], ["ERRORED"], ["QUEUED", "CREATED"]):
            page = ok(await api.states(**narrowed, status=statuses, limit=1))
            ok(await api.states(**narrowed, status=statuses, before=page["next"] or state_id))
    for query in (
        {},
        {"graph": "only"},
        {"status": "FAILED"},
        {"since": "2020-01-01T00:00:00Z"},
        {"parent": only.run_id},
    ):
        page = ok(await api.find_runs(**query, limit=1))
        ok(await api.find_runs(**query, before=page["next"] or "1.1"))
    request_id = "6b1f1c1e-0000-4000-8000-000000000000"
    for _ in range(2):
        assert ok(await api.retry_run(only.run_id, request_id))["runs_again"] == {"j": 1}
    for identifier in ("x", "j"):
        await only.run(identifier)
    assert await store.write(discard, -1_000)
    while await store.write(clear):
        pass
    await store.write(retention.drop_templates)
    await everything_of_a_graph(manager)


async def everything_of_a_graph(manager: Manager) -> None:
    """Find a run by its key, pause what can be paused, and delete the graph."""
    api, store = manager.api, manager.service.store
    triggers = [{"type": "CRON", "value": {"expression": "@daily", "timezone": "Europe/Berlin"}}]
    keyed = await Flow.deploy(api, place("k"), graph="keyed", triggers=triggers)
    for _ in range(2):
        ok(await api.trigger_many(keyed.graph, {"key": "order-17"}))
    for query in ({}, {"graph": keyed.graph}, {"status": "PENDING"}):
        assert len(ok(await api.find_runs(key="order-17", **query))["runs"]) == 1
    for what in (f"node/{node_name('k')}", "graph/keyed"):
        for do in ("pause", "resume"):
            ok(await api.native("POST", f"{what}/{do}"))
    await store.write(schedules.fire_schedules)
    await store.read(schedules.due_in_ms)
    ok(await api.cancel_triggers(keyed.graph))
    ok(await api.delete_graph(keyed.graph, cancel_runs="true"))


async def test_no_statement_of_any_use_case_or_query_scans_a_table_that_grows(manager: Manager) -> None:
    async with planned(manager.service.store) as plans:
        await everything_once(manager)
    assert len(plans) > 50, "hardly anything was watched"
    assert any("FROM states WHERE parent" in sql for sql in plans)
    assert any("FROM unite_members" in sql for sql in plans)
    assert refuses_scans(plans) == {}
    by_key = [plan for sql, plan in plans.items() if "key = 'order-17'" in sql]
    assert by_key
    assert all("runs_by_key" in plan[0] for plan in by_key), "not those of the namespace, by time"


@pytest.fixture(scope="module")
def on_postgres() -> Iterator[tuple[Database, set[str]]]:
    """Give a database with a history, and the statements of every kind of step."""

    async def use() -> None:
        async with open_manager(database.url) as manager:
            await everything_once(manager)

    with pytest.MonkeyPatch.context() as patch, empty_database() as database:
        # So that the state manager's own sweep does not follow the one below, which is of another time.
        patch.setattr(leases.Terms, "sweep_interval", 60.0)
        with watched_on_postgres() as statements:
            trio.run(use)
        add_history(database)
        yield database, statements


def test_no_statement_scans_a_table_that_grows_on_postgresql(on_postgres: tuple[Database, set[str]]) -> None:
    scans = scans_on_postgres(*on_postgres)
    assert len(on_postgres[1]) > 100, "hardly anything was watched"
    # What retention does now and then: PostgreSQL may find it cheaper to read an index of runs than to look
    # for each template there.
    assert all(sql.startswith("DELETE FROM templates ") for sql in scans), scans


def test_states_named_by_number_are_found_by_it_on_postgresql_though_nothing_waited_at_the_last_analyze(
    on_postgres: tuple[Database, set[str]],
) -> None:
    """Plans are kept. One over an index of waiting or held states reads all of them once there are many."""
    scans = indexes_by_number(*on_postgres)
    assert len([sql for sql in scans if sql.startswith("UPDATE")]) > 10, "hardly anything was watched"
    assert {sql: indexes for sql, indexes in scans.items() if indexes != {"states_pkey"}} == {}


def test_no_statement_reads_slots_again_that_were_deleted(on_postgres: tuple[Database, set[str]]) -> None:
    """As a scan through a bitmap does, which marks no entries of deleted rows in the index."""
    database, statements = on_postgres
    of_slots = [sql for sql in statements if re.search(r"\bslots\b", sql)]
    assert len(of_slots) > 5, "hardly anything was watched"
    assert bitmap_scans(database, of_slots) == []


async def test_a_start_reads_held_states_and_not_all_states(manager: Manager) -> None:
    async with planned(manager.service.store) as plans:
        await manager.service.store.write(leases.recover, "", leases.Terms())
        await manager.service.store.write(leases.restart, 0, manager.service.terms)
    for sql, plan in refuses_scans(plans).items():
        assert all(AT_THE_START.match(line) or not line.startswith("SCAN") for line in plan), (sql, plan)


async def test_a_clock_that_is_set_back_moves_waiting_states_and_reads_no_others() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager, planned(manager.service.store, "UPDATE states") as plans:
        clock.advance(-3_600_000)
        await manager.service.store.write(lambda tx: None)
    assert plans
    for sql, plan in plans.items():
        assert all("USING INDEX" in line for line in plan), (sql, plan)


async def test_a_claim_does_not_sort_and_so_reads_no_inputs_beyond_its_size(manager: Manager) -> None:
    flow = await Flow.deploy(manager.api, place("a"))
    await flow.trigger()
    async with planned(manager.service.store, "FROM states") as plans:
        ok(await manager.api.native_claim({node_name("a"): 9}))
    assert [sql for sql in plans if " inputs" in sql] == [sql for sql in plans if "seq IN" in sql]
    for sql, plan in plans.items():
        assert not any("TEMP B-TREE" in line for line in plan), (sql, plan)


async def test_a_claim_for_one_run_costs_no_more_if_others_wait() -> None:
    async def claims(others: int) -> int:
        async with open_manager() as manager:
            flow = await Flow.deploy(manager.api, place("a"))
            ok(await manager.api.trigger_many("graph", *({"key": f"{number}"} for number in range(others))))
            run_id = await flow.trigger()

            async def ask() -> None:
                for limit in (1, 1):  # once it finds something, once nothing
                    ok(await manager.api.native_claim({node_name("a"): limit}, run_id=run_id))

            return await steps_of(manager.service.store, ask)

    assert await claims(1_000) <= await claims(10) + 1


# -- fan-outs


async def test_a_fan_out_and_its_unite_cost_no_more_per_state_when_they_are_large() -> None:
    async def fan_out(size: int) -> int:
        async with open_manager() as manager:
            api = manager.api
            flow = await Flow.start(
                api, place("r", "t"), place("t", "b"), place("b", "u"), place("u", unites="r")
            )
            await flow.run("r")
            held = await flow.one("t")
            outputs = [{"v": str(number)} for number in range(size)]

            async def run() -> None:
                ok(await api.executed(held, *outputs))
                while states := ok(await api.claim([node_name("b")], 500))["states"]:
                    for state in states:
                        ok(await api.executed(state["state_id"], {"v": "1"}))

            steps = await steps_of(manager.service.store, run)
            assert (await flow.statuses())[("u", "CREATED")] == 1
            return steps

    small, large = await fan_out(100), await fan_out(400)
    assert large < 4 * 1.5 * small


async def test_every_sibling_of_a_fan_out_may_be_a_separate_group() -> None:
    async def fan_out(size: int) -> int:
        async with open_manager() as manager:
            api = manager.api
            flow = await Flow.start(api, place("t", "b"), place("b", "u"), place("u", unites="t"))
            held = await flow.one("t")
            outputs = [{"v": str(number)} for number in range(size)]
            return await steps_of(manager.service.store, lambda: api.executed(held, *outputs))

    small, large = await fan_out(250), await fan_out(1000)
    assert large < 4 * 1.5 * small


async def test_a_claim_costs_the_same_however_many_states_wait_or_are_done() -> None:
    async def cost(waiting: int) -> int:
        async with open_manager() as manager:
            api = manager.api
            flow = await Flow.start(api, place("t", "b"), place("b"))
            await flow.run("t", *({"v": "1"} for _ in range(waiting)))
            return await steps_of(manager.service.store, lambda: api.claim([node_name("b")], 10))

    few, many = await cost(50), await cost(2_000)
    assert many < 1.5 * few


@pytest.mark.parametrize("what", ["sweep", "claim"])
async def test_a_sweep_and_a_claim_cost_the_same_however_many_states_wait_for_events(what: str) -> None:
    async def cost(waiting: int) -> int:
        async with open_manager() as manager:
            api, store = manager.api, manager.service.store
            awaited = place("w", node_name="wait for event", wait={"event": "go"})
            await api.register_for([place("t")])
            flow = await Flow.put(api, "graph", api.body([place("t", "w"), awaited]))
            await flow.trigger()
            await flow.run("t", *({"v": "1"} for _ in range(waiting)))
            now = manager.service.monotonic()
            await flow.trigger()
            if what == "claim":
                return await steps_of(store, lambda: api.native_claim({node_name("t"): 10}))
            return await steps_of(
                store, lambda: store.write(managers.sweep, "", now, manager.service.terms, now)
            )

    few, many = await cost(50), await cost(2_000)
    assert many < 1.5 * few + 1


# -- templates


def graph(*places: dict[str, Any]) -> GraphBody:
    return GraphBody.model_validate({"secrets": {}, "nodes": [{"namespace": "n", **each} for each in places]})


def chain() -> list[dict[str, Any]]:
    last = MAX_NODES - 1
    return [
        place(
            f"n{number}",
            *([f"n{number + 1}"] if number < last else []),
            inputs={"p": "${{n0.outputs.v}}"} if number else {},
        )
        for number in range(MAX_NODES)
    ]


def many_unites_one_after_the_other() -> list[dict[str, Any]]:
    pairs = MAX_NODES // 2 - 2
    places = [place("r", "t"), place("t", "x"), place("x", "u0")]
    for number in range(pairs):
        following = [f"u{number + 1}"] if number < pairs - 1 else []
        places += [place(f"u{number}", f"y{number}", unites="t"), place(f"y{number}", *following)]
    return places


def many_unites_side_by_side() -> list[dict[str, Any]]:
    pairs = MAX_NODES // 2 - 1
    places = [place("r", "t"), place("t", *(f"x{number}" for number in range(pairs)))]
    for number in range(pairs):
        places += [place(f"x{number}", f"u{number}"), place(f"u{number}", unites="t")]
    return places


def many_edges() -> list[dict[str, Any]]:
    size = 300
    return [
        place(f"n{number}", *(f"n{later}" for later in range(number + 1, size))) for number in range(size)
    ]


@pytest.mark.parametrize(
    "shape", [chain, many_unites_one_after_the_other, many_unites_side_by_side, many_edges]
)
def test_the_largest_graphs_are_checked_quickly(shape: Callable[[], list[dict[str, Any]]]) -> None:
    body = graph(*shape())
    # The checks run in the server's event loop, and nothing else runs meanwhile. Seconds of the processor,
    # which are no more on a machine that has other things to do.
    began = time.thread_time()
    template = Template(body)
    assert time.thread_time() - began < 5, "this once took the better part of a minute"
    assert len(template.places) > 100


async def test_a_chain_of_the_greatest_length_runs_to_its_end() -> None:
    with trio.fail_after(60):
        async with open_manager() as manager:
            api = manager.api
            length = 300
            places = [
                place(
                    f"n{number}",
                    *([f"n{number + 1}"] if number < length - 1 else []),
                    inputs={"p": "${{n0.outputs.v}}"} if number else {},
                )
                for number in range(length)
            ]
            flow = await Flow.start(api, *places)
            for number in range(length):
                (state,) = ok(await api.claim([node_name(f"n{number}")], 5))["states"]
                assert number == 0 or state["inputs"] == {"p": "first"}
                ok(await api.executed(state["state_id"], {"v": "first" if number == 0 else "later"}))
            assert (await flow.run_summary())["status"] == "SUCCESS"
