"""The client's calls to manage runs: what they send to our server, and what they do at any other."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.errors import ConfigurationError, NotFound, RequestRefused
from exotrio.graph import CronTrigger, Graph, GraphNodeModel
from tests.support.client_double import (
    GRAPH,
    MOMENT,
    Server,
    node,
    node_detail,
    run_graph,
    run_summary,
    worker,
)
from tests.support.http_doubles import answer

ERRORED, SUCCESS = StateStatus.ERRORED, StateStatus.SUCCESS


def failed_graph() -> httpx.Response:
    return run_graph(
        node("s1", "SUCCESS"),
        node("s2", "ERRORED"),
        node("s3", "NEXT_CREATED_ERROR", "e"),
        node("s4", "PRUNED"),
    )


def page(following: str | None, *states: dict[str, Any]) -> httpx.Response:
    """Return a page of states as our server shows it."""
    shown = [{**state, "graph_name": "g", "run_id": "r"} for state in states]
    return answer(200, {"states": shown, "next": following})


# -- lists that every server has


async def test_nodes_and_graphs_come_as_typed_lists_from_any_server() -> None:
    registered = {
        "_id": "64a", "name": "D", "namespace": "ns", "runtime_name": "r", "runtime_namespace": "ns",
        "inputs_schema": {}, "outputs_schema": {}, "secrets": ["token"],
        "created_at": MOMENT, "updated_at": MOMENT,
    }  # fmt: skip
    # As the stock state manager answers: ciphertexts in place of true.
    listed = {**GRAPH, "_id": "64b", "name": "g", "namespace": "ns", "secrets": {"token": "c1ph3r"}}
    server = Server().on("GET nodes", answer(200, {"namespace": "ns", "count": 1, "nodes": [registered]}))
    server.on("GET graphs", answer(200, {"namespace": "ns", "count": 1, "templates": [listed]}))
    (one,) = await server.client.nodes()
    assert (one.id, one.name, one.secrets) == ("64a", "D", ["token"])
    (graph,) = await server.client.graphs()
    assert (graph.id, graph.name, graph.secrets) == ("64b", "g", {"token": True})
    assert "c1ph3r" not in repr(graph)


# -- retrying a run


async def test_retrying_a_run_is_repeated_under_one_id(autojump_clock: MockClock) -> None:
    reply = {"retried": [{"state_id": "a", "new_state_id": "b", "status": "CREATED"}], "refused": []}
    server = Server(native=True).on("POST retry", httpx.ReadError("reset"), answer(503), answer(200, reply))
    assert (await server.client.retry_run("r")).retried[0].new_state_id == "b"
    bodies = server.double.bodies("retry")
    assert len(bodies) == 3
    assert len({body["request_id"] for body in bodies}) == 1


async def test_on_v0_each_failed_state_is_retried_by_itself() -> None:
    server = Server().on("GET graph", failed_graph())
    server.on(
        "POST manual-retry", answer(200, {"id": "n2", "status": "CREATED"}), answer(409, {"detail": "no"})
    )
    reply = await server.client.retry_run("r")
    assert [(one.state_id, one.new_state_id) for one in reply.retried] == [("s2", "n2")]
    ((refused, reason),) = [(one.state_id, one.reason) for one in reply.refused]
    assert refused == "s3"
    assert reason.endswith("no")
    first, second = server.double.bodies("manual-retry")
    assert first["fanout_id"] != second["fanout_id"], "one id counts once for all states of a node"


@pytest.mark.parametrize("native", [True, False])
async def test_a_retry_from_the_beginning_says_so_and_no_other_does(native: bool) -> None:
    reply = {"id": "n2", "status": "CREATED"}
    server = Server(native=native).on("POST manual-retry", answer(200, reply), answer(200, reply))
    await server.client.manual_retry("s", "one")
    await server.client.manual_retry("s", "two", from_beginning=True)
    assert server.double.bodies("manual-retry") == [
        {"fanout_id": "one"},
        {"fanout_id": "two", "from_beginning": True},
    ]


async def test_on_v0_a_run_without_failed_states_is_refused_as_ours_refuses_it() -> None:
    server = Server().on("GET graph", run_graph(node("s1", "SUCCESS")))
    with pytest.raises(RequestRefused, match="no failed states") as caught:
        await server.client.retry_run("r")
    assert caught.value.status == 409


# -- states and runs


async def test_filters_of_states_are_sent_to_our_server() -> None:
    server = Server(native=True).on("GET states", page(None))
    await server.client.states(
        run="r&x", graph="g", node="N", identifier="i", status=[ERRORED, SUCCESS], limit=7, before="b"
    )
    query = server.double.requests[-1].url.params
    assert query.multi_items() == [
        ("limit", "7"), ("before", "b"), ("run", "r&x"), ("graph", "g"), ("node", "N"), ("identifier", "i"),
        ("status", "ERRORED"), ("status", "SUCCESS"),
    ]  # fmt: skip
    await server.client.states(status=ERRORED)
    assert server.double.requests[-1].url.params.multi_items() == [("status", "ERRORED")]
    await server.client.states()
    assert not server.double.requests[-1].url.query


async def test_outputs_of_a_node_come_in_pages_from_our_server_and_state_by_state_through_v0() -> None:
    states = [node_detail(f"s{number}", "SUCCESS", outputs={"n": str(number)}) for number in range(5)]
    pages = page("s3", states[4], states[3]), page("s1", states[2], states[1]), page(None, states[0])
    server = Server(native=True).on("GET states", *pages)
    assert await server.client.outputs("r", "d") == [{"n": str(number)} for number in range(5)]
    query = dict(server.double.requests[1].url.params)
    assert query == {"limit": "1000", "run": "r", "identifier": "d", "status": "SUCCESS", "outputs": "True"}

    server = Server().on(
        "GET graph", run_graph(node("s1", "SUCCESS"), node("s2", "ERRORED"), node("s3", "SUCCESS"))
    )
    server.on("GET s1", answer(200, states[1])).on("GET s3", answer(200, states[3]))
    run = await server.client.wait("r")
    assert await server.client.outputs(run, "d") == [{"n": "1"}, {"n": "3"}]


@pytest.mark.parametrize("native", [True, False])
async def test_the_outputs_of_an_unknown_node_are_an_error_and_those_of_one_that_did_not_run_are_empty(
    native: bool,
) -> None:
    place = {"node_name": "D", "namespace": "ns", "inputs": {}}
    nodes = [{**place, "identifier": each} for each in ("d", "report")]
    server = Server(native=native).on("GET g", answer(200, {**GRAPH, "nodes": nodes}))
    server.on("GET graph", run_graph(node("s1", "ERRORED"))).on("GET states", page(None))
    counts: list[dict[str, Any]] = [
        {"identifier": each, "node_name": "D", "counts": {}} for each in ("d", "report")
    ]
    server.on("GET r", answer(200, run_summary("FAILED", nodes=counts)))
    assert await server.client.outputs("r", "report") == []
    with pytest.raises(
        NotFound, match="run r has no node with the identifier 'reprot'; did you mean 'report'"
    ):
        await server.client.outputs("r", "reprot")


async def test_a_page_of_states_is_filled_from_several_short_ones() -> None:
    first, second, third = (node(each, "ERRORED") for each in ("s1", "s2", "s3"))
    pages = page("x"), page("y", first), page("z", second), page("w", third), page(None)
    server = Server(native=True).on("GET states", *pages)
    reply = await server.client.states(status=ERRORED, limit=3)
    assert ([state.id for state in reply.states], reply.next) == (["s1", "s2", "s3"], "w")
    queries = [dict(request.url.params) for request in server.double.requests[1:]]
    cursors = [(query["limit"], query.get("before")) for query in queries]
    assert cursors == [("3", None), ("3", "x"), ("2", "y"), ("1", "z")], "a page that lacks one is not full"
    server.on("GET states", page("x"))
    assert (await server.client.states()).states == [], "the loop ends when the cursor does not change"


async def test_filters_of_runs_are_sent_to_our_server() -> None:
    server = Server(native=True).on("GET runs", answer(200, {"runs": [], "next": None}))
    since = datetime(2026, 1, 2, tzinfo=UTC)
    await server.client.find_runs(graph="g", status=RunStatus.FAILED, since=since, parent="p", limit=3)
    query = dict(server.double.requests[-1].url.params)
    assert query.pop("parent") == "p"
    assert query == {"graph": "g", "status": "FAILED", "since": "2026-01-02T00:00:00Z", "limit": "3"}


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.states(limit=0),
        lambda manager: manager.states(limit=1001),
        lambda manager: manager.states(status="BROKEN"),
        lambda manager: manager.find_runs(since=datetime(2026, 1, 2)),
        lambda manager: manager.find_runs(status="ERRORED"),
    ],
)
async def test_arguments_out_of_range_are_refused_before_anything_is_sent(call: Any) -> None:
    server = Server(native=True)
    with pytest.raises(ConfigurationError):
        await call(server.client)
    assert not server.double.requests


async def test_on_v0_the_states_of_one_run_come_from_its_graph_newest_first() -> None:
    server = Server().on("GET graph", failed_graph())
    manager = server.client
    reply = await manager.states(run="r")
    assert [state.id for state in reply.states] == ["s4", "s3", "s2", "s1"]
    assert (reply.states[0].graph_name, reply.states[0].run_id, reply.next) == ("g", "r", None)
    assert [state.id for state in (await manager.states(run="r", identifier="e")).states] == ["s3"]
    assert [state.id for state in (await manager.states(run="r", status=ERRORED)).states] == ["s2"]
    assert (await manager.states(run="r", graph="another")).states == []
    first = await manager.states(run="r", limit=3)
    rest = await manager.states(run="r", limit=3, before=first.next)
    assert [state.id for page in (first, rest) for state in page.states] == ["s4", "s3", "s2", "s1"]
    assert rest.next is None


async def test_an_unknown_state_or_run_is_an_error_at_both_kinds_of_server() -> None:
    gone = answer(404, {"detail": "there is no such thing"})
    ours = Server(native=True).on("GET s", gone).on("GET states", gone)
    for call in (ours.client.history("s"), ours.client.states(run="r")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await Server().on("GET graph", run_graph()).client.states(run="r")


# -- what only our server can do


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.states(status=ERRORED),
        lambda manager: manager.find_runs(key="k" * 200),
        lambda manager: manager.delete_graph("g", cancel_runs=True),
        lambda manager: manager.history("s"),
        lambda manager: manager.cancel("r"),
        lambda manager: manager.overview(),
        lambda manager: manager.checkup(),
        lambda manager: manager.export("r"),
        lambda manager: manager.workers(),
        lambda manager: manager.drain("w"),
        lambda manager: manager.tasks("w"),
        lambda manager: manager.pause_node("a"),
        lambda manager: manager.set_limit("l", at_most=1),
        lambda manager: manager.resume_schedule("g"),
    ],
)
async def test_a_call_that_needs_our_server_is_refused_at_any_other_with_a_fix(call: Any) -> None:
    with pytest.raises(RequestRefused, match="speaks only v0, which cannot do that") as refusal:
        await call(Server().client)
    what, _, _ = refusal.value.what.partition(": ")
    assert re.fullmatch("(GET|POST|PUT|DELETE) /exotrio/v1/[^?]+ cannot be requested", what) or what == (
        "states cannot be listed across runs"
    )
    assert refusal.value.status is None
    assert "python -m exotrio server" in refusal.value.fix


NOT_THERE = answer(404, {"detail": "Not Found"})


async def test_our_server_without_the_route_is_distinguished_from_one_without_the_run() -> None:
    server = Server(native=True).on("GET overview", NOT_THERE).on("GET checkup", NOT_THERE)
    server.on("GET export", NOT_THERE, answer(404, {"detail": "there is no run 'r'"}))
    manager = server.client
    for ask in (manager.overview, manager.checkup, lambda: manager.export("r")):
        with pytest.raises(RequestRefused, match="an exotrio too old for that") as refused:
            await ask()
        assert refused.value.fix == "upgrade it"
    with pytest.raises(NotFound, match="there is no run 'r'"):
        await manager.export("r")


@pytest.mark.parametrize(
    ("what", "fix"),
    [
        ("limits", "remove them"),
        ("a priority", "remove it"),
        ("branches", "let the nodes decide"),
        ("on_failure", "remove it"),
        ("a retry_policy or timeout of a node", "remove them"),
    ],
)
async def test_a_graph_with_what_others_would_ignore_is_stored_only_where_it_is_known(
    what: str, fix: str
) -> None:
    graph = Graph("g", nodes=[GraphNodeModel(node_name="A", namespace="n", identifier="a")])
    if what == "limits":
        graph.limit("stripe", at_most=1)
    elif what == "branches":
        graph.nodes.append(GraphNodeModel(node_name="A", namespace="n", identifier="b", otherwise=True))
    elif what == "on_failure":
        graph.on_failure = "alert"
    elif "timeout" in what:
        graph.nodes[0].timeout = 5
    else:
        graph.triggers = [CronTrigger(expression="@daily"), CronTrigger(expression="@hourly", priority="low")]
    for server, why in (
        (Server(), "speaks only v0, which cannot do that"),
        (Server(native=True), "is an exotrio too old for that"),
    ):
        with pytest.raises(
            RequestRefused, match=f"graph 'g' cannot be stored with {what}.*: .* {why}"
        ) as refusal:
            await server.client.upsert_graph(graph)
        assert fix in refusal.value.fix
        assert server.calls() == [], "nothing was sent"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give at_most, or starts with a period"),
        ({"at_most": -1}, "at_most: Input should be greater than or equal to 0"),
        ({"at_most": True}, "at_most: it is a whole number, not True"),
        ({"at_most": "2"}, "at_most: it is a whole number, not '2'"),
        ({"starts": "2", "period": 1}, "starts: it is a whole number, not '2'"),
        ({"period": 0.5, "starts": 1}, "the period is from 1 s to 31 days, not 0.5"),
        ({"period": math.nan, "starts": 1}, "the period is from 1 s to 31 days, not nan"),
        ({"period": "1m", "starts": 1}, "the period is from 1 s to 31 days, not '1m'"),
    ],
)
async def test_a_wrong_limit_is_refused_before_anything_is_sent(arguments: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        await Server(native=True).client.set_limit("l", **arguments)
    with pytest.raises(ConfigurationError, match="the name of a limit cannot stand in a URL path"):
        await Server(native=True).client.limit("a/b")


async def test_limits_of_queries_are_checked_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match="less than or equal to 100"):
        await Server(native=True).client.overview(runs=101)
    with pytest.raises(ConfigurationError, match="less than or equal to 100000"):
        await Server(native=True).client.depth(limit=100_001)


# -- workers


def task_tree(tasks: str | None, *, is_expected: bool) -> httpx.Response:
    return answer(
        200, {"worker_id": "w", "asked": is_expected, "tasks": tasks, "age_ms": None if is_expected else 5}
    )


async def test_workers_are_listed_and_drained_by_their_ids() -> None:
    reply = {"workers": [worker("r@host:1:ab/c")], "v0": [{"nodes": ["B"], "polled_ms": 3}]}
    server = Server(native=True).on("GET workers", answer(200, reply))
    server.on("POST drain", answer(200, {"worker_id": "r@host:1:ab/c", "command": "drain"}))
    listed = await server.client.workers()
    assert [(each.worker_id, each.busy) for each in listed.workers] == [("r@host:1:ab/c", 1)]
    assert listed.v0[0].nodes == ["B"]
    await server.client.drain(listed.workers[0].worker_id)
    path = server.double.requests[-1].url.raw_path.decode()
    assert path == "/exotrio/v1/namespace/ns/worker/r%40host%3A1%3Aab%2Fc/drain"


async def test_a_task_tree_is_waited_for_until_a_new_one_came(autojump_clock: MockClock) -> None:
    server = Server(native=True).on("POST tasks", answer(200, {"worker_id": "w", "command": "tasks"}))
    server.on("GET tasks", task_tree("old", is_expected=True), task_tree("new", is_expected=False))
    assert await server.client.tasks("w") == "new"


async def test_a_wait_for_a_task_tree_ends_at_its_timeout(autojump_clock: MockClock) -> None:
    server = Server(native=True).on("POST tasks", answer(200, {"worker_id": "w", "command": "tasks"}))
    server.on("GET tasks", task_tree(None, is_expected=True))
    began = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await server.client.tasks("w", timeout=7)
    assert trio.current_time() - began == pytest.approx(7)
