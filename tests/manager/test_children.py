"""Runs that states of other runs start and wait for: by a place that runs a graph."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from exotrio.manager import background, service
from exotrio.manager.background import Deliveries, DueWork
from exotrio.manager.engine import children
from exotrio.manager.engine.child_cancellation import cancel_children
from exotrio.manager.engine.children import deliver_ends, start_children
from exotrio.manager.engine.due_work import MAX_PER_STEP, Step, due_work
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.triggers import NewRun, Parent, start_runs
from exotrio.manager.queries.related import children_of
from exotrio.manager.rules.errors import EntriesRefused
from exotrio.manager.service import Service
from exotrio.manager.store.errors import NotCommitted
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, executed_item, report
from tests.support.due import CHILDREN, discard, handle_due, use_cases
from tests.support.helpers import (
    NO_RETRY,
    SettableClock,
    eventually,
    node_name,
    ok,
    place,
    refused,
    run_place,
)
from tests.support.manager import both_engines, open_manager, open_two, recount
from tests.support.stores import new_database

RETRIES = [str(uuid4()) for _ in range(3)]
STORE = {"required_keys": ["k"]}
CHILD = [place("c", "d", inputs={"x": "${{ store.k }}"}), place("d")]
"""A graph that a value is given by its store; its output is that of d."""
OUTPUTS = {"v": "${{ d.outputs.v }} of ${{ store.k }}"}
PARENT = [place("a", "g"), run_place("g", "b", graph="child", inputs={"k": "${{ a.outputs.v }}"})]
AFTER = place("b", inputs={"x": "${{ g.outputs.v }}"})


@dataclass
class Two:
    """Two state managers on one database, whose clock is set."""

    service: Service
    second: Service
    api: Api
    other: Api
    clock: SettableClock
    write: Callable[..., Awaitable[Any]]
    read: Callable[..., Awaitable[Any]]

    def silence(self) -> None:
        """Let neither do anything of it in the background: a sweep of either would begin that."""
        for each in (self.service, self.second):
            each.store.on_deliveries = lambda: None

    async def delivered(self) -> int:
        """Do all that is noted about runs of waiting states; return how much there was for this call."""
        done, count = 0, 1
        # The task in the background does it, too, and its commit may note more.
        while count or await self.read(due_work):
            count = await handle_due(self.service, *CHILDREN)
            done += count
        return done

    async def run(self, run_id: str) -> dict[str, dict[str, int]]:
        """Return the numbers of states by place and status; the stored ones are right."""
        await self.delivered()
        await self.write(recount)
        nodes = ok(await self.other.native_run(run_id))["nodes"]
        return {node["identifier"]: node["counts"] for node in nodes if node["counts"]}

    async def status(self, run_id: str) -> str:
        await self.delivered()
        status: str = ok(await self.other.native_run(run_id))["status"]
        return status

    async def error(self, flow: Flow, identifier: str = "g") -> str:
        """Return the error of the newest state of a place that failed."""
        await self.delivered()
        found = [
            each for each in await flow.states(identifier) if each["status"] in ("ERRORED", "RETRY_CREATED")
        ]
        return str(found[-1]["error"])


@pytest.fixture
async def two(engine: str) -> AsyncIterator[Two]:
    clock = SettableClock()
    async with open_two(engine, clock=clock) as (one, other):
        store = one.service.store
        yield Two(one.service, other.service, one.api, other.api, clock, store.write, store.read)


async def deploy(api: Api, name: str, *places: dict[str, Any], **fields: Any) -> Flow:
    await api.register_for(places)
    return await Flow.put(api, name, api.body(places, **{"retry_policy": NO_RETRY, **fields}))


async def child(api: Api, **fields: Any) -> Flow:
    return await deploy(api, "child", *CHILD, **{"store_config": STORE, "outputs": OUTPUTS, **fields})


async def parent(two: Two, *places: dict[str, Any], **fields: Any) -> Flow:
    """Start a run whose place g runs the graph child, and let it begin to wait."""
    await child(two.api)
    flow = await deploy(two.api, "parent", *(places or (*PARENT, AFTER)), **fields)
    await flow.trigger()
    await flow.run("a", {"v": "one", "w": ""})
    await two.delivered()
    return flow


def started(view: View) -> list[str]:
    """Return the ids of the runs that states started, oldest first."""
    rows = view.execute("SELECT run_id FROM runs WHERE parent_state IS NOT NULL ORDER BY id")
    return [row["run_id"] for row in rows]


async def the_child(two: Two) -> Flow:
    """Return the newest run that a state started."""
    return Flow(two.api, "child", (await two.read(started))[-1])


async def test_a_place_waits_for_a_run_of_its_graph_and_has_its_outputs(two: Two) -> None:
    flow = await parent(two)
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": 1}, "g": {"WAITING": 1}}
    assert (await flow.shown())["execution_summary"]["CREATED"] == 1, "v0 knows no other status"
    assert "run graph" not in ok(await two.api.native("GET", "depth"))["nodes"]
    (run_id,) = await two.read(started)
    assert (await two.run(run_id)) == {"c": {"CREATED": 1}}
    of_child = await the_child(two)
    assert await of_child.inputs("c") == {"x": "one"}
    ok(await two.api.executed(await _held(two, of_child, "c"), {"v": "", "w": ""}))
    assert await two.delivered() == 0, "it has not ended"
    await of_child.run("d", {"v": "two", "w": ""})
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": 1}, "g": {"SUCCESS": 1}, "b": {"CREATED": 1}}
    assert await flow.inputs("b") == {"x": "two of one"}
    assert await two.read(started) == [run_id]


async def test_a_run_that_is_started_has_the_version_of_its_parent_if_its_graph_names_none(two: Two) -> None:
    await child(two.api)
    await two.api.register_for([{**each, "node_name": f"{each['node_name']}@1"} for each in (*PARENT, AFTER)])
    await Flow.put(two.api, "parent", two.api.body([*PARENT, AFTER], version="1"))

    async def child_of() -> str:
        flow = Flow(two.api, "parent")
        await flow.trigger()
        (first,) = await claim(two.api, {f"{A}@1": 1})
        assert await report(two.api, executed_item(first)) == ["ok"]
        await two.delivered()
        return await two.status(flow.run_id)

    # The version has none of its nodes, as those of another team; then a part of them; then all.
    await child_of()
    assert len(await claim(two.api, {node_name("c"): 9})) == 1
    await two.api.register_for([{**CHILD[0], "node_name": f"{node_name('c')}@1"}])
    assert await child_of() == "FAILED"
    await two.api.register_for([{**each, "node_name": f"{each['node_name']}@1"} for each in CHILD])
    await child_of()
    assert await claim(two.api, {node_name("c"): 9}) == []
    assert len(await claim(two.api, {f"{node_name('c')}@1": 9})) == 1


async def _held(two: Two, flow: Flow, identifier: str) -> str:
    (state,) = [each for each in (await flow.shown())["nodes"] if each["identifier"] == identifier]
    return str(state["id"])


async def ends(two: Two, flow: Flow, *outputs: dict[str, Any]) -> None:
    """Let a run of the graph child end."""
    await flow.run("c", *outputs)
    await flow.run("d", {"v": "x", "w": ""})


@both_engines
async def test_the_runs_that_one_started_are_listed_in_pages(two: Two) -> None:
    flow = await parent(two)
    second = await parent(two)
    (first,) = ok(await two.api.find_runs(parent=flow.run_id))["runs"]
    assert (first["graph_name"], first["parent_run_id"]) == ("child", flow.run_id)
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(3)])
    await two.delivered()
    page = ok(await two.api.find_runs(parent=flow.run_id, limit=2))
    rest = ok(await two.api.find_runs(parent=flow.run_id, limit=2, before=page["next"]))
    assert {run["parent_run_id"] for run in page["runs"] + rest["runs"]} == {flow.run_id}
    assert [len(page["runs"]), len(rest["runs"]), rest["next"]] == [2, 1, None]
    assert ok(await two.api.find_runs(parent=second.run_id, status="FAILED", graph="child"))["runs"] == []
    assert ok(await two.api.find_runs(parent=first["run_id"]))["runs"] == []
    refused(await two.api.elsewhere().find_runs(parent=flow.run_id), 404)


async def test_values_are_data(two: Two) -> None:
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a", {"v": "${{ store.k }} ${{", "w": ""})
    await two.delivered()
    assert await (await the_child(two)).inputs("c") == {"x": "${{ store.k }} ${{"}


async def test_values_go_to_the_store_or_to_the_first_node(two: Two) -> None:
    places = [place("c", inputs={"x": "${{ store.k }}", "y": "unset"})]
    await deploy(two.api, "child", *places, store_config=STORE)
    flow = await deploy(two.api, "parent", run_place("g", graph="child", inputs={"k": "1", "y": "2"}))
    await flow.trigger()
    await two.delivered()
    assert await (await the_child(two)).inputs("c") == {"x": "1", "y": "2"}


async def test_a_run_in_which_no_node_has_an_output_is_an_error(two: Two) -> None:
    flow = await parent(two)
    ok(await two.api.prune(await (await the_child(two)).one("c"), {}))
    assert "gave no output 'v': no node that has it succeeded" in await two.error(flow)


async def test_an_output_has_the_value_of_the_branch_that_was_taken(two: Two) -> None:
    when = {"of": "${{ c.outputs.v }}", "operator": "==", "value": "left"}
    places = [place("c", "l", "r"), place("l", when=when), place("r", otherwise=True)]
    outputs = {"v": ["${{ l.outputs.v }}", "${{ r.outputs.v }}"]}
    await deploy(two.api, "child", *places, outputs=outputs)
    flow = await deploy(two.api, "parent", run_place("g", "b", graph="child"), AFTER)
    await flow.trigger()
    await two.delivered()
    of_child = await the_child(two)
    await of_child.run("c", {"v": "right", "w": ""})
    await of_child.run("r", {"v": "from r", "w": ""})
    await two.delivered()
    assert await flow.inputs("b") == {"x": "from r"}


async def test_a_node_that_succeeded_twice_gives_no_output(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    await of_child.run("c", {"v": "1", "w": ""}, {"v": "2", "w": ""})
    for state in await of_child.take("d", 2):
        ok(await two.api.executed(state["state_id"], {"v": "", "w": ""}))
    assert "output 'v': the node that has it succeeded 2 times, unite it" in await two.error(flow)


async def test_the_first_error_of_a_run_is_that_of_the_state_and_a_retry_starts_another(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    await of_child.fail("c", 1, error="no paper")
    assert await two.error(flow) == f"run {of_child.run_id} of graph 'child' failed: c: no paper"
    assert await two.status(flow.run_id) == "FAILED"
    ok(await two.api.native("POST", f"run/{of_child.run_id}/retry", json={"request_id": RETRIES[1]}))
    await ends(two, of_child)
    assert await two.status(of_child.run_id) == "SUCCESS"
    assert await two.status(flow.run_id) == "FAILED", "it was told of the first end"
    ok(await two.api.native("POST", f"run/{flow.run_id}/retry", json={"request_id": RETRIES[2]}))
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": 1}, "g": {"RETRY_CREATED": 1, "WAITING": 1}}
    assert len(await two.read(started)) == 2
    await ends(two, await the_child(two))
    assert (await two.run(flow.run_id))["g"] == {"RETRY_CREATED": 1, "SUCCESS": 1}


async def test_a_run_that_is_retried_before_its_end_was_told_goes_on(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    two.silence()
    await of_child.fail("c", 1)
    ok(await two.api.native("POST", f"run/{of_child.run_id}/retry", json={"request_id": RETRIES[1]}))
    assert (await two.run(flow.run_id))["g"] == {"WAITING": 1}
    await ends(two, of_child)
    assert (await two.run(flow.run_id))["g"] == {"SUCCESS": 1}


async def test_a_retry_policy_of_the_place_starts_another_run_after_its_delay(two: Two) -> None:
    policy = {"max_retries": 1, "backoff_factor": 60_000, "strategy": "FIXED"}
    flow = await parent(two, PARENT[0], {**PARENT[1], "next_nodes": [], "retry_policy": policy})
    await (await the_child(two)).fail("c", 1)
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": 1}, "g": {"RETRY_CREATED": 1, "WAITING": 1}}
    assert len(await two.read(started)) == 1
    two.clock.advance(60_000)
    await two.delivered()
    await (await the_child(two)).fail("c", 1)
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": 1}, "g": {"RETRY_CREATED": 1, "ERRORED": 1}}
    assert len(await two.read(started)) == 2


@both_engines
async def test_a_run_has_the_order_of_the_one_above_it_and_the_secrets_of_its_graph(two: Two) -> None:
    columns = "priority, share, fair_key, started_by"

    def in_order(view: View) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in view.execute(f"SELECT {columns} FROM runs ORDER BY id")]

    await child(two.api, secrets={"token": "of the child"})
    await two.api.register_for(CHILD, secrets=("token",))
    await deploy(
        two.api, "parent", run_place("g", graph="child", inputs={"k": "v"}), secrets={"token": "above"}
    )
    order = {"key": "1", "priority": "high", "weight": 4.0, "fair_key": "ada"}
    ok(await two.api.native("POST", "graph/parent/trigger", json=order))
    await two.delivered()
    above, below = await two.read(in_order)
    assert above == below
    assert below[0] < 0
    state_id = await (await the_child(two)).one("c")
    assert ok(await two.api.secrets(state_id))["secrets"] == {"token": "of the child"}


# -- graphs that cannot be run


async def test_an_unknown_graph_is_refused_and_so_are_values_that_it_does_not_take(two: Two) -> None:
    async def refusal(**fields: Any) -> str:
        body = two.api.body([run_place("g", **fields)])
        return refused(await two.api.put_graph("parent", body), 400)

    assert "there is no graph 'child' in this namespace" in await refusal(graph="child")
    await child(two.api)
    assert "store key 'k' of graph 'child' is missing" in await refusal(graph="child")
    given = {"k": "", "kk": ""}
    assert "neither the store of graph 'child' nor its first node has 'kk'" in await refusal(
        graph="child", inputs=given
    )
    assert "the graph would run itself without an end" in await refusal(graph="parent")
    body = two.api.body(
        [PARENT[0], {**PARENT[1], "next_nodes": ["b"]}, {**AFTER, "inputs": {"x": "${{ g.outputs.no }}"}}]
    )
    await two.api.register_for([PARENT[0], AFTER])
    assert ok(await two.api.put_graph("parent", body), 201)["validation_errors"] == [
        "node 'b', input 'x': 'g' has no output 'no'"
    ]


async def test_a_graph_that_is_deleted_or_refuses_its_values_is_an_error_of_the_state(two: Two) -> None:
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    ok(await two.api.delete_graph("child"))
    await flow.trigger()
    await flow.run("a")
    assert await two.error(flow) == "graph 'child' cannot be run: it does not exist"
    await child(two.api, store_config={"required_keys": ["k", "new"]})
    await flow.trigger()
    await flow.run("a")
    assert await two.error(flow) == "graph 'child' cannot be run: the store lacks required keys: new"
    ok(await two.api.put_graph("child", two.api.body([place("never")])), 201)
    await flow.trigger()
    await flow.run("a")
    assert await two.error(flow) == "graph 'child' cannot be run: it is INVALID"


async def test_a_graph_that_runs_itself_ends_at_its_rounds_or_at_the_depth(two: Two) -> None:
    when = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "on"}
    for graph, message in (
        ({"name": "loop", "max_rounds": 3}, "it has had its 3 rounds (max_rounds)"),
        ({"name": "loop"}, "there are 100 runs above it"),
    ):
        await two.api.register_for([place("a")])
        places = [place("a", "g"), run_place("g", graph=graph, when=when)]
        flow = await deploy(two.api, "loop", *places)
        first = await flow.trigger()
        runs = 0
        while True:
            await two.delivered()
            claimed = ok(await two.api.claim([node_name("a")], 1))["states"]
            if not claimed:
                break
            ok(await two.api.executed(claimed[0]["state_id"], {"v": "on", "w": ""}))
            runs += 1
        assert runs == graph.get("max_rounds", 101)
        assert message in await two.error(Flow(two.api, "loop", first))


async def test_a_graph_that_runs_itself_twice_is_limited_in_its_runs(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "MAX_BELOW", 5)
    when = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "on"}
    both = [run_place(name, graph={"name": "loop"}, when=when) for name in ("g", "h")]
    await two.api.register_for([place("a")])
    flow = await deploy(two.api, "loop", place("a", "g", "h"), *both)
    await flow.trigger()
    await flow.trigger()
    for started_runs in (2, 5):
        for state in ok(await two.api.claim([node_name("a")], 100))["states"]:
            ok(await two.api.executed(state["state_id"], {"v": "on", "w": ""}))
        await two.delivered()
        below = await two.read(
            lambda view: view.execute(
                "SELECT root, count(*) AS n FROM runs WHERE root IS NOT NULL GROUP BY root"
            ).fetchall()
        )
        assert [row["n"] for row in below] == [started_runs] * 2
    failed = ok(await two.api.states(status="ERRORED"))["states"]
    assert any("there are 5 runs in flight that one run led to" in each["error"] for each in failed)


# -- cancellation, deletion, retention


async def test_a_cancelled_run_cancels_the_runs_below_it(two: Two) -> None:
    await child(two.api)
    await deploy(two.api, "middle", run_place("m", graph="child", inputs={"k": "v"}))
    flow = await deploy(two.api, "parent", run_place("g", graph="middle"))
    await flow.trigger()
    await two.delivered()
    middle, below = await two.read(started)
    ok(await two.other.native("POST", f"run/{flow.run_id}/cancel"))
    for run_id in (middle, below):
        assert await two.status(run_id) == "FAILED"
        assert ok(await two.api.native_run(run_id))["cancelled_at"] is not None
        (change,) = ok(await two.api.native("GET", f"changes?target={run_id}"))["changes"]
        assert (change["who"], change["action"]) == ("state manager", "run.cancel")
        assert change["result"] == "1 state cancelled, since the state that waited for the run has ended"
    assert (await two.run(flow.run_id)) == {"g": {"ERRORED": 1}}


@pytest.mark.parametrize("first", ["end", "cancel"])
@both_engines
async def test_an_end_and_a_cancellation_at_the_same_time(two: Two, first: str) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    two.silence()
    await ends(two, of_child)
    if first == "end":
        await two.delivered()
    ok(await two.other.native("POST", f"run/{flow.run_id}/cancel"))
    counts = await two.run(flow.run_id)
    assert counts["g"] == ({"SUCCESS": 1} if first == "end" else {"ERRORED": 1})
    assert ("b" in counts) == (first == "end")
    assert await two.status(of_child.run_id) == "SUCCESS"


async def test_a_run_that_is_cancelled_by_itself_is_an_error_of_the_state(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    ok(await two.other.native("POST", f"run/{of_child.run_id}/cancel"))
    assert await two.error(flow) == f"run {of_child.run_id} of graph 'child' was cancelled"


async def test_a_state_that_ends_before_its_run_is_started_starts_none(two: Two) -> None:
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    two.silence()
    await flow.run("a")
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    await two.delivered()
    assert await two.read(started) == []


async def test_a_run_is_deleted_once_its_end_was_told_and_then_like_any_other(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    two.silence()
    await ends(two, of_child)
    two.clock.advance(1_000)
    assert await two.write(discard, 10) == 0
    assert (await two.run(flow.run_id))["g"] == {"SUCCESS": 1}
    assert await two.write(discard, 10) == 1
    assert await two.read(started) == []
    assert await flow.inputs("b") == {"x": "x of one"}


async def test_a_deleted_graph_ends_the_states_that_wait_for_its_runs(two: Two) -> None:
    flow = await parent(two)
    run_id = (await the_child(two)).run_id
    ok(await two.api.delete_graph("child", cancel_runs="true"))
    assert await two.error(flow) == f"run {run_id} of graph 'child' was cancelled"


async def test_a_deletion_lets_the_last_ends_be_delivered_and_pauses(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await parent(two)
    store, steps = two.service.store, []

    async def write_as(*args: Any, **kwargs: Any) -> Any:
        steps.append(args)
        return await type(store).write_as(store, *args, **kwargs)

    deliver = store.on_deliveries
    store.on_deliveries = lambda: None
    await ends(two, await the_child(two))
    asked = trio.Event()
    store.on_deliveries = asked.set
    monkeypatch.setattr(store, "write_as", write_as)
    monkeypatch.setattr(service, "DELETE_PAUSE", 3_600)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(two.api.delete_graph, "child"))
        with trio.fail_after(10):
            await asked.wait()
        for _ in range(20):
            await two.read(started)
        nursery.cancel_scope.cancel()
    assert len(steps) == 1
    monkeypatch.setattr(service, "DELETE_PAUSE", 0)
    store.on_deliveries = deliver
    ok(await two.api.delete_graph("child"))
    assert [each["status"] for each in await flow.states("g")] == ["SUCCESS"]


async def test_the_runs_below_a_deleted_graph_are_cancelled(two: Two) -> None:
    await parent(two)
    of_child = await the_child(two)
    ok(await two.api.delete_graph("parent", cancel_runs="true"))
    assert await two.status(of_child.run_id) == "FAILED"
    await eventually(partial(deleted, two))


async def deleted(two: Two) -> None:
    """Delete what is kept for nothing, unless the task in the background does so now."""
    await two.write(discard, -1)
    assert await two.read(started) == [], "it is not kept for its state"


@both_engines
async def test_a_united_place_that_runs_again_cancels_the_run_that_it_waited_for(two: Two) -> None:
    await child(two.api)
    flow = await deploy(
        two.api,
        "parent",
        place("a", "p", "q"),
        place("p", "u"),
        place("q", "u"),
        run_place("u", graph="child", inputs={"k": "v"}, unites="a", strategy="ALL_DONE"),
    )
    await flow.trigger()
    await flow.run("a")
    await flow.run("p")
    await flow.fail("q", 1)
    await two.delivered()
    first = (await the_child(two)).run_id
    ok(await two.api.native("POST", f"run/{flow.run_id}/retry", json={"request_id": RETRIES[1]}))
    assert await two.status(first) == "FAILED"
    await flow.run("q")
    await two.delivered()
    assert len(await two.read(started)) == 2
    await ends(two, await the_child(two))
    assert await two.run(flow.run_id) == {
        "a": {"SUCCESS": 1},
        "p": {"SUCCESS": 1},
        "q": {"RETRY_CREATED": 1, "SUCCESS": 1},
        "u": {"RETRY_CREATED": 1, "SUCCESS": 1},
    }


# -- many, and several state managers


@both_engines
async def test_many_states_wait_for_a_run_each_started_by_any(two: Two) -> None:
    size = 2 * MAX_PER_STEP + 10
    await deploy(two.api, "child", place("c"), outputs={"v": "${{ c.outputs.v }}"})
    flow = await deploy(
        two.api,
        "parent",
        place("a", "f"),
        place("f", "g"),
        run_place("g", "b", graph="child"),
        place("b", unites="a", inputs={"x": "${{ g.outputs.v }}"}),
    )
    await flow.trigger()
    two.silence()
    await flow.run("a")
    await flow.run("f", *[{"v": str(number), "w": ""} for number in range(size)])
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(two.delivered)
    assert len(await two.read(started)) == size
    assert (await two.run(flow.run_id))["g"] == {"WAITING": size}
    number = 0
    while states := ok(await two.api.claim([node_name("c")], 1_000))["states"]:
        for state in states:
            ok(await two.api.executed(state["state_id"], {"v": str(number), "w": ""}))
            number += 1
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(two.delivered)
    assert await two.run(flow.run_id) == {
        "a": {"SUCCESS": 1},
        "f": {"SUCCESS": size},
        "g": {"SUCCESS": size},
        "b": {"CREATED": 1},
    }


@both_engines
async def test_runs_are_cancelled_while_others_are_started(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    size, steps = 2 * MAX_PER_STEP, []
    two.silence()
    cancelled = await parent(two)
    store = two.service.store
    ok(await two.api.native("POST", f"run/{cancelled.run_id}/cancel"))
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(size)])

    async def write(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        called = step.func if isinstance(step, partial) else step
        steps.extend([called] if called in (start_children, deliver_ends, cancel_children) else [])
        return await type(store).write(store, step, *args, **kwargs)

    monkeypatch.setattr(store, "write", write)
    deliveries = Deliveries(store, two.service.cipher)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliveries.run)
        await eventually(partial(handled, two))
        nursery.cancel_scope.cancel()
    assert steps == [cancel_children, start_children, deliver_ends, start_children]


@pytest.mark.parametrize("step", CHILDREN)
@both_engines
async def test_a_run_that_cannot_be_handled_delays_no_others_and_is_tried_again(
    two: Two, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: Step
) -> None:
    use_case, broken = use_cases(two.service)[step], True
    store = two.service.store
    two.silence()
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(9)])
    if step != Step.START:
        await two.delivered()
    if step == Step.DELIVER:
        for identifier in ("c", "d"):
            for state in await flow.take(identifier, 9):
                ok(await two.api.executed(state["state_id"], {"v": "1", "w": ""}))
    elif step == Step.CANCEL:
        ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    ((_, bad, *_),) = (await two.read(due_work, (step,))).values()

    def failing(tx: Transaction, numbers: Sequence[int]) -> Any:
        if bad in numbers and broken:
            raise ZeroDivisionError("a mistake")
        return use_case(tx, numbers)

    handling = DueWork(store, {step: failing})
    while await handling.handle():
        pass
    assert await two.read(due_work, (step,)) == {step: [bad]}
    (line,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
    assert f"the step '{step}' failed, others go on; it is tried again after 60 s" in line
    assert "run " in line
    assert "ZeroDivisionError('a mistake')" in line
    broken = False
    assert not await handling.handle(), "not with each commit"
    now = trio.current_time()
    monkeypatch.setattr(trio, "current_time", lambda: now + 61)
    assert await handling.handle()
    assert await two.read(due_work, (step,)) == {}


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_step_that_the_database_refuses_delays_no_other_step(engine: str, tmp_path: Path) -> None:
    def refused(tx: Transaction, numbers: Sequence[int]) -> int:
        raise NotCommitted("another transaction locks the run", fix="wait")

    clock = SettableClock()
    # Of one state manager: another one would do what this one is told not to do.
    with ExitStack() as stack:
        async with open_manager(new_database(engine, tmp_path, stack), clock=clock) as one:
            store = one.service.store
            store.on_deliveries = lambda: None
            two = Two(one.service, one.service, one.api, one.api, clock, store.write, store.read)
            await child(two.api)
            flow = await deploy(two.api, "parent", *PARENT, AFTER)
            await flow.trigger()
            await flow.run("a", {"v": "one", "w": ""})
            await two.delivered()
            await ends(two, await the_child(two))
            await flow.trigger()
            await flow.run("a", {"v": "two", "w": ""})
            handling = DueWork(store, {Step.START: refused, Step.DELIVER: deliver_ends})
            assert await handling.handle() == 1
            with pytest.raises(NotCommitted, match="locks the run"):
                await handling.handle()


async def test_what_failed_is_left_out_up_to_a_number(
    two: Two, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "MAX_FAILED", 4)
    two.silence()
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(9)])
    tried: list[int] = []

    def failing(tx: Transaction, numbers: Sequence[int]) -> int:
        tried.extend(numbers if len(numbers) == 1 else [])
        raise ZeroDivisionError("a mistake")

    handling = DueWork(two.service.store, {Step.START: failing}, limit=3)
    for _ in range(5):
        assert not await handling.handle()
    assert len(tried) == 4
    lines = [each.message for each in caplog.records if each.levelname == "ERROR"]
    assert ["others wait, since too many failed" in line for line in lines] == [False, False, False, True]
    now = trio.current_time()
    monkeypatch.setattr(trio, "current_time", lambda: now + 61)
    assert not await handling.handle()
    assert len(tried) == 7


async def handled(two: Two) -> None:
    assert not await two.read(due_work)


async def test_the_view_of_a_run_reads_all_its_children_together(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    await child(two.api)
    flow = await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(20)])
    await two.delivered()
    execute, statements = View.execute, list[str]()

    def seen(view: View) -> int:
        run = find_run(view, "tests", flow.run_id)

        def counted(used: View, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
            if used is view:  # not another thread's, which looks for what is due
                statements.append(sql)
            return execute(used, sql, parameters)

        monkeypatch.setattr(View, "execute", counted)
        children, total = children_of(view, run)
        monkeypatch.setattr(View, "execute", execute)
        assert {each.identifier for each in children} == {"g"}
        return total

    assert await two.read(seen) == 20
    assert len(statements) == 3


async def test_many_runs_are_cancelled_with_the_run_above_them(two: Two) -> None:
    size = MAX_PER_STEP + 10
    await deploy(two.api, "child", place("c"))
    flow = await deploy(two.api, "parent", place("a", "g"), run_place("g", graph="child"))
    await flow.trigger()
    await flow.run("a", *[{"v": str(number), "w": ""} for number in range(size)])
    await two.delivered()
    assert len(await two.read(started)) == size
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(two.delivered)
    assert await two.run(flow.run_id) == {"a": {"SUCCESS": size}, "g": {"ERRORED": size}}
    assert ok(await two.api.claim([node_name("c")], 1_000))["states"] == []


async def test_the_sweep_finds_what_was_noted_by_one_that_ended(two: Two) -> None:
    flow = await parent(two)
    of_child = await the_child(two)
    two.silence()
    await ends(two, of_child)
    assert await two.read(due_work)
    assert (await two.run(flow.run_id))["g"] == {"SUCCESS": 1}
    await deploy(two.api, "parent", *PARENT, AFTER)
    await flow.trigger()
    await flow.run("a")
    assert await two.read(due_work)
    await two.delivered()
    ok(await two.api.native("POST", f"run/{flow.run_id}/cancel"))
    assert await two.read(due_work)
    await two.delivered()
    assert await two.status((await the_child(two)).run_id) == "FAILED"


# -- starting runs in a transaction


def runs_of_states(view: View) -> list[tuple[Any, ...]]:
    columns = "parent_state, call, depth, round, awaited, origin, started_by, pending"
    sql = f"SELECT {columns} FROM runs WHERE parent_state IS NOT NULL ORDER BY parent_state"
    return list(map(tuple, view.execute(sql)))


@both_engines
async def test_runs_are_started_for_states_all_or_none(two: Two) -> None:
    await child(two.api)

    async def start(*stores: dict[str, str]) -> None:
        runs = [
            NewRun(store=each, origin="graph", parent=Parent(1, number, "", 3, 1, started_by="ada"))
            for number, each in enumerate(stores, 7)
        ]
        await two.write(start_runs, two.api.namespace, "child", runs, two.service.cipher)

    with pytest.raises(EntriesRefused) as refused:
        await start({"k": "v"}, {})
    details = {index: each.detail for index, each in refused.value.entries.items()}
    assert details == {1: "the store lacks required keys: k"}
    assert await two.read(runs_of_states) == []
    await start({"k": "v"}, {"k": "w"})
    assert await two.read(runs_of_states) == [(state, "", 3, 1, 1, "graph", "ada", 1) for state in (7, 8)]
    assert len(ok(await two.other.states())["states"]) == 2
