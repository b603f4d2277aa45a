"""Long polls: what wakes them, what ends them, and that nothing slips between looking and waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from exotrio._httpd import ConnectionLimiter, open_listeners, serve_http, urls
from exotrio.manager import create_app, serve
from exotrio.manager.queries.runtimes import runtimes_of
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import executed_item, item_for
from tests.support.helpers import eventually, node_name, ok, open_client, place, virtual_ms
from tests.support.manager import KEY, Manager, open_manager, refuse_states, take_states

MAX_WAIT = 15_000


@pytest.fixture
async def manager() -> AsyncIterator[Manager]:
    async with open_manager(clock=virtual_ms) as opened:
        yield opened


async def claim(
    api: Api, *identifiers: str, wait_ms: int = MAX_WAIT, limit: int = 10, **options: Any
) -> list[Any]:
    limits = {node_name(identifier): limit for identifier in identifiers}
    states: list[Any] = ok(await api.native_claim(limits, wait_ms=wait_ms, **options))["states"]
    return states


class Poll:
    """A claim that waits in a separate task."""

    def __init__(self, nursery: trio.Nursery, api: Api, *identifiers: str, **options: Any) -> None:
        self.states: list[Any] | None = None
        self.ended_at = 0.0
        self.scope = trio.CancelScope()
        nursery.start_soon(self._run, api, identifiers, options)

    async def _run(self, api: Api, identifiers: tuple[str, ...], options: dict[str, Any]) -> None:
        with self.scope:
            self.states = await claim(api, *identifiers, **options)
        self.ended_at = trio.current_time()


@pytest.fixture
async def flow(manager: Manager) -> Flow:
    """A graph of one node, ``a``, of which nothing was started."""
    return await Flow.deploy(manager.api, place("a"))


StartPoll = Callable[..., Poll]


@pytest.fixture
async def start_poll(manager: Manager) -> AsyncIterator[StartPoll]:
    """Start a claim of nodes that waits; the test ends without those that still do."""
    async with trio.open_nursery() as nursery:
        yield partial(Poll, nursery, manager.api)
        nursery.cancel_scope.cancel()


# -- under the virtual clock


async def test_an_idle_poll_ends_empty_when_its_time_is_over(
    manager: Manager, flow: Flow, autojump_clock: MockClock
) -> None:
    assert await claim(manager.api, "a", wait_ms=7_000) == []
    assert trio.current_time() == pytest.approx(7, abs=0.01)


@pytest.mark.parametrize("of_one_run", [False, True], ids=["", "of one run"])
async def test_a_poll_wakes_when_its_node_is_resumed(
    manager: Manager, start_poll: StartPoll, autojump_clock: MockClock, of_one_run: bool
) -> None:
    flow = await Flow.start(manager.api, place("a"))
    ok(await manager.api.native("POST", f"node/{node_name('a')}/pause"))
    poll = start_poll("a", **({"run_id": flow.run_id} if of_one_run else {}))
    await trio.sleep(3)
    await flow.trigger()  # a new one is announced, and not given out either
    await trio.sleep(3)
    assert poll.states is None
    ok(await manager.api.native("POST", f"node/{node_name('a')}/resume"))
    await trio.testing.wait_all_tasks_blocked()
    assert poll.states is not None
    assert len(poll.states) == (1 if of_one_run else 2)


async def test_a_request_for_a_run_waits_for_the_commit_that_ends_it(
    manager: Manager, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        flow = await Flow.start(manager.api, place("t", "a"), place("a", "u"), place("u", unites="t"))
        seen: list[Any] = []

        async def request_run() -> None:
            run = ok(await manager.api.native_run(flow.run_id, MAX_WAIT))
            seen.append((run["status"], trio.current_time()))

        nursery.start_soon(request_run)
        for identifier in ("t", "a"):  # between them and u nothing is pending, but in one commit
            await trio.sleep(1)
            await flow.run(identifier)
        await trio.sleep(1)
        assert seen == []
        await flow.run("u")
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [("SUCCESS", 3)]
        await request_run()
        assert seen[1] == ("SUCCESS", 3)


async def test_a_request_for_a_run_shows_it_pending_when_its_time_is_over(
    manager: Manager, autojump_clock: MockClock
) -> None:
    flow = await Flow.start(manager.api, place("a"))
    assert ok(await manager.api.native_run(flow.run_id, 7_000))["status"] == "PENDING"
    assert trio.current_time() == pytest.approx(7, abs=0.01)
    for wrong in ("-1", "x", "15001", "1" * 30):
        assert "wait_ms" in str(ok(await manager.api.native_run(flow.run_id, wrong), 422)["detail"])


async def test_a_poll_wakes_when_a_delayed_state_is_due(
    flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    await flow.trigger(start_delay=9_000)
    before = start_poll("a")
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(10)
    assert before.states
    assert before.ended_at == pytest.approx(9, abs=0.01)


async def test_a_state_that_is_delayed_while_the_poll_waits_is_waited_for(
    flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    poll = start_poll("a")
    await trio.sleep(2)
    await flow.trigger(start_delay=3_000)
    await trio.sleep(10)
    assert poll.states
    assert poll.ended_at == pytest.approx(5, abs=0.01)


async def test_states_that_are_due_together_serve_all_polls_for_them(
    flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    polls = [start_poll("a", limit=1) for _ in range(4)]
    await trio.sleep(1)
    for _ in range(3):
        await flow.trigger(start_delay=5_000)
    await trio.sleep(1)
    polls[0].scope.cancel()
    await trio.sleep(5)
    assert [poll.ended_at for poll in polls] == [2, *[pytest.approx(6, abs=0.01)] * 3]
    assert all(len(poll.states or ()) == 1 for poll in polls[1:])


async def test_one_state_wakes_many_polls_and_one_gets_it(
    flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    polls = [start_poll("a") for _ in range(10)]
    await trio.sleep(1)
    await flow.trigger()
    await trio.sleep(1)
    winners = [poll for poll in polls if poll.states]
    assert len(winners) == 1
    assert all(poll.states is None for poll in polls if poll not in winners)
    await trio.sleep(15)
    assert all(poll.states == [] for poll in polls if poll not in winners)


async def test_other_nodes_and_other_namespaces_do_not_end_a_poll(
    manager: Manager, flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    other = await Flow.deploy(manager.api.elsewhere(), place("a"))
    same = await Flow.deploy(manager.api, place("b"), graph="other")
    poll = start_poll("a")
    await trio.sleep(1)
    await other.trigger()
    await same.trigger()
    await trio.sleep(1)
    assert poll.states is None


async def test_a_claim_for_one_run_waits_for_its_begin_and_claims_nothing_of_others(
    manager: Manager, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    mine = "6b1f1c1e-0000-4000-8000-000000000000"
    flow = await Flow.deploy(manager.api, place("a", "b"), place("b"))
    await flow.trigger()
    poll = start_poll("a", "b", run_id=mine)
    await trio.sleep(1)
    await flow.trigger()
    await trio.sleep(1)
    assert poll.states is None
    ok(await manager.api.native_trigger(flow.graph, mine, start_delay=2_000))
    await trio.sleep(5)
    assert poll.states is not None
    assert [state["run_id"] for state in poll.states] == [mine]
    assert poll.ended_at == pytest.approx(4, abs=0.01), "when it came due, though others were due before"
    following = start_poll("a", "b", run_id=mine)
    await trio.sleep(1)
    (state,) = await claim(manager.api, "a", limit=1)
    ok(await manager.api.outcomes(executed_item(state)))
    await trio.sleep(1)
    assert following.states is None
    (root,) = poll.states
    ok(await manager.api.outcomes(executed_item(root)))
    await trio.testing.wait_all_tasks_blocked()
    assert following.states is not None
    assert [(state["identifier"], state["run_id"]) for state in following.states] == [("b", mine)]


async def test_a_claim_for_one_run_does_not_delay_claims_for_any_run(
    manager: Manager, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    mine, other = "6b1f1c1e-0000-4000-8000-000000000000", "6b1f1c1e-0000-4000-8000-000000000001"
    flow = await Flow.deploy(manager.api, place("a"))
    ok(await manager.api.native_trigger(flow.graph, mine))
    (held,) = await claim(manager.api, "a", wait_ms=0)
    picky = start_poll("a", run_id=mine)
    await trio.sleep(1)
    any_run = start_poll("a")
    await trio.sleep(1)
    ok(await manager.api.native_trigger(flow.graph, other))
    await trio.testing.wait_all_tasks_blocked()
    assert any_run.states is not None
    assert [state["run_id"] for state in any_run.states] == [other]
    assert picky.states is None
    ok(await manager.api.release(states=[item_for(held)]))
    await trio.testing.wait_all_tasks_blocked()
    assert picky.states is not None
    assert [state["state_id"] for state in picky.states] == [held["state_id"]]


async def test_a_claim_with_a_spent_id_is_answered_at_once(
    manager: Manager, flow: Flow, autojump_clock: MockClock
) -> None:
    ok(await manager.api.release(claim_id="voided"))
    assert await claim(manager.api, "a", claim_id="voided") == []
    assert trio.current_time() == 0


async def test_states_of_a_repeated_claim_are_not_returned_to_the_first_request_that_still_waits(
    manager: Manager, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    flow = await Flow.deploy(manager.api, place("a", "b"), place("b"))
    first = start_poll("b", claim_id="c")
    await trio.sleep(1)
    await flow.trigger()
    (held,) = await claim(manager.api, "a", wait_ms=0, claim_id="c")
    await flow.trigger()
    await flow.run("a", {"v": "1"})
    await trio.sleep(1)
    assert first.states == []
    assert [state["state_id"] for state in await claim(manager.api, "a", claim_id="c")] == [held["state_id"]]
    assert len(await claim(manager.api, "b", wait_ms=0)) == 1


async def test_a_claim_for_nothing_is_answered_at_once(
    manager: Manager, flow: Flow, autojump_clock: MockClock
) -> None:
    reply = ok(await manager.api.native_claim({node_name("a"): 5}, limit=0, wait_ms=MAX_WAIT))
    assert reply["states"] == []
    assert trio.current_time() == 0


async def test_a_poll_whose_client_is_cancelled_claims_nothing(
    manager: Manager, flow: Flow, start_poll: StartPoll, autojump_clock: MockClock
) -> None:
    poll = start_poll("a")
    await trio.sleep(1)
    poll.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    await flow.trigger()
    await trio.sleep(1)
    assert len(await claim(manager.api, "a", wait_ms=0)) == 1


@pytest.mark.parametrize("wait_ms", [0, MAX_WAIT])
async def test_a_poll_that_cannot_be_written_is_refused_as_any_claim_is(
    manager: Manager, flow: Flow, autojump_clock: MockClock, wait_ms: int
) -> None:
    await flow.trigger()
    await refuse_states(manager)
    answer = await manager.api.native_claim({node_name("a"): 1}, wait_ms=wait_ms)
    assert "database" in ok(answer, 503)["detail"]
    await take_states(manager)
    assert len(await claim(manager.api, "a", wait_ms=wait_ms)) == 1


# -- over TCP: clients that leave, servers that stop


async def _served(stopping: trio.Event, *, task_status: trio.TaskStatus[list[str]]) -> None:
    await serve(port=0, db=":memory:", key=KEY, grace=30.0, stopping=stopping, task_status=task_status)


async def test_a_stopping_server_ends_its_polls_at_once() -> None:
    stopping = trio.Event()
    answers: list[httpx.Response] = []

    async def poll(worker: str) -> None:
        claim = api.native_claim({node_name("a"): 1}, wait_ms=MAX_WAIT, worker_id=worker)
        answers.append(await claim)

    async def arrived() -> None:
        assert len(ok(await api.workers())["workers"]) == 3

    with trio.fail_after(14):  # below the grace, and below the poll's own end
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(_served, stopping)
            async with open_client(url=url, key=KEY) as client:
                api = Api(client, "poll")
                await Flow.deploy(api, place("a"))
                async with trio.open_nursery() as polls:
                    for worker in ("a", "b", "c"):
                        polls.start_soon(poll, worker)
                    # A server that stops answers the requests it has, and takes no others.
                    await eventually(arrived)
                    stopping.set()
    assert [ok(answer)["states"] for answer in answers] == [[], [], []]


@pytest.mark.parametrize("voided", ["before", "after"])
async def test_a_client_that_leaves_its_poll_and_voids_it_keeps_nothing(voided: str) -> None:
    """A reply may be written to a connection whose end was not heard of yet: voiding covers that."""
    stopping = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(_served, stopping)
            async with open_client(url=url, key=KEY) as client:
                api = Api(client, "poll")
                flow = await Flow.deploy(api, place("a"))
                for number in range(5):
                    async with open_client(url=url, key=KEY) as leaver:
                        # httpcore loses the socket of a request that is cancelled while it connects.
                        await leaver.get("/livez")
                        with trio.move_on_after(0.02):
                            await claim(Api(leaver, "poll"), "a", claim_id=f"c{number}")
                    if voided == "before":
                        ok(await api.release(claim_id=f"c{number}"))
                    await flow.trigger()
                    if voided == "after":
                        ok(await api.release(claim_id=f"c{number}"))
                assert len(await claim(api, "a", wait_ms=0)) == 5
            stopping.set()


async def test_polls_leave_connections_for_other_requests() -> None:
    stopping = trio.Event()
    with trio.fail_after(14):  # below the end of any poll
        async with open_manager() as manager, trio.open_nursery() as nursery:
            flow = await Flow.start(manager.api, place("b"))
            app, listeners = create_app(manager.service, key=KEY), await open_listeners("127.0.0.1", 0)
            (url,), read = urls(listeners), manager.service.store.read
            nursery.start_soon(
                partial(serve_http, app, listeners, stopping=stopping, limiter=ConnectionLimiter(4))
            )

            async def ask(what: Callable[[Api], Awaitable[httpx.Response]]) -> httpx.Response:
                async with open_client(url=url, key=KEY) as client:
                    return await what(Api(client, "tests"))

            async def poll(worker: str) -> httpx.Response:
                return await ask(
                    lambda api: api.native_claim({node_name("b"): 1}, worker_id=worker, wait_ms=MAX_WAIT)
                )

            await flow.take("b")
            for worker in ("one", "two", "three"):
                nursery.start_soon(poll, worker)
                while worker not in {each.worker_id for each in await read(runtimes_of, "tests")}:
                    await trio.lowlevel.checkpoint()
            answer = await poll("one too many")
            assert (ok(answer)["states"], answer.headers["connection"]) == ([], "close")
            run = await ask(lambda api: api.native_run(flow.run_id, MAX_WAIT))
            assert ok(run)["status"] == "PENDING"
            ok(await ask(lambda api: api.heartbeat()))
            stopping.set()
