"""Runs whose states share the node b, which follows f."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import uuid4

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim
from tests.support.helpers import ok


async def fan_out(api: Api, states: int, **in_order: Any) -> str:
    """Trigger a run with so many states of b, and return its id."""
    run_id = str(uuid4())
    ok(await api.native_trigger("graph", run_id, **in_order))
    await Flow(api, "graph", run_id).run("f", *[{"v": str(number)} for number in range(states)])
    return run_id


async def runs_of_claim(api: Api, limit: int) -> Counter[str]:
    """Claim states of b, and count them by run."""
    return Counter(state["run_id"] for state in await claim(api, {B: limit}, limit=limit))
