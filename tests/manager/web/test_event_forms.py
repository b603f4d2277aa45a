"""The forms on the page of a run that send what it waits for."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.manager.engine.due_work import Step
from exotrio.manager.rules.access import IN_PROCESS
from exotrio.manager.web.page import PageRequest
from exotrio.manager.web.pages.run import PAGE
from tests.contract.flow import Flow
from tests.contract.native import A, claim_one, executed_item, item_for, report, results
from tests.support.due import handle_due
from tests.support.helpers import SettableClock, eventually, ok, place, run_place, wait_place
from tests.support.web import SCRIPT, Site, open_site, text_of

OUTPUTS: dict[str, Any] = {
    "ok": {"type": "string", "contentSchema": {"type": "boolean"}},
    "count": {"type": "string", "contentSchema": {"type": "integer", "minimum": 1}},
    "by": {"type": "string", "description": "Who decides"},
    "why": {"type": "string", "default": "no reason"},
}
SENT = {"event": "approved", "place": "wait", "field.ok": "true", "field.count": "3", "field.by": SCRIPT}


async def waiting_run(site: Site, event: str = "approved") -> str:
    wait = {"event": event, "outputs": OUTPUTS, "timeout_ms": 3_600_000}
    where = {"node_name": "wait for event", "namespace": site.api.namespace, "identifier": "wait"}
    flow = await Flow.start(site.api, {**where, "inputs": {}, "wait": wait})
    assert flow.run_id is not None
    return flow.run_id


async def values_sent(site: Site, run: str) -> list[Any]:
    return [event["value"] for event in ok(await site.api.native("GET", f"run/{run}/events"))["sent"]]


async def test_the_page_of_a_run_says_what_it_waits_for_and_sends_it_by_a_typed_form(site: Site) -> None:
    run = await waiting_run(site)
    page = text_of(await site.browser.page(f"/ns/shop/runs/{run}"))
    assert "waits for event approved since" in page
    assert '<option value="true"' in page
    assert 'type="number"' in page
    assert "Who decides" in page
    assert 'value="no reason"' in page
    page = await site.browser.do(f"/ns/shop/runs/{run}", {**SENT, "field.why": "it fits"})
    assert "The event approved was sent." in page
    assert "Waits for" not in page
    assert await values_sent(site, run) == [{"ok": "true", "count": "3", "by": SCRIPT, "why": "it fits"}]


async def test_a_form_with_a_wrong_field_is_shown_again_as_it_was_sent(site: Site) -> None:
    run = await waiting_run(site)
    for wrong, problem in (
        ({"field.count": "0"}, "count must be a whole number, at least 1"),
        ({"field.ok": ""}, "ok is required"),
    ):
        answer = await site.browser.post(f"/ns/shop/runs/{run}", {**SENT, **wrong})
        assert answer.status_code == 422
        assert problem in text_of(answer.text)
        assert SCRIPT in text_of(answer.text), "what was filled in is kept"
        assert SCRIPT not in answer.text
    assert await values_sent(site, run) == []


async def test_what_was_answered_meanwhile_is_not_answered_again(site: Site) -> None:
    run = await waiting_run(site)
    body = {"name": "approved", "value": {"ok": "false", "count": "1", "by": "ada"}}
    ok(await site.api.native("POST", f"run/{run}/events", json=body))
    page = await site.browser.do(f"/ns/shop/runs/{run}", SENT)
    assert "Nothing changed: nothing waits for the event" in text_of(page)
    assert await values_sent(site, run) == [body["value"]]


@pytest.mark.parametrize(
    ("text", "sent"), [('{"id": "7"}', [{"id": "7"}]), ("{", []), ('{"id": 7}', []), ("", [{}])]
)
async def test_what_a_node_waits_for_is_sent_as_json(site: Site, text: str, sent: list[Any]) -> None:
    flow = await Flow.start(site.api, place("a"))
    waits = item_for(await claim_one(site.api), outcome="waiting", event="done")
    assert results(ok(await site.api.outcomes(waits))) == ["ok"]
    assert flow.run_id is not None
    form = {"event": "done", "place": "a", "json": text}
    answer = await site.browser.post(f"/ns/shop/runs/{flow.run_id}", form)
    assert answer.status_code == (303 if sent else 422)
    assert await values_sent(site, flow.run_id) == sent


async def test_a_form_that_is_being_filled_in_is_not_replaced_as_time_passes() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        run = await waiting_run(site)
        request = PageRequest(
            service=site.service, namespace="shop", params={"run_id": run}, query={}, caller=IN_PROCESS
        )
        before = await site.service.store.read(PAGE.versions, request)
        clock.advance(60_000)
        after = await site.service.store.read(PAGE.versions, request)
    assert before["summary"] != after["summary"]
    assert before["waits"] == after["waits"]


async def test_a_wait_that_ended_by_its_deadline_does_not_look_like_an_answer() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        run = await waiting_run(site)
        (state,) = ok(await site.api.states())["states"]
        assert "(no event)" not in await site.browser.page(f"/ns/shop/runs/{run}")
        clock.advance(3_600_000)
        assert await handle_due(site.service, Step.WAIT) == 1
        page = text_of(await site.browser.page(f"/ns/shop/states/{state['id']}"))
        assert "waited 1 h for an event: none was sent in time" in page
        assert "attempt 1 of" not in page, "it is not retried automatically"
        assert "(no event)" in await site.browser.page(f"/ns/shop/runs/{run}")
        overview = text_of(await site.browser.page("/ns/shop"))
        assert "no event" in overview, "it is among what fails"
        assert "of 0 failed" not in overview, "it has no attempts"


async def test_an_event_that_came_after_the_deadline_explains_why_there_is_no_answer() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        given: dict[str, Any] = {"timeout_ms": 3_600_000, "on_timeout": {"by": "-", "ok": "false"}}
        wait = wait_place("wait", "b", event="approved", **given)
        await site.api.register_for([place("b")])
        flow = await Flow.put(site.api, "graph", site.api.body([wait, place("b")]))
        run = await flow.trigger()
        clock.advance(3_600_000 + 2_000)
        value = {"ok": "true", "by": "ada"}
        body = {"name": "approved", "value": value}
        assert ok(await site.api.native("POST", f"run/{run}/events", json=body))["woken"] == 0
        (state,) = [each for each in ok(await site.api.states())["states"] if each["identifier"] == "wait"]
        page = text_of(await site.browser.page(f"/ns/shop/states/{state['id']}"))
        assert "none was sent in time; it was sent 2.0 s after the deadline" in page


async def test_lists_and_pages_of_states_show_the_status(site: Site) -> None:
    run = await waiting_run(site)
    (state,) = ok(await site.api.states(status="WAITING"))["states"]
    page = text_of(await site.browser.page(f"/ns/shop/states/{state['id']}"))
    assert "waits for event approved since" in page
    assert "for an event" in page
    page = text_of(await site.browser.page(f"/ns/shop/runs/{run}?status=event"))
    assert "awaiting events or runs 1" in page
    assert "1 waits for events or runs" in text_of(await site.browser.page("/ns/shop"))
    assert "wait for event" not in text_of(await site.browser.page("/ns/shop/nodes"))
    node = await site.browser.page("/ns/shop/nodes/wait%20for%20event")
    assert "its states wait for events" in node
    assert "no runtime offers this node" not in node
    assert "Pause this node" not in node
    assert '<span class="chip c-event">waiting</span>' in await site.browser.page("/ns/shop/runs")
    exported = await site.browser.page(f"/ns/shop/runs/{run}/export")
    assert "for an event" in text_of(exported)


async def test_the_page_of_a_node_that_was_cancelled_while_it_waited_says_which_runtime_had_it(
    site: Site,
) -> None:
    flow = await Flow.start(site.api, place("a"))
    state = await claim_one(site.api)
    await report(site.api, item_for(state, outcome="waiting", event="paid"))
    ok(await site.api.native("POST", f"run/{flow.run_id}/cancel"))
    page = text_of(await site.browser.page(f"/ns/shop/states/{state['state_id']}"))
    assert "Last claimed by" in page
    assert "it ended before it was claimed again" in page
    assert "it waited for an event" not in page
    assert "requested to run again" not in page


async def test_the_timeline_shows_the_time_of_a_node_before_its_wait_and_none_of_a_place() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        await Flow.deploy(site.api, place("c"), graph="child")
        places = [place("a", "g"), run_place("g", graph="child")]
        flow = await Flow.deploy(site.api, *places, graph="parent")
        await flow.trigger()
        page = f"/ns/shop/runs/{flow.run_id}"
        state = await claim_one(site.api, limits={A: 1})
        clock.advance(1_000)
        await report(site.api, item_for(state, outcome="waiting", event="paid"))
        clock.advance(3_000)
        drawn = await site.browser.fragments(page, "timeline")
        assert 'class="earlier" x="0.00%" width="25.00%"' in drawn, "it ran, as far as is known"
        assert 'class="awaits" x="25.00%" width="75.00%"' in drawn
        exported = (await site.api.native("GET", f"run/{flow.run_id}/export")).text
        assert '<span class="chip c-event">waits for event or run</span>' in exported, "as the page calls it"
        body = {"name": "paid", "value": {"sum": "12"}}
        ok(await site.api.native("POST", f"run/{flow.run_id}/events", json=body))
        state = await claim_one(site.api, limits={A: 1})
        clock.advance(1_000)
        await report(site.api, executed_item(state))
        drawn = await site.browser.fragments(page, "timeline")
        assert 'class="earlier" x="0.00%" width="20.00%"' in drawn
        assert 'class="awaits" x="20.00%" width="60.00%"' in drawn
        exported = (await site.api.native("GET", f"run/{flow.run_id}/export")).text
        state_page = await site.browser.page(f"/ns/shop/states/{state['state_id']}")
        times = (
            "claim to end 1.0 s; before that, waited 3.0 s for an event, waited, was held or delayed 1.0 s"
        )
        assert [text.count(times) for text in (drawn, exported)] == [1, 2], "once in the timeline"
        assert times in state_page
        assert "3.0 s for an event</span>" in await site.browser.page(page)
        clock.advance(1_000)
        await site.service.store.write(lambda tx: None)  # counts are written each second
        assert "for events or runs, over in the last hour: 1, p95" in await site.browser.page(
            f"/ns/shop/nodes/{A}"
        )

        async def has_begun() -> None:
            clock.advance(1)
            assert ok(await site.api.native_run(flow.run_id))["children"]

        await eventually(has_begun)
        drawn = await site.browser.fragments(page, "timeline")
        assert drawn.count('class="earlier"') == 1, "no runtime had the state that waits for a run"


async def test_the_timeline_shows_the_time_of_a_node_before_a_wait_in_which_it_was_cancelled() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        flow = await Flow.start(site.api, place("a"))
        state = await claim_one(site.api)
        clock.advance(1_000)
        await report(site.api, item_for(state, outcome="waiting", event="paid"))
        clock.advance(3_000)
        ok(await site.api.native("POST", f"run/{flow.run_id}/cancel"))
        drawn = await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "timeline")
        assert 'class="earlier" x="0.00%" width="25.00%"' in drawn
        assert 'class="awaits" x="25.00%" width="75.00%"' in drawn
