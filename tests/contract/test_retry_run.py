"""Retrying all failed states of a run at once."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import trio

from exotrio._util.times import moment_ms
from exotrio._wire.runs import Run
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import FAST_RETRY, NO_RETRY, declare, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def half_failed(api: Api, width: int = 4, **fields: Any) -> tuple[Flow, set[str]]:
    """Return a run with a fan-out of which every second state failed, and the ids of those."""
    flow = await Flow.start(api, place("a", "b"), place("b"), **{"retry_policy": NO_RETRY, **fields})
    await flow.run("a", *({"v": str(index)} for index in range(width)))
    failed = set()
    for index, state in enumerate(await flow.take("b", width)):
        if index % 2:
            ok(await api.errored(state["state_id"], "boom"))
            failed.add(state["state_id"])
        else:
            ok(await api.executed(state["state_id"]))
    return flow, failed


async def test_every_failed_state_is_retried_and_no_other(api: Api) -> None:
    flow, failed = await half_failed(api)
    reply = ok(await api.retry_run(flow.run_id))
    assert {one["state_id"] for one in reply["retried"]} == failed
    assert [one["status"] for one in reply["retried"]] == ["CREATED"] * 2
    assert reply["refused"] == []
    ready = {state["state_id"] for state in await flow.take("b", 2)}
    assert ready == {one["new_state_id"] for one in reply["retried"]}
    for state_id in ready:
        ok(await api.executed(state_id))
    summary = await flow.run_summary()
    assert (summary["status"], summary["retried_count"]) == ("SUCCESS", 2)


async def test_the_result_of_a_cancelled_run_lacks_what_the_cancellation_ended(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
    await flow.run("a", *({"v": str(index)} for index in range(6)))
    state, *_ = await flow.take("b", 6)
    ok(await api.executed(state["state_id"]))
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    body = ok(await api.native_run(flow.run_id))
    assert body["missing"] == Run.model_validate(body).missing == ["the run was cancelled"]


async def test_the_time_until_the_retry_is_told_apart_and_what_failed_is_missing(api: Api) -> None:
    flow, _ = await half_failed(api)

    async def shown() -> dict[str, Any]:
        return dict(ok(await api.native("GET", f"run/{flow.run_id}")))

    failed = await shown()
    assert failed["missing"] == ["2 of 4 b failed"]
    assert failed["idle_ms"] == 0
    await trio.sleep(0.005)
    ok(await api.retry_run(flow.run_id))
    for state in await flow.take("b", 2):
        ok(await api.executed(state["state_id"]))
    ended = await shown()
    began, until = (moment_ms(ended[name]) for name in ("created_at", "finished_at"))
    assert ended["idle_ms"] >= 5
    assert (
        ended["duration_ms"]
        == until - began - ended["idle_ms"]
        == failed["duration_ms"] + (until - moment_ms(failed["finished_at"]) - ended["idle_ms"])
    )
    assert ended["missing"] == []
    (listed,) = ok(await api.runs())["runs"]
    assert "idle_ms" not in listed, "v0 has no such field"


async def test_a_request_that_is_repeated_retries_nothing_twice(api: Api) -> None:
    flow, _ = await half_failed(api)
    request_id = str(uuid4())
    first = ok(await api.retry_run(flow.run_id, request_id))
    again = await flow.take("b", 2)
    assert ok(await api.retry_run(flow.run_id, request_id))["retried"] == [
        {**one, "status": "QUEUED"} for one in first["retried"]
    ]
    # Also after what it retried has failed again: that is for another request.
    ok(await api.errored(again[0]["state_id"]))
    before = await flow.statuses()
    repeated = ok(await api.retry_run(flow.run_id, request_id))["retried"]
    assert {one["new_state_id"] for one in repeated} == {one["new_state_id"] for one in first["retried"]}
    assert await flow.statuses() == before
    (only,) = ok(await api.retry_run(flow.run_id))["retried"]
    assert only["state_id"] == again[0]["state_id"]


async def test_states_that_wait_for_an_automatic_retry_are_left_to_it(api: Api) -> None:
    flow, _ = await half_failed(api, retry_policy=FAST_RETRY)
    refused(await api.retry_run(flow.run_id), 409)


async def test_each_retried_state_has_its_automatic_retries_again(api: Api) -> None:
    flow, _ = await half_failed(api, width=2, retry_policy=FAST_RETRY | {"max_retries": 1})
    await flow.fail("b", times=1)
    ok(await api.retry_run(flow.run_id))
    assert ok(await api.errored(await flow.one("b")))["retry_created"] is True
    await flow.run("b")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_a_creation_that_failed_is_redone_without_running_its_node(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "0"}, {"v": 1})
    ok(await api.register([declare(node_name("b"))]))
    (one,) = ok(await api.retry_run(flow.run_id))["retried"]
    assert one["status"] == "SUCCESS"
    await flow.none_ready("a")
    assert len(await flow.take("b", 2)) == 2


UNITED = (
    place("t", "b"),
    place("b", "u"),
    place("u", unites="t", strategy="ALL_DONE", inputs={"p": "${{b.outputs.v}}"}),
)


async def test_a_united_state_that_still_cannot_be_built_is_refused_and_harms_no_other(api: Api) -> None:
    flow = await Flow.start(api, *UNITED, retry_policy=NO_RETRY)
    await flow.run("t", {"v": "0"}, {"v": "1"})
    first, second = await flow.take("b", 2)
    ok(await api.executed(first["state_id"], {"w": "no v"}))
    ok(await api.errored(second["state_id"]))
    # The second group is done too, without a success: its united state runs.
    await flow.run("u")
    (unbuilt,) = [one for one in await flow.states("u", "ERRORED") if one["error"].startswith("cannot run")]
    request_id = str(uuid4())
    reply = ok(await api.retry_run(flow.run_id, request_id))
    assert (len(reply["retried"]), reply["runs_again"]) == (1, {"u": 1})
    ((state_id, reason),) = [(one["state_id"], one["reason"]) for one in reply["refused"]]
    assert state_id == unbuilt["id"]
    assert "cannot run" in reason
    assert ok(await api.retry_run(flow.run_id, request_id)) == reply
    assert await flow.status(unbuilt["id"]) == "ERRORED"


async def test_a_united_state_is_built_again_once_the_other_retries_have_ended(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b"),
        place("b", "c"),
        place("c", "u", inputs={"q": "${{b.outputs.w}}"}),
        place(
            "u",
            unites="t",
            strategy="ALL_DONE",
            inputs={"p": "${{b.outputs.v}}", "r": "${{c.outputs.w}}"},
        ),
        retry_policy=NO_RETRY,
    )
    await flow.run("t", {"v": "x"})
    # The second output cannot be followed for want of w, and u cannot be built for want of c's.
    await flow.run("b", {"v": "0", "w": "0"}, {"v": "1"})
    await flow.run("c", {"v": "no w"})
    (stuck,) = await flow.states("b", "NEXT_CREATED_ERROR")
    ok(await api.manual_retry(stuck["id"]))
    ok(await api.register([declare(node_name("c")), declare(node_name("u"), ["p"])]))
    reply = ok(await api.retry_run(flow.run_id))
    assert (len(reply["retried"]), reply["runs_again"]) == (1, {"u": 1})
    await flow.none_ready("u")
    await flow.run("c")
    assert await flow.inputs("u") == {"p": '["0","1"]'}


async def test_a_run_without_failed_states_is_409(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    assert "no failed states" in refused(await api.retry_run(flow.run_id), 409)
    await flow.run("a")
    refused(await api.retry_run(flow.run_id), 409)


async def test_a_cancelled_run_is_409(api: Api) -> None:
    flow, _ = await half_failed(api)
    await flow.trigger()
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    before = await flow.statuses()
    assert "cancelled" in refused(await api.retry_run(flow.run_id), 409)
    assert await flow.statuses() == before


async def test_an_unknown_run_is_404(api: Api) -> None:
    flow, _ = await half_failed(api)
    refused(await api.retry_run(str(uuid4())), 404)
    refused(await api.elsewhere().retry_run(flow.run_id), 404)


@pytest.mark.parametrize("body", [{}, {"request_id": ""}, {"request_id": "x"}, {"request_id": 7}, []])
async def test_the_request_id_is_a_uuid(api: Api, body: Any) -> None:
    flow, _ = await half_failed(api)
    assert (await api.native("POST", f"run/{flow.run_id}/retry", json=body)).status_code == 422
