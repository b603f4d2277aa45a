"""The list of workers, and what can be asked of one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from exotrio._util.times import moment_ms
from exotrio._wire.overview import CommandReply, RuntimeList, TasksReply
from exotrio._wire.v0 import NodeDeclaration
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.helpers import declare, eventually, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def workers(api: Api) -> RuntimeList:
    return RuntimeList.model_validate(ok(await api.workers()))


async def test_a_new_namespace_has_no_workers(api: Api) -> None:
    listed = await workers(api)
    assert (listed.workers, listed.v0) == ([], [])


async def test_a_worker_is_listed_with_its_last_heartbeat_and_what_it_holds(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api, worker_id="w", announces=True)
    (first,) = (await workers(api)).workers
    assert (first.worker_id, first.phase, first.live, first.holds) == ("w", "starting", True, 1)
    assert first.nodes == [node_name("a")]
    assert first.polled_ago is not None
    ok(await api.heartbeat("w", runtime="Greeter", phase="running", workers=1, shows_tasks=True))
    (worker,) = (await workers(api)).workers
    assert (worker.runtime, worker.phase, worker.asked_to_drain) == ("Greeter", "running", False)
    assert (worker.workers, worker.busy, worker.reporting, worker.shows_tasks) == (1, 1, 0, True)
    assert (worker.holds, worker.buffered, worker.free) == (1, 0, 0)
    assert 0 <= worker.heard_ago <= first.heard_ago + 60
    ended = item_for(state, running=False, buffered_ms=0, ran_ms=0)
    ok(await api.heartbeat("w", runtime="Greeter", phase="running", workers=1, states=[ended]))
    (worker,) = (await workers(api)).workers
    assert (worker.busy, worker.reporting, worker.holds, worker.free) == (0, 1, 1, 1)
    for phase in ("draining", "stopped"):
        ok(await api.heartbeat("w", runtime="Greeter", phase=phase, workers=1, states=[ended]))
        assert (await workers(api)).workers[0].free == 0, "it claims nothing"
    ok(await api.release(states=[item_for(state)]))
    assert (await workers(api)).workers[0].holds == 0
    assert (await workers(api.elsewhere())).workers == []


async def test_live_workers_are_listed_first_by_runtime(api: Api) -> None:
    for worker_id, runtime, phase in (
        ("c", "b", "running"),
        ("b", "a", "stopped"),
        ("a", "b", "draining"),
        ("d", "a", "running"),
    ):
        ok(await api.heartbeat(worker_id, runtime=runtime, phase=phase))
    listed = [(worker.worker_id, worker.live) for worker in (await workers(api)).workers]
    assert listed == [("d", True), ("a", True), ("c", True), ("b", False)]


async def test_v0_runtimes_are_listed_by_the_nodes_that_they_claim(api: Api) -> None:
    a, b, z = (node_name(name) for name in "abz")
    await api.register_for([place(name) for name in "abz"])
    ok(await api.claim([z, a], 1))
    ok(await api.claim([b], 1))
    ok(await api.claim([a, z], 1))
    listed = (await workers(api)).v0
    assert sorted(asker.nodes for asker in listed) == [[a, z], [b]]
    assert all(asker.polled_ago >= 0 for asker in listed)


async def test_names_of_unregistered_nodes_are_not_kept(api: Api) -> None:
    await api.register_for([place("a")])
    for number in range(3):
        unknown = f"unknown{number}"
        ok(await api.claim([unknown], 1))
        ok(await api.claim([unknown, node_name("a")], 1))
        ok(await api.native_claim({unknown: 1, node_name("a"): 1}, worker_id="w"))
    listed = await workers(api)
    assert [asker.nodes for asker in listed.v0] == [[node_name("a")]]
    assert [worker.nodes for worker in listed.workers] == [[node_name("a")]]


@pytest.mark.parametrize("worker_id", ["w", "a/b", "name@host:1:ab", "ü?#%2F"])
async def test_a_drain_is_requested_of_workers_with_any_name(api: Api, worker_id: str) -> None:
    refused(await api.worker("POST", worker_id, "drain"), 404)
    ok(await api.heartbeat(worker_id, phase="running"))
    reply = CommandReply.model_validate(ok(await api.worker("POST", worker_id, "drain")))
    assert (reply.worker_id, reply.command) == (worker_id, "drain")
    (asked,) = (await workers(api)).workers
    assert (asked.worker_id, asked.asked_to_drain) == (worker_id, True)
    assert ok(await api.heartbeat("another"))["commands"] == []
    for phase, commands in (
        ("running", ["drain"]),
        ("running", ["drain"]),
        ("draining", []),
        ("running", []),
    ):
        assert ok(await api.heartbeat(worker_id, phase=phase))["commands"] == commands
    refused(await api.elsewhere().worker("POST", worker_id, "drain"), 404)
    assert not any(each.asked_to_drain for each in (await workers(api)).workers)


async def test_the_last_heartbeat_of_a_runtime_becomes_the_receipt_of_its_stop(api: Api) -> None:
    for phase in ("draining", "stopped", "stopped"):
        stop = {"why": "SIGTERM", "took_ms": 1_500, "drain_ms": 1_500, "finished": 2, "exit_code": 0}
        ok(await api.heartbeat("w", runtime="r", phase=phase, stop=stop))
    (receipt,) = ok(await api.native("GET", "stops", params={"within_ms": 60_000}))["receipts"]
    assert moment_ms(receipt.pop("ended_at")) - moment_ms(receipt.pop("began_at")) == 1_500
    nothing = ("handed_over", "cut", "perhaps_cut", "work_lost_ms", "unknown", "abandoned", "kept")
    absent = {"shortened_by": "", "clean_up_ms": None, "flush_ms": None, "vanished": False}
    assert receipt == {**stop, **dict.fromkeys(nothing, 0), **absent, "worker_id": "w", "runtime": "r"}
    refused(await api.native("GET", "stops", params={"within_ms": 0}), 422)
    assert ok(await api.elsewhere().native("GET", "stops"))["receipts"] == []


async def test_a_task_tree_is_sent_after_a_request_for_it(api: Api) -> None:
    async def tree() -> TasksReply:
        return TasksReply.model_validate(ok(await api.worker("GET", "w", "tasks")))

    for method in ("POST", "GET"):
        refused(await api.worker(method, "w", "tasks"), 404)
    ok(await api.heartbeat("w"))
    assert "--health-tasks" in refused(await api.worker("POST", "w", "tasks"), 409)
    body: dict[str, Any] = {"phase": "running", "shows_tasks": True}
    ok(await api.heartbeat("w", **body))
    assert await tree() == TasksReply(worker_id="w", asked=False, tasks=None, age_ms=None)
    ok(await api.worker("POST", "w", "tasks"))
    assert (await tree()).asked
    assert ok(await api.heartbeat("w", **body))["commands"] == ["tasks"]
    assert ok(await api.heartbeat("w", **body, tasks="main\n  poll"))["commands"] == []
    shown = await tree()
    assert (shown.asked, shown.tasks) == (False, "main\n  poll")
    assert shown.age_ms is not None
    assert shown.age_ms >= 0
    refused(await api.elsewhere().worker("GET", "w", "tasks"), 404)
    refused(await api.heartbeat("w", tasks="x" * (64 * 1024 + 1)), 422)
    refused(await api.heartbeat("w", workers=2**63), 422)


async def test_a_heartbeat_requests_the_registration_of_nodes_that_the_database_lacks(api: Api) -> None:
    async def commands(*nodes: dict[str, Any], registered_ms: int = 0) -> list[str]:
        digests = {node["name"]: NodeDeclaration.model_validate(node).digest for node in nodes}
        answer = ok(await api.heartbeat("w", registered=digests, registered_ms=registered_ms))
        return [str(command) for command in answer["commands"]]

    async def is_requested(*nodes: dict[str, Any]) -> None:
        assert await commands(*nodes) == ["register"]

    known, lost = declare("Known", ["a"], secrets=["s"]), declare("Lost")
    ok(await api.register([known]))
    assert await commands(known) == []
    await is_requested(known, lost)
    ok(await api.register([known, lost]))
    assert await commands(known, lost) == []
    for newer in (
        declare("Known", ["a"]),
        declare("Known", ["b"], secrets=["s"]),
        declare("Known", ["a"], ["x"], ["s"]),
    ):
        # What is known was registered before it, by then.
        await eventually(partial(is_requested, newer))
        # Or after it, by another version of the runtime, which is not to be replaced.
        assert await commands(newer, registered_ms=3_600_000) == []
