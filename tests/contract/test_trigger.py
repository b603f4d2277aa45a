"""Sections 5 and 12.1: what a trigger checks, creates and stores."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import declare, node_name, ok, place, refused

STORE = {"required_keys": ["k"], "default_values": {"d": "default", "k": "never used"}}


async def test_a_trigger_creates_a_run_and_its_root_state(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", "b"), place("b"))
    reply = ok(await api.trigger(flow.graph))
    assert reply["status"] == "CREATED"
    assert uuid.UUID(reply["run_id"]).version == 4
    flow.run_id = reply["run_id"]
    assert await flow.statuses() == {("a", "CREATED"): 1}
    (root,) = await flow.states("a")
    assert (root["parents"], root["outputs"], root["error"]) == ({}, {}, None)


async def test_every_field_of_a_trigger_has_a_default(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    ok(await api.v0("POST", f"graph/{flow.graph}/trigger", json={}))


async def test_every_trigger_starts_another_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    run_ids = {await flow.trigger() for _ in range(3)}
    assert len(run_ids) == 3
    assert len(ok(await api.claim([node_name("a")], 10))["states"]) == 3


async def test_an_unknown_graph_is_404(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    refused(await api.trigger("nothing"), 404)
    refused(await api.elsewhere().trigger(flow.graph), 404)


async def test_an_invalid_graph_is_400(api: Api) -> None:
    ok(await api.put_graph("g", api.body([place("a")])), 201)
    refused(await api.trigger("g"), 400)
    assert ok(await api.runs())["total"] == 0


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, {"p": "one", "q": "two"}),
        ({"p": "mine"}, {"p": "mine", "q": "two"}),
        ({"p": "", "q": "q"}, {"p": "", "q": "q"}),
        ({"unknown": "x"}, {"p": "one", "q": "two"}),
    ],
)
async def test_inputs_of_a_trigger_replace_those_of_the_root_and_others_are_ignored(
    api: Api, inputs: dict[str, str], expected: dict[str, str]
) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": "one", "q": "two"}))
    await flow.trigger(inputs=inputs)
    assert await flow.inputs("a") == expected


async def test_the_root_keeps_inputs_that_its_schema_does_not_know(api: Api) -> None:
    ok(await api.register([declare(node_name("a"), ["p"])]))
    flow = await Flow.put(api, "graph", api.body([place("a", inputs={"p": "x", "extra": "y"})]))
    await flow.trigger()
    assert await flow.inputs("a") == {"p": "x", "extra": "y"}


@pytest.mark.parametrize(
    ("text", "store", "expected"),
    [
        ("${{store.k}}", {"k": "x"}, "x"),
        ("<${{ store.d }}>", {"k": "x"}, "<default>"),
        ("${{store.d}}", {"k": "x", "d": "y"}, "y"),
        ("${{store.d}}", {"k": "x", "d": ""}, ""),
        ("${{store.outputs.k}}", {"k": "x"}, "x"),
        ("${{store.k}}${{store.d}}", {"k": "a", "d": "b"}, "ab"),
        ("${{store.k}}", {"k": "${{store.d}}"}, "${{store.d}}"),
        ("${{store.k}}", {"k": 'a NUL \0, "quoted"'}, 'a NUL \0, "quoted"'),
    ],
)
async def test_the_root_reads_the_store_of_the_request(
    api: Api, text: str, store: dict[str, str], expected: str
) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": text}), store_config=STORE)
    await flow.trigger(store=store)
    assert await flow.inputs("a") == {"p": expected}


async def test_later_nodes_read_the_store_of_their_run(api: Api) -> None:
    places = [place("a", "b"), place("b", inputs={"p": "${{store.k}}/${{store.d}}"})]
    flow = await Flow.deploy(api, *places, store_config=STORE)
    seen = {}
    for k, store in (("one", {"k": "one"}), ("two", {"k": "two", "d": "y"})):
        await flow.trigger(store=store)
        await flow.run("a")
        (state,) = await flow.take("b")
        seen[k] = state["inputs"]["p"]
    assert seen == {"one": "one/default", "two": "two/y"}


@pytest.mark.parametrize("store", [{}, {"d": "x"}, {"K": "x"}])
async def test_a_default_does_not_stand_in_for_a_required_key(api: Api, store: dict[str, str]) -> None:
    flow = await Flow.deploy(api, place("a"), store_config=STORE)
    assert "k" in refused(await api.trigger(flow.graph, store=store), 400)
    assert ok(await api.runs())["total"] == 0


async def test_every_missing_required_key_is_named(api: Api) -> None:
    store = {"required_keys": ["first", "second", "third"]}
    flow = await Flow.deploy(api, place("a"), store_config=store)
    detail = refused(await api.trigger(flow.graph, store={"second": "x"}), 400)
    assert "first" in detail
    assert "third" in detail


async def test_undeclared_store_keys_are_accepted(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), store_config=STORE)
    ok(await api.trigger(flow.graph, store={"k": "x", "spare": "y"}))


@pytest.mark.deviates_from_stock("stock expands placeholders that callers send")
@pytest.mark.parametrize("inputs", ["${{store.k}}", "${{store.nothing}}", "${{a.outputs.v}}", "${{", "}}"])
@pytest.mark.stored_values
async def test_inputs_of_a_trigger_are_data_and_never_expanded(api: Api, inputs: str) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": "x"}), store_config=STORE)
    await flow.trigger(inputs={"p": inputs}, store={"k": "secret"})
    assert await flow.inputs("a") == {"p": inputs}


async def test_a_delayed_run_cannot_be_claimed_yet_but_is_there(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    await flow.trigger(start_delay=3_600_000)
    await flow.none_ready("a")
    assert await flow.statuses() == {("a", "CREATED"): 1}
    assert (await flow.run_summary())["status"] == "PENDING"


async def test_a_delayed_run_starts_by_itself(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    await flow.trigger(start_delay=20)
    await flow.one("a")


@pytest.mark.parametrize("delay", [-1, 1.5, "x", None])
async def test_a_delay_that_is_negative_or_no_whole_number_is_422(api: Api, delay: Any) -> None:
    flow = await Flow.deploy(api, place("a"))
    assert (await api.trigger(flow.graph, start_delay=delay)).status_code == 422


@pytest.mark.deviates_from_stock("on stock, runs in flight use the new template")
async def test_a_run_keeps_the_template_it_was_triggered_with(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("a", "b"),
        place("b", inputs={"p": "old ${{store.d}}"}),
        store_config={"default_values": {"d": "old"}},
    )
    new = await Flow.start(
        api,
        place("a", "c"),
        place("c", inputs={"p": "new ${{store.d}}"}),
        store_config={"default_values": {"d": "new"}},
    )
    for state in await flow.take("a", 2):
        ok(await api.executed(state["state_id"], {"v": "x"}))
    (old_state,) = await flow.take("b")
    (new_state,) = await new.take("c")
    assert (old_state["inputs"], new_state["inputs"]) == ({"p": "old old"}, {"p": "new new"})
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "QUEUED"): 1}
    assert await new.statuses() == {("a", "SUCCESS"): 1, ("c", "QUEUED"): 1}
    await flow.fail("b", times=0)
    ok(await api.errored(old_state["state_id"]))
    assert (await flow.statuses())[("b", "RETRY_CREATED")] == 1


@pytest.mark.deviates_from_stock("on stock, an invalid update stops runs in flight")
async def test_an_update_that_turns_out_invalid_does_not_stop_runs_in_flight(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    reply = ok(await api.put_graph(flow.graph, api.body([place("a", "new"), place("new")])), 201)
    assert reply["validation_status"] == "INVALID"
    await flow.run("a")
    await flow.run("b")
    assert (await flow.run_summary())["status"] == "SUCCESS"
    refused(await api.trigger(flow.graph), 400)
