"""What one request may ask for: lengths of lists, depth of JSON, sizes of numbers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from exotrio._graph import MAX_NODES
from exotrio._wire import LARGEST_BATCH
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.helpers import UNKNOWN_ID, node_name, ok, place, refused
from tests.manager.support import open_manager

HELD = {"state_id": UNKNOWN_ID, "token": "t"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with open_manager() as manager:
        yield manager.remote


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("outcomes", lambda count: [{**HELD, "outcome": "errored", "error": ""}] * count),
        ("release", lambda count: {"states": [HELD] * count}),
        ("heartbeat", lambda count: {"worker_id": "w", "states": [HELD] * count}),
    ],
)
async def test_a_batch_has_a_largest_size(api: Api, path: str, body: Any) -> None:
    ok(await api.native("POST", path, json=body(LARGEST_BATCH)))
    refused(await api.native("POST", path, json=body(LARGEST_BATCH + 1)), 422)


@pytest.mark.parametrize("native", [True, False])
async def test_a_claim_returns_no_more_than_a_batch(api: Api, native: bool) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    await flow.run("a", *({"v": str(number)} for number in range(LARGEST_BATCH + 1)))
    if native:
        reply = ok(await api.native_claim({node_name("b"): 10**9}, limit=10**9))
    else:
        reply = ok(await api.claim([node_name("b")], 10**9))
    assert len(reply["states"]) == LARGEST_BATCH


async def test_a_graph_has_a_largest_size(api: Api) -> None:
    names = [f"n{number}" for number in range(MAX_NODES + 1)]
    places = [place(name, *following) for name, *following in pairwise(names)]
    assert len(places) == MAX_NODES
    refused(await api.put_graph("large", api.body([*places, place(names[-1])])), 422)


@pytest.mark.parametrize("levels", [10, 150, 180, 190, 195, 198, 199, 200, 255, 1_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
async def test_what_is_nested_deeply_can_be_read_again_or_is_refused(
    api: Api, levels: int, opening: str, closing: str
) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    nested = opening * levels + "1" + closing * levels
    answer = await api.v0(
        "POST", f"state/{state_id}/prune", content=f'{{"data": {{"x": {nested}}}}}'.encode()
    )
    if answer.status_code == 422:
        assert await flow.status(state_id) == "QUEUED"
        assert levels > 100
    else:
        ok(answer)
        assert ok(await api.history(state_id))["data"].keys() == {"x"}


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -1, 0.5, "x", None, True, [], {}])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("claim", lambda number: {"limits": {"N": number}, "limit": 1}),
        ("claim", lambda number: {"limits": {"N": 1}, "limit": number}),
        ("claim", lambda number: {"limits": {}, "limit": 0, "wait_ms": number}),
        ("release", lambda number: {"states": [], "delay_ms": number}),
        ("heartbeat", lambda number: {"busy": number, "buffered": 0}),
        ("heartbeat", lambda number: {"workers": number}),
        ("graph/g/trigger", lambda number: {"run_id": UNKNOWN_ID + "0" * 8, "start_delay": number}),
    ],
    ids=["limits", "limit", "wait", "delay", "busy", "workers", "start"],
)
async def test_numbers_beyond_all_reason_are_no_server_error(
    api: Api, path: str, body: Any, number: Any
) -> None:
    answer = await api.native("POST", path, json={"worker_id": "w", "claim_id": "c", **body(number)})
    assert answer.status_code in (200, 404, 422), answer.text
    ok(await api.native("GET", "runs"))
