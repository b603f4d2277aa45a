"""Many runs in one request: all of them start, or none."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID

import pytest

from exotrio._wire.vocabulary import MAX_BATCH
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim
from tests.support.helpers import declare, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native routes")

STORE = {"required_keys": ["k"], "default_values": {"d": "default"}}


NUMBERS = count(1)
"""Of run ids. Random ones in the names of tests would differ between the processes that run them."""


def run(**fields: Any) -> dict[str, Any]:
    return {"run_id": str(UUID(int=next(NUMBERS))), **fields}


async def total(api: Api) -> int:
    return int(ok(await api.runs())["total"])


def problems(reply: Any) -> list[tuple[Any, ...]]:
    assert reply.status_code == 422, reply.text
    return [(*item["loc"], item["msg"]) for item in reply.json()["detail"]]


async def test_each_run_has_its_own_inputs_store_and_state(api: Api) -> None:
    inputs = {"p": "default", "q": "${{store.k}}/${{store.d}}"}
    flow = await Flow.deploy(api, place("a", "b", inputs=inputs), place("b"), store_config=STORE)
    runs = [
        run(store={"k": "first"}),
        run(store={"k": "second", "d": "given"}, inputs={"p": "mine"}),
        run(store={"k": "${{store.d}}"}, inputs={"p": "${{store.k}}", "q": ""}),
    ]
    started = {"run_ids": [each["run_id"] for each in runs], "created": [True] * len(runs)}
    assert ok(await api.trigger_many(flow.graph, *runs)) == started
    states = await claim(api)
    assert [state["run_id"] for state in states] == [each["run_id"] for each in runs], "the order is kept"
    assert [state["inputs"] for state in states] == [
        {"p": "default", "q": "first/default"},
        {"p": "mine", "q": "second/given"},
        {"p": "${{store.k}}", "q": ""},
    ]
    for each in runs:
        flow.run_id = each["run_id"]
        assert await flow.statuses() == {("a", "QUEUED"): 1}
        summary = await flow.run_summary()
        assert (summary["status"], summary["pending_count"], summary["total_count"]) == ("PENDING", 1, 1)
        ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
        assert (await flow.run_summary())["status"] == "FAILED"


async def test_a_delay_applies_to_one_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    late, now = run(start_delay=3_600_000), run()
    ok(await api.trigger_many(flow.graph, late, now))
    assert [state["run_id"] for state in await claim(api)] == [now["run_id"]]


async def test_runs_that_exist_count_as_started(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": ""}))
    first, second, third = (run(inputs={"p": str(number)}) for number in range(3))
    ok(await api.native_trigger(flow.graph, **first))
    reply = ok(await api.trigger_many(flow.graph, second, {**first, "inputs": {"p": "again"}}, third))
    assert reply["run_ids"] == [second["run_id"], first["run_id"], third["run_id"]]
    # The whole list again, as after a lost answer; and the graph has become invalid meanwhile.
    ok(await api.put_graph(flow.graph, api.body([place("nothing")])), 201)
    again = ok(await api.trigger_many(flow.graph, second, first, third))
    assert again["run_ids"] == reply["run_ids"]
    assert (reply["created"], again["created"]) == ([True, False, True], [False] * 3)
    assert [state["inputs"]["p"] for state in await claim(api)] == ["0", "1", "2"]


async def test_an_id_that_comes_twice_begins_one_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": ""}))
    one = run(inputs={"p": "first"})
    upper = {"run_id": one["run_id"].upper(), "inputs": {"p": "second"}}
    assert ok(await api.trigger_many(flow.graph, one, upper))["run_ids"] == [one["run_id"]] * 2
    assert [state["inputs"]["p"] for state in await claim(api)] == ["first"]


async def test_an_empty_list_starts_nothing(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    assert ok(await api.trigger_many(flow.graph)) == {"run_ids": [], "created": []}
    refused(await api.trigger_many("nothing"), 404)


async def test_as_many_as_a_list_may_have_start_at_once(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    runs = [run() for _ in range(MAX_BATCH)]
    assert len(ok(await api.trigger_many(flow.graph, *runs))["run_ids"]) == MAX_BATCH
    assert await total(api) == MAX_BATCH
    refused(await api.trigger_many(flow.graph, *runs, run()), 422)
    assert len(await claim(api, {A: MAX_BATCH}, limit=MAX_BATCH)) == MAX_BATCH


# -- all or none


async def test_one_that_is_refused_refuses_all_and_is_named(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), store_config={"required_keys": ["k", "l"]})
    good = {"k": "", "l": ""}
    reply = await api.trigger_many(flow.graph, run(store=good), run(store={"l": ""}), run(store=good), run())
    assert problems(reply) == [
        ("body", "runs", 1, "the store lacks required keys: k"),
        ("body", "runs", 3, "the store lacks required keys: k, l"),
    ]
    assert await total(api) == 0
    assert await claim(api) == []


async def test_inputs_that_cannot_be_built_are_named(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": "${{store.k}}" * 9}), store_config=STORE)
    large = "x" * 2_000_000
    reply = await api.trigger_many(flow.graph, run(store={"k": "x"}), run(store={"k": large}))
    ((*where, why),) = problems(reply)
    assert where == ["body", "runs", 1]
    assert "the inputs take more than" in why
    assert await total(api) == 0


async def test_a_run_of_another_graph_is_named(api: Api) -> None:
    other = await Flow.start(api, place("b"), graph="other")
    flow = await Flow.deploy(api, place("a"))
    reply = await api.trigger_many(flow.graph, run(), {"run_id": other.run_id})
    text = f"the run {other.run_id} exists and belongs to another graph; choose another id"
    assert problems(reply) == [("body", "runs", 1, text)]
    assert await total(api) == 1
    # Without named keys, all may read all.
    there = await Flow.deploy(api.elsewhere(), place("a"))
    reply = await there.api.trigger_many(there.graph, {"run_id": other.run_id})
    text = f"the run {other.run_id} exists and belongs to a graph of namespace {api.namespace!r}"
    assert problems(reply) == [("body", "runs", 0, f"{text}; choose another id")]


async def test_up_to_a_hundred_problems_are_named(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), store_config=STORE)
    lacking = problems(await api.trigger_many(flow.graph, *(run() for _ in range(300))))
    assert [index for _, _, index, _ in lacking] == list(range(100))
    malformed = problems(await api.trigger_many(flow.graph, *(run(inputs={"p": 1}) for _ in range(300))))
    assert [index for _, _, index, *_ in malformed] == list(range(100))


@pytest.mark.parametrize(
    ("entry", "place_of", "message"),
    [
        ({}, ("run_id",), "give a run_id or a key, and not both"),
        (run(inputs={"p": 5}), ("inputs", "p"), "Input should be a valid string"),
        (run(store=[]), ("store",), "Input should be a valid dictionary"),
        (run(start_delay=-1), ("start_delay",), "Input should be greater than or equal to 0"),
        ({"run_id": "x"}, ("run_id",), "badly formed hexadecimal UUID string"),
        ("text", (), "valid dictionary"),
    ],
    ids=str,
)
async def test_an_entry_of_another_form_is_named(
    api: Api, entry: Any, place_of: tuple[str, ...], message: str
) -> None:
    flow = await Flow.deploy(api, place("a"))
    ((*where, text),) = problems(await api.trigger_many(flow.graph, run(), entry))
    assert where == ["body", "runs", 1, *place_of]
    assert message in text
    assert await total(api) == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"runs": {}}', b'{"runs": null}'])
async def test_a_body_without_a_list_is_422(api: Api, body: bytes) -> None:
    refused(await api.native("POST", "graph/g/runs", content=body), 422)


async def test_an_unknown_graph_is_404_and_an_invalid_one_400(api: Api) -> None:
    refused(await api.trigger_many("nothing", run()), 404)
    ok(await api.put_graph("g", api.body([place("a")])), 201)
    refused(await api.trigger_many("g", run()), 400)
    assert await total(api) == 0


TYPED = {
    "count": {"type": "string", "contentSchema": {"type": "integer", "minimum": 1}},
    "items": {
        "type": "string",
        "contentSchema": {
            "type": "array",
            "items": {"$ref": "#/$defs/Item"},
            "$defs": {
                "Item": {
                    "type": "object",
                    "properties": {"price": {"type": "number"}, "name": {"type": "string"}},
                    "required": ["price"],
                }
            },
        },
    },
    "code": {"type": "string", "maxLength": 3, "contentSchema": {"type": "string", "maxLength": 3}},
    "odd": {"type": "string", "contentSchema": {"type": "graph", "minimum": 1}},
    "sdk": {"type": "string", "maxLength": 3},
}
FITTING = {
    "count": "5",
    "items": '[{"price": 1.5}]',
    "code": "abc",
    "odd": "anything",
    "sdk": " abc ",  # the node may strip it
}
MISFITS = [
    ({"count": "abc"}, "input 'count' of 'a' in graph {} must be a whole number, at least 1; it is 'abc'"),
    ({"count": "0"}, "must be a whole number, at least 1; it is '0'"),
    ({"items": "x"}, "input 'items' of 'a' in graph {} must be a JSON array: "),
    (
        {"items": '[{"price": "free"}]'},
        "must be a JSON array: element 0: price: Input should be a valid number",
    ),
    ({"items": '[{"price": 1}, {"name": "x"}]'}, "must be a JSON array: element 1: price: Field required"),
    ({"code": "abcd"}, "input 'code' of 'a' in graph {} must be a text, length at most 3; it is 'abcd'"),
    ({"cuont": "5"}, "'a' in graph {} has no input 'cuont'; it has: count, items, code, odd, sdk; did"),
    ({"count": "x" * 5_000}, "it is '" + "x" * 57 + "...' (5,000 characters)"),
    ({"count": "top secret 5"}, "; it is '*** 5'"),
]


async def deploy_typed(api: Api) -> Flow:
    ok(await api.register([declare(node_name("a"), TYPED), declare(node_name("b"), {"due": DATE})]))
    places = [place("a", "b", inputs=FITTING), place("b", inputs={"due": "${{store.due}}"})]
    body = api.body(
        places, secrets={"s": "top secret"}, store_config={"default_values": {"due": "2026-01-31"}}
    )
    return await Flow.put(api, "graph", body)


DATE = {"type": "string", "contentSchema": {"type": "string", "format": "date"}}


@pytest.mark.parametrize(("inputs", "problem"), MISFITS, ids=str)
async def test_inputs_that_do_not_fit_what_is_registered_start_no_run(
    api: Api, inputs: dict[str, str], problem: str
) -> None:
    flow = await deploy_typed(api)
    one = run(inputs=inputs)
    detail = refused(await api.native_trigger(flow.graph, **one), 400)
    assert problem.format(repr(flow.graph)) in detail
    ((*where, text),) = problems(await api.trigger_many(flow.graph, run(inputs={"count": "6"}), one))
    assert (where, text) == (["body", "runs", 1], detail)
    assert await total(api) == 0


async def test_a_store_that_does_not_fit_the_inputs_that_are_a_key_starts_no_run(api: Api) -> None:
    flow = await deploy_typed(api)
    detail = refused(await api.native_trigger(flow.graph, **run(store={"due": "soon"})), 400)
    assert detail.startswith("store key 'due' does not fit: input 'due' of 'b' in graph ")
    assert detail.endswith(" must be a date such as 2026-01-31; it is 'soon'")
    ok(await api.native_trigger(flow.graph, **run(store={"due": "2026-09-01"})))


async def test_what_the_graph_gives_is_checked_too_and_a_run_that_exists_is_not(api: Api) -> None:
    flow = await deploy_typed(api)
    first = run()
    ok(await api.native_trigger(flow.graph, **first))
    larger = {**TYPED, "count": {"type": "string", "contentSchema": {"type": "integer", "minimum": 6}}}
    ok(await api.register([declare(node_name("a"), larger)]))
    detail = refused(await api.native_trigger(flow.graph, **run()), 400)
    assert detail.endswith("must be a whole number, at least 6; the graph gives '5'")
    ok(await api.native_trigger(flow.graph, **run(inputs={"count": "6"})))
    assert ok(await api.native_trigger(flow.graph, **first))["created"] is False


async def test_v0_accepts_values_that_do_not_fit(api: Api) -> None:
    flow = await deploy_typed(api)
    ok(await api.trigger(flow.graph, inputs={"count": "abc", "cuont": "5"}, store={"due": "soon"}))


async def test_a_refusal_is_short_however_many_values_an_input_accepts(api: Api) -> None:
    many = {"type": "string", "contentSchema": {"enum": [f"choice {number}" for number in range(1_000)]}}
    ok(await api.register([declare(node_name("a"), {"p": many})]))
    flow = await Flow.put(api, "graph", api.body([place("a", inputs={"p": "choice 1"})]))
    detail = refused(await api.native_trigger(flow.graph, **run(inputs={"p": "choice 1000"})), 400)
    assert "must be one of choice 0, choice 1, " in detail
    assert detail.endswith("...; it is 'choice 1000'")
    assert len(detail) < 700
