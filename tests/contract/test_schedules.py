"""Cron triggers: their time zones, and cancelling them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.contract.api import Api
from tests.support.helpers import ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("stock has no time zones of triggers in any release")

NINE = "0 9 * * *"
IN_BERLIN = f"CRON_TZ=Europe/Berlin {NINE}"


def trigger(expression: str = NINE, **fields: Any) -> dict[str, Any]:
    return {"type": "CRON", "value": {"expression": expression, **fields}}


def clock_at(moment: str, zone: str) -> str:
    return datetime.fromisoformat(moment).astimezone(ZoneInfo(zone)).strftime("%H:%M")


async def put(api: Api, *triggers: dict[str, Any]) -> dict[str, Any]:
    await api.register_for([place("a")])
    shown: dict[str, Any] = ok(await api.put_graph("g", api.body([place("a")], triggers=triggers)), 201)
    assert ok(await api.get_graph("g")) == shown
    return shown


@pytest.mark.parametrize(
    "sent",
    [
        trigger(timezone="Europe/Berlin"),
        {"value": {"type": "CRON", "expression": NINE, "timezone": "Europe/Berlin"}},
        {"value": {"expression": NINE, "timezone": "Europe/Berlin"}},
    ],
    ids=["released", "proposed", "without type"],
)
async def test_a_trigger_is_due_in_its_time_zone_in_both_shapes(api: Api, sent: dict[str, Any]) -> None:
    shown = await put(api, sent)
    (kept,) = shown["triggers"]
    assert kept["type"] == "CRON", "clients of the released shape read it here"
    assert kept["value"] == sent["value"], "clients of the proposed one read what they sent"
    ((schedule, moment),) = shown["scheduled"].items()
    assert schedule == IN_BERLIN
    assert clock_at(moment, "Europe/Berlin") == "09:00"


async def test_a_trigger_without_a_zone_or_in_utc_is_due_once_in_utc(api: Api) -> None:
    shown = await put(api, trigger(), trigger(timezone=None), trigger(timezone="UTC"))
    assert [clock_at(moment, "UTC") for moment in shown["scheduled"].values()] == ["09:00"]
    assert [each["value"].get("timezone") for each in shown["triggers"]] == [None, None, "UTC"]


async def test_one_expression_in_two_zones_is_two_schedules(api: Api) -> None:
    shown = await put(api, trigger(timezone="Europe/Berlin"), trigger(timezone="Asia/Kolkata"), trigger())
    assert len(shown["scheduled"]) == 3
    shown = await put(api, trigger(timezone="Asia/Kolkata"))
    assert [clock_at(moment, "UTC") for moment in shown["scheduled"].values()] == ["03:30"]


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    ("zone", "message"),
    [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Mars", "there is no time zone 'Mars'"),
        ("localtime", "there is no time zone 'localtime'"),
        ("../../etc/passwd", "there is no time zone"),
        (2, "string"),
    ],
)
@pytest.mark.parametrize("shape", ["released", "proposed"])
async def test_an_unknown_zone_is_refused_with_its_place(
    api: Api, zone: Any, message: str, shape: str
) -> None:
    sent = trigger(timezone=zone)
    if shape == "proposed":
        sent = {"value": {**sent["value"], "type": "CRON"}}
    reply = await api.put_graph("g", api.body([place("a")], triggers=[sent]))
    refused(reply, 422)
    (problem,) = reply.json()["detail"]
    assert problem["loc"] == ["body", "triggers", 0, "value", "timezone"]
    assert message in problem["msg"]


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    ("triggers", "where", "message"),
    [
        ([trigger(priority="urgent")], ["triggers", 0, "value", "priority"], "'high', 'normal' or 'low'"),
        ([trigger(priority="low"), trigger()], [], "two triggers have the schedule '0 9 * * *' and"),
    ],
    ids=["unknown", "two"],
)
async def test_a_wrong_priority_of_a_trigger_is_refused(
    api: Api, triggers: list[Any], where: list[Any], message: str
) -> None:
    reply = await api.put_graph("g", api.body([place("a")], triggers=triggers))
    refused(reply, 422)
    (problem,) = reply.json()["detail"]
    assert problem["loc"] == ["body", *where]
    assert message in problem["msg"]


async def test_a_trigger_shows_its_priority_as_it_was_sent(api: Api) -> None:
    sent = [trigger(priority="high"), trigger("@daily", priority="normal"), trigger("@weekly")]
    shown = await put(api, *sent)
    assert [each["value"] for each in shown["triggers"]] == [each["value"] for each in sent]


async def test_cancelled_triggers_are_due_again_once_the_graph_is_put(api: Api) -> None:
    await put(api, trigger(), trigger("@daily"))
    other = api.elsewhere()
    await put(other, trigger())
    answer = ok(await api.cancel_triggers("g"))
    assert answer.pop("message") == "2 triggers cancelled"
    assert answer == {"namespace": api.namespace, "graph_name": "g", "cancelled_count": 2}
    shown = ok(await api.get_graph("g"))
    assert shown["scheduled"] == {}
    assert len(shown["triggers"]) == 2, "the graph stays as it was declared"
    assert ok(await api.cancel_triggers("g"))["cancelled_count"] == 0
    assert len(ok(await other.get_graph("g"))["scheduled"]) == 1
    ok(await api.trigger("g"))
    assert len((await put(api, *shown["triggers"]))["scheduled"]) == 2


async def test_triggers_of_a_graph_that_does_not_exist_cannot_be_cancelled(api: Api) -> None:
    refused(await api.cancel_triggers("unknown"), 404)
