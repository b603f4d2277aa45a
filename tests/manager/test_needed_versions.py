"""Which versions of code are needed, and which may be stopped."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.graph import pinned_name
from exotrio.manager.api.metrics import ManagerMetrics
from tests.contract.flow import Flow
from tests.support.helpers import declare, node_name, ok, place
from tests.support.manager import Manager

NODE = node_name("a")


async def deploy(manager: Manager, version: str | None, graph: str = "graph") -> Flow:
    names = [NODE, *([] if version is None else [pinned_name(NODE, version)])]
    ok(await manager.remote.register([declare(name) for name in names]))
    more = {} if version is None else {"version": version}
    return await Flow.put(manager.remote, graph, manager.remote.body([place("a")], **more))


async def poll(manager: Manager, version: str, limit: int = 0) -> list[dict[str, Any]]:
    """Claim as a runtime of a version."""
    names = dict.fromkeys([NODE, pinned_name(NODE, version)], 9)
    reply = ok(await manager.remote.native_claim(names, limit=limit, worker_id=f"of-{version}"))
    states: list[dict[str, Any]] = reply["states"]
    return states


async def versions(manager: Manager) -> dict[str, tuple[int, int, list[str], bool]]:
    found = ok(await manager.remote.native("GET", "versions"))["versions"]
    overview = ok(await manager.remote.overview())["versions"]
    assert overview == found
    nodes = {node["name"] for node in ok(await manager.remote.overview())["nodes"]}
    assert nodes - {NODE} == {pinned_name(NODE, each["version"]) for each in found}, (
        "ended ones are not shown"
    )
    return {
        each["version"]: (each["runtimes"], each["runs"], each["graphs"], each["needed"]) for each in found
    }


async def test_a_version_is_needed_by_its_graph_and_then_by_its_runs(manager: Manager) -> None:
    old = await deploy(manager, "1")
    await poll(manager, "1")
    assert await versions(manager) == {"1": (1, 0, ["graph"], True)}
    await old.trigger()
    await old.trigger()
    await deploy(manager, "2")
    await poll(manager, "2")
    assert await versions(manager) == {"1": (1, 2, [], True), "2": (1, 0, ["graph"], True)}
    for state in await poll(manager, "1", limit=2):
        assert (await versions(manager))["1"][3]
        ok(await manager.remote.native("POST", "outcomes", json=[executed(state)]))
    assert (await versions(manager))["1"] == (1, 0, [], False)
    assert list(await versions(manager)) == ["1", "2"]


def executed(state: dict[str, Any]) -> dict[str, Any]:
    fields = {"state_id": state["state_id"], "token": state["lease"]["token"], "outcome": "executed"}
    return {**fields, "outputs": [{"v": "", "w": ""}]}


async def test_a_version_that_nothing_needs_and_no_runtime_has_is_not_listed(manager: Manager) -> None:
    old = await deploy(manager, "1")
    await old.trigger()
    await deploy(manager, None)
    assert await versions(manager) == {"1": (0, 1, [], True)}
    ok(await manager.remote.native("POST", f"run/{old.run_id}/cancel"))
    assert await versions(manager) == {}


async def test_the_version_with_the_oldest_run_comes_first(manager: Manager) -> None:
    for version in ("2", "10", "1"):
        await (await deploy(manager, version)).trigger()
    assert list(await versions(manager)) == ["2", "10", "1"]


async def test_a_state_of_a_run_of_another_namespace_needs_its_version(manager: Manager) -> None:
    ok(await manager.remote.register([declare(pinned_name(NODE, "1"))]))
    elsewhere = manager.remote.elsewhere("other")
    body = manager.remote.body([place("a")], version="1")
    await (await Flow.put(elsewhere, "graph", body)).trigger()
    assert await versions(manager) == {"1": (0, 0, [], True)}
    (state,) = await poll(manager, "1", limit=1)
    assert await versions(manager) == {"1": (1, 0, [], True)}
    ok(await manager.remote.native("POST", "outcomes", json=[executed(state)]))
    assert await versions(manager) == {"1": (1, 0, [], False)}


async def test_many_runs_of_one_version_do_not_hide_those_of_others(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.engine.versions.MAX_RUNS", 2)
    for version, graph in (("1", "first"), ("1", "second"), ("2", "last")):
        flow = await deploy(manager, version, graph)
        for _ in range(3):
            await flow.trigger()
    assert await versions(manager) == {
        "1": (0, 4, ["first", "second"], True),
        "2": (0, 2, ["last"], True),
    }


async def test_a_version_that_has_ended_is_in_no_metric(manager: Manager) -> None:
    old = await deploy(manager, "1")
    await old.trigger()
    await deploy(manager, "2")
    await poll(manager, "2")
    service = manager.service

    async def shown() -> set[str]:
        metrics = ManagerMetrics(service.store)
        text = (await metrics.render()).decode()
        return {each for each in (NODE, "@1", "@2") if f'{each}"' in text}

    assert await shown() == {NODE, "@1", "@2"}
    ok(await manager.remote.native("POST", f"run/{old.run_id}/cancel"))
    assert await shown() == {NODE, "@2"}
