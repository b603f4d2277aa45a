"""The public client: the stock SDK's calls, unchanged, and ours."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._wire.graphs import GraphBody
from exotrio._wire.runs import NativeTriggerRequest, Run
from exotrio._wire.v0 import TriggerRequest
from exotrio._wire.vocabulary import RunStatus
from exotrio.client._state_manager import StateManager
from exotrio.errors import (
    ConfigurationError,
    ExotrioError,
    GraphInvalid,
    InvalidResponse,
    KeyRefused,
    ManagerUnavailable,
    NotFound,
    RequestRefused,
)
from exotrio.graph import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, UnitesModel
from exotrio.manager import embedded
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.client_double import GRAPH, MOMENT, Server, node, node_detail, run_graph, run_summary
from tests.support.helpers import open_client, place
from tests.support.http_doubles import answer
from tests.support.stock import KEY, Stock, StockTransport

NODES = [GraphNodeModel(node_name="Digest", namespace="ns", identifier="d", inputs={"text": "t"})]


RUN = {"status": "CREATED", "run_id": "4a7a4de0-68ab-4d9e-a60a-fb6b1b0f1c9c"}


# -- construction


def test_everything_that_is_missing_is_named_at_once(unconfigured: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StateManager("a/b", state_manager_version="v7")
    assert len(caught.value.problems) == 4


# -- trigger


async def test_trigger_on_v0_sends_what_the_stock_sdk_sends_and_returns_the_reply() -> None:
    server = Server().on("POST trigger", answer(200, RUN))
    assert await server.client.trigger("my graph", {"a": "b"}, {"c": "d"}, 250) == RUN
    request = server.double.requests[-1]
    assert request.url.raw_path == b"/v0/namespace/ns/graph/my%20graph/trigger"
    body = TriggerRequest.model_validate_json(request.content)
    assert (body.inputs, body.store, body.start_delay) == ({"a": "b"}, {"c": "d"}, 250)


async def test_values_that_are_not_finite_are_sent_as_such_and_not_as_null() -> None:
    server = Server().on("POST trigger", answer(200, RUN))
    infinite, rates = float("inf"), [1.5, float("nan")]
    await server.client.trigger("g", {"limit": infinite, "rates": rates}, {"least": -infinite})
    body = TriggerRequest.model_validate_json(server.double.requests[-1].content)
    assert (body.inputs, body.store) == (
        {"limit": "Infinity", "rates": '[1.5,"NaN"]'},
        {"least": "-Infinity"},
    )
    with pytest.raises(ConfigurationError, match="the store values have no form as text"):
        await server.client.trigger("g", store={"least": None})


async def test_trigger_on_v0_is_repeated_while_it_provably_was_not_sent(autojump_clock: MockClock) -> None:
    server = Server().on("POST trigger", httpx.ConnectError("no"), httpx.ConnectError("no"), answer(200, RUN))
    assert await server.client.trigger("g") == RUN
    assert server.calls() == ["POST trigger"] * 3


@pytest.mark.parametrize("lost", [httpx.ReadError("reset"), answer(500), httpx.Response(502, text="<html>")])
async def test_trigger_on_v0_is_not_repeated_once_it_may_have_arrived(lost: Any) -> None:
    server = Server().on("POST trigger", lost)
    with pytest.raises(ManagerUnavailable):
        await server.client.trigger("g")
    assert server.calls() == ["POST trigger"]


async def test_trigger_on_our_server_is_repeated_under_one_run_id(autojump_clock: MockClock) -> None:
    server = Server(native=True).on(
        "POST trigger", httpx.ReadError("reset"), httpx.Response(502, text="<html>"), answer(200, RUN)
    )
    assert await server.client.trigger("g", {"a": "b"}) == RUN
    bodies = [NativeTriggerRequest.model_validate(body) for body in server.double.bodies("trigger")]
    assert len(bodies) == 3
    assert len({body.run_id for body in bodies}) == 1
    assert bodies[0].inputs == {"a": "b"}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (400, RequestRefused), (422, RequestRefused), (401, KeyRefused)]
)
async def test_a_refused_trigger_raises_the_reason(
    native: bool, status: int, kind: type[ExotrioError]
) -> None:
    server = Server(native=native).on("POST trigger", answer(status, {"detail": "because of x"}))
    server.on("GET g", answer(200, {**GRAPH, "validation_status": "INVALID"}))
    with pytest.raises(kind, match="because of x"):
        await server.client.trigger("g")
    assert server.calls().count("POST trigger") == 1


@pytest.mark.parametrize("what", ["nodes", "graphs", "runs"])
async def test_a_404_for_a_list_is_not_of_a_state_manager(autojump_clock: MockClock, what: str) -> None:
    route = {"runs": "20"}.get(what, what)
    server = Server().on(f"GET {route}", answer(404, {"detail": "Not Found"}))
    with pytest.raises(ManagerUnavailable, match=f"does not answer as a state manager: asked for its {what}"):
        await getattr(server.client, what)()


REFUSED = answer(400, {"detail": "the graph is not valid"})


def graph_with(status: str) -> httpx.Response:
    return answer(200, {**GRAPH, "validation_status": status})


async def test_trigger_on_v0_waits_for_a_graph_that_is_still_being_validated(
    autojump_clock: MockClock,
) -> None:
    server = Server().on("POST trigger", REFUSED, answer(200, RUN))
    server.on("GET g", graph_with("PENDING"), graph_with("PENDING"), graph_with("VALID"))
    assert await server.client.trigger("g") == RUN
    assert server.calls() == ["POST trigger", "GET g", "GET g", "GET g", "POST trigger"]


async def test_trigger_on_v0_of_a_valid_graph_is_refused_for_good_the_second_time() -> None:
    # The first time it may have become valid just after it was asked.
    server = Server().on("POST trigger", REFUSED).on("GET g", graph_with("VALID"))
    with pytest.raises(RequestRefused, match="not valid"):
        await server.client.trigger("g")
    assert server.calls() == ["POST trigger", "GET g", "POST trigger"]


async def test_trigger_on_v0_does_not_wait_for_a_validation_without_end(autojump_clock: MockClock) -> None:
    server = Server().on("POST trigger", REFUSED).on("GET g", graph_with("PENDING"))
    with pytest.raises(RequestRefused, match="not valid"):
        await server.client.trigger("g")
    assert trio.current_time() == pytest.approx(60)
    assert server.calls().count("POST trigger") == 1


async def test_a_refusal_of_a_trigger_is_raised_although_the_graph_cannot_be_read(
    autojump_clock: MockClock,
) -> None:
    server = Server().on("POST trigger", REFUSED).on("GET g", httpx.ReadError("reset"))
    with pytest.raises(RequestRefused, match="not valid"):
        await server.client.trigger("g")


async def test_trigger_notices_that_our_server_was_replaced_by_another() -> None:
    server = Server(native=True).on("POST trigger", answer(200, RUN))
    manager = server.client
    await manager.trigger("g")
    server.native = False
    assert await manager.trigger("g") == RUN
    assert server.double.requests[-1].url.path == "/v0/namespace/ns/graph/g/trigger"


# -- graphs


async def test_a_graph_with_fields_of_a_later_version_is_read() -> None:
    more = {"more": 1}
    united = {**place("d"), "namespace": "ns", "unites": {"identifier": "c"} | more} | more
    graph = GRAPH | more | {"name": "g", "namespace": "ns", "nodes": [united]}
    graph |= {name: GRAPH[name] | more for name in ("retry_policy", "store_config")}
    server = Server().on("GET graphs", answer(200, {"templates": [graph]}))
    (listed,) = await server.client.graphs()
    assert listed.nodes[0].unites == UnitesModel(identifier="c")


async def test_upsert_sends_only_the_arguments_and_returns_the_graph() -> None:
    server = Server().on("PUT g", answer(201, GRAPH))
    assert await server.client.upsert_graph("g", NODES, {"s": "v"}) == GRAPH
    [body] = server.double.bodies("g")
    assert set(body) == {"secrets", "nodes"}
    assert set(body["nodes"][0]) == {"node_name", "namespace", "identifier", "inputs", "next_nodes", "unites"}
    await server.client.upsert_graph(
        "g", NODES, {}, RetryPolicyModel(), StoreConfigModel(), [CronTrigger(expression="* * * * *")]
    )
    body = server.double.bodies("g")[1]
    assert GraphBody.model_validate(body).triggers[0].value.expression == "* * * * *"
    assert set(body["retry_policy"]) == {"max_retries", "strategy", "backoff_factor", "exponent", "max_delay"}


async def test_upsert_accepts_a_graph_but_no_further_parts_with_it() -> None:
    server = Server().on("PUT g", answer(201, GRAPH))
    graph = Graph("g", NODES, secrets={"s": "v"})
    assert await server.client.upsert_graph(graph) == GRAPH
    assert GraphBody.model_validate(server.double.bodies("g")[0]) == GraphBody.of(graph)
    with pytest.raises(TypeError):
        await server.client.upsert_graph(graph, NODES)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        await server.client.upsert_graph("g")  # type: ignore[call-overload]


async def test_upsert_waits_while_the_graph_is_pending(autojump_clock: MockClock) -> None:
    pending = answer(201, {**GRAPH, "validation_status": "PENDING"})
    again = answer(200, {**GRAPH, "validation_status": "PENDING"})
    server = Server().on("PUT g", pending).on("GET g", again, httpx.ReadError("blip"), answer(200, GRAPH))
    assert await server.client.upsert_graph("g", NODES, {}, polling_interval=3) == GRAPH
    assert server.calls() == ["PUT g", "GET g", "GET g", "GET g"]
    assert trio.current_time() < 3


async def test_upsert_asks_for_a_graph_that_stays_pending_at_the_polling_interval(
    autojump_clock: MockClock,
) -> None:
    pending = {**GRAPH, "validation_status": "PENDING"}
    server = Server().on("PUT g", answer(201, pending))
    server.on("GET g", *[answer(200, pending)] * 15, answer(200, GRAPH))
    assert await server.client.upsert_graph("g", NODES, {}, polling_interval=3) == GRAPH
    # After 0.05, 0.1, 0.2, 0.4, 0.8, 1.6 s and then every 3 s.
    assert trio.current_time() == pytest.approx(3.15 + 10 * 3)


async def test_upsert_gives_up_when_the_validation_takes_too_long(autojump_clock: MockClock) -> None:
    pending = {**GRAPH, "validation_status": "PENDING"}
    server = Server().on("PUT g", answer(201, pending)).on("GET g", answer(200, pending))
    with pytest.raises(ManagerUnavailable, match="validation_timeout"):
        await server.client.upsert_graph("g", NODES, {}, validation_timeout=5)
    assert 5 < trio.current_time() <= 6


async def test_each_problem_of_an_invalid_graph_is_listed() -> None:
    invalid = {
        **GRAPH,
        "validation_status": "INVALID",
        "validation_errors": ["no such node", "no such field"],
    }
    server = Server().on("PUT g", answer(201, invalid))
    with pytest.raises(GraphInvalid) as caught:
        await server.client.upsert_graph("g", NODES, {})
    assert caught.value.problems == ("no such node", "no such field")


@pytest.mark.parametrize("kind", ["exotrio", "stock"])
async def test_a_graph_that_comes_before_the_runtime_of_its_nodes_is_refused_with_a_fix(
    kind: str,
) -> None:
    async with embedded(":memory:") as inside:
        transport = inside if kind == "exotrio" else StockTransport(Stock())
        client = StateManager("ns", "http://m", KEY, transport=transport)
        with pytest.raises(GraphInvalid, match="first start the runtime that has these nodes"):
            await client.upsert_graph("g", NODES, {})


async def test_each_problem_of_a_refused_graph_is_listed_with_its_place_and_without_secrets() -> None:
    items = [
        {"type": "x", "loc": ["body", "nodes", 0, "identifier"], "msg": "cannot be blank", "input": " "},
        {"type": "y", "loc": ["body", "secrets", "token"], "msg": "must be a string", "input": "HIDDEN"},
    ]
    server = Server().on("PUT g", answer(422, {"detail": items}), answer(400, {"detail": "a\nb"}))
    with pytest.raises(GraphInvalid) as caught:
        await server.client.upsert_graph("g", NODES, {})
    assert caught.value.problems == (
        "nodes[0].identifier: cannot be blank",
        "secrets.token: must be a string",
    )
    assert "HIDDEN" not in str(caught.value)
    with pytest.raises(GraphInvalid) as caught:
        await server.client.upsert_graph("g", NODES, {})
    assert caught.value.problems == ("a", "b")


async def test_reading_is_repeated_through_a_short_outage(autojump_clock: MockClock) -> None:
    server = Server().on("GET g", httpx.ConnectError("no"), answer(503, retry_after="2"), answer(200, GRAPH))
    assert await server.client.get_graph("g") == GRAPH
    assert trio.current_time() >= 2


@pytest.mark.parametrize("response", [answer(200, ["hello"]), httpx.Response(404, text="<html>no</html>")])
async def test_a_request_is_not_repeated_after_an_invalid_answer(
    response: httpx.Response,
) -> None:
    server = Server().on("GET g", response)
    with pytest.raises(InvalidResponse):
        await server.client.get_graph("g")
    assert server.calls() == ["GET g"]


# -- runs


def native_run(status: str, pending: int = 0) -> httpx.Response:
    return answer(200, run_summary(status, pending_count=pending, nodes=[]))


async def test_times_are_in_utc_and_durations_in_seconds_and_both_are_written_as_they_came() -> None:
    holder = {"native": True, "worker": "w", "local": False, "ttl_ms": 1_500}
    detail = node_detail("s", "QUEUED", data=None, retry_count=0, deliveries=0, requeued=False)
    detail |= {"claimed_at": MOMENT, "finished_at": None, "events": []}
    detail |= {"worker": None, "attempts": [], "holder": holder, "stage": "running", "checkpoint": None}
    detail["enqueue_after"] = "2026-01-31T12:00:00"
    logs = [{"at": MOMENT, "level": "stdout", "logger": None, "text": "begun"}]
    reason = {"kind": "paused", "namespace": "n", "node": "N", "at": MOMENT, "workers": 0, "text": "waits"}
    reason |= {"limit": None, "event": None, "since": None, "run_id": None, "graph": None, "runs": 0}
    detail |= {
        "paused_at": MOMENT,
        "waits_for": reason,
        "logs": logs,
        "begun_at": MOMENT,
        "runs_again": [],
        "no_event": False,
        "late_ms": None,
        "max_attempts": None,
    }
    detail |= {"waited_ms": 100, "buffered_ms": 2_000, "ran_ms": None, "held_ms": 2_500, "for_event_ms": None}
    detail |= {"for_run_ms": None, "earlier_ms": None, "deadline": None}
    detail |= {"condition": None, "branches": [], "children": []}
    server = Server(native=True).on("GET s", answer(200, detail))
    state = await server.client.history("s")
    assert state.created_at == datetime(2026, 1, 31, 12, microsecond=123_000, tzinfo=UTC)
    assert state.enqueue_after == datetime(2026, 1, 31, 12, tzinfo=UTC), "a stock server leaves out the zone"
    assert state.holder is not None
    assert state.holder.ttl == 1.5
    assert (state.waited, state.buffered, state.ran, state.held) == (0.1, 2, None, 2.5)
    assert state.model_dump(mode="json") == {**detail, "enqueue_after": "2026-01-31T12:00:00.000Z"}


async def test_a_run_without_states_is_an_unknown_run() -> None:
    server = Server().on("GET graph", run_graph())
    for call in (server.client.run, server.client.status, server.client.wait):
        with pytest.raises(NotFound, match="r1"):
            await call("r1")


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["SUCCESS", "PRUNED", "RETRY_CREATED"], RunStatus.SUCCESS),
        (["SUCCESS", "EXECUTED"], RunStatus.PENDING),
        (["ERRORED", "CREATED"], RunStatus.PENDING),
        (["ERRORED", "QUEUED"], RunStatus.PENDING),
        (["SUCCESS", "ERRORED"], RunStatus.FAILED),
        (["SUCCESS", "NEXT_CREATED_ERROR"], RunStatus.FAILED),
    ],
)
async def test_on_v0_the_status_of_a_run_is_derived_from_its_states(
    statuses: list[str], expected: RunStatus
) -> None:
    states = [node(str(i), status, identifier=f"d{i % 2}") for i, status in enumerate(statuses)]
    server = Server().on("GET graph", run_graph(*states))
    run = await server.client.status("r")
    assert run.status is expected
    assert run.total_count == len(statuses)
    assert [place.identifier for place in run.nodes] == ["d0", "d1"]
    assert sum(sum(place.counts.values()) for place in run.nodes) == len(statuses)
    assert run.pending_count + run.success_count + run.errored_count + run.retried_count == len(statuses)


async def test_wait_returns_when_the_run_ended_and_reports_each_change(
    autojump_clock: MockClock,
) -> None:
    server = Server(native=True).on(
        "GET r",
        *[native_run("PENDING", pending=2)] * 10,
        *[native_run("PENDING", pending=1)] * 10,
        native_run("FAILED"),
    )
    seen: list[Run] = []
    run = await server.client.wait("r", on_progress=seen.append)
    assert run.status is RunStatus.FAILED
    assert [one.pending_count for one in seen] == [2, 1, 0]
    assert 10 < trio.current_time() < 20  # from 50 ms to a second between two requests


async def test_wait_returns_the_moment_the_run_ends_on_our_server_however_many_wait(
    autojump_clock: MockClock,
) -> None:
    async with embedded(":memory:") as transport, open_client(transport=transport) as bare:
        flow = await Flow.start(Api(bare, "ns"), place("a"))
        async with StateManager("ns", transport=transport) as client:
            ends: list[float] = []

            async def wait() -> None:
                assert (await client.wait(flow.run_id, poll_interval=100)).status is RunStatus.SUCCESS
                ends.append(trio.current_time())

            async with trio.open_nursery() as nursery:
                for _ in range(20):  # more than the client has connections
                    nursery.start_soon(wait)
                await trio.sleep(1000)
                await client.runs()
                assert trio.current_time() == 1000  # a connection was free for it
                await flow.run("a")
                await trio.testing.wait_all_tasks_blocked()
                assert ends == [1000] * 8
            assert max(ends) <= 1100  # the others asked in their turn


@pytest.mark.parametrize("native", [True, False])
async def test_wait_sees_at_once_that_a_run_has_ended_already(
    autojump_clock: MockClock, native: bool
) -> None:
    server = (
        Server(native=native)
        .on("GET r", native_run("SUCCESS"))
        .on("GET graph", run_graph(node("s", "SUCCESS")))
    )
    assert (await server.client.wait("r", timeout=0.02)).status is RunStatus.SUCCESS
    assert trio.current_time() == 0


async def test_wait_ends_at_its_timeout(autojump_clock: MockClock) -> None:
    server = Server(native=True).on("GET r", native_run("PENDING", pending=1))
    with pytest.raises(trio.TooSlowError):
        await server.client.wait("r", timeout=7)
    assert trio.current_time() == pytest.approx(7)


async def test_wait_outlives_a_short_outage_but_not_a_long_one(autojump_clock: MockClock) -> None:
    server = Server(native=True)
    gateway = [httpx.Response(404, text="no such service")] * 5
    outage = [*gateway, *[httpx.ConnectError("no")] * 20, *gateway]
    server.on("GET r", native_run("PENDING"), *outage, native_run("SUCCESS"))
    assert (await server.client.wait("r")).status is RunStatus.SUCCESS
    server.on("GET r", native_run("PENDING"), httpx.ConnectError("no"))
    began = trio.current_time()
    with pytest.raises(ManagerUnavailable):
        await server.client.wait("r")
    assert 60 <= trio.current_time() - began < 75


async def test_wait_gives_up_at_once_on_what_never_answered_as_a_state_manager() -> None:
    server = Server(native=True).on("GET r", httpx.Response(404, text="no such service"))
    with pytest.raises(InvalidResponse):
        await server.client.wait("r")
    assert server.calls() == ["GET r"]


# -- manual retry


async def test_a_manual_retry_is_sent_once_with_a_fresh_id_or_that_of_the_caller() -> None:
    reply = {"id": "new", "status": "CREATED"}
    server = Server().on("POST manual-retry", answer(200, reply))
    assert (await server.client.manual_retry("s")).id == "new"
    await server.client.manual_retry("s", "mine")
    first, second = server.double.bodies("manual-retry")
    assert len(first["fanout_id"]) == 36
    assert second["fanout_id"] == "mine"
    server.on("POST manual-retry", httpx.ReadError("reset"))
    with pytest.raises(ManagerUnavailable):
        await server.client.manual_retry("s")
    assert len(server.calls()) == 3
    server.on("POST manual-retry", answer(409, {"detail": "was retried"}))
    with pytest.raises(RequestRefused, match="was retried"):
        await server.client.manual_retry("s")


async def test_a_graph_whose_deletion_was_answered_and_the_answer_lost_counts_as_deleted(
    autojump_clock: MockClock,
) -> None:
    gone = answer(404, {"detail": "there is no graph 'g' in namespace 'ns'"})
    server = Server(native=True).on("DELETE g", httpx.ReadError("reset"), gone)
    assert (await server.client.delete_graph("g")).graph_name == "g"
    with pytest.raises(NotFound, match="no graph 'g'"):
        await server.client.delete_graph("g")
    with pytest.raises(RequestRefused, match=r"^DELETE .*: .* speaks only v0"):
        await Server().client.delete_graph("g")
