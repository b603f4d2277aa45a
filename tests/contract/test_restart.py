"""Design section 5: what a state manager over a file still knows when it is opened again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.target import serving
from tests.support.helpers import ok, open_client, place, refused


@asynccontextmanager
async def _opened(db: Path) -> AsyncIterator[Api]:
    from exotrio.manager import embedded

    async with embedded(db=str(db)) as transport, open_client(transport=transport) as client:
        yield Api(client, "restart")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "manager.db"


async def test_a_run_goes_on_after_a_restart(db: Path) -> None:
    async with _opened(db) as api:
        flow = await Flow.start(
            api,
            place("t", "b"),
            place("b", "u"),
            place("u", unites="t", inputs={"p": "${{b.outputs.v}}"}),
            secrets={"token": "kept over restarts"},
        )
        await flow.run("t", {"v": "0"}, {"v": "1"})
        first, second = (state["state_id"] for state in await flow.take("b", 2))
        ok(await api.executed(first, {"v": "first"}, {"v": "and more"}))
        assert (await flow.statuses())[("u", "CREATED")] == 1
    async with _opened(db) as api:
        again = Flow(api, flow.graph, flow.run_id)
        # Its holder lived in this process and is gone: the state can be claimed again.
        assert await again.one("b") == second
        assert ok(await api.secrets(second)) == {"secrets": {"token": "kept over restarts"}}
        (united,) = await again.take("u")
        assert json.loads(united["inputs"]["p"]) == ["first", "and more"]
        ok(await api.executed(united["state_id"]))
        ok(await api.executed(second, {"v": "second"}))
        await again.run("u")
        assert (await again.run_summary())["status"] == "SUCCESS"
        refused(await api.executed(first, {"v": "first"}), 400)


async def test_a_claim_over_the_network_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as (target, process):
        async with open_client(url=target.url, key=target.key) as client:
            api = Api(client, "restart")
            await Flow.start(api, place("a", "b"), place("b"), runs=2)
            state_id = (ok(await api.claim(["Node_a"], 1))["states"])[0]["state_id"]
            (leased,) = ok(await api.native_claim({"Node_a": 1}))["states"]
            process.kill()
    with serving(tmp_path) as (target, _):
        async with open_client(url=target.url, key=target.key) as client:
            api = Api(client, "restart")
            assert ok(await api.claim(["Node_a"], 5))["states"] == []
            ok(await api.executed(state_id, {"v": "x"}))
            item = {"state_id": leased["state_id"], "token": leased["lease"]["token"]}
            reply = ok(await api.outcomes({**item, "outcome": "executed", "outputs": []}))
            assert [entry["result"] for entry in reply["items"]] == ["ok"]
            assert len(ok(await api.claim(["Node_b"], 5))["states"]) == 2


async def test_a_lease_of_a_worker_in_the_same_process_is_free_at_once(db: Path) -> None:
    async with _opened(db) as api:
        await Flow.start(api, place("a"))
        (held,) = ok(await api.native_claim({"Node_a": 1}))["states"]
    async with _opened(db) as api:
        (state,) = ok(await api.native_claim({"Node_a": 1}))["states"]
        assert state["state_id"] == held["state_id"]
        stale = {
            "state_id": held["state_id"],
            "token": held["lease"]["token"],
            "outcome": "errored",
            "error": "late",
        }
        assert ok(await api.outcomes(stale))["items"][0]["result"] == "stale"


async def test_a_native_trigger_is_repeatable_over_a_restart(db: Path) -> None:
    run_id = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
    async with _opened(db) as api:
        await Flow.deploy(api, place("a"))
        first = ok(await api.native_trigger("graph", run_id))
    async with _opened(db) as api:
        assert ok(await api.native_trigger("graph", run_id)) == {**first, "created": False}
        assert ok(await api.runs())["total"] == 1
