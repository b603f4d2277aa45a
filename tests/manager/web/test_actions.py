"""What the forms of the dashboard do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from urllib.parse import quote
from uuid import uuid4

import pytest

from exotrio.manager.queries.runs import PAGE_SIZE
from exotrio.manager.web import actions
from tests.contract.api import Api
from tests.contract.flow import OK, Flow, fanned
from tests.contract.native import claim_one, item_for, report
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, UNKNOWN_RUN, declare, node_name, ok, place, refused
from tests.support.web import SCRIPT, Browser, Site, failed_run, text_of


def runs_in(html: str) -> list[str]:
    return re.findall(r'name="run" value="([^"]+)"', html)


async def test_a_failed_state_is_retried_and_its_new_attempt_shown(site: Site) -> None:
    flow, state = await failed_run(site.api)
    html = await site.browser.do(f"/ns/shop/states/{state}/retry")
    assert "This is its new attempt" in html
    assert "waiting" in html
    assert await flow.status(state) == "RETRY_CREATED"
    assert "This is its new attempt" not in await site.browser.page("/ns/shop"), "said once"


async def test_what_runs_again_with_a_retry_is_said_before_it_and_after_it(site: Site) -> None:
    flow, branches = await fanned(site.api, "ALL_DONE", size=2)
    ok(await site.api.errored(branches[0]))
    ok(await site.api.executed(branches[1], OK))
    note = "A retry also runs u again, and what follows."
    run = f"/ns/{flow.api.namespace}/runs/{flow.run_id}"
    assert note in await site.browser.page(run)
    assert note in await site.browser.page(f"/ns/shop/states/{branches[0]}")
    assert note not in await site.browser.page(f"/ns/shop/states/{branches[1]}")
    html = await site.browser.do(f"{run}/retry")
    assert "1 state will run again; then, with the new values: u (1 state replaced)." in html
    assert note not in html


async def test_all_failed_states_of_a_run_are_retried(site: Site) -> None:
    flow, state = await failed_run(site.api)
    assert "1 state will run again." in await site.browser.do(f"/ns/shop/runs/{flow.run_id}/retry")
    assert await flow.status(state) == "RETRY_CREATED"
    html = await site.browser.do(f"/ns/shop/runs/{flow.run_id}/retry")
    assert f"Nothing changed: the run {flow.run_id} has no failed states." in html
    assert f'action="/ns/shop/runs/{flow.run_id}/again"' in html, "it leads back to the run"


@pytest.mark.parametrize("what", ["state", "run"])
async def test_a_retry_continues_from_the_checkpoint_or_starts_from_the_beginning(
    site: Site, what: str
) -> None:
    flow = await Flow.deploy(site.api, place("a"), retry_policy=NO_RETRY)
    choices: tuple[tuple[dict[str, str], bool], ...] = (({}, True), ({"from_beginning": "on"}, False))
    for form, continues in choices:
        await flow.trigger()
        state = await claim_one(site.api)
        checkpoint = {"number": 1, "value": '{"row": "120"}'}
        failed = item_for(state, outcome="errored", error="x", checkpoint=checkpoint)
        assert await report(site.api, failed) == ["ok"]
        path = f"/ns/shop/states/{state['state_id']}"
        html = await site.browser.page(path)
        assert '<h2 id="h-checkpoint">Checkpoint</h2>' in html
        assert "Retry from the checkpoint" in html
        if what == "run":
            path = f"/ns/shop/runs/{flow.run_id}"
            html = await site.browser.page(path)
            assert "1 of them continues from a checkpoint." in html
        assert re.search(
            r'<button name="from_beginning" value="on" [^>]+>Retry (failed )?from the beginning<', html
        )
        await site.browser.do(f"{path}/retry", form)
        again = await claim_one(site.api)
        assert ("checkpoint" in again) is continues
        shown = await site.browser.page(f"/ns/shop/states/{again['state_id']}")
        assert ("<pre>120</pre>" in shown) is continues


async def test_a_retry_offers_no_choice_without_a_checkpoint(site: Site) -> None:
    flow, state = await failed_run(site.api)
    for path in (f"/ns/shop/states/{state}", f"/ns/shop/runs/{flow.run_id}"):
        html = await site.browser.page(path)
        assert "Retry" in html
        assert "checkpoint" not in html
        assert "from the beginning" not in html


async def test_a_graph_is_deleted_with_its_runs(site: Site) -> None:
    flow = await Flow.start(site.api, place("a"))
    path = f"/ns/shop/graphs/{flow.graph}/delete"
    assert f'action="{path}"' in await site.browser.page(f"/ns/shop/graphs/{flow.graph}")
    assert "has runs that have not ended" in (html := await site.browser.do(path))
    assert f'action="{path}"' in html, "it leads back to the graph"
    html = await site.browser.do(path, {"cancel_runs": "on"})
    assert f"Graph {flow.graph} was deleted with 1 run." in html
    refused(await site.api.get_graph(flow.graph), 404)


async def test_the_priority_of_a_run_is_chosen_shown_and_changed(site: Site) -> None:
    flow = await Flow.deploy(site.api, place("work"))
    html = await site.browser.do(f"/ns/shop/graphs/{flow.graph}", {"priority": "low"})
    assert "The run was started." in html
    assert "low priority" in html
    (run,) = ok(await site.api.find_runs())["runs"]
    html = await site.browser.do(f"/ns/shop/runs/{run['run_id']}/priority", {"priority": "high"})
    assert "The run has the priority high now." in html
    assert "high priority" in html
    assert "no such priority" in await site.browser.do(
        f"/ns/shop/runs/{run['run_id']}/priority", {"priority": "urgent"}
    )
    assert '<span class="quiet">high priority</span>' in await site.browser.page("/ns/shop/runs")


async def test_a_new_priority_of_a_large_run_says_how_many_states_follow(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.engine.moves.PORTION", 2)
    flow = await Flow.start(site.api, place("f", "b"), place("b", inputs={"x": "${{ f.outputs.v }}"}))
    await flow.run("f", *[{"v": str(number)} for number in range(5)])
    path = f"/ns/shop/runs/{flow.run_id}/priority"
    html = await site.browser.do(path, {"priority": "high"})
    assert "priority high now. 3 more states will have it soon: they are moved in portions." in html


async def test_the_form_takes_over_the_order_of_another_run(site: Site) -> None:
    flow = await Flow.deploy(site.api, place("work"))
    path = f"/ns/shop/graphs/{flow.graph}"
    run_id, in_order = str(uuid4()), {"priority": "low", "weight": 2.5, "fair_key": "<17>"}
    ok(await site.api.native_trigger(flow.graph, run_id, **in_order))
    filled = sent_by(await site.browser.page(f"{path}?from={run_id}"))
    expected = {"from": run_id, "delay": "0", "priority": "low", "weight": "2.5", "fair_key": "<17>"}
    assert filled == expected
    html = await site.browser.do(path, {**filled, "fair_key": " 18 "})
    assert "low priority · weight 2.5 · fairness key" in html
    assert '<code class="wrap">18</code>' in html
    answer = await site.browser.post(path, {**filled, "weight": "0", "fair_key": "x" * 257})
    assert sent_by(answer.text) == {**filled, "weight": "0", "fair_key": "x" * 257}, "nothing is lost"
    assert "Weight must be a number from 0.01 to 100" in text_of(answer.text)
    assert "Fairness key has 257 characters" in text_of(answer.text)


async def test_a_run_is_cancelled(site: Site) -> None:
    flow = await Flow.start(site.api, place("work"))
    html = await site.browser.do(f"/ns/shop/runs/{flow.run_id}/cancel")
    assert "The run is cancelled." in html
    assert "cancelled</span>" in html
    await flow.none_ready("work")


async def test_ticked_runs_are_changed_if_possible(site: Site) -> None:
    failed, _ = await failed_run(site.api)
    flow = await Flow.deploy(site.api, place("work"))
    waiting = [await flow.trigger() for _ in range(2)]
    chosen = {"run": [failed.run_id, *waiting], "do": "cancel", "graph": "", "status": "running"}
    html = text_of(await site.browser.do("/ns/shop/runs/change", chosen))
    assert "2 runs cancelled. 1 could not be: the run" in html
    assert '<option value="running" selected>' in html, "the filters stay"
    flash = await site.browser.do("/ns/shop/runs/change", {"run": [failed.run_id], "do": "retry"})
    assert "1 run retried." in flash
    assert "No run was ticked" in await site.browser.do("/ns/shop/runs/change", {"do": "retry"})
    assert "choose what to do" in await site.browser.do("/ns/shop/runs/change", {"do": "delete"})


async def test_all_runs_that_match_the_filters_are_changed_together(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failed, _), (other, _) = await failed_run(site.api), await failed_run(site.api)
    elsewhere = await Flow.start(site.api, place("elsewhere"), graph="elsewhere")
    flow = await Flow.deploy(site.api, place("work"))
    waiting = [await flow.trigger() for _ in range(PAGE_SIZE + 2)]
    monkeypatch.setattr(actions, "MAX_AT_ONCE", PAGE_SIZE + 1)
    listed = await site.browser.page("/ns/shop/runs?graph=graph")
    assert 'name="others"' in listed
    form = {"run": [waiting[-1]], "others": "on", "do": "cancel", "graph": flow.graph}
    first = await site.browser.do("/ns/shop/runs/change", form)
    assert "51 runs cancelled. This was done for 51 runs; do it again for the others." in first
    again = await site.browser.do("/ns/shop/runs/change", {**form, "run": waiting[0]})
    assert "1 run cancelled.<" in again
    statuses = [ok(await site.api.native_run(each.run_id))["status"] for each in (elsewhere, failed, other)]
    assert statuses == ["PENDING", "FAILED", "FAILED"]
    form = {"run": failed.run_id, "others": "on", "do": "retry"}
    flash = await site.browser.do("/ns/shop/runs/change", form)
    assert "2 runs retried.<" in flash, "cancelled runs match, but cannot be retried"


async def test_a_run_is_started_from_the_form_of_its_graph(site: Site) -> None:
    flow = await Flow.deploy(
        site.api,
        place("root", inputs={"a": "from the graph", "b": "${{ store.key }}"}),
        store_config={"required_keys": ["must"], "default_values": {"key": "default"}},
        retry_policy=NO_RETRY,
    )
    form = text_of(await site.browser.page("/ns/shop/graphs/graph"))
    for name in ("input.a", "input.b", "store.must", "store.key", "request_id"):
        assert f'name="{name}"' in form
    values = {"request_id": str(uuid4()), "input.a": SCRIPT, "store.must": "1", "store.key": "x\r\ny"}
    html = await site.browser.do("/ns/shop/graphs/graph", values)
    assert "The run was started." in html
    assert SCRIPT not in html
    await site.browser.do("/ns/shop/graphs/graph", values)
    assert len(runs_in(await site.browser.page("/ns/shop/runs"))) == 1, "sent twice, it starts once"
    assert await flow.inputs("root") == {"a": SCRIPT, "b": "x\ny"}


async def test_a_form_starts_one_run_for_each_key(site: Site) -> None:
    flow = await Flow.deploy(site.api, place("root", inputs={"a": ""}))
    values = {"key": " order <17> ", "input.a": "x"}
    for flash in ("The run was started.", "The run with the key order <17> existed already."):
        # From the form as loaded again, so with another id.
        values["request_id"] = str(uuid4())
        html = text_of(await site.browser.do("/ns/shop/graphs/graph", values))
        assert flash in html
        assert 'key <code class="wrap">order <17></code>' in html, "the page of the run has it, too"
    for fields, problem in (
        ({**values, "input.a": "y"}, "with other inputs or another store"),
        ({"key": "a\tb"}, "Key contains a control character."),
    ):
        answer = await site.browser.post("/ns/shop/graphs/graph", fields)
        assert answer.status_code == 422
        assert problem in answer.text
        assert 'aria-describedby="key-about key-problem" aria-invalid="true" autofocus' in answer.text
    await flow.trigger()
    for text, count in (("ORDER <17", 1), ("order 18", 0), ("", 2)):
        page = await site.browser.page(f"/ns/shop/runs?text={quote(text)}")
        assert len(runs_in(page)) == count, text


async def test_pages_show_that_a_node_is_paused(site: Site) -> None:
    flow = await Flow.start(site.api, place("work"))
    node = node_name("work")
    (state,) = await flow.states("work")
    waiting = {
        f"/ns/shop/runs/{flow.run_id}": (f"{node}</a> is paused since <time", "its node is paused"),
        f"/ns/shop/states/{state['id']}": (f"{node}</a> is paused since <time",),
        f"/ns/shop/nodes/{node}": ("its states are not claimed", f"/ns/shop/nodes/{node}/resume"),
        "/ns/shop/nodes": ("paused</span>",),
        "/ns/shop": (f'paused: <a href="/ns/shop/nodes/{node}">', "(1 waits)"),
    }
    html = await site.browser.do(f"/ns/shop/nodes/{node}/pause")
    assert "The node is paused: none of its states are claimed." in html
    for path, parts in waiting.items():
        page = await site.browser.page(path)
        for part in parts:
            assert part in page, (path, part)
    await flow.none_ready("work")
    html = await site.browser.do(f"/ns/shop/nodes/{node}/resume")
    assert "States of the node are claimed again." in html
    for path, parts in waiting.items():
        page = await site.browser.page(path)
        assert not [part for part in parts if part in page], path
    await flow.one("work")
    assert (await site.browser.post("/ns/shop/nodes/none/pause")).status_code == 404


async def test_the_schedule_of_a_graph_is_paused_resumed_and_cancelled(site: Site) -> None:
    cron = [{"type": "CRON", "value": {"expression": "0 3 * * *"}}]
    await Flow.deploy(site.api, place("work"), triggers=cron)
    page = "/ns/shop/graphs/graph"
    assert f"{page}/pause" in await site.browser.page(page)
    assert "The schedule is paused: it starts no runs." in (html := await site.browser.do(f"{page}/pause"))
    assert f"{page}/resume" in html
    assert '<time class="at"' not in html.partition("it starts no runs</p>")[2]
    assert "paused</span>" in await site.browser.page("/ns/shop/graphs")
    html = await site.browser.do(f"{page}/resume")
    assert "from its next time on." in html
    assert html.count('<time class="at"') == 5
    html = await site.browser.do(f"{page}/cancel")
    assert "The schedule is cancelled." in html
    assert "was cancelled until the graph is stored again" in html
    assert f"{page}/cancel" not in html
    await Flow.deploy(site.api, place("work"), graph="unscheduled")
    assert "/pause" not in await site.browser.page("/ns/shop/graphs/unscheduled")


async def test_the_form_has_the_values_of_the_graph_and_a_run_gets_those_that_were_changed(
    site: Site,
) -> None:
    inputs = {
        "a": "kept\r\nlines",
        "b": "emptied",
        "c": "${{ store.key }}",
        "d": "edited",
        "e": "x" * 999_999,
    }
    flow = await Flow.deploy(
        site.api, place("root", inputs=inputs), store_config={"default_values": {"key": "1"}}
    )
    html = await site.browser.page("/ns/shop/graphs/graph")
    sent = sent_by(html)
    assert sent == {
        "input.a": "kept\nlines",
        "input.b": "emptied",
        "input.c": "${{ store.key }}",
        "input.d": "edited",
        "store.key": "1",
        "delay": "0",
        "priority": "normal",
    }
    assert "The graph's value has 999,999 characters, too many to edit them here." in text_of(html)
    sent |= {"input.b": "", "input.d": "edited too", "store.key": "2"}
    await site.browser.do("/ns/shop/graphs/graph", sent)
    changed = {"b": "", "c": "2", "d": "edited too"}
    assert await flow.inputs("root") == {**inputs, **changed}, "what was not changed is the graph's"


def sent_by(html: str) -> dict[str, str]:
    """Return the fields that a browser sends of the form that starts a run, without those that are empty."""
    form = re.search(r'<form method="post" action="[^"]+" class="fields">(.*?)</form>', html, re.DOTALL)[1]  # type: ignore[index]
    fields = dict(re.findall(r'<input[^>]* name="([^"]+)"[^>]* value="([^"]*)"', form))
    areas = re.findall(r'<textarea[^>]* name="([^"]+)"([^>]*)>\n(.*?)</textarea>', form, re.DOTALL)
    fields |= {name: text.replace("\r\n", "\n") for name, rest, text in areas if "disabled" not in rest}
    for name, options in re.findall(r'<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>', form, re.DOTALL):
        fields |= dict.fromkeys(
            [name], *re.findall(r"<option value=\"[^\"]*\" selected>(.*?)</option>", options)
        )
    fields |= dict.fromkeys(re.findall(r'type="checkbox" name="([^"]+)" checked', form), "on")
    return {name: unescape(text) for name, text in fields.items() if text and name != "request_id"}


TYPED = {
    "count": {"type": "integer", "minimum": 1},
    "size": {"enum": ["small", "large"], "type": "string"},
    "dry": {"type": "boolean"},
    "day": {"type": "string", "format": "date"},
    "tags": {"type": "array", "items": {"type": "string"}},
    "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    "lines": {
        "type": "array",
        "items": {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]},
    },
}
FITTING = {
    "count": "3",
    "size": "small",
    "dry": "true",
    "day": "2026-01-31",
    "tags": "[]",
    "limit": "null",
    "lines": "[]",
}


async def deploy_typed(api: Api, inputs: Mapping[str, str] = FITTING) -> Flow:
    """Return a graph whose root has an input of each type, of which the store has the count."""
    declared = {
        name: {"type": "string", "description": f"About {name}", "contentSchema": TYPED[name]}
        for name in TYPED
    }
    ok(await api.register([declare(node_name("root"), {**declared, "note": {"type": "string"}})]))
    values = {**inputs, "count": "${{ store.count }}", "note": "no note"}
    store = {"required_keys": ["must"], "default_values": {"count": "1"}}
    return await Flow.put(api, "graph", api.body([place("root", inputs=values)], store_config=store))


async def test_a_field_has_the_type_that_its_node_declares(site: Site) -> None:
    await deploy_typed(site.api, {**FITTING, "tags": "none"})
    html = text_of(await site.browser.page("/ns/shop/graphs/graph"))

    def element(name: str) -> str:
        return re.search(rf'<\w+ id="[\w-]+" name="{re.escape(name)}"[^>]*>', html)[0]  # type: ignore[index]

    assert 'type="number"' in (count := element("store.count"))
    assert 'value="1"' in count
    assert 'min="1" step="1"' in count
    assert "About count; a whole number, at least 1" in html
    assert element("input.dry").startswith("<select")
    assert '<option value="small" selected>small</option>' in html
    assert '<option value="large">large</option>' in html
    assert 'type="date" value="2026-01-31"' in element("input.day")
    assert element("input.tags").startswith("<textarea")
    assert 'aria-required="true"' in element("input.tags"), "the graph has what does not fit"
    assert 'aria-required="true"' in element("store.must")
    assert 'type="text"' in element("input.limit"), "it may be null"
    assert 'type="text"' in element("input.note")
    assert 'value="no note"' in element("input.note")


async def test_a_form_with_fields_that_the_graph_lost_starts_no_run(site: Site) -> None:
    await Flow.deploy(site.api, place("root", inputs={"a": "x"}))
    sent = {"request_id": str(uuid4()), "input.a": "y", "input.b": "z", "store.region": "eu"}
    answer = await site.browser.post("/ns/shop/graphs/graph", sent)
    assert answer.status_code == 422
    html = text_of(answer.text)
    assert "No run was started: the graph was changed and has no input.b, store.region any more;" in html
    assert 'value="y"' in html
    del sent["input.b"], sent["store.region"]
    await site.browser.do("/ns/shop/graphs/graph", sent)
    assert len(ok(await site.api.runs())["runs"]) == 1


async def test_a_form_that_is_not_accepted_is_shown_again_as_it_was_sent(site: Site) -> None:
    flow = await deploy_typed(site.api)
    sent = {
        "request_id": str(uuid4()),
        "store.count": "0",
        "input.size": "medium",
        "input.day": "31.1.",
        "input.tags": "[1]",
        "input.note": "<two>\r\nlines",
        "input.limit": "7",
        "input.lines": '[{"price": 1}, {"name": "tea"}]',
        "key": "k",
        "delay": "-1",
    }
    answer = await site.browser.post("/ns/shop/graphs/graph", sent)
    assert answer.status_code == 422
    html = text_of(answer.text)
    problems = {
        "input-2": ("size", "must be one of small, large"),
        "input-4": ("day", "must be a date such as 2026-01-31"),
        "input-5": ("tags", "must be a JSON array: element 0: it must be text"),
        "input-7": ("lines", "must be a JSON array: element 1: price: Field required"),
        "store-1": ("must", "is required"),
        "store-2": ("count", "must be a whole number, at least 1"),
        "delay": ("Delay in seconds", "must be a number of seconds from 0 to 2,592,000"),
    }
    links = re.findall(r'<li class="wrap"><a href="#([\w-]+)">([^<]+)</a> ([^<]+)</li>', html)
    assert {id: (label, problem) for id, label, problem in links} == problems
    for id, (label, problem) in problems.items():
        assert f'id="{id}-problem">{label} {problem}.</p>' in html
        assert re.search(rf'id="{id}" [^>]*{id}-problem"[^>]* aria-invalid="true"', html), id
    assert html.count(" autofocus") == 1
    assert re.search('id="input-2" [^>]* autofocus>', html), "the first of them"
    for kept in (
        '<option value="medium" selected>medium</option>',
        'value="31.1."',
        ">\n[1]</textarea>",
    ):
        assert kept in html
    assert ">\n<two>\nlines</textarea>" in html
    assert 'value="7"' in html
    assert 'type="text" value="k"' in html
    assert 'type="number" value="-1"' in html
    assert runs_in(await site.browser.page("/ns/shop/runs")) == []
    del sent["input.size"], sent["input.lines"]
    sent |= {"store.count": "2", "input.day": FITTING["day"], "input.tags": '["a"]', "delay": "0"}
    await site.browser.do("/ns/shop/graphs/graph", {**sent, "store.must": "x"})
    (state,) = await flow.take("root")
    values = {"count": "2", "note": "<two>\nlines", "tags": '["a"]', "limit": "7"}
    assert state["inputs"] == {**FITTING, **values}
    # What browsers do not take for a number they would not show.
    for delay, kind in (("soon", "text"), ("nan", "text"), ("1e99", "number")):
        answer = await site.browser.post("/ns/shop/graphs/graph", {"store.must": "x", "delay": delay})
        assert answer.status_code == 422
        assert f'type="{kind}" value="{delay}"' in answer.text
    assert (await site.browser.post("/ns/shop/graphs/absent")).status_code == 404


async def test_a_problem_of_no_field_is_shown_above_the_form(site: Site) -> None:
    await Flow.deploy(site.api, place("root", inputs={"a": "x"}))
    ok(await site.api.put_graph("graph", site.api.body([{**place("root"), "node_name": "Absent"}])), 201)
    answer = await site.browser.post("/ns/shop/graphs/graph")
    assert answer.status_code == 422
    assert "No run was started: the graph 'graph' is INVALID" in text_of(answer.text)


async def test_a_run_is_started_again_with_the_same_inputs_and_store(site: Site) -> None:
    flow = await Flow.deploy(
        site.api,
        place("root", inputs={"a": "x", "b": "${{ store.key }}"}),
        store_config={"default_values": {"key": "default"}},
    )
    await flow.trigger(inputs={"a": SCRIPT}, store={"key": "given", "undeclared": "x"})
    (first,) = await flow.take("root")
    html = await site.browser.do(f"/ns/shop/runs/{flow.run_id}/again")
    assert "A new run with the same inputs and store was started." in html
    (second,) = await flow.take("root")
    assert second["inputs"] == first["inputs"] == {"a": SCRIPT, "b": "given"}


async def test_the_form_is_filled_in_with_the_values_of_another_run(site: Site) -> None:
    await deploy_typed(site.api)
    flow = Flow(site.api, "graph")
    values = {"note": SCRIPT, "size": "large", "day": "2026-01-31", "dry": "false", "gone": "x"}
    store = {"must": "m", "count": "5", "extra": "two\nlines"}
    await flow.trigger(inputs=values, store=store)
    assert f"/ns/shop/graphs/graph?from={flow.run_id}#h-trigger" in await site.browser.page(
        f"/ns/shop/runs/{flow.run_id}"
    )
    (first,) = await flow.take("root")
    html = await site.browser.page(f"/ns/shop/graphs/graph?from={flow.run_id}")
    assert "Filled in with the inputs and store of run" in html
    filled = sent_by(html)
    assert filled == {
        "from": flow.run_id,
        **{f"input.{name}": text for name, text in FITTING.items()},
        "input.count": "${{ store.count }}",
        "input.note": SCRIPT,
        "input.size": "large",
        "input.dry": "false",
        "delay": "0",
        "priority": "normal",
        "store.must": "m",
        "store.count": "5",
    }, "an input that follows from the store still does; a key that the graph does not declare is left out"
    await site.browser.do("/ns/shop/graphs/graph", filled)
    (second,) = await flow.take("root")
    assert second["inputs"] == first["inputs"]
    answer = await site.browser.post("/ns/shop/graphs/graph", {**filled, "store.count": "-5"})
    assert (answer.status_code, sent_by(answer.text)) == (422, {**filled, "store.count": "-5"})
    await Flow.deploy(site.api, place("other"), graph="other")
    html = await site.browser.page(f"/ns/shop/graphs/other?from={flow.run_id}", 404)
    assert "is not a run of graph" in html


async def test_secrets_and_too_long_values_are_not_filled_in(site: Site) -> None:
    flow = await Flow.deploy(
        site.api,
        place("root", inputs={"a": "", "b": "", "c": "", "d": ""}),
        secrets={"token": "s3cret-token", "pin": "1234"},
    )
    values = {"a": "Bearer s3cret-token", "b": "1234", "c": "\u00fc" * 149_999, "d": "fits not"}
    await flow.trigger(inputs=values)
    html = await site.browser.page(f"/ns/shop/graphs/graph?from={flow.run_id}")
    main = html.partition("<main")[2]
    assert "s3cret" not in main
    assert 'value="1234"' not in main
    assert main.count("has a secret of the graph in that run, which is not shown.</p>") == 2
    assert "fits not" not in main
    assert "has 8 characters in that run, too many for this form" in main
    assert len(sent_by(html)["input.c"]) == 149_999
    assert (await site.browser.post("/ns/shop/graphs/graph", sent_by(html))).status_code == 303


async def test_a_limit_is_made_changed_and_deleted(site: Site) -> None:
    page = "/ns/shop/limits/calls%20%3Cb%3E"
    assert "There is no limit in this namespace." in await site.browser.page("/ns/shop/limits")
    values = {"name": "calls <b>", "at_most": "0", "starts": "", "period": ""}
    html = await site.browser.do("/ns/shop/limits", values)
    assert "Limit calls &lt;b&gt; is set, and no graph names it." in html
    assert "stopped: it is 0" in html
    assert 'name="at_most" min="0" max="1000000" value="0"' in html
    named = [{"name": "calls <b>", "key": "<i>"}]
    flow = await Flow.start(site.api, place("a", limits=named))
    ok(await site.api.heartbeat("w", runtime="r", phase="running", workers=1))
    assert ok(await site.api.native_claim({node_name("a"): 1}, worker_id="w"))["states"] == []
    assert "stopped</span>" in await site.browser.page("/ns/shop/limits"), "as a pause"
    (state,) = ok(await site.api.states(run=flow.run_id))["states"]
    for shown in (f"runs/{flow.run_id}", f"states/{state['id']}"):
        html = await site.browser.page(f"/ns/shop/{shown}")
        link = f'<a href="{page}">calls &lt;b&gt; (&lt;i&gt;)</a>: it is 0, which stops all; 0 before it'
        assert f'<strong class="bad"><a href="/ns/shop/nodes/{node_name("a")}">' in html
        assert f"waits for limit {link}" in html
    html = await site.browser.do(page, {"at_most": "", "starts": "100", "period": "1.5"})
    assert "<strong>100 starts in 1.5 s for each key</strong>" in html
    (claimed,) = ok(await site.api.native_claim({node_name("a"): 1}, worker_id="w"))["states"]
    html = await site.browser.page(page)
    assert f'<a href="/ns/shop/states/{claimed["state_id"]}">' in html
    assert "&lt;i&gt;" in html
    assert "<i>" not in html
    for wrong, problem in (
        ({"at_most": "-1"}, "“At once, at most” takes a whole number from 0 to 1,000,000"),
        ({"at_most": "x"}, "“At once, at most” takes a whole number from 0 to 1,000,000"),
        ({"starts": "1.5", "period": "1"}, "“Starts, at most” takes a whole number from 0 to 1,000,000"),
        (
            {"at_most": "", "starts": "", "period": ""},
            "limits nothing: give at_most .states at once., or starts",
        ),
        ({"starts": "5"}, "starts and the period belong together"),
        ({"starts": "5", "period": "nan"}, "“in seconds” takes a number from 1 to 2,678,400"),
        ({"starts": "5", "period": "0.5"}, "“in seconds” takes a number from 1 to 2,678,400"),
    ):
        html = await site.browser.do(page, wrong)
        assert re.search(f"Nothing changed: .*{problem}", html), html
    html = await site.browser.do(f"{page}/delete")
    assert "Nothing changed: limit &#39;calls &lt;b&gt;&#39; is named by 1 graph" in html
    assert "or tick “Delete it anyway”: nothing limits them then" in html
    html = await site.browser.do("/ns/shop/limits", values | {"name": "cals <b>"})
    assert "no graph names it; did you mean &#39;calls &lt;b&gt;&#39;?" in html
    html = await site.browser.do(f"{page}/delete", {"force": "on"})
    assert "Limit calls &lt;b&gt; was deleted." in html
    assert (await site.browser.post(f"{page}/delete")).status_code == 404
    await site.browser.page(page, 404)


async def test_a_runtime_is_drained_by_the_reply_to_its_next_heartbeat(site: Site) -> None:
    beat = {"worker_id": "a/b", "runtime": "R", "phase": "running"}
    ok(await site.api.native("POST", "heartbeat", json=beat))
    assert "asked to drain" in await site.browser.do("/ns/shop/runtimes/drain", {"worker": "a/b"})
    assert "asked to drain" in await site.browser.page("/ns/shop/runtimes")
    assert ok(await site.api.native("POST", "heartbeat", json=beat))["commands"] == ["drain"]
    assert (await site.browser.post("/ns/shop/runtimes/drain", {"worker": "x"})).status_code == 404


@pytest.mark.parametrize(
    "path",
    [f"/ns/shop/states/{UNKNOWN_ID}/retry", f"/ns/shop/runs/{UNKNOWN_RUN}/cancel", "/ns/shop/runs/x/again"],
)
async def test_a_form_for_an_unknown_object_is_404(site: Site, path: str) -> None:
    await failed_run(site.api)
    assert (await site.browser.post(path)).status_code == 404


async def test_malformed_and_large_forms_are_refused(site: Site) -> None:
    path = "/ns/shop/runs/change"

    async def send(browser: Browser, content: bytes, kind: str) -> int:
        headers = {"origin": "http://localhost:8000", "content-type": kind}
        return (await browser.client.post(path, content=content, headers=headers)).status_code

    form = "application/x-www-form-urlencoded"
    assert await send(site.browser, b"{}", "application/json") == 415
    assert await send(site.browser, b"a=%FF", form) == 400
    assert await send(site.browser, b"\xff", form) == 400
    assert await send(site.browser, b"a=1&" * 3_000, form) == 400
    assert await send(site.browser, b"a" * (1024 * 1024 + 1), form) == 413


async def test_the_task_tree_of_a_runtime_is_requested_and_shown(site: Site) -> None:
    beat = {"worker_id": "w", "runtime": "R", "phase": "running"}
    ok(await site.api.native("POST", "heartbeat", json=beat))
    html = await site.browser.do("/ns/shop/runtimes/tasks", {"worker": "w"})
    assert "Nothing changed: runtime" in html
    assert "--health-tasks" in html
    beat["shows_tasks"] = True  # type: ignore[assignment]
    ok(await site.api.native("POST", "heartbeat", json=beat))
    assert "Requested" in await site.browser.do("/ns/shop/runtimes/tasks", {"worker": "w"})
    assert ok(await site.api.native("POST", "heartbeat", json=beat))["commands"] == ["tasks"]
    ok(await site.api.native("POST", "heartbeat", json={**beat, "tasks": f"main\n  {SCRIPT}"}))
    html = await site.browser.page("/ns/shop/runtimes")
    assert f"main\n  {SCRIPT}" in text_of(html)
    assert "<script>alert" not in html
    assert (await site.browser.post("/ns/shop/runtimes/tasks", {"worker": "x"})).status_code == 404
