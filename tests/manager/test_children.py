"""Runs that states of other runs start: by a place that runs a graph, on both engines."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.manager.engine.triggers import NewRun, Parent, start_runs
from exotrio.manager.rules.errors import EntriesRefused
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import ok, place
from tests.support.manager import ENGINES, open_two

CHILD = [place("c", inputs={"x": "${{ store.k }}"})]
STORE = {"required_keys": ["k"]}


async def deploy_child(api: Api, name: str = "child") -> Flow:
    await api.register_for(CHILD)
    return await Flow.put(api, name, api.body(CHILD, store_config=STORE))


def runs_of_states(view: View) -> list[tuple[Any, ...]]:
    columns = "parent_state, call, depth, round, awaited, origin, started_by, pending"
    return list(
        map(
            tuple,
            view.execute(f"SELECT {columns} FROM runs WHERE parent_state IS NOT NULL ORDER BY parent_state"),
        )
    )


@pytest.mark.parametrize("engine", ENGINES)
async def test_runs_are_started_for_states_all_or_none(engine: str) -> None:
    async with open_two(engine) as (one, other):
        await deploy_child(one.api)
        write, namespace = one.service.store.write, one.api.namespace

        async def start(*stores: dict[str, str]) -> None:
            runs = [
                NewRun(store=each, origin="graph", parent=Parent(1, number, "", 3, 1, started_by="ada"))
                for number, each in enumerate(stores, 7)
            ]
            await write(start_runs, namespace, "child", runs, one.service.cipher)

        with pytest.raises(EntriesRefused) as refused:
            await start({"k": "v"}, {})
        assert {index: each.detail for index, each in refused.value.entries.items()} == {
            1: "the store lacks required keys: k"
        }
        assert await other.service.store.read(runs_of_states) == []
        await start({"k": "v"}, {"k": "w"})
        assert await other.service.store.read(runs_of_states) == [
            (state, "", 3, 1, 1, "graph", "ada", 1) for state in (7, 8)
        ]
        assert len(ok(await other.api.states())["states"]) == 2
