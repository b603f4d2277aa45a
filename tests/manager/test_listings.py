"""How lists of states and runs are read: in parts of limited cost."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exotrio import StateManager
from exotrio.client import StateStatus
from exotrio.manager.queries import runs, states
from exotrio.manager.store.postgres import database as tables
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import database

YEAR_2100_MS = 4_102_444_800_000


async def test_a_request_searches_a_limited_number_of_states_and_says_where_to_continue(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "WINDOW", 4)
    api = manager.api
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
    await flow.run("a", *({"v": str(index)} for index in range(5)))
    first, *rest = await flow.take("b", 5)
    ok(await api.errored(first["state_id"]))
    for state in rest:
        ok(await api.executed(state["state_id"]))
    everything = [node["id"] for node in (await flow.shown())["nodes"]][::-1]
    listed, pages = [], 0
    before: dict[str, Any] = {}
    while True:
        page = ok(await api.states(**before))
        listed += [state["id"] for state in page["states"]]
        assert len(page["states"]) <= 4
        pages += 1
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    assert (listed, pages) == (everything, 3)
    # One run's own are all looked through: they have an index.
    assert len(ok(await api.states(run=flow.run_id))["states"]) == 10
    client = StateManager("tests", transport=api.client._transport)
    assert [state.id for state in (await client.states()).states] == everything
    (failed,) = (await client.states(status=StateStatus.ERRORED, limit=1)).states
    assert failed.id == first["state_id"]


async def test_states_are_found_by_identifier_after_a_start_whose_clock_was_far_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database() as used:
        async with open_manager(used.url):
            pass
        monkeypatch.setattr(tables, "wall_clock", lambda: YEAR_2100_MS)
        async with open_manager(used.url) as manager:
            flow = await Flow.start(manager.api, place("a", "b"), place("b"))
            await flow.run("a")
            (listed,) = ok(await manager.api.states(graph="graph", identifier="b"))["states"]
            assert listed["identifier"] == "b"


async def test_a_list_of_states_skips_at_once_the_numbers_that_a_start_leaves_out(
    tmp_path: Path,
) -> None:
    ids = []
    for _ in range(2):
        async with open_manager(tmp_path / "state.db") as manager:
            flow = await Flow.start(manager.api, place("a"))
            ids.append(await flow.run("a"))
            pages = [ok(await manager.api.states())]
            while pages[-1]["next"] is not None and len(pages) < 5:
                pages.append(ok(await manager.api.states(before=pages[-1]["next"])))
    assert [[state["id"] for state in page["states"]] for page in pages] == [[ids[1]], [ids[0]]]


@pytest.mark.parametrize("count", [4, 5])
async def test_a_search_reads_runs_in_parts_until_there_are_no_more(
    manager: Manager, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "READ_AT_ONCE", 2)
    flow = await Flow.deploy(manager.api, place("a"))
    started = [await flow.trigger() for _ in range(count)]
    listed = await manager.service.store.read_with_deadline(
        partial(runs.find_runs, graph="graph"), manager.api.namespace
    )
    assert [found.run.run_id for found in listed.rows] == started[::-1]
