"""The number of statements that a request runs in the database does not grow with its states."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from exotrio.manager.engine.due_work import Step
from exotrio.manager.engine.leases import Terms, expire, recover
from exotrio.manager.engine.managers import leave
from exotrio.manager.store.postgres.pipeline import Pipeline
from tests.contract.flow import Flow
from tests.support.due import handle_due
from tests.support.helpers import FAST_RETRY, NO_RETRY, node_name, ok, place, run_place
from tests.support.manager import Manager, open_manager, open_two, recount
from tests.support.statements import noted
from tests.support.stores import new_database

# r fans out; each of its siblings is a group, which u unites; top unites all of them.
PLACES = [
    place("first", "r"),
    place("r", "b"),
    place("b", "c", inputs={"p": "${{first.outputs.v}}", "s": "${{store.k}}"}),
    place("c", "u", inputs={"p": "${{r.outputs.v}}${{first.outputs.w}}", "s": "${{store.default}}"}),
    place("u", "top", unites="r", inputs={"all": "${{c.outputs.v}}", "p": "${{r.outputs.v}}${{store.k}}"}),
    place("top", unites="first", strategy="ALL_DONE", inputs={"all": "${{u.outputs.v}}"}),
]
STORE = {"required_keys": ["k"], "default_values": {"default": "d"}}
OUTPUT = {"v": "1", "w": "2"}
Act = Callable[[], Awaitable[Any]]


async def flow_of(manager: Manager, retry_policy: dict[str, Any] = NO_RETRY) -> Flow:
    api = manager.api
    secrets = {"token": "a secret"}
    flow = await Flow.deploy(api, *PLACES, store_config=STORE, secrets=secrets, retry_policy=retry_policy)
    await flow.trigger(store={"k": "v"})
    return flow


async def items(manager: Manager, identifier: str, count: int, **outcome: Any) -> list[dict[str, Any]]:
    """Claim so many states of a place, and return the same outcome for each."""
    states = ok(await manager.api.native_claim({node_name(identifier): 1_000}, limit=1_000))["states"]
    assert len(states) == count
    return [{"state_id": each["state_id"], "token": each["lease"]["token"], **outcome} for each in states]


async def report(manager: Manager, identifier: str, count: int, **outcome: Any) -> None:
    """Report the same outcome for each of so many states of a place."""
    replies = ok(await manager.api.outcomes(*await items(manager, identifier, count, **outcome)))["items"]
    assert {reply["result"] for reply in replies} == {"ok"}


def executed(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"outcome": "executed", "outputs": list(outputs)}


async def siblings(manager: Manager, count: int, retry_policy: dict[str, Any] = NO_RETRY) -> Flow:
    """Start a run with so many states of b, each in a separate group."""
    flow = await flow_of(manager, retry_policy)
    await report(manager, "first", 1, **executed(OUTPUT))
    await report(manager, "r", 1, **executed(*[OUTPUT] * count))
    return flow


# -- what is done to so many states; each returns the request to watch


Prepare = Callable[[Manager, int], Awaitable[Act]]


def reporting(
    name: str, *before: str, policy: dict[str, Any] = NO_RETRY, of: str = "b", **outcome: Any
) -> Any:
    """Return what prepares the same outcome of each of so many states of a place, as a row of a table.

    Args:
        name: Of the row.
        before: The places before it, below ``r``, whose states are executed first.
        of: The place.
    """

    async def prepare(manager: Manager, count: int) -> Act:
        await siblings(manager, count, policy)
        for identifier in before:
            await report(manager, identifier, count, **executed(OUTPUT))
        batch = await items(manager, of, count, **outcome)
        return lambda: manager.api.outcomes(*batch)

    return pytest.param(prepare, id=name)


async def one_state_in_each_run(manager: Manager, count: int) -> Act:
    flow = await flow_of(manager)
    for _ in range(count - 1):
        await flow.trigger(store={"k": "v"})
    await report(manager, "first", count, **executed(OUTPUT))
    batch = await items(manager, "r", count, **executed(OUTPUT))
    return lambda: manager.api.outcomes(*batch)


async def the_end_of_each_run(manager: Manager, count: int) -> Act:
    await Flow.start(manager.api, place("a"), runs=count)
    batch = await items(manager, "a", count, **executed(OUTPUT))
    return lambda: manager.api.outcomes(*batch)


async def repeating_outcomes(manager: Manager, count: int) -> Act:
    await siblings(manager, count)
    batch = await items(manager, "b", count, **executed(OUTPUT))
    ok(await manager.api.outcomes(*batch))
    return lambda: manager.api.outcomes(*batch)


async def retrying_a_run(manager: Manager, count: int) -> Act:
    """Of each kind so many: failed, without the states that follow, and united but not built."""
    flow = await flow_of(manager)
    await report(manager, "first", 1, **executed(OUTPUT))
    await report(manager, "r", 1, **executed(*[OUTPUT] * 2 * count, *[{}] * count))
    batch = await items(manager, "b", 3 * count, **executed(OUTPUT))
    errored = [{**item, "outcome": "errored", "error": "no"} for item in batch[:count]]
    for item in errored:
        del item["outputs"]
    ok(await manager.api.outcomes(*errored, *batch[count:]))
    await report(manager, "c", count, **executed({}))
    statuses = await flow.statuses()
    assert (
        statuses["b", "ERRORED"] == statuses["b", "NEXT_CREATED_ERROR"] == statuses["u", "ERRORED"] == count
    )
    return lambda: manager.api.retry_run(flow.run_id)


async def held(manager: Manager, count: int, claim_id: str | None = None) -> list[dict[str, Any]]:
    """Claim so many states of b, from another process."""
    await siblings(manager, count)
    claimed = await manager.remote.native_claim({node_name("b"): 1_000}, limit=1_000, claim_id=claim_id)
    states = ok(claimed)["states"]
    assert len(states) == count
    return [{"state_id": each["state_id"], "token": each["lease"]["token"]} for each in states]


async def managed(manager: Manager, use_case: Callable[..., Any], *args: Any) -> Any:
    """Run a use case that no request runs, and answer as a request would."""
    await manager.service.store.write(use_case, *args)
    return await manager.api.graphs()


async def handling(manager: Manager, step: Step) -> Any:
    """Do what is due, and answer as a request would."""
    await handle_due(manager.service, step)
    return await manager.api.graphs()


def claims_all(manager: Manager) -> Act:
    return lambda: manager.remote.native_claim({node_name("b"): 1_000}, limit=1_000, claim_id="c")


async def claiming(manager: Manager, count: int) -> Act:
    await siblings(manager, count)
    return claims_all(manager)


async def claiming_again(manager: Manager, count: int) -> Act:
    await held(manager, count, "c")
    return claims_all(manager)


async def renewing(manager: Manager, count: int) -> Act:
    states = [{**each, "running": True} for each in await held(manager, count)]
    return lambda: manager.remote.native("POST", "heartbeat", json={"worker_id": "w", "states": states})


async def regaining(manager: Manager, count: int) -> Act:
    act = await renewing(manager, count)
    ok(await (await expiring(manager, 0))())
    return act


async def releasing(manager: Manager, count: int) -> Act:
    states = await held(manager, count)
    return lambda: manager.remote.release(states=states)


async def releasing_a_claim(manager: Manager, count: int) -> Act:
    await held(manager, count, "c")
    return lambda: manager.remote.release(claim_id="c")


CHECKPOINT = {"checkpoint": {"number": 1, "value": '{"row": "1"}'}}


async def with_checkpoints(manager: Manager, states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store a checkpoint of each state, and return them with a newer one."""
    ok(await manager.remote.heartbeat(states=[{**each, **CHECKPOINT} for each in states]))
    return [{**each, "checkpoint": {"number": 2, "value": '{"row": "2"}'}} for each in states]


async def renewing_with_checkpoints(manager: Manager, count: int) -> Act:
    states = await with_checkpoints(manager, await held(manager, count))
    return lambda: manager.remote.heartbeat(states=states)


async def releasing_with_checkpoints(manager: Manager, count: int) -> Act:
    states = await with_checkpoints(manager, await held(manager, count))
    return lambda: manager.remote.release(states=states)


async def claiming_with_checkpoints(manager: Manager, count: int) -> Act:
    ok(await (await releasing_with_checkpoints(manager, count))())
    return claims_all(manager)


async def executing_with_checkpoints(manager: Manager, count: int) -> Act:
    await siblings(manager, count)
    batch = await with_checkpoints(manager, await items(manager, "b", count))
    return lambda: manager.api.outcomes(*[{**item, **executed(OUTPUT)} for item in batch])


async def failing_with_checkpoints(manager: Manager, count: int) -> Act:
    await siblings(manager, count, FAST_RETRY)
    batch = await with_checkpoints(manager, await items(manager, "b", count))
    return lambda: manager.api.outcomes(*[{**item, "outcome": "errored", "error": "no"} for item in batch])


async def retrying_with_checkpoints(manager: Manager, count: int) -> Act:
    flow = await siblings(manager, count)
    batch = await items(manager, "b", count, outcome="errored", error="no", **CHECKPOINT)
    ok(await manager.api.outcomes(*batch))
    return lambda: manager.api.retry_run(flow.run_id)


async def expiring(manager: Manager, count: int) -> Act:
    if count:
        await held(manager, count)
    now = manager.service.monotonic() + 2 * manager.service.terms.lease_ttl_ms
    return lambda: managed(manager, expire, now, manager.service.terms)


async def ending_as_poison(manager: Manager, count: int) -> Act:
    await held(manager, count)
    terms = Terms(poison_limit=1)
    return lambda: managed(manager, expire, manager.service.monotonic() + 2 * terms.lease_ttl_ms, terms)


async def losing_a_manager(manager: Manager, count: int) -> Act:
    await siblings(manager, count)
    await items(manager, "b", count)
    await manager.service.store.write(leave, manager.service.manager)
    return lambda: managed(manager, recover, "", manager.service.terms)


async def cancelling(manager: Manager, count: int) -> Act:
    flow = await siblings(manager, count)
    return lambda: manager.api.native("POST", f"run/{flow.run_id}/cancel")


async def triggering(manager: Manager, count: int) -> Act:
    inputs = {"p": "<${{store.k}}>", "q": "${{store.default}}"}
    await Flow.deploy(manager.api, place("a", inputs=inputs), store_config=STORE)
    # One in the cache, as in every transaction but the first.
    ok(await manager.api.trigger("graph", store={"k": "v"}))
    runs = [{"run_id": str(uuid4()), "store": {"k": "v"}} for _ in range(count)]
    return lambda: manager.api.trigger_many("graph", *runs)


async def triggering_by_keys(manager: Manager, count: int) -> Act:
    """One of them exists."""
    await Flow.deploy(manager.api, place("a"))
    runs = [{"key": f"key-{number}"} for number in range(count + 1)]
    ok(await manager.api.trigger_many("graph", runs[0]))
    return lambda: manager.api.trigger_many("graph", *runs)


async def triggering_again(manager: Manager, count: int) -> Act:
    await Flow.deploy(manager.api, place("a"))
    runs = [{"run_id": str(uuid4())} for _ in range(count)]
    ok(await manager.api.trigger_many("graph", *runs))
    return lambda: manager.api.trigger_many("graph", *runs)


async def deciding_branches(manager: Manager, count: int) -> Act:
    """By an output of the state, one of a state before it, and a key of the store; with a join of each."""

    def when(of: str) -> dict[str, Any]:
        return {"when": {"of": f"${{{{ {of} }}}}", "operator": "==", "value": "1"}}

    places = [
        place("first", "r"),
        place("r", "a", "b", "c", "d"),
        place("a", "u", **when("r.outputs.v")),
        place("b", "u", **when("first.outputs.w")),
        place("c", **when("store.k")),
        place("d", otherwise=True),
        place("u", unites="r", strategy="ALL_DONE"),
    ]
    flow = await Flow.deploy(manager.api, *places, store_config=STORE)
    await flow.trigger(store={"k": "v"})
    await report(manager, "first", 1, **executed(*[OUTPUT] * count))
    batch = await items(manager, "r", count, **executed(OUTPUT, {"v": "2"}))
    return lambda: manager.api.outcomes(*batch)


async def awaiting(manager: Manager, count: int, **fields: int) -> Flow:
    """Start a run in which so many places wait for one event; a node follows each."""
    places = [
        place("first", "w"),
        place("w", "b", node_name="wait for event", wait={"event": "go", **fields}),
        place("b", inputs={"p": "${{first.outputs.v}}"}),
    ]
    await manager.api.register_for([places[0], places[2]])
    flow = await Flow.put(manager.api, "graph", manager.api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    if count:
        await report(manager, "first", 1, **executed(*[OUTPUT] * count))
    return flow


async def sending_an_event(manager: Manager, count: int) -> Act:
    flow = await awaiting(manager, count)
    return lambda: manager.api.native("POST", f"run/{flow.run_id}/events", json={"name": "go"})


async def beginning_to_wait_for_what_is_there(manager: Manager, count: int) -> Act:
    flow = await awaiting(manager, 0)
    ok(await manager.api.native("POST", f"run/{flow.run_id}/events", json={"name": "go"}))
    batch = await items(manager, "first", 1, **executed(*[OUTPUT] * (count + 1)))
    return lambda: manager.api.outcomes(*batch)


async def passing_deadlines(manager: Manager, count: int) -> Act:
    await awaiting(manager, count, timeout_ms=1)
    await trio.sleep(0.002)
    return lambda: handling(manager, Step.WAIT)


async def claiming_what_was_woken(manager: Manager, count: int) -> Act:
    flow = await siblings(manager, count)
    await report(manager, "b", count, outcome="waiting", event="go")
    ok(await manager.api.native("POST", f"run/{flow.run_id}/events", json={"name": "go"}))
    return claims_all(manager)


async def running_graphs(manager: Manager, count: int) -> Flow:
    """Start a run with so many states of b, after each of which a place runs a graph."""
    api = manager.api
    await api.register_for([place("below")])
    await Flow.put(api, "below", api.body([place("below")], outputs={"v": "${{ below.outputs.v }}"}))
    body = [place("a", "b"), place("b", "g"), run_place("g", "c", graph="below"), place("c")]
    flow = await Flow.deploy(api, *body, retry_policy=NO_RETRY)
    await flow.trigger()
    await report(manager, "a", 1, **executed(*[OUTPUT] * count))
    manager.service.store.on_deliveries = lambda: None
    return flow


async def beginning_to_wait_for_runs(manager: Manager, count: int) -> Act:
    await running_graphs(manager, count)
    batch = await items(manager, "b", count, **executed(OUTPUT))
    return lambda: manager.api.outcomes(*batch)


async def starting_runs_of_states(manager: Manager, count: int) -> Act:
    await running_graphs(manager, count)
    await report(manager, "b", count, **executed(OUTPUT))
    return lambda: handling(manager, Step.START)


async def delivering_ends(manager: Manager, count: int) -> Act:
    await running_graphs(manager, count)
    await report(manager, "b", count, **executed(OUTPUT))
    await handle_due(manager.service, Step.START)
    await report(manager, "below", count, **executed(OUTPUT))
    return lambda: handling(manager, Step.DELIVER)


WITH_CHECKPOINTS = (
    renewing_with_checkpoints,
    releasing_with_checkpoints,
    claiming_with_checkpoints,
    executing_with_checkpoints,
    failing_with_checkpoints,
    retrying_with_checkpoints,
)


@pytest.mark.parametrize(
    "prepare",
    [
        triggering,
        triggering_by_keys,
        triggering_again,
        claiming,
        claiming_again,
        renewing,
        regaining,
        releasing,
        releasing_a_claim,
        expiring,
        ending_as_poison,
        losing_a_manager,
        cancelling,
        sending_an_event,
        beginning_to_wait_for_what_is_there,
        passing_deadlines,
        claiming_what_was_woken,
        beginning_to_wait_for_runs,
        starting_runs_of_states,
        delivering_ends,
        reporting("waiting", outcome="waiting", event="go"),
        reporting("fanning_out", **executed(OUTPUT, OUTPUT)),
        reporting("completing_a_group_each", "b", of="c", **executed(OUTPUT)),
        reporting("completing_one_group", "b", "c", of="u", **executed(OUTPUT)),
        one_state_in_each_run,
        the_end_of_each_run,
        reporting("failing_with_a_retry", policy=FAST_RETRY, outcome="errored", error="no"),
        reporting("failing_for_good", outcome="errored", error="no"),
        reporting("pruning", outcome="pruned", data={}),
        reporting("requeueing", outcome="requeued", delay_ms=1),
        repeating_outcomes,
        deciding_branches,
        retrying_a_run,
        *WITH_CHECKPOINTS,
    ],
)
async def test_many_states_take_no_more_statements_than_one(prepare: Prepare, tmp_path: Path) -> None:
    await check_statements("memory", prepare, tmp_path)


@pytest.mark.parametrize(
    "prepare",
    [
        triggering,
        claiming,
        losing_a_manager,
        the_end_of_each_run,
        deciding_branches,
        retrying_a_run,
        starting_runs_of_states,
        delivering_ends,
        failing_with_checkpoints,
    ],
)
async def test_many_states_take_no_more_statements_on_postgresql(prepare: Prepare, tmp_path: Path) -> None:
    await check_statements("postgres", prepare, tmp_path)


async def check_statements(engine: str, prepare: Prepare, folder: Path) -> None:
    ran = {}
    for count in (1, 16):
        with ExitStack() as stack:
            async with open_manager(new_database(engine, folder, stack)) as manager:
                act = await prepare(manager, count)
                with noted(manager.service.store) as statements:
                    ok(await act())
                ran[count] = statements
                await manager.service.store.read(recount)
    assert ran[1], "nothing was watched"
    assert len({len(statements) for statements in ran.values()}) == 1, ran


@pytest.fixture(params=["memory", "postgres"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Manager]:
    with ExitStack() as stack:
        async with open_manager(new_database(request.param, tmp_path, stack)) as opened:
            yield opened


async def test_a_claim_reads_without_a_separate_statement_whether_a_node_is_paused(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"))
    await flow.one("a")  # what is kept of nodes is read
    await flow.trigger()
    with noted(manager.service.store) as statements:
        (state,) = ok(await manager.api.claim([node_name("a")], 10))["states"]
    assert [sql for sql in statements if "nodes" in sql and " states " not in sql] == []
    assert len([sql for sql in statements if "paused_at" in sql]) == 1
    ok(await manager.api.executed(state["state_id"], OUTPUT))


async def test_a_claim_of_many_nodes_takes_postgresql_no_more_searches_than_one_of_two() -> None:
    async with open_two("PostgreSQL") as (manager, _):
        await Flow.deploy(manager.api, *PLACES, store_config=STORE)
        searches = []
        for nodes in (PLACES[:2], PLACES):
            with noted(manager.service.store) as statements:
                ok(await manager.api.native_claim({each["node_name"]: 10 for each in nodes}))
            searches.append([sql for sql in statements if " FROM states " in sql])
        assert searches[0]
        assert searches[0] == searches[1]


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Act]], Awaitable[int]]:
    """Count the round trips to PostgreSQL of requests that do the same; return the least: other use cases may
    run in the same thread meanwhile."""
    counts = Counter[int]()
    settle = Pipeline.settle

    def counting(pipeline: Pipeline) -> None:
        counts[threading.get_ident()] += bool(pipeline._queue)
        settle(pipeline)

    async def least(acts: Sequence[Act]) -> int:
        taken = []
        for act in acts:
            counts.clear()
            ok(await act())
            taken.append(max(counts.values()))
        return min(taken)

    monkeypatch.setattr(Pipeline, "settle", counting)
    return least


async def test_statements_that_do_not_need_each_other_share_a_round_trip(
    round_trips: Callable[[Sequence[Act]], Awaitable[int]],
) -> None:
    async with open_two("PostgreSQL") as (manager, _):
        await Flow.start(manager.api, place("a", "b"), place("b"), runs=4)
        batch = await items(manager, "a", 4, **executed(OUTPUT))
        # The lock of the run with the state, the numbers with the nodes, then all that is written.
        assert await round_trips([partial(manager.api.outcomes, item) for item in batch[:3]]) == 3
        # Besides, the graph with its lock and the ids that exist, the new run, and the virtual time.
        start = partial(manager.api.trigger_many, "graph")
        assert await round_trips([lambda: start({"run_id": str(uuid4())})] * 3) <= 5


async def test_many_new_attempts_take_no_more_round_trips_than_few(
    round_trips: Callable[[Sequence[Act]], Awaitable[int]],
) -> None:
    async def taken(count: int) -> tuple[int, int]:
        """Return those of a report of so many errors, and of the retry of a run with as many."""
        reports, retries = list[Act](), list[Act]()
        async with open_two("PostgreSQL") as (manager, _):
            for _ in range(3):
                await siblings(manager, count, FAST_RETRY)
                batch = await items(manager, "b", count, outcome="errored", error="no")
                reports.append(partial(manager.api.outcomes, *batch))
                flow = await siblings(manager, count)
                await report(manager, "b", count, outcome="errored", error="no")
                retries.append(partial(manager.api.retry_run, flow.run_id))
            return await round_trips(reports), await round_trips(retries)

    assert await taken(40) == await taken(5)


async def test_the_run_of_a_state_is_looked_up_if_another_manager_claimed_it() -> None:
    async with open_two("PostgreSQL") as managers:
        first, _ = managers
        await Flow.start(first.api, place("a"), runs=2)
        looked_up = []
        batch = await items(first, "a", 2, **executed(OUTPUT))
        for manager, item in zip(managers, batch, strict=True):
            with noted(manager.service.store) as statements:
                (reply,) = ok(await manager.api.outcomes(item))["items"]
            assert reply["result"] == "ok"
            looked_up.append(len([sql for sql in statements if "SELECT run FROM states" in sql]))
    assert looked_up == [0, 1]


async def test_the_end_of_a_run_takes_no_statement_more(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a", "b"), place("b"))
    await report(manager, "a", 1, **executed(OUTPUT, OUTPUT))
    ran = []
    for item in await items(manager, "b", 2, **executed(OUTPUT)):
        with noted(manager.service.store) as statements:
            ok(await manager.api.outcomes(item))
        ran.append(statements)
    assert ran[0] == ran[1]
    assert (await flow.statuses())["b", "SUCCESS"] == 2


async def test_a_condition_of_an_output_takes_no_statement_more(manager: Manager) -> None:
    when = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "1"}
    ran = []
    conditions: list[dict[str, Any]] = [{}, {"when": when}]
    for fields in conditions:
        await Flow.start(manager.api, place("a", "b"), place("b", **fields), runs=2)
        first, second = await items(manager, "a", 2, **executed(OUTPUT))
        ok(await manager.api.outcomes(first))  # so that the graph is in the cache
        with noted(manager.service.store) as statements:
            ok(await manager.api.outcomes(second))
        ran.append(statements)
        await report(manager, "b", 2, **executed(OUTPUT))
    assert ran[0] == ran[1]


async def test_an_outcome_updates_the_row_of_its_run_once(manager: Manager) -> None:
    await Flow.start(manager.api, place("a"))
    with noted(manager.service.store) as statements:
        await report(manager, "a", 1, **executed(OUTPUT))
    assert len([sql for sql in statements if sql.startswith("UPDATE runs ")]) == 1


async def test_states_without_a_checkpoint_cost_no_statement(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"), retry_policy=FAST_RETRY, runs=4)
    with noted(manager.service.store) as statements:
        done, failed, pruned, back = await items(manager, "a", 4)
        ok(
            await manager.api.heartbeat(
                states=[{**each, "running": True} for each in (done, failed, pruned, back)]
            )
        )
        error = {"outcome": "errored", "error": "no"}
        batch = [
            {**done, **executed(OUTPUT)},
            {**failed, **error},
            {**pruned, "outcome": "pruned", "data": {}},
        ]
        ok(await manager.api.outcomes(*batch))
        ok(await manager.api.release(states=[back]))
    assert len(statements) > 10
    assert [sql for sql in statements if " checkpoints" in sql or "SET checkpoint_size" in sql] == []
    assert flow.run_id


async def test_many_states_are_inserted_in_parts_each_of_which_is_made_in_a_moment(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a", "b"), place("b"))
    state_id = await flow.one("a")
    with noted(manager.service.store) as statements:
        ok(await manager.api.executed(state_id, *[OUTPUT] * 10_000))
    # A database ends a transaction that computes for too long without a statement.
    assert len([sql for sql in statements if sql.startswith("INSERT INTO states ")]) > 1
    assert (await flow.statuses())["b", "CREATED"] == 10_000
