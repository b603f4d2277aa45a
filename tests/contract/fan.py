"""The graph that most tests of united nodes start from."""

from __future__ import annotations

from typing import Any

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, place

Place = dict[str, Any]
OK = {"v": "x", "w": "w"}


def fan_graph(strategy: str = "ALL_SUCCESS", **united: Any) -> list[Place]:
    """t, whose child b fans out to c; u unites t."""
    return [
        place("t", "b"),
        place("b", "c"),
        place("c", "u"),
        place("u", "z", unites="t", strategy=strategy, **united),
        place("z"),
    ]


async def fanned(
    api: Api, strategy: str = "ALL_SUCCESS", size: int = 3, **united: Any
) -> tuple[Flow, list[str]]:
    """Start a run whose c is claimed ``size`` times; return the claimed ids in fan-out order."""
    flow = await Flow.start(api, *fan_graph(strategy, **united), retry_policy=NO_RETRY)
    await flow.run("t", OK)
    await flow.run("b", *({"v": str(number)} for number in range(size)))
    siblings = {state["id"]: int(state["outputs"]["v"]) for state in await flow.states("b")}
    claimed = [state["state_id"] for state in await flow.take("c", size)]
    parents = {state_id: (await flow.detail(state_id))["parents"]["b"] for state_id in claimed}
    return flow, sorted(claimed, key=lambda state_id: siblings[parents[state_id]])
