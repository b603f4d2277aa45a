"""``trigger_many``: what it sends, and what is known about started runs after an error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from string import ascii_letters
from typing import Any
from uuid import RFC_4122, UUID, uuid4

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._wire.vocabulary import MAX_BATCH
from exotrio.client import NewRun, StateManager
from exotrio.client._triggers import MAX_BYTES, MAX_REQUESTS, MAX_SINGLE
from exotrio.errors import ConfigurationError, ManagerUnavailable, NotFound, RequestRefused
from tests.contract.flow import Flow
from tests.contract.native import A, claim
from tests.support.client_double import GRAPH, Server
from tests.support.helpers import declare, node_name, ok, place
from tests.support.http_doubles import answer
from tests.support.manager import Manager, embedded_in, open_manager

STORE = {"required_keys": ["k"], "default_values": {}}


@asynccontextmanager
async def world(*, store_config: dict[str, Any] | None = None) -> AsyncIterator[tuple[StateManager, Manager]]:
    """A client of a real state manager that has a graph."""
    async with open_manager() as manager:
        fields: dict[str, Any] = {} if store_config is None else {"store_config": store_config}
        await Flow.deploy(manager.api, place("a", inputs={"p": "default"}), **fields)
        yield StateManager("tests", transport=embedded_in(manager.service)), manager


async def total(manager: Manager) -> int:
    return int(ok(await manager.api.runs())["total"])


class Started:
    """A server that starts every run, and notes which."""

    def __init__(self, *, native: bool = True) -> None:
        self.server = Server(native=native).on("GET g", answer(200, GRAPH))
        self.server.on("GET nodes", answer(200, {"namespace": "ns", "count": 0, "nodes": []}))
        self.server.double.handler = self._answer
        self._others = self.server._answer
        self.requests: list[list[dict[str, Any]]] = []
        self.at_once = self.max_at_once = 0
        self.faults: dict[int, httpx.Response | Exception] = {}
        """By the number of the request."""

    @property
    def client(self) -> StateManager:
        return self.server.client

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        action = request.url.path.rpartition("/")[2]
        if action not in ("runs", "trigger"):
            return self._others(request)
        body = json.loads(request.content)
        number = len(self.requests)
        self.requests.append(body["runs"] if action == "runs" else [body])
        self.at_once += 1
        self.max_at_once = max(self.max_at_once, self.at_once)
        await trio.sleep(1)
        self.at_once -= 1
        fault = self.faults.get(number)
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            return fault
        if action == "runs":
            run_ids = [run["run_id"] for run in body["runs"]]
            return answer(200, {"run_ids": run_ids, "created": [True] * len(run_ids)})
        return answer(200, {"status": "CREATED", "run_id": body.get("run_id") or str(uuid4())})

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [run for request in self.requests for run in request]


# -- forms of the list


async def test_each_run_of_the_list_is_a_dict_of_inputs_or_a_new_run() -> None:
    run_id = str(uuid4())
    async with world(store_config=STORE) as (client, manager):
        runs = [
            NewRun(inputs={"p": "first"}, store={"k": ""}),
            NewRun(store={"k": ""}, run_id=run_id.upper()),
            NewRun(store={"k": ""}, start_delay=3_600_000),
        ]
        ids = await client.trigger_many("graph", runs)
        assert ids[1] == run_id
        states = await claim(manager.api)
        assert [(state["run_id"], state["inputs"]["p"]) for state in states] == [
            (ids[0], "first"),
            (ids[1], "default"),
        ]
        assert await total(manager) == 3
    async with world() as (client, manager):
        ids = await client.trigger_many("graph", [{"p": "one"}, {}, {"p": "two"}])
        states = await claim(manager.api)
        assert [state["inputs"]["p"] for state in states] == ["one", "default", "two"]
        assert [state["run_id"] for state in states] == ids


async def test_runs_with_a_key_are_started_once_and_existing_ones_are_reported() -> None:
    async with world() as (client, manager):
        first = await client.trigger("graph", {"p": "1"}, key="order-1")
        again = await client.trigger("graph", {"p": "1"}, key="order-1")
        assert (first["created"], again["created"]) == (True, False)
        existing: dict[int, str] = {}
        runs = [NewRun(inputs={"p": str(number)}, key=f"order-{number}") for number in range(3)]
        ids = await client.trigger_many("graph", runs, on_existing=existing.__setitem__)
        assert existing == {1: first["run_id"]} == {1: ids[1]}
        assert await total(manager) == 3
        (run,) = (await client.find_runs(key="order-2")).runs
        assert (run.run_id, run.key, (await client.status(ids[2])).key) == (ids[2], "order-2", "order-2")
        with pytest.raises(RequestRefused, match=r"runs\[1\]: the key 'order-2' belongs to the run"):
            await client.trigger_many("graph", [NewRun(key="new"), NewRun(key="order-2")])
        with pytest.raises(RequestRefused, match=r"order-1.*other inputs"):
            await client.trigger("graph", {"p": "2"}, key="order-1")
        with pytest.raises(RequestRefused, match=r"key: .*has 257 characters"):
            await client.trigger("graph", key="k" * 257)
        assert await total(manager) == 3


async def test_nothing_is_started_by_a_key_on_v0_which_would_ignore_it() -> None:
    server = Server()
    with pytest.raises(RequestRefused, match=r"cannot be started by a key: .* speaks only v0"):
        await server.client.trigger("g", key="k")
    with pytest.raises(RequestRefused, match=r"cannot be started by a key: .* speaks only v0"):
        await server.client.trigger_many("g", [NewRun(key="k")])
    with pytest.raises(RequestRefused, match=r"cannot be started by a key: .* speaks only v0") as refusal:
        await server.client.trigger_many("g", [{}, {}, NewRun(key="k"), {}])
    assert "0 runs of the list were started" in str(refusal.value)
    assert "POST trigger" not in server.calls()


@pytest.mark.parametrize("in_order", [{"priority": "low"}, {"weight": 2.0}, {"fair_key": "k"}])
async def test_nothing_is_started_in_an_order_that_the_state_manager_would_ignore(
    in_order: dict[str, Any],
) -> None:
    server = Server()
    match = "cannot have a priority, a weight or a fairness key: .* speaks only v0"
    with pytest.raises(RequestRefused, match=match):
        await server.client.trigger("g", **in_order)
    with pytest.raises(RequestRefused, match=match):
        await server.client.trigger_many("g", [{}, NewRun(**in_order)])
    assert not {"POST trigger", "POST runs"} & {*server.calls()}


async def test_a_mistake_in_the_order_of_a_run_needs_no_state_manager() -> None:
    server = Server(native=True)
    with pytest.raises(ConfigurationError, match=r"priority 'urgent' .* one of: high, normal, low"):
        await server.client.trigger("g", priority="urgent")
    with pytest.raises(ConfigurationError, match=r"runs\[1\]: the weight 0 .* 0.01 to 100"):
        await server.client.trigger_many("g", [{}, NewRun(weight=0)])
    with pytest.raises(ConfigurationError, match="'urgent' is not one of: high, normal, low"):
        await server.client.set_priority("a run", "urgent")
    assert server.double.calls == []


async def test_an_empty_list_and_a_mistake_in_a_list_need_no_state_manager() -> None:
    server = Server(native=True)
    assert await server.client.trigger_many("g", []) == []
    with pytest.raises(ConfigurationError, match=r"runs\[1\] is a int, not a NewRun"):
        await server.client.trigger_many("g", [{}, 3])  # type: ignore[list-item]
    assert server.double.calls == []


async def test_runs_are_started_one_by_one_once_a_v0_server_replaced_ours() -> None:
    server = Server(native=True)
    server.on("POST runs", answer(200, {"run_ids": ["r-1"], "created": [True]}))
    client = server.client
    assert await client.trigger_many("g", [{}]) == ["r-1"]
    server.native = False
    server.on(
        "POST trigger", *(answer(200, {"status": "CREATED", "run_id": each}) for each in ("r-2", "r-3"))
    )
    assert await client.trigger_many("g", [{}, {}]) == ["r-2", "r-3"]


async def test_a_run_has_an_id_or_a_key() -> None:
    started = Started()
    both = NewRun(run_id=str(uuid4()), key="k")
    with pytest.raises(ConfigurationError, match=r"runs\[0\]: .*not both"):
        await started.client.trigger_many("g", [both])
    with pytest.raises(ConfigurationError, match="not both"):
        await started.client.trigger("g", run_id=both.run_id, key=both.key)
    assert started.sent == []


async def test_any_iterable_of_any_length_is_taken_in_its_order() -> None:
    count = MAX_BATCH + 5

    def plain() -> Iterator[dict[str, str]]:
        return ({"p": str(number)} for number in range(count))

    async def asynchronous() -> AsyncIterator[dict[str, str]]:
        for run in plain():
            await trio.lowlevel.checkpoint()
            yield run

    for runs in (list(plain()), plain(), asynchronous()):
        async with world() as (client, manager):
            ids = await client.trigger_many("graph", runs)
            assert len(ids) == len(set(ids)) == await total(manager) == count
            inputs = {}
            while states := await claim(manager.api, {A: MAX_BATCH}, limit=MAX_BATCH, claim_id=str(uuid4())):
                inputs.update({state["run_id"]: state["inputs"]["p"] for state in states})
            assert [inputs[run_id] for run_id in ids] == [str(number) for number in range(count)]


async def test_a_list_with_a_run_that_does_not_fit_starts_none_of_its_runs() -> None:
    async with world(store_config=STORE) as (client, manager):
        count = {"p": {"type": "string", "contentSchema": {"type": "integer"}}}
        ok(await manager.api.register([declare(node_name("a"), count)]))
        fitting = [NewRun(inputs={"p": number}, store={"k": True}) for number in range(MAX_BATCH)]
        for last, problem in (
            (NewRun(inputs={"p": "x"}, store={"k": 1}), "input 'p' of 'a' in graph 'graph' must be a whole"),
            (NewRun(inputs={"q": 1}, store={"k": 1}), "'a' in graph 'graph' has no input 'q'"),
            ({"p": 1}, "the store lacks required keys: k"),
        ):
            with pytest.raises(RequestRefused, match=rf"runs\[1000\]: {problem}") as refused:
                await client.trigger_many("graph", [*fitting, last])
            assert "0 runs of the list were started" in refused.value.where
        with pytest.raises(ConfigurationError, match=r"runs\[1000\]: the inputs have no form as text"):
            await client.trigger_many("graph", [*fitting, {"p": object()}])
        assert await total(manager) == 0
        assert len(await client.trigger_many("graph", [*fitting, fitting[0]])) == MAX_BATCH + 1


async def test_a_store_key_that_the_graph_does_not_declare_is_refused() -> None:
    async with world(store_config=STORE) as (client, manager):
        with pytest.raises(RequestRefused, match="graph 'graph' has no store key 'key'; it has: k"):
            await client.trigger("graph", store={"k": 1, "key": 1})
        assert await total(manager) == 0
        runs = [{"run_id": str(uuid4()), "store": {"k": "1", "k" + each: "1"}} for each in ascii_letters[:30]]
        text = (await manager.api.native("POST", "graph/graph/runs", json={"runs": runs})).text
        assert (text.count("; it has: k"), text.count("did you mean")) == (30, 10)


@pytest.mark.parametrize("bad", ["text", None, ("p", "x"), 5])
async def test_lines_that_are_not_runs_are_named(bad: Any) -> None:
    async with world() as (client, manager):
        with pytest.raises(ConfigurationError, match=rf"runs\[1\] is a {type(bad).__name__}, not a NewRun"):
            await client.trigger_many("graph", [{}, bad])
        # One dict is a mistake for a list of them.
        with pytest.raises(ConfigurationError, match=r"runs\[0\] is a str"):
            await client.trigger_many("graph", {"p": "x"})  # type: ignore[dict-item]
        with pytest.raises(ConfigurationError, match=r"runs\[0\] cannot be sent as JSON"):
            await client.trigger_many("graph", [{"p": "\ud800"}])
        with pytest.raises(ConfigurationError, match='k: it is None: leave it out, or write "null"'):
            await client.trigger("graph", {}, {"k": None})
        assert await total(manager) == 0


async def test_none_is_a_value_of_inputs_that_are_declared_with_it_and_of_no_others() -> None:
    async with world() as (client, manager):
        whole = {"type": "integer"}
        fields = {name: {"type": "string", "contentSchema": whole} for name in ("count", "limit")}
        fields["limit"]["contentSchema"] = {"anyOf": [whole, {"type": "null"}]}
        await Flow.deploy(manager.api, place("a", inputs={"count": "1", "limit": "2", "word": "w"}))
        ok(await manager.api.register([declare(node_name("a"), {**fields, "word": {"type": "string"}})]))
        await client.trigger("graph", {"limit": None})
        await client.trigger_many("graph", [{"limit": 3}, {"limit": None}])
        states = await claim(manager.api, {A: 10})
        assert sorted(state["inputs"]["limit"] for state in states) == ["3", "null", "null"]
        for name in ("count", "word"):
            refused = f"input '{name}' of 'a' in graph 'graph' is None, which is not one of its values"
            with pytest.raises(RequestRefused, match=refused):
                await client.trigger("graph", {name: None})
            with pytest.raises(RequestRefused, match=rf"runs\[1\]: {refused}"):
                await client.trigger_many("graph", ({name: each} for each in ("1", None)))
        assert await total(manager) == 3


# -- requests


async def test_requests_are_bounded_in_runs_and_bytes_and_in_how_many_are_made_at_once(
    autojump_clock: MockClock,
) -> None:
    started = Started()
    await started.client.trigger_many("g", ({} for _ in range(3 * MAX_BATCH + 1)))
    assert [len(request) for request in started.requests] == [MAX_BATCH] * 3 + [1]
    assert started.max_at_once == MAX_REQUESTS
    started = Started()
    large = {"p": "x" * (MAX_BYTES // 4)}
    await started.client.trigger_many("g", [large] * 7 + [{"p": "x" * 2 * MAX_BYTES}] + [{}] * 3)
    assert [len(request) for request in started.requests] == [3, 3, 1, 1, 3]


async def test_a_request_without_an_answer_is_repeated_with_the_same_ids(autojump_clock: MockClock) -> None:
    started = Started()
    started.faults = {0: httpx.ReadError("reset"), 1: httpx.Response(502, text="<html>")}
    ids = await started.client.trigger_many("g", [{}, {}])
    assert [[run["run_id"] for run in request] for request in started.requests] == [ids] * 3


async def test_progress_is_shown_as_runs_are_started() -> None:
    shown: list[int] = []
    async with world() as (client, _):
        await client.trigger_many("graph", [{}] * (2 * MAX_BATCH), on_progress=shown.append)
    assert shown == [MAX_BATCH, 2 * MAX_BATCH]


async def test_a_v0_server_gets_one_request_for_each_run(autojump_clock: MockClock) -> None:
    started = Started(native=False)
    ids = await started.client.trigger_many("g", [{"p": number} for number in range(20)])
    assert len(set(ids)) == 20
    assert {run["inputs"]["p"] for run in started.sent} == {str(number) for number in range(20)}
    assert started.max_at_once == MAX_SINGLE


# -- what is known when something goes wrong


async def test_a_refused_run_is_named_by_its_place_in_the_whole_list() -> None:
    runs = [NewRun(store={"k": ""}) for _ in range(3 * MAX_BATCH)]
    runs[MAX_BATCH + 200] = NewRun()
    async with world(store_config=STORE) as (client, manager):
        with pytest.raises(RequestRefused) as refusal:
            await client.trigger_many("graph", iter(runs))
        assert f"runs[{MAX_BATCH + 200}]: the store lacks required keys: k" in str(refusal.value)
        started = await total(manager)
        assert started % MAX_BATCH == 0
        assert f"{started:,} runs of the list were started" in str(refusal.value)
        assert started < len(runs)


async def test_after_an_error_the_list_can_be_repeated_with_its_ids() -> None:
    runs = [NewRun(store={"k": ""}, run_id=str(uuid4())) for _ in range(MAX_BATCH + 10)]
    broken = [*runs[:-1], NewRun(run_id=runs[-1].run_id)]
    async with world(store_config=STORE) as (client, manager):
        with pytest.raises(RequestRefused, match=f"{MAX_BATCH:,} runs of the list were started"):
            await client.trigger_many("graph", iter(broken))
        assert await client.trigger_many("graph", runs) == [run.run_id for run in runs]
        assert await total(manager) == len(runs)


async def test_an_unknown_graph_is_an_error_however_long_the_list_waits() -> None:
    async def runs() -> AsyncIterator[dict[str, str]]:
        for _ in range(MAX_BATCH):
            yield {}
        await trio.sleep_forever()

    async with world() as (client, _):
        with pytest.raises(NotFound, match="0 runs of the list were started"):
            await client.trigger_many("nothing", runs())


async def test_an_asynchronous_generator_is_closed_with_the_call() -> None:
    ended: list[int] = []

    async def runs() -> AsyncIterator[NewRun]:
        try:
            for _ in range(5 * MAX_BATCH):
                yield NewRun()
        finally:
            await trio.lowlevel.checkpoint_if_cancelled()
            ended.append(1)

    async with world(store_config=STORE) as (client, _):
        with pytest.raises(RequestRefused, match="the store lacks required keys"):
            await client.trigger_many("graph", runs())
        assert ended


async def test_an_outage_says_how_many_runs_may_have_been_started_too(autojump_clock: MockClock) -> None:
    started = Started()
    # The second part arrives, and then the server cannot be reached any more.
    started.faults = {1: httpx.ReadError("reset"), **dict.fromkeys((2, 3, 4), httpx.ConnectError("no"))}
    with pytest.raises(ManagerUnavailable) as error:
        await started.client.trigger_many("g", [{}] * MAX_BATCH * 2)
    text = f"{MAX_BATCH:,} runs of the list were started, and up to {MAX_BATCH:,} more may have been"
    assert text in str(error.value)


async def test_on_v0_a_refusal_names_the_run_and_starts_no_more(autojump_clock: MockClock) -> None:
    started = Started(native=False)
    started.faults = {MAX_SINGLE + 2: answer(400, {"detail": "because of x"})}
    started.server.on("GET g", answer(200, {**GRAPH, "validation_status": "INVALID"}))
    with pytest.raises(RequestRefused) as refusal:
        await started.client.trigger_many("g", [{}] * (MAX_BATCH + 100))
    assert f"runs[{MAX_SINGLE + 2}]: " in str(refusal.value)
    assert "because of x" in str(refusal.value)
    assert f"{len(started.sent) - 1} runs of the list were started" in str(refusal.value)
    assert len(started.sent) <= 3 * MAX_SINGLE


async def test_an_error_of_the_caller_is_raised_with_a_note() -> None:
    def runs() -> Iterator[dict[str, str]]:
        for _ in range(MAX_BATCH):
            yield {}
        raise ZeroDivisionError

    async with world() as (client, manager):
        with pytest.raises(ZeroDivisionError) as error:
            await client.trigger_many("graph", runs())
        assert error.value.__notes__ == [f"trigger_many: {MAX_BATCH:,} runs of the list were started"]
        assert await total(manager) == MAX_BATCH


async def test_after_a_cancellation_the_list_can_be_repeated_with_its_ids() -> None:
    runs = [NewRun(run_id=str(uuid4())) for _ in range(3 * MAX_BATCH)]

    async def until_cancelled() -> AsyncIterator[NewRun]:
        for number, run in enumerate(runs):
            if number == 2 * MAX_BATCH + 1:
                scope.cancel()  # while requests are on their way
            await trio.lowlevel.checkpoint()
            yield run

    async with world() as (client, manager):
        with trio.CancelScope() as scope:
            await client.trigger_many("graph", until_cancelled())
        assert scope.cancelled_caught
        assert await total(manager) < len(runs)
        assert await client.trigger_many("graph", runs) == [run.run_id for run in runs]
        assert await total(manager) == len(runs)


def test_each_run_without_a_key_has_another_random_uuid() -> None:
    texts = {NewRun().request()["run_id"] for _ in range(200)}
    ids = {UUID(text) for text in texts}
    assert len(ids) == 200
    assert {str(each) for each in ids} == texts
    assert {(each.version, each.variant) for each in ids} == {(4, RFC_4122)}
