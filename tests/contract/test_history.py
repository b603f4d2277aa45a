"""One state with all that happened to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from exotrio.client import StateHistory, StateSummary
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, claim_one, item_for, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, UNKNOWN_ID, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def test_a_history_begins_with_the_fields_of_v0(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "x"})
    state_id = await flow.run("b")
    detail = await flow.detail(state_id)
    history = ok(await api.history(state_id))
    assert {name: history[name] for name in detail} == detail


async def test_a_state_is_followed_from_claim_to_claim_to_its_end(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api, worker_id="first")
    state_id = state["state_id"]
    ok(await api.release(states=[item_for(state)]))
    waiting = ok(await api.history(state_id))
    assert (waiting["status"], waiting["holder"], waiting["finished_at"]) == ("CREATED", None, None)
    assert [(event["kind"], event["worker"]) for event in waiting["events"]] == [("released", "first")]
    state = await claim_one(api, worker_id="second")
    held = ok(await api.history(state_id))
    assert held["worker"] == held["holder"]["worker"] == "second"
    assert held["holder"]["native"] is True
    assert held["claimed_at"] >= held["events"][0]["at"]
    assert state["lease"]["token"] not in str(held)
    assert await report(api, item_for(state, outcome="pruned", data={"why": [1, None]})) == ["ok"]
    ended = ok(await api.history(state_id))
    assert (ended["status"], ended["data"], ended["holder"]) == ("PRUNED", {"why": [1, None]}, None)
    assert moments(ended, "created_at", "claimed_at", "finished_at")


def moments(history: dict[str, Any], *names: str) -> bool:
    """Check that times have a zone and come in this order."""
    times = [datetime.fromisoformat(history[name]) for name in names]
    assert all(time.tzinfo is not None for time in times)
    return times == sorted(times)


async def test_a_state_whose_node_was_cut_is_told_apart_from_one_that_is_released_unbegun(api: Api) -> None:
    await Flow.start(api, place("a"), runs=3)
    begun, unbegun, handed_over = await claim(api, worker_id="w")
    beats = [item_for(each, running=True, buffered_ms=0) for each in (begun, handed_over)]
    ok(await api.heartbeat("w", states=beats))
    ok(
        await api.release(
            states=[item_for(begun), item_for(unbegun), item_for(handed_over, handed_over=True)]
        )
    )
    kinds = [
        ok(await api.history(each["state_id"]))["events"][-1]["kind"]
        for each in (begun, unbegun, handed_over)
    ]
    assert kinds == ["cut", "released", "handed over"]


async def test_a_state_claimed_through_v0_is_shown_as_such(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    holder = ok(await api.history(await flow.one("a")))["holder"]
    assert (holder["native"], holder["worker"], holder["ttl_ms"]) == (False, None, None)


async def test_a_requeued_state_is_shown_as_requeued(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    before = ok(await api.history(state_id))
    ok(await api.requeue(state_id, 3_600_000))
    after = ok(await api.history(state_id))
    assert (before["requeued"], after["requeued"]) == (False, True)
    assert after["enqueue_after"] > before["enqueue_after"]


async def test_every_attempt_shows_the_whole_chain(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=FAST_RETRY | {"max_retries": 1})
    ids = [await flow.one("a")]
    ok(await api.errored(ids[0], "it broke"))
    ids.append(await flow.fail("a", times=1))
    ids.append(ok(await api.manual_retry(ids[1]))["id"])
    ok(await api.errored(await flow.one("a")))
    ids.append(await flow.run("a"))
    histories = [ok(await api.history(state_id)) for state_id in ids]
    assert [StateHistory.model_validate(each).attempt_text() for each in histories] == [
        "1 of 2",
        "2 of 2",
        "3: 1 of 2 since it was retried by hand",
        "4: 2 of 2 since it was retried by hand",
    ]
    states = ok(await api.native("GET", f"states?run={flow.run_id}"))["states"]
    listed = [StateSummary.model_validate(state) for state in reversed(states)]
    assert [state.retries_by_hand for state in listed] == ["", "", "by hand", "by hand + 1"]
    chains = [history["attempts"] for history in histories]
    assert all(chain == chains[0] for chain in chains)
    assert not any(one["rerun"] for one in chains[0])
    assert [(one["id"], one["status"], one["retry_count"], one["by_hand"]) for one in chains[0]] == [
        (ids[0], "RETRY_CREATED", 0, False),
        (ids[1], "RETRY_CREATED", 1, False),
        (ids[2], "RETRY_CREATED", 0, True),
        (ids[3], "SUCCESS", 1, False),
    ]
    errors = [attempt["error"] for attempt in chains[0]]
    assert errors == ["it broke", "failed on purpose", "failed on purpose", None]
    kinds = [event["kind"] for event in ok(await api.history(ids[1]))["events"]]
    assert kinds == ["retried by hand"]


async def test_attempts_of_siblings_are_kept_apart(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
    await flow.run("a", {"v": "0"}, {"v": "1"})
    for state in await flow.take("b", 2):
        ok(await api.errored(state["state_id"]))
    for one in ok(await api.retry_run(flow.run_id))["retried"]:
        chain = [attempt["id"] for attempt in ok(await api.history(one["new_state_id"]))["attempts"]]
        assert chain == [one["state_id"], one["new_state_id"]]


async def test_a_cancelled_state_is_shown_as_such(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api, worker_id="w")
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    (event,) = ok(await api.history(state["state_id"]))["events"]
    assert (event["kind"], event["worker"]) == ("cancelled", "w")


async def test_a_waiting_state_that_is_cancelled_has_no_holder(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api, worker_id="w")
    held = {"state_id": state["state_id"], "token": state["lease"]["token"]}
    ok(await api.release(states=[held]))
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    events = ok(await api.history(state["state_id"]))["events"]
    assert [(event["kind"], event["worker"]) for event in events] == [("released", "w"), ("cancelled", None)]


async def test_a_state_that_is_unknown_or_of_another_namespace_is_404(api: Api) -> None:
    for state_id in (UNKNOWN_ID, "x", "%00", "0" * 500):
        refused(await api.history(state_id), 404)
    flow = await Flow.start(api, place("a"))
    refused(await api.elsewhere().history(await flow.one("a")), 404)
