"""An event is sent to one state manager at the moment at which another one changes the same run.

No event is missed, none wakes twice, and what is acknowledged is what is stored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from exotrio.manager.engine import event_links
from exotrio.manager.engine.due_work import Step
from exotrio.manager.engine.leases import Terms
from exotrio.manager.engine.managers import sweep
from exotrio.manager.engine.sending import send
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, claim_one, item_for
from tests.support.due import handle_due
from tests.support.helpers import DAY_MS, NO_RETRY, SettableClock, node_name, ok, place, wait_place
from tests.support.manager import Manager, gate
from tests.support.races import (
    Call,
    Pair,
    cancelling,
    check_sound,
    in_both_orders,
    open_pair,
    race,
    reporting,
)
from tests.support.stores import until

B = node_name("b")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def pair(clock: SettableClock) -> AsyncIterator[Pair]:
    async with open_pair(clock=clock) as opened:
        yield opened
        await check_sound(opened)


@pytest.fixture
def api(pair: Pair) -> Api:
    return pair.second.remote


def sending(flow: Flow, by: str = "ada") -> Call:
    body = {"name": "approved", "value": {"by": by}}
    return lambda manager: manager.remote.native("POST", f"run/{flow.run_id}/events", json=body)


async def handling_waits(manager: Manager) -> int:
    handled: int = await handle_due(manager.service, Step.WAIT)
    return handled


async def approval(api: Api, on_timeout: object = "error") -> Flow:
    """Start a run whose b follows a place that waits, which follows a."""
    places = [
        place("a", "w"),
        wait_place("w", "b", event="approved", timeout_ms=DAY_MS, on_timeout=on_timeout),
        place("b", inputs={"x": "${{ w.outputs.by }}"}),
    ]
    await api.register_for([places[0], places[2]])
    flow = await Flow.put(api, "graph", api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    return flow


async def status_of_wait(api: Api, flow: Flow) -> set[str]:
    nodes = ok(await api.native_run(flow.run_id))["nodes"]
    return {status for node in nodes if node["identifier"] == "w" for status in node["counts"]}


@in_both_orders
async def test_an_event_is_sent_when_its_deadline_passes(
    pair: Pair, api: Api, clock: SettableClock, swapped: bool
) -> None:
    flow = await approval(api, {"by": "late", "ok": "false"})
    await flow.run("a")
    clock.advance(DAY_MS)
    sent, handled = await race(pair, swapped, sending(flow), handling_waits)
    assert (ok(sent)["created"], ok(sent)["woken"]) == (True, 0), "in both orders it is too late"
    assert handled == swapped
    assert await flow.inputs("b") == {"x": "late"}


@in_both_orders
async def test_an_event_is_sent_when_a_place_begins_to_wait(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await approval(api)
    state = await claim_one(api)
    executed = reporting(item_for(state, outcome="executed", outputs=[{"v": "", "w": ""}]))
    sent, results = await race(pair, swapped, sending(flow), executed)
    assert (ok(sent)["created"], results) == (True, ["ok"])
    assert await flow.inputs("b") == {"x": "ada"}


@in_both_orders
async def test_an_event_is_sent_when_a_node_begins_to_wait(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a"))
    waiting = reporting(item_for(await claim_one(api), outcome="waiting", event="approved"))
    sent, results = await race(pair, swapped, sending(flow), waiting)
    assert (ok(sent)["created"], results) == (True, ["ok"])
    (state,) = await claim(api, {A: 2})
    assert state["event"]["value"] == {"by": "ada"}


@pytest.mark.parametrize("by", ["ada", "bob"])
async def test_two_events_of_one_name_are_sent_together(pair: Pair, api: Api, by: str) -> None:
    flow = await approval(api)
    await flow.run("a")
    answers: tuple[httpx.Response, httpx.Response] = await pair.race(sending(flow), sending(flow, by))
    if by == "ada":
        assert sorted(ok(each)["created"] for each in answers) == [False, True]
    else:
        assert sorted(each.status_code for each in answers) == [200, 409]
    winner = "ada" if answers[0].status_code == 200 else by
    assert await flow.inputs("b") == {"x": winner}


@in_both_orders
async def test_an_event_is_sent_when_its_run_is_cancelled(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await approval(api)
    await flow.run("a")
    sent, cancelled = await race(pair, swapped, sending(flow), cancelling(flow))
    ok(cancelled)
    assert (sent.status_code, await status_of_wait(api, flow)) in ((200, {"SUCCESS"}), (409, {"ERRORED"}))
    assert await claim(api, {B: 1}) == []


async def test_an_event_is_sent_when_its_wait_is_retried(pair: Pair, api: Api, clock: SettableClock) -> None:
    flow = await approval(api)
    await flow.run("a")
    clock.advance(DAY_MS)
    assert await handling_waits(pair.second) == 1
    retried, sent = await pair.race(lambda manager: manager.remote.retry_run(flow.run_id), sending(flow))
    ok(retried)
    assert ok(sent)["woken"] == 1
    assert await status_of_wait(api, flow) == {"RETRY_CREATED", "SUCCESS"}


@in_both_orders
async def test_an_event_is_sent_when_its_run_is_deleted(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await approval(api)
    await flow.run("a")
    sent, deleted = await race(
        pair,
        swapped,
        sending(flow),
        lambda manager: manager.remote.delete_graph("graph", cancel_runs="true"),
    )
    ok(deleted)
    assert sent.status_code in (200, 404, 409)


async def test_a_link_is_used_when_another_run_gets_the_id_of_its_run(
    pair: Pair, api: Api, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await approval(api)
    run_id, until_ms = flow.run_id, clock() + DAY_MS
    store, cipher = pair.first.service.store, pair.first.service.cipher
    text = await store.write(
        event_links.make_event_link, cipher, api.namespace, run_id, "approved", {"by": "ada"}, until_ms
    )
    replaced = trio.Event()

    async def press() -> None:
        link = event_links.read_event_link(text, cipher)
        assert link is not None
        await store.write(event_links.send_by_link, link)

    async def replace() -> None:
        ok(await api.delete_graph("graph", cancel_runs="true"))
        clock.advance(1)
        await Flow.put(api, "graph", api.body([place("a")]))
        ok(await api.native_trigger("graph", run_id))
        replaced.set()

    with gate() as closed:

        def held_up(*args: Any) -> Any:
            closed.hold()
            return send(*args)

        monkeypatch.setattr(event_links, "send", held_up)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(press)
            await trio.to_thread.run_sync(closed.wait_entered)
            nursery.start_soon(replace)
            await until(lambda: replaced.is_set() or pair.database.blocked())
            closed.open()
    assert ok(await api.native("GET", f"run/{run_id}/events"))["sent"] == []


async def test_a_deadline_passes_while_a_state_manager_of_an_earlier_version_sweeps(
    pair: Pair, api: Api, clock: SettableClock
) -> None:
    flow = await approval(api)
    await flow.run("a")
    terms = Terms()
    await pair.first.service.store.write(sweep, "earlier", clock(), terms, None)
    clock.advance(DAY_MS)
    for manager, name in ((pair.first, "earlier"), (pair.second, "later")):
        swept = await manager.service.store.write(sweep, name, clock(), terms, None)
    assert swept.has_work
    assert await handling_waits(pair.second) == 1
