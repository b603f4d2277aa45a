"""What a state manager shows of a namespace and of itself, where a test has to set its clock."""

from __future__ import annotations

import re

import httpx

from exotrio._util.times import moment_ms
from exotrio._wire.checkup import Checkup
from exotrio._wire.overview import Overview
from exotrio._wire.states import StateHistory
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.queries.load import MAX_COUNTED, backlog, waiting
from exotrio.manager.queries.state_detail import MAX_SHOWN
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.helpers import NO_RETRY, SettableClock, ok, open_client, place
from tests.support.manager import KEY, NO_SETTINGS, Manager, open_manager, tallied, with_history
from tests.support.query_plans import connection_of, planned, refuses_scans, steps_of
from tests.support.web import open_site


async def test_ended_states_are_counted_by_minute_and_by_node() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        flow = await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY)
        await flow.run("a")
        await tallied(manager.service, clock)
        clock.advance(119_000)
        await flow.trigger()
        await flow.fail("a", times=1)
        await tallied(manager.service, clock)
        shown = Overview.model_validate(ok(await manager.api.overview()))
        assert shown.throughput.ended[-3:] == [1, 0, 1]
        assert shown.throughput.failed[-3:] == [0, 0, 1]
        assert shown.throughput.first_minute + 59 == clock.now_ms // 60_000
        (a,) = shown.nodes
        assert (a.ended, a.failed) == (2, 1)
        assert a.p50 is not None


async def test_of_very_many_events_of_a_state_the_last_are_shown_oldest_first() -> None:
    async with open_manager() as manager:
        await Flow.start(manager.api, place("a"))
        state_id = (await claim_one(manager.api))["state_id"]

        def add(tx: Transaction) -> None:
            rows = [(tx.seq(state_id), number, "handed over") for number in range(MAX_SHOWN + 5)]
            tx.insert("events", ("state", "at", "kind"), rows)

        await manager.service.store.write(add)
        events = StateHistory.model_validate(ok(await manager.api.history(state_id))).events
        assert [moment_ms(event.at) for event in events] == list(range(5, MAX_SHOWN + 5))


async def test_overdue_claims_and_lost_leases_are_counted() -> None:
    terms = Terms(lease_ttl_ms=10_000, claim_timeout_ms=20_000, poison_limit=2)
    now = 1_000

    async with (
        open_service(":memory:", monotonic=lambda: now, terms=terms, settings=NO_SETTINGS) as service,
        open_client(transport=httpx.ASGITransport(create_app(service, key=KEY)), key=KEY) as client,
    ):
        api = Api(client, "n")
        flow = await Flow.start(api, place("a"))
        await claim_one(api)
        await flow.trigger()
        await flow.take("a", 1)
        now += 15_000
        body = (await api.checkup()).text
        assert all(field in body for field in ('"lease_ttl_ms":10000,', '"overdue_ms":5000}')), body
        shown = Checkup.model_validate_json(body)
        (claims,) = shown.claims
        assert (claims.leased, claims.timed, claims.leaseless) == (1, 1, 0)
        assert (claims.overdue, claims.overdue_for) == (1, 5)
        assert shown.claim_timeout == 20
        await service.store.write(expire, now, terms)
        await claim_one(api)
        now += 15_000
        await service.store.write(expire, now, terms)
        shown = Checkup.model_validate(ok(await api.checkup()))
        assert (shown.leases.lost, shown.leases.poison) == (3, 1)
        assert shown.claims == []


async def test_a_lease_that_its_runtime_regains_is_not_counted_as_lost(manager: Manager) -> None:
    await Flow.start(manager.remote, place("a"))
    state = await claim_one(manager.remote)

    async def lost() -> int:
        return Checkup.model_validate(ok(await manager.remote.checkup())).leases.lost

    later = manager.service.monotonic() + 3_600_000
    await manager.service.store.write(expire, later, Terms())
    assert await lost() == 1
    ok(await manager.remote.heartbeat("w", states=[item_for(state)]))
    assert await lost() == 0


async def looked_at(manager: Manager, flow: Flow) -> None:
    """Look at everything that is shown of a namespace and of a run."""
    ok(await manager.api.overview())
    ok(await manager.api.checkup())
    page = await manager.api.native("GET", f"run/{flow.run_id}/export")
    assert page.status_code == 200


async def test_pages_scan_only_waiting_and_held_states(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"))
    await claim_one(manager.api)
    async with planned(manager.service.store) as plans:
        await looked_at(manager, flow)
    assert len(plans) > 15, "hardly anything was watched"
    # What is held, in a subquery, too, the newest events, and runs that have not ended: all bounded. And the
    # names of namespaces.
    allowed = re.compile(
        r"SCAN (states USING INDEX states_held|\(subquery-\d+\)|events|newest|unfinished|failed|waits|waiting"
        r"|held|(nodes|graphs|limits) USING COVERING INDEX \w+"
        r"|json_each.*)$"
    )
    for sql, plan in refuses_scans(plans).items():
        assert all(allowed.match(line) for line in plan if line.startswith("SCAN")), (sql, plan)


async def test_an_overview_and_its_page_read_held_states_once() -> None:
    async with open_site() as site:
        await Flow.start(site.api, place("a"))
        await claim_one(site.api)
        connection, statements = await connection_of(site.service.store), list[str]()
        connection.set_trace_callback(statements.append)
        reads = []
        for read_overview in (site.api.overview, lambda: site.browser.page(f"/ns/{site.api.namespace}")):
            statements.clear()
            await read_overview()
            reads.append(len([sql for sql in statements if "INDEXED BY states_held" in sql]))
        connection.set_trace_callback(None)
    assert reads == [1, 1]


async def test_the_depth_of_queues_is_counted_without_held_states(manager: Manager) -> None:
    await Flow.start(manager.api, place("a"))
    await claim_one(manager.api)
    async with planned(manager.service.store, " states ") as plans:
        ok(await manager.api.depth())
    (plan,) = plans.values()
    assert any("states_by_turn" in line for line in plan), plan


async def test_waiting_states_are_counted_once() -> None:
    """Although two numbers are shown: how many wait, and how many of them are due."""
    async with open_manager() as manager:
        store = manager.service.store
        await Flow.start(manager.api, place("a"), runs=1_000)
        depth = await steps_of(store, lambda: store.read(waiting, "tests", MAX_COUNTED))
        assert await steps_of(store, lambda: store.read(backlog, namespace="tests")) < 1.5 * depth


async def test_an_overview_costs_the_same_whatever_the_history() -> None:
    async def cost(finished: int) -> int:
        clock = SettableClock()
        async with open_manager(clock=clock) as manager:
            await with_history(manager.api, finished)
            await tallied(manager.service, clock)

            async def read_overview() -> None:
                ok(await manager.api.overview())
                ok(await manager.api.checkup())

            return await steps_of(manager.service.store, read_overview)

    assert await cost(400) <= await cost(20) + 1
