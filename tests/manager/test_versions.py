"""Runs that need a version of the code: the order of their states, with state managers of both engines."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from exotrio.graph import pinned_name
from exotrio.manager.engine.retention import drop_templates
from exotrio.manager.store import catalog, virtual_times
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import OK, B, claim, claim_one, executed_item, report
from tests.support.helpers import NO_RETRY, declare, node_name, ok, place, refused
from tests.support.manager import ENGINES, open_two
from tests.support.statements import noted

F = node_name("f")
PLACES = [place("f", "b"), place("b")]


async def deploy(api: Api, name: str, version: str | None) -> None:
    fields = {} if version is None else {"version": version}
    await Flow.put(api, name, api.body(PLACES, retry_policy=NO_RETRY, **fields))


async def fan_out(api: Api, graph: str, states: int) -> str:
    """Trigger a run with so many states of b, and return its id."""
    run_id = str(uuid4())
    ok(await api.native_trigger(graph, run_id))
    (first,) = await claim(api, {F: 1, pinned_name(F, "1"): 1}, run_id=run_id)
    assert await report(api, executed_item(first, *[OK] * states)) == ["ok"]
    return run_id


async def test_a_node_and_its_version_have_their_turns_together(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual_times, "READ_AGAIN", 0)
    async with open_two(engine) as (one, _):
        api = one.api
        nodes = [name for node in (F, B) for name in (node, pinned_name(node, "1"))]
        ok(await api.register([declare(name, [], ["v", "w"]) for name in nodes]))
        await deploy(api, "any", None)
        await deploy(api, "pinned", "1")
        await fan_out(api, "any", 30)
        both = {B: 30, pinned_name(B, "1"): 30}
        assert len(await claim(api, both, limit=30)) == 30
        runs = [await fan_out(api, graph, 20) for graph in ("any", "pinned")]
        taken = Counter(state["run_id"] for state in await claim(api, both, limit=20))
        assert taken == dict.fromkeys(runs, 10), "neither comes first because it was not claimed before"


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_claim_of_a_version_needs_no_more_statements(engine: str) -> None:
    counts = []
    for names in ([B], [B, pinned_name(B, "1")]):
        async with open_two(engine) as (one, _):
            api = one.api
            ok(await api.register([declare(name, [], ["v", "w"]) for name in (B, pinned_name(B, "1"))]))
            for graph, version in (("any", {}), ("pinned", {"version": "1"})):
                await Flow.put(api, graph, api.body([place("b")], **version))
                for _ in range(4):
                    ok(await api.trigger(graph))
            await claim(api, dict.fromkeys(names, 2), limit=2)
            with noted(one.service.store) as statements:
                assert len(await claim(api, dict.fromkeys(names, 2), limit=2)) == 2
            counts.append(len(statements))
    assert counts[0] == counts[1]


async def test_a_state_manager_that_knew_a_run_before_it_moved_finds_its_new_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "MAX_KEPT", 1)
    async with open_two("PostgreSQL") as (one, other):
        nodes = [pinned_name(node, version) for node in (F, B) for version in ("1", "2")]
        ok(await one.api.register([declare(name, [], ["v", "w"]) for name in nodes]))
        await deploy(one.api, "graph", "1")
        run_id = str(uuid4())
        ok(await one.api.native_trigger("graph", run_id))
        first = await claim_one(other.api, limits={pinned_name(F, "1"): 1})
        assert await report(other.api, executed_item(first, OK, OK)) == ["ok"]
        await deploy(one.api, "graph", "2")
        age = "UPDATE managers SET schema_version = schema_version + ? WHERE id = ?"
        await one.service.store.write(lambda tx: tx.execute(age, (-1, other.service.manager)))
        refusal = await one.api.native("POST", f"run/{run_id}/repin", json={"version": "2"})
        assert f"end that state manager ({other.service.manager}) first" in refused(refusal, 409)
        await one.service.store.write(lambda tx: tx.execute(age, (1, other.service.manager)))
        ok(await one.api.native("POST", f"run/{run_id}/repin", json={"version": "2"}))
        limits = {pinned_name(B, "2"): 1}
        moved = await claim_one(other.api, limits=limits)
        assert (moved["identifier"], moved["node_name"]) == ("b", pinned_name(B, "2"))
        # Nothing has the template before any more, and there another one has taken its place in memory.
        await deploy(one.api, "other", "2")
        ok(await other.api.trigger("other"))
        assert await one.service.store.write(drop_templates) == 1
        assert (await claim_one(other.api, limits=limits))["identifier"] == "b"
