"""What executions logged and printed travels with their outcomes, and never keeps one from being recorded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import OK, PRINTED, claim_one, item_for, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")

AT = PRINTED["at"]
RECORD = {"at": AT, "level": "WARNING", "logger": "shop.prices", "text": "no price for 1\n  at all"}
OUTCOMES: dict[str, dict[str, Any]] = {
    "executed": {"outputs": [OK]},
    "errored": {"error": "it failed"},
    "pruned": {"data": {}},
    "requeued": {"delay_ms": 60_000},
}


async def logs(api: Api, state_id: str) -> list[dict[str, Any]]:
    """Return the lines of a state, without what has no value."""
    shown = ok(await api.history(state_id))["logs"]
    return [{name: value for name, value in line.items() if value is not None} for line in shown]


async def texts(api: Api, state_id: str) -> list[str]:
    return [line["text"] for line in await logs(api, state_id)]


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.stored_values
async def test_the_lines_of_an_outcome_are_shown_with_its_state(api: Api, outcome: str) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    state = await claim_one(api)
    before = await flow.detail(state["state_id"])
    item = item_for(state, outcome=outcome, **OUTCOMES[outcome], logs=[PRINTED, RECORD])
    assert await report(api, item) == ["ok"]
    assert await logs(api, state["state_id"]) == [PRINTED, RECORD]
    assert (await flow.detail(state["state_id"])).keys() == before.keys(), "v0 does not show them"


async def test_each_attempt_has_its_own_lines(api: Api) -> None:
    await Flow.start(api, place("a"), retry_policy=FAST_RETRY)
    state = await claim_one(api)
    item = item_for(state, outcome="errored", error="it failed", logs=[PRINTED])
    assert await report(api, item) == ["ok"]
    again = await claim_one(api, wait_ms=5_000)
    assert await report(api, item_for(again, outcome="executed", outputs=[OK])) == ["ok"]
    assert await texts(api, state["state_id"]) == ["begun"]
    assert await texts(api, again["state_id"]) == []


async def test_lines_of_a_later_execution_replace_those_of_an_earlier_one(api: Api) -> None:
    await Flow.start(api, place("a"))
    for text in ("first", "second"):
        state = await claim_one(api, wait_ms=5_000)
        line = {"at": AT, "level": "stdout", "text": text}
        assert await report(api, item_for(state, outcome="requeued", delay_ms=1, logs=[line])) == ["ok"]
    assert await texts(api, state["state_id"]) == ["second"]


async def test_lines_of_an_outcome_that_does_not_count_are_not_kept(api: Api) -> None:
    await Flow.start(api, place("a"))
    late = await claim_one(api)
    ok(await api.release(states=[item_for(late)]))
    state = await claim_one(api)
    assert await report(api, item_for(late, outcome="executed", outputs=[OK], logs=[PRINTED])) == ["stale"]
    assert await report(api, item_for(state, outcome="executed", outputs=[OK])) == ["ok"]
    assert await report(api, item_for(state, outcome="executed", outputs=[OK], logs=[PRINTED])) == [
        "duplicate"
    ]
    assert await texts(api, state["state_id"]) == []


@pytest.mark.parametrize(
    "lines",
    [
        *(None, "text", 7, {}, [None], [[]], [{}], [{"at": "soon", "text": "x"}], [{"at": AT, "text": 1}]),
        # In UTC they would be before the first day, and after the last.
        *(
            [{"at": f"{day}T12:00:00{zone}", "text": "x"}]
            for day, zone in (("0001-01-01", "+14:00"), ("9999-12-31", "-14:00"))
        ),
    ],
    ids=str,
)
@pytest.mark.stored_values
async def test_an_outcome_is_recorded_whatever_its_lines_are(api: Api, lines: object) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert await report(api, item_for(state, outcome="executed", outputs=[OK], logs=lines)) == ["ok"]
    assert await logs(api, state["state_id"]) == []


async def test_lines_that_no_database_takes_as_they_are_can_be_read(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    line = {"at": AT, "level": "L" * 1_000, "logger": "\0", "text": "a NUL \0, an escape \x1b[1m, \U0001f600"}
    assert await report(api, item_for(state, outcome="executed", outputs=[OK], logs=[line])) == ["ok"]
    (kept,) = await logs(api, state["state_id"])
    assert kept["text"] == "a NUL \N{SYMBOL FOR NULL}, an escape \x1b[1m, \U0001f600"
    assert len(kept["level"]) == 200


async def test_more_lines_than_a_runtime_sends_are_not_kept(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    many = [{"at": AT, "text": str(number)} for number in range(1_000)]
    large = [{"at": AT, "text": "\N{EURO SIGN}" * 4_000} for number in range(10)]
    assert await report(api, item_for(state, outcome="requeued", delay_ms=1, logs=many)) == ["ok"]
    assert len(await logs(api, state["state_id"])) == 256
    state = await claim_one(api, wait_ms=5_000)
    assert await report(api, item_for(state, outcome="requeued", delay_ms=1, logs=large)) == ["ok"]
    assert len(await logs(api, state["state_id"])) == 2


async def test_secrets_of_the_graph_are_masked_in_lines_before_they_are_stored(api: Api) -> None:
    secrets = {"token": "t0ken-value", "other": "sesame-4711"}
    await Flow.start(api, place("a"), secrets=secrets)
    state = await claim_one(api)
    line = {"at": AT, "level": "INFO", "logger": "of sesame-4711", "text": "t0ken-value\nsesame-4711"}
    halves = [{**PRINTED, "text": "it is t0ken"}, {**PRINTED, "text": "-value"}]
    item = item_for(state, outcome="executed", outputs=[OK], logs=[line, *halves])
    assert await report(api, item) == ["ok"]
    assert await logs(api, state["state_id"]) == [
        {**line, "logger": "of ***", "text": "***\n***"},
        {**PRINTED, "text": "it is ***"},
        {**PRINTED, "text": "***"},
    ]
