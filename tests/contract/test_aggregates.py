"""Aggregated references (design section 5): a united node reads the places it waited for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow, fanned
from tests.support.helpers import ok, place

pytestmark = pytest.mark.deviates_from_stock("stock allows no reference to branches")


def _gather(strategy: str = "ALL_SUCCESS", text: str = "${{c.outputs.v}}") -> dict[str, Any]:
    return {"strategy": strategy, "inputs": {"p": text}}


async def test_a_branch_is_referenced_as_a_json_array_in_fan_out_order(api: Api) -> None:
    flow, branches = await fanned(api, size=4, **_gather())
    for number in (2, 0, 3, 1):
        ok(await api.executed(branches[number], {"v": f'c{number} "ü"'}))
    (state,) = await flow.take("u")
    assert json.loads(state["inputs"]["p"]) == [f'c{number} "ü"' for number in range(4)]


async def test_an_array_orders_more_than_ten_states_and_nested_fan_outs_by_number(api: Api) -> None:
    flow, branches = await fanned(api, size=12, **_gather())
    for number in reversed(range(12)):
        ok(await api.executed(branches[number], *({"v": f"{number}.{inner}"} for inner in range(2))))
    (state,) = await flow.take("u")
    expected = [f"{number}.{inner}" for number in range(12) for inner in range(2)]
    assert json.loads(state["inputs"]["p"]) == expected


async def test_an_array_keeps_the_place_of_what_was_retried_and_leaves_out_what_failed(api: Api) -> None:
    flow, branches = await fanned(api, "ALL_DONE", size=4, inputs={"p": "${{c.outputs.v}}"})
    ok(await api.errored(branches[0]))
    retried = ok(await api.manual_retry(branches[0]))["id"]
    ok(await api.errored(branches[1]))
    ok(await api.prune(branches[2]))
    ok(await api.executed(branches[3], {"v": "c3"}))
    assert await flow.one("c") == retried
    ok(await api.executed(retried, {"v": "c0"}))
    (state,) = await flow.take("u")
    assert json.loads(state["inputs"]["p"]) == ["c0", "c3"]


async def test_an_array_of_nothing_is_empty(api: Api) -> None:
    flow, branches = await fanned(api, "ALL_DONE", size=2, inputs={"p": "${{c.outputs.v}}"})
    for branch in branches:
        ok(await api.prune(branch))
    (state,) = await flow.take("u")
    assert json.loads(state["inputs"]["p"]) == []


async def test_arrays_may_be_part_of_a_text_with_other_references(api: Api) -> None:
    flow, branches = await fanned(
        api, size=2, inputs={"p": "[${{t.outputs.v}}|${{c.outputs.v}}|${{b.outputs.v}}]"}
    )
    for number, branch in enumerate(branches):
        ok(await api.executed(branch, {"v": f"c{number}"}))
    (state,) = await flow.take("u")
    head, c, b = state["inputs"]["p"][1:-1].split("|")
    assert (head, json.loads(c), json.loads(b)) == ("x", ["c0", "c1"], ["0", "1"])


async def test_both_ends_of_a_diamond_are_in_the_array(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b", "c"),
        place("b", "d"),
        place("c", "d"),
        place("d", "u"),
        place("u", unites="t", inputs={"p": "${{d.outputs.v}}"}),
    )
    for identifier in ("t", "b", "c"):
        await flow.run(identifier)
    for number, state in enumerate(await flow.take("d", 2)):
        ok(await api.executed(state["state_id"], {"v": str(number)}))
    (state,) = await flow.take("u")
    assert sorted(json.loads(state["inputs"]["p"])) == ["0", "1"]


@pytest.mark.parametrize("output", [{"w": "no v"}, {"v": 5}, {"v": None}])
async def test_a_member_whose_field_is_missing_or_no_string_makes_the_array_impossible(
    api: Api, output: dict[str, Any]
) -> None:
    flow, (first, second) = await fanned(api, size=2, **_gather())
    ok(await api.executed(first, {"v": "fine"}))
    ok(await api.executed(second, output))
    await flow.none_ready("u")
    (united,) = await flow.states("u")
    assert united["status"] == "ERRORED"
    assert "v" in united["error"]
