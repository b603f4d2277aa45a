"""Outcomes and a claim in one request: how the native link handles its answers, and their loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._link.port import Claim, Exchanged, Fate, Room
from exotrio._nodes.outcome import Executed, Outcome
from exotrio._wire.vocabulary import MAX_BATCH
from tests.link.links import native_link, native_state
from tests.support.http_doubles import Handler, answer

ROOM = Room(limits={"Digest": 4}, limit=4, at_once=2)
DONE = Executed([{"a": "b"}])


def held(number: int, **changes: Any) -> tuple[Claim, Outcome]:
    return Claim(f"s{number}", "Digest", "d", {}, **{"token": f"t{number}", **changes}), DONE


def outcomes_of(request: httpx.Request) -> list[Any]:
    """Return the outcomes of a request, without the claim after them."""
    return [item for item in json.loads(request.content) if "outcome" in item]


def answered(request: httpx.Request, *states: Any) -> httpx.Response:
    if not request.url.path.endswith("/outcomes"):
        return answer(200, {"items": []})
    items = [{"state_id": item["state_id"], "result": "ok"} for item in outcomes_of(request)]
    return answer(200, {"items": items, "states": list(states)})


async def test_one_request_reports_and_brings_states() -> None:
    link, double = native_link(lambda request: answered(request, native_state("next")))
    exchanged = await link.exchange([held(1), held(2)], ROOM)
    assert exchanged is not None
    assert [settlement.fate for settlement in exchanged.settlements] == [Fate.SETTLED] * 2
    [claim] = exchanged.claims
    assert (claim.state_id, claim.token, claim.lease) == ("next", "t-next", 60.0)
    [request] = double.requests
    *_, last = json.loads(request.content)
    claimed = last["claim"]
    assert (claimed["worker_id"], claimed["limits"], claimed["limit"], claimed["at_once"]) == (
        "me",
        {"Digest": 4},
        4,
        2,
    )


def answering(make: Callable[[], object]) -> Handler:
    """Answer outcomes with what is made, or raise it; releases succeed."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/release"):
            return answer(200, {"items": []})
        made = make()
        if isinstance(made, Exception):
            raise made
        assert isinstance(made, httpx.Response)
        return made

    return handler


LOST = [
    lambda: httpx.ReadError("reset"),
    lambda: answer(502, text="<html>"),
    lambda: answer(504),
    lambda: answer(200, {"items": [{"state_id": "other", "result": "ok"}]}),
    lambda: answer(200, {"items": "?"}),
]


@pytest.mark.parametrize("lost", LOST)
async def test_a_claim_is_released_by_its_id_if_its_answer_is_lost(
    autojump_clock: MockClock, lost: Any
) -> None:
    link, double = native_link(answering(lost))
    exchanged = await link.exchange([held(1)], ROOM)
    assert exchanged is not None
    assert ([each.fate for each in exchanged.settlements], exchanged.claims) == ([Fate.RETRY], [])
    sent, release = (json.loads(request.content) for request in double.requests)
    assert release["claim_id"] == sent[-1]["claim"]["claim_id"]


@pytest.mark.parametrize("refusal", [lambda: httpx.ConnectError("refused"), lambda: answer(503)])
async def test_nothing_is_released_for_a_request_that_was_not_accepted(refusal: Any) -> None:
    link, double = native_link(answering(refusal))
    exchanged = await link.exchange([held(1)], ROOM)
    assert exchanged is not None
    assert [each.fate for each in exchanged.settlements] == [Fate.RETRY]
    assert double.calls == ["POST outcomes"]


async def test_the_claim_is_released_if_the_request_is_cancelled(autojump_clock: MockClock) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/outcomes"):
            await trio.sleep_forever()
        return answer(200, {"items": []})

    link, double = native_link(handler)
    with trio.move_on_after(1):
        await link.exchange([held(1)], ROOM)
    assert double.calls == ["POST outcomes", "POST release"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
async def test_outcomes_that_are_refused_together_are_to_be_reported_separately(status: int) -> None:
    link, _ = native_link(
        lambda request: (
            answer(status, {"detail": "no"}) if request.url.path.endswith("/outcomes") else answered(request)
        )
    )
    assert await link.exchange([held(1)], ROOM) is None


async def test_outcomes_that_do_not_fit_into_one_request_are_to_be_reported_separately() -> None:
    link, double = native_link(answered)
    big = Executed([{"text": "x" * 3_000_000}])
    assert await link.exchange([(held(1)[0], big), (held(2)[0], big)], ROOM) is None
    assert await link.exchange([held(1), held(2, token=None)], ROOM) is None
    assert await link.exchange([held(number) for number in range(MAX_BATCH)], ROOM) is None
    assert await link.exchange([(held(1)[0], Executed([{"a": object()}]))], ROOM) is None
    assert double.requests == []


async def test_a_state_in_a_form_that_cannot_be_used_is_released() -> None:
    link, double = native_link(
        lambda request: answered(request, native_state("good"), native_state("bad", inputs=7))
    )
    exchanged = await link.exchange([held(1)], ROOM)
    assert isinstance(exchanged, Exchanged)
    assert [claim.state_id for claim in exchanged.claims] == ["good"]
    assert double.bodies("release")[0]["states"] == [{"state_id": "bad", "token": "t-bad"}]
