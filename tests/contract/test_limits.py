"""Limits as users declare, change and read them, and why a state waits for one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from exotrio._wire.limits import LimitWait
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, claim_one, executed_item, item_for, report
from tests.support.helpers import node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server knows no limits")
STRIPE = {"name": "stripe", "at_most": 1}
B = node_name("b")


async def put_limit(api: Api, name: str, **values: Any) -> dict[str, Any]:
    return dict(ok(await api.native("PUT", f"limit/{name}", json=values)))


def unprocessable(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 422, answer.text
    return list(answer.json()["detail"])


async def shown(api: Api, name: str) -> dict[str, Any]:
    return dict(ok(await api.native("GET", f"limit/{name}")))


async def limits(api: Api) -> dict[str, dict[str, Any]]:
    return {limit["name"]: limit for limit in ok(await api.native("GET", "limits"))["limits"]}


async def put(api: Api, *places: dict[str, Any], **fields: Any) -> Any:
    await api.register_for(places)
    return await api.put_graph("graph", {**api.body(places), **fields})


async def test_a_graph_declares_limits_and_shows_them_as_declared(api: Api) -> None:
    both = {"name": "calls", "starts": 100, "period_ms": 60_000, "at_most": 7}
    named = [{"name": "stripe"}, {"name": "calls", "key": "${{ store.customer }}"}]
    store = {"required_keys": ["customer"], "default_values": {}}
    ok(await put(api, place("a", limits=named), limits=[STRIPE, both], store_config=store), 201)
    stored = ok(await api.get_graph("graph"))
    assert stored["limits"] == [STRIPE, both]
    assert stored["nodes"][0]["limits"] == named
    found = await limits(api)
    assert list(found) == ["calls", "stripe"]
    assert found["calls"] | {"updated_at": ""} == {
        **both,
        "held": 0,
        "waiting": 0,
        "graphs": ["graph"],
        "keyed": True,
        "stopping": 0,
        "created_at": found["calls"]["updated_at"],
        "updated_at": "",
    }
    assert not found["stripe"]["keyed"]
    assert (await shown(api, "stripe"))["set_by"] in ("root", "in process"), "by a graph"


async def test_a_graph_without_limits_is_shown_as_before(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    stored = ok(await api.get_graph(flow.graph))
    assert "limits" not in stored
    assert "limits" not in stored["nodes"][0]


async def test_a_graph_that_names_a_limit_which_does_not_exist_is_refused_as_a_whole(api: Api) -> None:
    body = api.body([place("a", limits=[{"name": "stripee"}])])
    await api.register_for([place("a")])
    text = refused(await api.put_graph("graph", {**body, "limits": [STRIPE]}), 400)
    assert text.startswith("node 'a', limit 'stripee': there is no limit 'stripee' in namespace")
    assert "did you mean 'stripe'?" in text
    assert "declare it in limits of the graph, or make it by `limits set`" in text
    assert await limits(api) == {}
    assert (await api.get_graph("graph")).status_code == 404
    await put_limit(api, "stripee", at_most=1)
    ok(await api.put_graph("graph", body), 201)


async def test_mistakes_in_limits_of_a_graph_are_refused_with_their_place(api: Api) -> None:
    async def problems(limit: dict[str, Any], **of_place: Any) -> list[Any]:
        items = unprocessable(await put(api, place("a", **of_place), limits=[limit]))
        return [each["loc"] for each in items]

    assert await problems({**STRIPE, "at_msot": 2}) == [["body", "limits", 0, "at_msot"]]
    assert await problems({"name": "stripe"}) == [["body", "limits", 0]]
    assert await problems({"name": "stripe", "starts": 5}) == [["body", "limits", 0]]
    for no_number in (-1, "5", True, 5.0):
        assert await problems({"name": "stripe", "at_most": no_number}) == [["body", "limits", 0, "at_most"]]
    fast = {"name": "stripe", "starts": 5, "period_ms": 999}
    assert await problems(fast) == [["body", "limits", 0, "period_ms"]]
    twice = [{"name": "stripe"}, {"name": "stripe", "key": "x"}]
    assert await problems(STRIPE, limits=twice) == [["body", "nodes", 0, "limits"]]
    text = refused(await put(api, place("a", limits=[{"name": "stripe", "key": "${{ b.outputs.v }}"}])), 400)
    assert text == "node 'a', limit 'stripe': 'b' is not before 'a' on every path"


async def test_references_of_a_key_and_an_event_are_checked_as_those_of_inputs(api: Api) -> None:
    typo = "${{ a.outputs.vv }}"
    after = place("b", limits=[{"name": "stripe", "key": typo}])
    wait = {**place("c"), "node_name": "wait for event", "wait": {"event": typo, "outputs": {}}}
    ok(await put(api, place("a", "b", "c"), after, wait, limits=[STRIPE]), 201)
    assert ok(await api.get_graph("graph"))["validation_errors"] == [
        "node 'b', limit 'stripe': 'a' has no output 'vv'",
        "node 'c', wait 'event': 'a' has no output 'vv'",
    ]


async def test_storing_a_graph_again_changes_a_limit_only_if_its_declaration_changed(api: Api) -> None:
    places = (place("a", limits=[{"name": "stripe"}]),)
    ok(await put(api, *places, limits=[STRIPE]), 201)
    await put_limit(api, "stripe", at_most=0)
    ok(await put(api, *places, limits=[STRIPE]), 201)
    assert (await shown(api, "stripe"))["at_most"] == 0, "a deploy does not undo what was set in an emergency"
    ok(await put(api, *places, limits=[{**STRIPE, "at_most": 4}]), 201)
    assert (await shown(api, "stripe"))["at_most"] == 4


async def test_a_change_leaves_what_it_does_not_name_and_null_takes_it_away(api: Api) -> None:
    def values(limit: dict[str, Any]) -> list[Any]:
        return [limit[key] for key in ("at_most", "starts", "period_ms")]

    assert values(await put_limit(api, "l", at_most=5)) == [5, None, None]
    assert values(await put_limit(api, "l", starts=100, period_ms=60_000)) == [5, 100, 60_000]
    assert values(await put_limit(api, "l", at_most=None)) == [None, 100, 60_000]
    refusal = await api.native("PUT", "limit/l", json={"starts": None, "period_ms": None})
    nothing = "limits nothing: give at_most (states at once), or starts with a period"
    assert refused(refusal, 400) == f"limit 'l' cannot be set: {nothing}"
    refusal = await api.native("PUT", "limit/other", json={"starts": 5})
    assert "starts and the period belong together" in refused(refusal, 400)
    for body in ({}, {"at_most": 2_000_000}, {"at_msot": 5}):
        unprocessable(await api.native("PUT", "limit/l", json=body))
    assert values(await shown(api, "l")) == [None, 100, 60_000]
    assert list(await limits(api)) == ["l"]


async def test_it_is_shown_what_holds_a_limit_and_why_a_state_waits_for_it(api: Api) -> None:
    key = {"name": "customer", "key": "${{ store.customer }}"}
    store = {"required_keys": ["customer"], "default_values": {}}
    limit = {"name": "customer", "at_most": 1}
    flow = await Flow.deploy(api, place("a", limits=[key]), limits=[limit], store_config=store)
    runs = [await flow.trigger(store={"customer": customer}) for customer in ("17", "17", "17", "18")]
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=9))
    held = {state["run_id"]: state for state in await claim(api, worker_id="w", announces=True)}
    (holder,) = (held[run]["state_id"] for run in runs[:3] if run in held)
    assert (len(held), runs[3] in held) == (2, True), "one of each customer"
    detail = await shown(api, "customer")
    assert (detail["held"], detail["waiting"]) == (2, 2)
    first, second = detail["keys"]
    assert (first["key"], first["held"], first["waiting"]) == ("17", 1, 2)
    assert (second["key"], second["held"], second["waiting"]) == ("18", 1, 0)
    holders = {each["key"]: (each["run_id"], each["state_id"]) for each in detail["holders"]}
    assert holders == {
        ("18" if run == runs[3] else "17"): (run, state["state_id"]) for run, state in held.items()
    }

    async def waiting() -> list[dict[str, Any]]:
        """Return the states that wait, the first one first."""
        states = ok(await api.states(status="CREATED"))["states"]
        for state in states:
            of_state = ok(await api.history(state["id"]))["waits_for"]
            (of_run,) = ok(await api.native_run(state["run_id"]))["nodes"]
            assert of_state["limit"]["before"] == of_run["waits_for"]["limit"]["before"]
        return sorted(states, key=lambda state: state["waits_for"]["limit"]["before"])

    next_one, last = await waiting()
    reason = last["waits_for"]
    wait = reason["limit"]
    assert (reason["kind"], wait["limit"], wait["key"], wait["held"]) == ("limit", "customer", "17", 1)
    assert (next_one["waits_for"]["limit"]["before"], wait["before"]) == (0, 1)
    assert wait["holders"] == [holder]
    shortened = holder[8:].lstrip("0").rjust(4, "0")
    assert reason["text"].startswith(f"waits for limit customer (17): 1 of 1 held by {shortened} for ")
    assert reason["text"].endswith("; 1 before it")
    assert ok(await api.native("GET", "overview"))["limits"][0]["waiting"] == 2
    done = next(state for state in held.values() if state["state_id"] == holder)
    await report(api, executed_item(done))
    assert [state["state_id"] for state in await claim(api)] == [next_one["id"]]
    (left,) = await waiting()
    assert (left["id"], left["waits_for"]["limit"]["before"]) == (last["id"], 0)


@pytest.mark.parametrize("by", ["an end", "a change", "a release"])
async def test_what_a_limit_has_room_for_waits_for_a_runtime_and_not_for_the_limit(api: Api, by: str) -> None:
    await Flow.start(api, place("a", limits=[{"name": "stripe"}]), limits=[STRIPE], runs=5)
    held = await claim_one(api)

    async def waiting() -> tuple[int, list[int], list[int], list[str]]:
        """Return how many wait, by limit, by key and by what each state says."""
        states = ok(await api.states(status="CREATED"))["states"]
        reasons = [state["waits_for"] for state in states if state["waits_for"]]
        in_list, detail = (await limits(api))["stripe"]["waiting"], await shown(api, "stripe")
        assert detail["waiting"] == in_list
        said = sorted(reason["limit"]["before"] for reason in reasons if reason["kind"] == "limit")
        others = sorted(reason["kind"] for reason in reasons if reason["kind"] != "limit")
        return in_list, [key["waiting"] for key in detail["keys"]], said, others

    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1))
    assert await claim(api, worker_id="w") == []
    assert await waiting() == (4, [4], [0, 1, 2, 3], [])
    if by == "an end":
        await report(api, executed_item(held))
        assert await waiting() == (3, [3], [1, 2, 3], [])
    elif by == "a release":
        ok(await api.release(states=[item_for(held)]))
        assert await waiting() == (4, [4], [0, 1, 2, 3], []), "the one that can be claimed takes the room"
    else:
        await put_limit(api, "stripe", at_most=3)
        assert await waiting() == (2, [2], [2, 3], [])
        await put_limit(api, "stripe", at_most=9)
        assert (await waiting())[0::2] == (0, [])
    assert await claim(api, worker_id="w") != []


async def test_a_limit_of_0_stops_what_names_it_and_a_raised_one_lets_it_run(api: Api) -> None:
    flow = await Flow.start(api, place("a", limits=[{"name": "stripe"}]), limits=[STRIPE])
    await put_limit(api, "stripe", at_most=0)
    assert await claim(api) == ok(await api.claim([A], 5))["states"] == []
    (state,) = ok(await api.states(run=flow.run_id))["states"]
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1))
    await claim(api, worker_id="w")
    (state,) = ok(await api.states(run=flow.run_id))["states"]
    assert state["waits_for"]["text"] == "waits for limit stripe: it is 0, which stops all; 0 before it"
    await put_limit(api, "stripe", at_most=1)
    await claim_one(api)


async def test_starts_that_are_used_up_are_said_with_the_time_of_the_next(api: Api) -> None:
    rate = {"name": "calls", "starts": 1, "period_ms": 3_600_000}
    flow = await Flow.start(api, place("a", limits=[{"name": "calls"}]), limits=[rate], runs=2)
    first = await claim_one(api)
    await report(api, item_for(first, outcome="executed", outputs=[{"v": "x", "w": "w"}]))
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1))
    assert await claim(api, worker_id="w") == []
    (waiting,) = ok(await api.states(run=flow.run_id))["states"]
    text = waiting["waits_for"]["text"]
    assert text.startswith("waits for limit calls: 1 of 1 starts in 1 h used, the next in ")
    (key,) = (await shown(api, "calls"))["keys"]
    assert (key["started"], key["waiting"], key["held"]) == (1, 1, 0)
    assert key["room_at"] is not None


async def test_a_state_that_several_limits_leave_no_room_for_counts_at_one_of_them(api: Api) -> None:
    both = [STRIPE, {"name": "customer", "at_most": 1}]
    named = [{"name": limit["name"]} for limit in both]
    flow = await Flow.start(api, place("a", limits=named), limits=both, runs=2)
    await claim_one(api)
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1))
    assert await claim(api, worker_id="w") == []
    (left,) = [state for state in ok(await api.states(run=flow.run_id))["states"] if state["waits_for"]]
    waiting = [limit["name"] for limit in (await limits(api)).values() if limit["waiting"]]
    assert waiting == [left["waits_for"]["limit"]["limit"]], "and the state says the same one"


async def test_a_limit_that_is_named_is_deleted_only_by_force(api: Api) -> None:
    flow = await Flow.start(api, place("a", limits=[{"name": "stripe"}]), limits=[STRIPE], runs=2)
    await claim_one(api)
    text = refused(await api.native("DELETE", "limit/stripe"), 409)
    assert text.startswith("limit 'stripe' is named by 1 graph: graph; store them without it first, or force")
    ok(await put(api, place("a")), 201)
    assert await claim(api) == []
    assert "is named by waiting states" in refused(await api.native("DELETE", "limit/stripe"), 409)
    removed = ok(await api.native("DELETE", "limit/stripe", params={"force": "true"}))
    assert removed == {"name": "stripe", "graphs": []}
    assert [state["run_id"] for state in await claim(api)] == [flow.run_id], "nothing limits it any more"
    refused(await api.native("DELETE", "limit/stripe"), 404)
    refused(await api.native("GET", "limit/stripe"), 404)


async def test_a_limit_that_does_not_exist_is_answered_with_the_most_similar_one(api: Api) -> None:
    await put_limit(api, "stripe", at_most=1)
    for method in ("GET", "DELETE"):
        text = refused(await api.native(method, "limit/strpe"), 404)
        assert text.endswith("; did you mean 'stripe'?"), text


async def test_limits_of_namespaces_are_separate(api: Api) -> None:
    await put_limit(api, "stripe", at_most=1)
    other = api.elsewhere("other")
    assert await limits(other) == {}
    refused(await other.native("GET", "limit/stripe"), 404)


def test_a_key_with_a_line_break_stays_on_one_line() -> None:
    fields = {"limit": "l", "key": "a\nb\x1b", "at_most": 0, "held": 0, "before": 3}
    wait = LimitWait.model_validate(fields)
    assert wait.text() == "waits for limit l (a\\nb\\x1b): it is 0, which stops all; 3 before it"
