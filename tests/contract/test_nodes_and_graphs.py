"""Sections 2.2 to 2.6 and 2.13: registering nodes, putting and reading graphs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow, validity
from tests.support.helpers import declare, node_name, ok, place, refused

DEFAULT_POLICY = {
    "max_retries": 3,
    "strategy": "EXPONENTIAL",
    "backoff_factor": 2000,
    "exponent": 2,
    "max_delay": None,
}
EMPTY_STORE: dict[str, Any] = {"required_keys": [], "default_values": {}}


def _is_id(value: str) -> bool:
    return len(value) == 24 and set(value) <= set("0123456789abcdef")


# -- nodes


async def test_registering_answers_what_was_registered_in_request_order(api: Api) -> None:
    nodes = [declare("Zeta", ["a"], ["b"], ["token"]), declare("Alpha", ["c"])]
    reply = ok(await api.register(nodes, "worker-7"))
    assert reply == {"runtime_name": "worker-7", "registered_nodes": nodes}


async def test_registering_nothing_is_allowed(api: Api) -> None:
    assert ok(await api.register([])) == {"runtime_name": "contract", "registered_nodes": []}
    assert ok(await api.nodes()) == {"namespace": api.namespace, "count": 0, "nodes": []}


async def test_the_list_of_nodes_shows_everything_registered(api: Api) -> None:
    declared = declare("Alpha", ["a"], ["b"], ["token"])
    ok(await api.register([declared], "worker-7"))
    reply = ok(await api.nodes())
    assert (reply["namespace"], reply["count"]) == (api.namespace, 1)
    (node,) = reply["nodes"]
    assert _is_id(node.pop("_id"))
    datetime.fromisoformat(node.pop("created_at"))
    datetime.fromisoformat(node.pop("updated_at"))
    assert node == declared | {
        "namespace": api.namespace,
        "runtime_name": "worker-7",
        "runtime_namespace": api.namespace,
    }


async def test_registering_again_replaces_that_node_and_removes_none(api: Api) -> None:
    ok(await api.register([declare("A", ["old"]), declare("B")], "first"))
    before = {node["name"]: node for node in ok(await api.nodes())["nodes"]}
    ok(await api.register([declare("A", ["new"], secrets=["s"])], "second"))
    after = {node["name"]: node for node in ok(await api.nodes())["nodes"]}
    assert after["B"] == before["B"]
    assert after["A"]["_id"] == before["A"]["_id"]
    assert after["A"]["created_at"] == before["A"]["created_at"]
    assert list(after["A"]["inputs_schema"]["properties"]) == ["new"]
    assert (after["A"]["secrets"], after["A"]["runtime_name"]) == (["s"], "second")


async def test_nodes_belong_to_their_namespace(api: Api) -> None:
    ok(await api.register([declare("A")]))
    assert ok(await api.elsewhere().nodes())["count"] == 0


async def test_the_namespaces_listed_are_those_of_registered_nodes_sorted(api: Api) -> None:
    other, graph_only = api.elsewhere(), api.elsewhere()
    ok(await api.register([declare("A"), declare("B")]))
    ok(await other.register([declare("A")]))
    ok(await graph_only.put_graph("g", graph_only.body([place("a")])), 201)
    reply = ok(await api.namespaces())
    assert {api.namespace, other.namespace} <= set(reply["namespaces"])
    assert graph_only.namespace not in reply["namespaces"]
    assert reply["namespaces"] == sorted(set(reply["namespaces"]))
    assert reply["count"] == len(reply["namespaces"])


@pytest.mark.deviates_from_stock("stock fails one of two first registrations: 500")
async def test_first_registrations_at_once_all_succeed(api: Api) -> None:
    nodes = [declare("A"), declare("B")]
    answers: list[int] = []

    async def register() -> None:
        answers.append((await api.register(nodes)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(register)
    assert answers == [200] * 12
    assert ok(await api.nodes())["count"] == 2


@pytest.mark.parametrize("missing", ["name", "inputs_schema", "outputs_schema", "secrets"])
async def test_every_field_of_a_node_is_required(api: Api, missing: str) -> None:
    node = declare("A")
    del node[missing]
    assert (await api.register([node])).status_code == 422


# -- graphs


async def test_putting_a_graph_answers_201_with_all_defaults_filled_in(api: Api) -> None:
    await api.register_for([place("a"), place("b")])
    body = api.body([place("a", "b"), place("b", next_nodes=None)])
    reply = ok(await api.put_graph("g", body), 201)
    datetime.fromisoformat(reply.pop("created_at"))
    datetime.fromisoformat(reply.pop("updated_at"))
    assert reply.pop("validation_status") in {"VALID", "PENDING"}
    assert reply == {
        "nodes": [
            {
                "node_name": node_name("a"),
                "namespace": api.namespace,
                "identifier": "a",
                "inputs": {},
                "next_nodes": ["b"],
                "unites": None,
            },
            {
                "node_name": node_name("b"),
                "namespace": api.namespace,
                "identifier": "b",
                "inputs": {},
                "next_nodes": [],
                "unites": None,
            },
        ],
        "secrets": {},
        "retry_policy": DEFAULT_POLICY,
        "store_config": EMPTY_STORE,
        "triggers": [],
        "validation_errors": [],
    }


async def test_names_are_trimmed_but_namespaces_are_not(api: Api) -> None:
    places = [
        place(" a ", " b ", node_name=f"  {node_name('a')} "),
        place("b", "u"),
        place(" u", unites="  a "),
    ]
    reply = ok(await api.put_graph("g", api.body(places)), 201)
    first, second, third = reply["nodes"]
    assert (first["identifier"], first["node_name"], first["next_nodes"]) == ("a", node_name("a"), ["b"])
    assert (third["identifier"], third["unites"]) == ("u", {"identifier": "a", "strategy": "ALL_SUCCESS"})
    assert second["namespace"] == api.namespace


@pytest.mark.deviates_from_stock("stock validates in the background: PENDING")
@pytest.mark.parametrize(("registered", "expected"), [(True, "VALID"), (False, "INVALID")])
async def test_putting_a_graph_answers_its_validity_at_once(
    api: Api, registered: bool, expected: str
) -> None:
    if registered:
        await api.register_for([place("a")])
    reply = ok(await api.put_graph("g", api.body([place("a")])), 201)
    assert reply["validation_status"] == expected
    assert bool(reply["validation_errors"]) is not registered
    assert all(isinstance(error, str) for error in reply["validation_errors"])


@pytest.mark.parametrize("strategy", ["ALL_SUCCESS", "ALL_DONE"])
async def test_the_strategy_of_a_united_node_is_kept(api: Api, strategy: str) -> None:
    places = [place("t", "b"), place("b", "u"), place("u", unites="t", strategy=strategy)]
    reply = ok(await api.put_graph("g", api.body(places)), 201)
    assert reply["nodes"][2]["unites"] == {"identifier": "t", "strategy": strategy}


async def test_secrets_are_never_shown(api: Api) -> None:
    await api.register_for([place("a")])
    body = api.body([place("a")], secrets={"token": "hunter2-hunter2", "empty": ""})
    assert ok(await api.put_graph("g", body), 201)["secrets"] == {"token": True, "empty": True}
    response = await api.get_graph("g")
    assert ok(response)["secrets"] == {"token": True, "empty": True}
    assert "hunter2" not in response.text


STORED: dict[str, Any] = {
    "retry_policy": {
        "max_retries": 7,
        "strategy": "LINEAR_FULL_JITTER",
        "backoff_factor": 11,
        "exponent": 3,
        "max_delay": 13,
    },
    "store_config": {"required_keys": ["k"], "default_values": {"d": "value"}},
}


async def test_putting_a_graph_echoes_policy_and_store(api: Api) -> None:
    reply = ok(await api.put_graph("g", api.body([place("a")], **STORED)), 201)
    assert {key: reply[key] for key in STORED} == STORED


@pytest.mark.deviates_from_stock("stock shows defaults instead of what is stored")
async def test_reading_a_graph_shows_the_stored_policy_and_store(api: Api) -> None:
    put = ok(await api.put_graph("g", api.body([place("a")], **STORED)), 201)
    read = ok(await api.get_graph("g"))
    assert read == put
    (listed,) = ok(await api.graphs())["templates"]
    assert {key: listed[key] for key in STORED} == STORED


@pytest.mark.deviates_from_stock("stock lists ciphertext")
async def test_the_list_of_graphs_shows_secrets_by_name_only(api: Api) -> None:
    ok(await api.put_graph("g", api.body([place("a")], secrets={"token": "hunter2"})), 201)
    (listed,) = ok(await api.graphs())["templates"]
    assert listed["secrets"] == {"token": True}


async def test_the_list_of_graphs_has_every_field_of_a_template(api: Api) -> None:
    for name in ("one", "two"):
        ok(await api.put_graph(name, api.body([place("a")])), 201)
    reply = ok(await api.graphs())
    assert (reply["namespace"], reply["count"]) == (api.namespace, 2)
    assert {template["name"] for template in reply["templates"]} == {"one", "two"}
    for template in reply["templates"]:
        assert _is_id(template["_id"])
        assert template["namespace"] == api.namespace
        assert template["nodes"][0]["identifier"] == "a"
        assert isinstance(template["validation_errors"], list)
        assert {
            "created_at",
            "updated_at",
            "validation_status",
            "triggers",
            "retry_policy",
            "store_config",
        } <= template.keys()


@pytest.mark.deviates_from_stock("stock fails one of two first upserts, and validates what an older one left")
async def test_upserts_at_once_all_succeed_and_the_graph_is_one_of_them_whole(api: Api) -> None:
    await api.register_for([place("a"), place("b")])
    bodies = [
        api.body([place(name)], secrets={name: "s"}, store_config={"default_values": {name: "d"}})
        for name in ("a", "b")
    ]
    answers: list[Any] = []

    async def put(number: int) -> None:
        answers.append(ok(await api.put_graph("g", bodies[number % 2]), 201))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(put, number)
    for shown in (*answers, ok(await api.get_graph("g"))):
        name = shown["nodes"][0]["identifier"]
        assert shown["validation_status"] == "VALID"
        assert shown["secrets"] == {name: True}
        assert shown["store_config"]["default_values"] == {name: "d"}
    assert ok(await api.graphs())["count"] == 1


async def test_a_trigger_of_a_graph_is_echoed_with_whatever_else_its_value_holds(api: Api) -> None:
    triggers = [
        {"type": "CRON", "value": {"expression": "0 0 1 1 *", "note": {"by": ["hand", 1, None]}}},
        {"type": "CRON", "value": {"expression": "@yearly"}},
    ]
    reply = ok(await api.put_graph("g", api.body([place("a")], triggers=triggers)), 201)
    assert reply["triggers"] == triggers


@pytest.mark.deviates_from_stock("stock answers 500: the name is stored trimmed, and looked up as it came")
async def test_a_name_with_blanks_around_it_is_the_same_graph(api: Api) -> None:
    for name in (" g ", "g", " g "):
        ok(await api.put_graph(name, api.body([place("a")])), 201)
    assert [template["name"] for template in ok(await api.graphs())["templates"]] == ["g"]
    ok(await api.get_graph(" g "))


@pytest.mark.parametrize("registered", [True, False])
async def test_validity_is_one_of_three_and_its_errors_a_list_wherever_a_graph_is_shown(
    api: Api, registered: bool
) -> None:
    if registered:
        await api.register_for([place("a")])
    put = ok(await api.put_graph("g", api.body([place("a")])), 201)
    read = ok(await api.get_graph("g"))
    (listed,) = ok(await api.graphs())["templates"]
    for shown in (put, read, listed):
        assert shown["validation_status"] in {"PENDING", "VALID", "INVALID"}
        assert isinstance(shown["validation_errors"], list)
        for field in ("retry_policy", "store_config", "secrets"):
            assert isinstance(shown[field], dict)
        assert isinstance(shown["triggers"], list)
        assert [node["next_nodes"] for node in shown["nodes"]] == [[]]
        assert [node["unites"] for node in shown["nodes"]] == [None]


async def test_a_namespace_without_graphs_lists_none(api: Api) -> None:
    assert ok(await api.graphs()) == {"namespace": api.namespace, "count": 0, "templates": []}


async def test_an_unknown_graph_is_404(api: Api) -> None:
    refused(await api.get_graph("nothing"), 404)
    ok(await api.put_graph("g", api.body([place("a")])), 201)
    refused(await api.elsewhere().get_graph("g"), 404)


async def test_putting_again_replaces_everything_but_the_creation_time(api: Api) -> None:
    await api.register_for([place("a"), place("b")])
    first = ok(await api.put_graph("g", api.body([place("a")], secrets={"old": "1"}, **STORED)), 201)
    second = ok(await api.put_graph("g", api.body([place("b")], secrets={"new": "2"})), 201)
    # A stock reply carries microseconds that later reads lack.
    assert second["created_at"][:19] == first["created_at"][:19]
    read = ok(await api.get_graph("g"))
    assert [node["identifier"] for node in read["nodes"]] == ["b"]
    assert read["secrets"] == {"new": True}
    assert (second["retry_policy"], second["store_config"]) == (DEFAULT_POLICY, EMPTY_STORE)
    assert ok(await api.graphs())["count"] == 1


async def test_a_refused_graph_leaves_the_stored_one_alone(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    before = ok(await api.get_graph(flow.graph))
    refused(await api.put_graph(flow.graph, api.body([place("a"), place("a")])), 400)
    refused(await api.put_graph("other", api.body([])), 400)
    assert ok(await api.get_graph(flow.graph)) == before
    assert ok(await api.graphs())["count"] == 1


async def test_an_invalid_graph_stays_invalid_until_put_again(api: Api) -> None:
    # Found INVALID before the node is there: a stock server validates after its answer.
    assert (await validity(api, place("a")))[0] == "INVALID"
    await api.register_for([place("a")])
    refused(await api.trigger("g"), 400)
    flow = await Flow.start(api, place("a"), graph="g")
    await flow.one("a")


@pytest.mark.deviates_from_stock("stock validates new identifiers against a stale map: INVALID")
async def test_an_update_that_brings_new_identifiers_is_valid_at_once(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    await Flow.deploy(api, place("x", "y"), place("y", inputs={"p": "${{x.outputs.v}}"}))
