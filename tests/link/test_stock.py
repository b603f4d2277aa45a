"""Our runtime and client at a stock state manager (``tests/support/stock.py``): nothing is lost, and nothing
runs twice without a reason. Under Trio's virtual clock."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    Graph,
    GraphInvalid,
    GraphNodeModel,
    ManagerUnavailable,
    NotFound,
    PruneSignal,
    RequestRefused,
    ReQueueAfterSignal,
    RetryPolicyModel,
    Runtime,
    StateManager,
)
from exotrio._wire.vocabulary import RunStatus, StateStatus
from tests.support.doubles import running
from tests.support.stock import KEY, Fate, Stock, StockTransport, on_a_port

began: Counter[str] = Counter()
"""How often each piece of work was begun, by its number."""
finished: Counter[str] = Counter()
"""How often each piece of work arrived at the end."""


class Number(BaseModel):
    n: str


class Plan(BaseNode):
    Outputs = Number

    async def execute(self) -> list[Number]:
        return [Number(n=str(n)) for n in range(6)]


class Work(BaseNode):
    """Piece 1 fails the first time, 2 is pruned, 3 asks to run later."""

    Inputs = Outputs = Number

    class Secrets(BaseModel):
        token: str

    async def execute(self) -> Number:
        n = self.inputs.n
        began[n] += 1
        await trio.sleep(2 + int(n) / 10)  # so that one ends after the other
        assert self.secrets.token == "a secret"
        if n == "1" and began[n] == 1:
            raise ValueError("not yet")
        if n == "2":
            raise PruneSignal({"why": "two"})
        if n == "3" and began[n] == 1:
            raise ReQueueAfterSignal(timedelta(seconds=5))
        return Number(n=n)


class Last(BaseNode):
    Inputs = Number

    async def execute(self) -> None:
        finished[self.inputs.n] += 1


ONCE_EACH = {"0": 1, "1": 2, "2": 1, "3": 2, "4": 1, "5": 1}
"""How often each piece is begun if nothing gets lost."""
AT_THE_END = {"0": 1, "1": 1, "3": 1, "4": 1, "5": 1}


class Silent(BaseNode):
    """Gives none of the outputs that the next node needs."""

    Outputs = Number

    async def execute(self) -> None:
        return None


GRAPH = Graph(
    "g",
    namespace="n",
    secrets={"token": "a secret"},
    retry_policy=RetryPolicyModel(max_retries=2, backoff_factor=1000),
)
GRAPH.add(Last, n=GRAPH.add(Work, n=GRAPH.add(Plan).n).n)
GOOD = Graph("good", namespace="n")
GOOD.add(Last, n="1")
FAILING = Graph("failing", namespace="n")
FAILING.add(Last, n=FAILING.add(Silent).n)


@pytest.fixture
def stock() -> Stock:
    began.clear()
    finished.clear()
    return Stock()


def runtime(stock: Stock, **options: Any) -> Runtime:
    return Runtime("n", "r", [Plan, Work, Last, Silent], transport=StockTransport(stock), **options)


def client(stock: Stock) -> StateManager:
    return StateManager("n", transport=StockTransport(stock))


async def play(
    stock: Stock, meanwhile: Callable[[Runtime], Awaitable[None]] | None = None, *, seconds: float = 0
) -> Runtime:
    """Let a runtime work through one run, from the PUT of its graph to the end of its last state.

    Args:
        meanwhile: It is stopped after this instead.
        seconds: Or after these.
    """
    with trio.fail_after(3600):
        async with client(stock) as manager, running(runtime(stock), registered=True) as rt:
            await manager.upsert_graph(GRAPH)
            run_id = (await manager.trigger("g"))["run_id"]
            if meanwhile is not None:
                await meanwhile(rt)
            elif seconds:
                await trio.sleep(seconds)
            else:
                assert (await manager.wait(run_id)).status is RunStatus.SUCCESS
    return rt


def sound(stock: Stock) -> None:
    """Check what a server without guards does not prevent, and what was not requested."""
    assert not stock.revived, "a state that had ended was brought back"
    assert not stock.cut, "a request followed an outcome or a PUT of a graph on its connection"
    assert all(len(outcomes) == 1 for outcomes in stock.accepted.values())
    following = Counter(
        tuple(state.parents.values())
        for state in stock.states.values()
        if state.identifier == "last" and state.parents
    )
    assert set(following.values()) <= {1}
    assert 307 not in {status for _, status in stock.answered}, "a path that stock redirects was requested"


def does(fate: Fate, route: str, times: int = 1_000_000) -> Callable[[str, str], Fate]:
    """Return a proxy that does this to the first requests of a route, ``POST executed`` say."""
    left = times

    def proxy(method: str, path: str) -> Fate:
        nonlocal left
        if f"{method} {path.rstrip('/').rpartition('/')[2]}" != route or left == 0:
            return ""
        left -= 1
        return fate

    return proxy


# -- the runtime


async def test_a_run_on_a_stock_server_does_each_piece_of_work_once(
    stock: Stock, autojump_clock: MockClock
) -> None:
    stock.looks_pending = 4
    rt = await play(stock)
    assert began == ONCE_EACH
    assert finished == AT_THE_END
    assert rt.summary.exit_code == 0
    sound(stock)


async def test_a_registration_that_collides_with_another_is_repeated(
    stock: Stock, autojump_clock: MockClock
) -> None:
    stock.registrations_collide = 2
    rt = await play(stock)
    assert stock.times("PUT nodes") >= 3
    assert finished == AT_THE_END
    assert rt.summary.exit_code == 0


REPEATABLE = ["PUT nodes", "POST executed", "POST errored", "POST prune", "GET secrets", "GET v1"]


@pytest.mark.parametrize("fate", ["away", "lost"])
@pytest.mark.parametrize("route", REPEATABLE)
async def test_answers_in_html_cost_nothing_but_time_where_asking_again_does_no_harm(
    stock: Stock, autojump_clock: MockClock, route: str, fate: Fate
) -> None:
    stock.proxy = does(fate, route, times=3)
    rt = await play(stock)
    assert began == ONCE_EACH
    assert finished == AT_THE_END
    assert stock.statuses() == {"SUCCESS": 16, "PRUNED": 1, "RETRY_CREATED": 1}
    assert rt.summary.exit_code == 0
    sound(stock)


@pytest.mark.parametrize("fate", ["away", "lost"])
async def test_a_claim_that_was_answered_in_html_is_logged_with_its_size(
    stock: Stock, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, fate: Fate
) -> None:
    (state,) = stock.add("Plan")
    async with running(runtime(stock), registered=True) as rt:
        stock.proxy = does(fate, "POST enqueue", times=1)
        await trio.sleep(60)
    # Whether it took states cannot be known: if it did, no runtime has them.
    assert state.status == ("SUCCESS" if fate == "away" else "QUEUED")
    assert "its answer is lost" in caplog.text
    assert rt.summary.exit_code == 75


@pytest.mark.parametrize("fate", ["away", "lost"])
async def test_a_requeue_that_was_answered_in_html_is_not_sent_again(
    stock: Stock, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, fate: Fate
) -> None:
    stock.proxy = does(fate, "POST re-enqueue-after", times=1)
    rt = await play(stock, seconds=120)
    # Sent twice it could bring back what has ended meanwhile. So it is left as it may be, and named.
    assert began == (ONCE_EACH if fate == "lost" else {**ONCE_EACH, "3": 1})
    assert finished == Counter(AT_THE_END if fate == "lost" else {**AT_THE_END, "3": 0})
    assert stock.times("POST re-enqueue-after") == (fate == "lost")
    assert "arrived is unknown" in caplog.text
    assert (rt.summary.unknown, rt.summary.exit_code) == (1, 75)
    sound(stock)


async def test_while_the_database_is_away_results_are_kept_and_no_claim_is_taken_for_an_answer(
    stock: Stock, autojump_clock: MockClock
) -> None:
    async def meanwhile(rt: Runtime) -> None:
        await trio.sleep(3)  # in the middle of the work
        stock.database_away = True
        await trio.sleep(300)
        stock.database_away = False
        await trio.sleep(60)

    rt = await play(stock, meanwhile)
    assert ("POST executed", 500) in stock.answered
    assert began == ONCE_EACH
    assert finished == AT_THE_END
    assert [outcome for ((outcome, _),) in stock.accepted.values()].count("errored") == 1
    assert rt.summary.exit_code == 0
    sound(stock)


async def test_a_runtime_waits_for_a_database_that_is_away_at_its_start(
    stock: Stock, autojump_clock: MockClock
) -> None:
    stock.database_away = True
    async with running(runtime(stock)) as rt:
        await trio.sleep(200)
        stock.database_away = False
        (state,) = stock.add("Plan")
        await trio.sleep(60)
    assert state.status == "SUCCESS"
    assert rt.summary.exit_code == 0


@pytest.mark.parametrize("route", ["POST executed", "POST errored", "POST prune"])
async def test_a_stop_while_answers_are_lost_brings_nothing_back_that_has_ended(
    stock: Stock, autojump_clock: MockClock, route: str
) -> None:
    async def meanwhile(rt: Runtime) -> None:
        stock.proxy = does("lost", route)
        await trio.sleep(4)
        rt.stop(grace=1)

    rt = await play(stock, meanwhile)
    sound(stock)
    left = [state.id for state in stock.states.values() if state.status == "QUEUED"]
    assert set(left) <= set(rt.summary.left_behind)


@pytest.mark.parametrize("route", ["POST executed", "POST errored", "POST prune"])
async def test_outcomes_that_overtake_each_other_are_at_least_the_same_one(
    stock: Stock, autojump_clock: MockClock, route: str
) -> None:
    stock.outcomes_race = True
    stock.proxy = does("lost", route, times=2)
    await play(stock)
    assert max(map(len, stock.accepted.values())) > 1
    for outcomes in stock.accepted.values():
        assert all(outcome == outcomes[0] for outcome in outcomes)
    assert not stock.revived


async def test_a_drain_hands_back_what_was_not_begun_and_another_runtime_completes_it(
    stock: Stock, autojump_clock: MockClock
) -> None:
    first = await play(stock, seconds=1.5)  # four pieces have begun, two wait for a worker
    assert (first.summary.released, first.summary.exit_code) == (2, 0)
    async with running(runtime(stock), registered=True):
        await trio.sleep(60)
    assert began == ONCE_EACH
    assert finished == AT_THE_END
    sound(stock)


async def test_each_node_of_a_chain_begins_soon_after_the_one_before(
    stock: Stock, autojump_clock: MockClock
) -> None:
    begun: list[float] = []

    class Step(BaseNode):
        Inputs = Outputs = Number

        async def execute(self) -> Number:
            begun.append(trio.current_time())
            return self.inputs

    chain, before = Graph("chain", namespace="n"), None
    for name in "abcde":
        before = chain.add(Step, identifier=name, n=before.n if before else "0")
    rt = Runtime("n", "r", [Step], transport=StockTransport(stock))
    async with client(stock) as manager, running(rt, registered=True):
        await manager.upsert_graph(chain)
        run_id = (await manager.trigger("chain"))["run_id"]
        assert (await manager.wait(run_id)).status is RunStatus.SUCCESS
        await trio.sleep(1)
        assert begun[-1] - begun[0] < 0.5
        # It pays for each state that is claimed.
        assert max(stock.sought[1:]) <= 4
        # And once nothing follows, it is polled no more often than by a runtime that never had anything.
        polled = stock.times("POST enqueue")
        await trio.sleep(20)
        assert stock.times("POST enqueue") - polled <= 20


async def fail_many(stock: Stock, where: dict[str, Any], **options: Any) -> Runtime:
    """Let a runtime work through runs whose next states cannot be created, among others; return it."""
    rt = Runtime("n", "r", [Plan, Work, Last, Silent], **where, **options)
    with trio.fail_after(60):
        async with StateManager("n", **where) as manager, running(rt, registered=True):
            await manager.upsert_graph(GOOD, polling_interval=0.02)
            await manager.upsert_graph(FAILING, polling_interval=0.02)
            for number in range(60):
                await manager.trigger("failing" if number % 2 else "good")
            runs = [run.run_id for run in (await manager.runs(size=60)).runs]
            ends = [(await manager.wait(run_id)).status for run_id in runs]
    assert Counter(ends) == {RunStatus.SUCCESS: 30, RunStatus.FAILED: 30}
    assert stock.statuses() == {"SUCCESS": 30, "NEXT_CREATED_ERROR": 30}
    sound(stock)
    assert (rt.summary.completed, rt.summary.unknown, rt.summary.exit_code) == (60, 0, 0)
    return rt


async def test_no_claim_is_cut_behind_an_outcome_whose_next_states_cannot_be_created(
    stock: Stock, autojump_clock: MockClock
) -> None:
    await fail_many(stock, {"transport": StockTransport(stock)})


async def test_on_a_port_no_claim_is_cut_behind_an_outcome_whose_next_states_cannot_be_created() -> None:
    stock = Stock(time.monotonic)
    with on_a_port(stock) as uri:
        await fail_many(stock, {"state_manager_uri": uri, "key": KEY}, poll_interval=0.02)


# -- the client


async def test_no_trigger_is_cut_behind_the_put_of_an_invalid_graph(
    stock: Stock, autojump_clock: MockClock
) -> None:
    manager = await registered(stock)
    stock.looks_pending = 0
    with pytest.raises(GraphInvalid):
        await manager.upsert_graph("bad", [GraphNodeModel.model_validate(UNKNOWN)], {})
    assert (await manager.trigger("g"))["run_id"] in stock.runs
    sound(stock)


UNKNOWN = {"node_name": "Unknown", "namespace": "n", "identifier": "unknown", "inputs": {}}


async def test_a_graph_whose_nodes_are_not_there_is_invalid_in_the_end(
    stock: Stock, autojump_clock: MockClock
) -> None:
    stock.looks_pending = 3
    async with client(stock) as manager:
        with pytest.raises(GraphInvalid, match="Node Plan in namespace n does not exist"):
            await manager.upsert_graph(GRAPH)
        with pytest.raises(RequestRefused, match="not valid"):
            await manager.trigger("g")


def grown() -> list[GraphNodeModel]:
    """Return the nodes of the graph with another one between the last two."""
    begin, middle, end = GRAPH.nodes
    added = middle.model_copy(update={"identifier": "second", "inputs": {"n": "${{ work.outputs.n }}"}})
    middle = middle.model_copy(update={"next_nodes": ["second"]})
    end = end.model_copy(update={"inputs": {"n": "${{ second.outputs.n }}"}})
    return [begin, middle, added, end]


async def test_a_graph_that_grew_is_put_once_more_and_valid_then(
    stock: Stock, autojump_clock: MockClock
) -> None:
    stock.looks_pending = 3
    manager = await registered(stock)
    before = stock.times("PUT g")
    shown = await manager.upsert_graph("g", grown(), GRAPH.secrets)
    assert shown["validation_status"] == "VALID"
    assert stock.times("PUT g") - before == 2
    sound(stock)


async def test_a_graph_that_grew_is_invalid_for_a_moment_only(
    stock: Stock, autojump_clock: MockClock
) -> None:
    """What finishes between the two PUTs fails: its next states cannot be created."""
    manager = await registered(stock)
    put_at: list[float] = []

    def proxy(method: str, path: str) -> Fate:
        if method == "PUT":
            put_at.append(trio.current_time())
        return ""

    stock.proxy = proxy
    await manager.upsert_graph("g", grown(), GRAPH.secrets)
    first, second = put_at
    assert second - first < 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"node_name": "Unknown"}, {"inputs": {"n": "${{ unknown.outputs.n }}"}}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_a_graph_that_will_not_be_valid_by_that_is_put_once(
    stock: Stock, autojump_clock: MockClock, wrong: dict[str, Any]
) -> None:
    manager = await registered(stock)
    begin, *others = GRAPH.nodes
    before = stock.times("PUT g")
    with pytest.raises(GraphInvalid, match=r"(?i)node unknown .*does not exist"):
        await manager.upsert_graph("g", [begin.model_copy(update=wrong), *others], GRAPH.secrets)
    assert stock.times("PUT g") - before == 1


async def registered(stock: Stock) -> StateManager:
    """Return a client of a server that has the nodes and the graph."""
    async with running(runtime(stock), registered=True):
        pass
    manager = client(stock)
    await manager.upsert_graph(GRAPH)
    return manager


async def test_a_graph_can_be_triggered_while_the_put_of_another_client_is_validated(
    stock: Stock, autojump_clock: MockClock
) -> None:
    manager = await registered(stock)
    stock.graphs["n", "g"]["looks"] = 5
    assert (await manager.trigger("g"))["run_id"] in stock.runs
    assert len(stock.runs) == 1


async def test_a_trigger_without_an_answer_is_not_sent_again(stock: Stock, autojump_clock: MockClock) -> None:
    manager = await registered(stock)
    stock.proxy = does("lost", "POST trigger")
    with pytest.raises(ManagerUnavailable) as caught:
        await manager.trigger("g")
    assert caught.value.sent
    assert len(stock.runs) == 1
    # Its id is unknown here, but it can be found.
    assert [run.status for run in (await manager.runs()).runs] == [RunStatus.PENDING]


@pytest.mark.parametrize("state_id", ["x", "0123456789abcdef0123456", "ABCDEFABCDEFABCDEFABCDEF"])
async def test_a_malformed_id_is_not_found_though_the_server_fails_at_it(
    stock: Stock, autojump_clock: MockClock, state_id: str
) -> None:
    manager = await registered(stock)
    run_id = (await manager.trigger("g"))["run_id"]
    with pytest.raises(NotFound, match="24 hex digits"):
        await manager.manual_retry(state_id)
    with pytest.raises(NotFound, match="24 hex digits"):
        await manager.state("g", run_id, state_id)
    assert stock.times("POST manual-retry") == 1


async def test_a_500_over_a_sound_id_is_no_answer(stock: Stock, autojump_clock: MockClock) -> None:
    manager = await registered(stock)
    stock.database_away = True
    with pytest.raises(ManagerUnavailable):
        await manager.manual_retry("0123456789abcdef01234567")


async def test_failed_states_are_retried_one_by_one_each_once(
    stock: Stock, autojump_clock: MockClock
) -> None:
    manager = await registered(stock)
    run_id = (await manager.trigger("g"))["run_id"]
    for state in stock.states.values():
        state.status, state.error = "ERRORED", "boom"
    assert (await manager.status(run_id)).status is RunStatus.FAILED
    assert [state.error for state in (await manager.states(run=run_id)).states] == ["boom"]
    stock.proxy = does("lost", "POST manual-retry")
    # Sent again under the same id it would be refused; under another, run twice. So it is not sent again.
    with pytest.raises(ManagerUnavailable):
        await manager.retry_run(run_id)
    assert stock.statuses() == {"RETRY_CREATED": 1, "CREATED": 1}
    assert not stock.revived
    stock.proxy = does("", "")
    with pytest.raises(RequestRefused, match="no failed states"):
        await manager.retry_run(run_id)


async def test_lists_are_read_without_redirects_and_without_ciphertexts(
    stock: Stock, autojump_clock: MockClock
) -> None:
    manager = await registered(stock)
    assert sorted(node.name for node in await manager.nodes()) == ["Last", "Plan", "Silent", "Work"]
    (graph,) = await manager.graphs()
    assert graph.retry_policy.max_retries == 2
    assert (await manager.get_graph("g"))["retry_policy"]["max_retries"] == 3, "stock shows defaults here"
    assert "ciphertext" not in repr(graph)
    assert 307 not in {status for _, status in stock.answered}


async def test_every_read_is_repeated_while_the_database_is_away(
    stock: Stock, autojump_clock: MockClock
) -> None:
    manager = await registered(stock)
    run_id = (await manager.trigger("g"))["run_id"]
    (state,) = stock.states.values()

    def back_at_the_third_request() -> Callable[[str, str], Fate]:
        left = 2

        def proxy(method: str, path: str) -> Fate:
            nonlocal left
            stock.database_away = left > 0
            left -= path.startswith("/v0/")
            return ""

        return proxy

    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: manager.get_graph("g"),
        lambda: manager.graphs(),
        lambda: manager.nodes(),
        lambda: manager.runs(),
        lambda: manager.run(run_id),
        lambda: manager.status(run_id),
        lambda: manager.state("g", run_id, state.id),
        lambda: manager.upsert_graph(GRAPH),
    ]
    for read in reads:
        stock.proxy = back_at_the_third_request()
        assert await read()
        stock.proxy = does("", "")
        stock.database_away = True
        with pytest.raises(ManagerUnavailable) as caught:
            await read()
        assert caught.value.status == 500


async def test_a_run_is_waited_for_through_an_outage(stock: Stock, autojump_clock: MockClock) -> None:
    manager = await registered(stock)
    run_id = (await manager.trigger("g"))["run_id"]

    async def meanwhile() -> None:
        stock.proxy = lambda method, path: "away"
        await trio.sleep(40)
        stock.proxy = does("", "")
        for state in stock.states.values():
            state.status = StateStatus.ERRORED

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meanwhile)
        assert (await manager.wait(run_id)).status is RunStatus.FAILED
