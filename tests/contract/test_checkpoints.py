"""Checkpoints: what is stored of a state, with what, for whom, and when it is erased."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, claim_one, executed_item, item_for, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, eventually, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")

RETRIED_AT_ONCE = {**FAST_RETRY, "max_retries": 5}


def checkpoint(number: int, row: object) -> dict[str, Any]:
    return {"number": number, "value": json.dumps({"row": row})}


def stored_in(state: dict[str, Any]) -> tuple[int, object] | None:
    """Return the number and the row of the checkpoint that a claim brings."""
    if "checkpoint" not in state:
        return None
    return state["checkpoint"]["number"], json.loads(state["checkpoint"]["value"])["row"]


async def beats(
    api: Api, state: dict[str, Any], *checkpoints: dict[str, Any]
) -> list[tuple[str, int | None]]:
    """Send a heartbeat with these checkpoints of a state; return its results and the stored numbers."""
    items = [item_for(state, running=True, checkpoint=each) for each in checkpoints]
    replies = ok(await api.heartbeat(states=items))["items"]
    return [(reply["result"], reply.get("checkpoint")) for reply in replies]


async def released(api: Api, state: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Release a state and claim it again."""
    (reply,) = ok(await api.release(states=[item_for(state, **fields)]))["items"]
    assert reply["result"] == "ok"
    return await claim_one(api, wait_ms=5_000)


async def history(api: Api, state: dict[str, Any] | str) -> dict[str, Any]:
    shown: dict[str, Any] = ok(await api.history(state if isinstance(state, str) else state["state_id"]))
    return shown


async def test_a_state_has_no_checkpoint_before_one_is_sent(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert stored_in(state) is None
    (reply,) = ok(await api.heartbeat(states=[item_for(state)]))["items"]
    assert reply.get("checkpoint") is None
    assert (await history(api, state))["checkpoint"] is None
    assert stored_in(await released(api, state)) is None


async def test_the_next_execution_gets_the_newest_value_of_any_heartbeat(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert await beats(api, state, checkpoint(1, 10)) == [("ok", 1)]
    assert await beats(api, state, checkpoint(7, 70), checkpoint(6, 60)) == [("ok", 7), ("ok", 7)]
    assert await beats(api, state, checkpoint(6, "late")) == [("ok", 7)], "a proxy delayed it"
    assert await beats(api, state, checkpoint(7, "again")) == [("ok", 7)]
    (reply,) = ok(await api.heartbeat(states=[item_for(state)]))["items"]
    assert reply.get("checkpoint") is None, "it was not asked for"
    shown = (await history(api, state))["checkpoint"]
    assert (shown["number"], shown["value"]) == (7, {"row": 70})
    assert shown["stored_at"].endswith("Z")
    again = await released(api, state)
    assert stored_in(again) == (7, 70)
    assert await beats(api, again, checkpoint(8, 80)) == [("ok", 8)]


@pytest.mark.parametrize("how", ["released", "handed over", "requeued", "errored"])
async def test_a_value_is_stored_with_whatever_ends_the_execution(api: Api, how: str) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=RETRIED_AT_ONCE)
    state = await claim_one(api)
    await beats(api, state, checkpoint(1, "old"))
    newest = checkpoint(2, "newest")
    if how in ("released", "handed over"):
        again = await released(api, state, checkpoint=newest, handed_over=how == "handed over")
        assert [event["kind"] for event in (await history(api, state))["events"]] == [how]
    else:
        outcome = (
            {"outcome": "requeued", "delay_ms": 1}
            if how == "requeued"
            else {"outcome": "errored", "error": "x"}
        )
        assert await report(api, item_for(state, **outcome, checkpoint=newest)) == ["ok"]
        again = await claim_one(api, wait_ms=5_000)
    assert stored_in(again) == (2, "newest")
    assert (again["state_id"] == state["state_id"]) is (how != "errored")
    # An older value with the next end changes nothing; one with a later number does.
    assert stored_in(await released(api, again, checkpoint=checkpoint(3, "later"))) == (3, "later")
    assert flow.run_id


async def test_the_attempt_that_follows_an_error_takes_the_checkpoint_over(api: Api) -> None:
    await Flow.start(api, place("a"), retry_policy=RETRIED_AT_ONCE)
    first = await claim_one(api)
    await beats(api, first, checkpoint(1, 10))
    # Without a newer value, through v0, and with one.
    assert await report(api, item_for(first, outcome="errored", error="x")) == ["ok"]
    assert (await history(api, first))["checkpoint"] is None
    (second,) = await _by_v0(api)
    ok(await api.errored(second["state_id"]))
    third = await claim_one(api, wait_ms=5_000)
    assert stored_in(third) == (1, 10)
    late = item_for(
        third, outcome="errored", error="x", checkpoint=checkpoint(1, "the same number, later token")
    )
    assert await report(api, late) == ["ok"]
    assert stored_in(await claim_one(api, wait_ms=5_000)) == (1, "the same number, later token")


async def _by_v0(api: Api) -> list[dict[str, Any]]:
    async def some() -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = ok(await api.claim([A]))["states"]
        assert states
        return states

    states = await eventually(some)
    assert "checkpoint" not in states[0]
    return states


async def test_only_the_holder_of_the_last_token_changes_a_checkpoint(api: Api) -> None:
    await Flow.start(api, place("a"), retry_policy=RETRIED_AT_ONCE)
    former = await claim_one(api)
    await beats(api, former, checkpoint(5, "former"))
    holder = await released(api, former)
    assert await beats(api, former, checkpoint(9, "fenced")) == [("lost", None)]
    assert (await history(api, holder))["checkpoint"]["value"] == {"row": "former"}
    both = [
        item_for(holder, checkpoint=checkpoint(6, "mine")),
        item_for(former, checkpoint=checkpoint(9, "fenced")),
    ]
    replies = ok(await api.heartbeat(states=both))["items"]
    assert [(reply["result"], reply.get("checkpoint")) for reply in replies] == [("ok", 6), ("lost", None)]
    for end in ({"outcome": "requeued", "delay_ms": 1}, {"outcome": "errored", "error": "x"}):
        assert await report(api, item_for(former, **end, checkpoint=checkpoint(9, "fenced"))) == ["stale"]
    (reply,) = ok(await api.release(states=[item_for(former, checkpoint=checkpoint(9, "fenced"))]))["items"]
    assert reply["result"] == "stale"
    assert stored_in(await released(api, holder)) == (6, "mine")


async def test_values_of_a_later_holder_are_newer_whatever_their_numbers(api: Api) -> None:
    # A state manager of the version before brings no checkpoint: who claims there begins to count again.
    await Flow.start(api, place("a"))
    former = await claim_one(api)
    await beats(api, former, checkpoint(50, "former"))
    later = await released(api, former)
    assert await beats(api, later, checkpoint(1, "later")) == [("ok", 1)]
    assert stored_in(await released(api, later)) == (1, "later")


async def test_a_delayed_heartbeat_does_not_replace_what_a_release_stored(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    (reply,) = ok(await api.release(states=[item_for(state, checkpoint=checkpoint(3, "released"))]))["items"]
    assert reply["result"] == "ok"
    assert await beats(api, state, checkpoint(2, "delayed")) == [("lost", None)]
    twice = ok(await api.release(states=[item_for(state, checkpoint=checkpoint(3, "again"))]))["items"]
    assert twice[0]["result"] == "duplicate"
    assert stored_in(await claim_one(api)) == (3, "released")


@pytest.mark.parametrize("outcome", ["executed", "executed through v0", "pruned", "not followed"])
async def test_success_and_prune_erase_it(api: Api, outcome: str) -> None:
    places = [place("a", "b"), place("b", inputs={"p": "${{a.outputs.missing}}"})]
    flow = await Flow.start(
        api, *(places if outcome == "not followed" else [place("a")]), outputs=("v", "missing")
    )
    state = await claim_one(api)
    await beats(api, state, checkpoint(1, 10))
    newer = {"checkpoint": checkpoint(2, 20)}
    if outcome == "executed through v0":
        ok(await api.release(states=[item_for(state)]))
        (by_v0,) = await _by_v0(api)
        ok(await api.executed(by_v0["state_id"]))
    elif outcome == "pruned":
        assert await report(api, item_for(state, outcome="pruned", data={}, **newer)) == ["ok"]
    else:
        assert await report(api, executed_item(state, {"v": "x"}) | newer) == ["ok"]
    assert (await history(api, state))["checkpoint"] is None
    if outcome == "pruned":
        ok(await api.manual_retry(state["state_id"]))
        assert stored_in(await claim_one(api)) is None
    assert flow.run_id


@pytest.mark.parametrize("from_beginning", [False, True])
@pytest.mark.parametrize("what", ["state", "run"])
async def test_a_retry_by_hand_continues_or_starts_from_the_beginning(
    api: Api, what: str, from_beginning: bool
) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    state = await claim_one(api)
    failed = item_for(state, outcome="errored", error="x", checkpoint=checkpoint(4, 40))
    assert await report(api, failed) == ["ok"]
    assert (await history(api, state))["checkpoint"]["value"] == {"row": 40}, "an error keeps it"
    # The default is to continue.
    choice: dict[str, Any] = {"from_beginning": True} if from_beginning else {}
    if what == "state":
        ok(await api.manual_retry(state["state_id"], **choice))
    else:
        request_id = str(uuid4())
        for _ in range(2):
            (retried,) = ok(await api.retry_run(flow.run_id, request_id, **choice))["retried"]
            assert retried["from_checkpoint"] is not from_beginning
    again = await claim_one(api)
    assert stored_in(again) == (None if from_beginning else (4, 40))
    assert (await history(api, state))["checkpoint"] is None
    assert await beats(api, again, checkpoint(1, "new")) == [("ok", 1)]


async def test_a_cancelled_run_keeps_it_and_takes_no_more(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    await beats(api, state, checkpoint(1, 10))
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    assert await beats(api, state, checkpoint(2, 20)) == [("cancelled", None)]
    assert (await history(api, state))["checkpoint"]["value"] == {"row": 10}


async def test_each_state_has_its_own(api: Api) -> None:
    await Flow.start(api, place("a"), runs=3)
    states = await claim(api)
    items = [
        item_for(state, checkpoint=checkpoint(number, number * 10))
        for number, state in enumerate(states[:2], 1)
    ]
    replies = ok(await api.heartbeat(states=[*items, item_for(states[2])]))["items"]
    assert [reply.get("checkpoint") for reply in replies] == [1, 2, None]
    ok(await api.release(states=[item_for(state) for state in states]))
    assert [stored_in(state) for state in await claim(api)] == [(1, 10), (2, 20), None]


LIMIT = 64 * 1024


def text_of(row: str) -> str:
    return f'{{"row": "{row}"}}'


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (text_of("x" * (LIMIT - 10)), "65,537 bytes; at most 65,536"),
        (text_of("\N{SNOWMAN}" * (LIMIT // 3)), "at most 65,536"),
        ("{", "EOF"),
        (text_of("\0"), "control character"),
        ("[]", "is not a JSON object"),
        ('{"row": NaN}', "expected value"),
    ],
    ids=["too long", "too long in UTF-8", "not JSON", "NUL", "a list", "NaN"],
)
async def test_a_value_that_cannot_be_stored_is_refused_and_says_why(
    api: Api, value: str, problem: str
) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    item = item_for(state, checkpoint={"number": 1, "value": value})
    for response in (await api.heartbeat(states=[item]), await api.release(states=[item])):
        assert problem in str(refused(response, 422))
    (reply,) = ok(await api.outcomes({**item, "outcome": "errored", "error": "x"}))["items"]
    assert reply["result"] == "invalid"
    assert problem in reply["detail"]
    largest = {"number": 1, "value": text_of("x" * (LIMIT - 11))}
    assert await beats(api, state, largest) == [("ok", 1)]
    assert (await released(api, state))["checkpoint"] == largest


@pytest.mark.parametrize("number", [0, -1, 2**53])
async def test_a_number_begins_at_one_and_has_a_limit(api: Api, number: int) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    refused(await api.heartbeat(states=[item_for(state, checkpoint=checkpoint(number, 1))]), 422)
