"""Section 11: who gets which secrets, and when."""

from __future__ import annotations

import json

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, UNKNOWN_ID, declare, node_name, ok, place, refused

SECRETS = {"token": "t0ken-välue", "other": "something else", "empty": ""}


async def _declaring(api: Api, *names: str, namespace: str | None = None) -> Flow:
    """Start a run of one node that declares ``names``, in a graph that has all of SECRETS."""
    ok(await api.elsewhere(namespace or api.namespace).register([declare(node_name("a"), secrets=names)]))
    body = api.body([place("a")], secrets=SECRETS, retry_policy=FAST_RETRY)
    flow = await Flow.put(api, "graph", body)
    await flow.trigger()
    return flow


async def test_a_claimed_state_gets_the_secrets_its_node_declares(api: Api) -> None:
    flow = await _declaring(api, *SECRETS)
    assert ok(await api.secrets(await flow.one("a"))) == {"secrets": SECRETS}


@pytest.mark.deviates_from_stock("stock hands out every secret of the graph")
@pytest.mark.parametrize("names", [(), ("token",), ("other", "empty")])
async def test_a_node_gets_no_secret_that_it_does_not_declare(api: Api, names: tuple[str, ...]) -> None:
    flow = await _declaring(api, *names)
    expected = {name: SECRETS[name] for name in names}
    assert ok(await api.secrets(await flow.one("a"))) == {"secrets": expected}


@pytest.mark.deviates_from_stock("stock answers 500")
async def test_the_secrets_of_a_state_are_404_if_it_is_unknown_or_in_another_namespace(api: Api) -> None:
    refused(await api.secrets(UNKNOWN_ID), 404)
    flow = await _declaring(api, "token")
    refused(await api.elsewhere().secrets(await flow.one("a")), 404)


@pytest.mark.deviates_from_stock("stock hands them out in any status")
@pytest.mark.parametrize("status", ["CREATED", "SUCCESS", "RETRY_CREATED", "PRUNED", "requeued"])
async def test_secrets_are_only_handed_out_while_a_state_is_claimed(api: Api, status: str) -> None:
    flow = await _declaring(api, "token")
    (root,) = (await flow.shown())["root_states"]
    state_id = root["id"]
    if status != "CREATED":
        assert await flow.one("a") == state_id
    if status == "SUCCESS":
        ok(await api.executed(state_id))
    if status == "RETRY_CREATED":
        ok(await api.errored(state_id))
    if status == "PRUNED":
        ok(await api.prune(state_id))
    if status == "requeued":
        ok(await api.requeue(state_id, 3_600_000))
    response = await api.secrets(state_id)
    refused(response, 400, 403, 404, 409)
    assert SECRETS["token"] not in response.text


async def test_secrets_are_read_when_used(api: Api) -> None:
    flow = await _declaring(api, "token")
    state_id = await flow.one("a")
    body = api.body([place("a")], secrets={"token": "rotated"})
    ok(await api.put_graph("graph", body), 201)
    assert ok(await api.secrets(state_id)) == {"secrets": {"token": "rotated"}}


async def test_putting_a_graph_replaces_the_whole_set(api: Api) -> None:
    flow = await _declaring(api, "token", "other")
    state_id = await flow.one("a")
    ok(await api.put_graph("graph", api.body([place("a")], secrets={"other": "new"})), 201)
    assert ok(await api.secrets(state_id)) == {"secrets": {"other": "new"}}


@pytest.mark.deviates_from_stock("stock looks the graph up in the namespace of the request")
async def test_a_node_of_another_namespace_gets_the_secrets_of_its_graph(api: Api) -> None:
    other = api.elsewhere()
    flow = await Flow.start(
        api, place("a", "b"), place("b", namespace=other.namespace), secrets={"token": "shared"}
    )
    await flow.run("a")
    (state,) = await flow.take("b", api=other)
    assert ok(await other.secrets(state["state_id"])) == {"secrets": {"token": "shared"}}
    refused(await api.secrets(state["state_id"]), 404)


async def test_graphs_of_one_name_in_two_namespaces_have_their_own_secrets(api: Api) -> None:
    other = api.elsewhere()
    for where, value in ((api, "here"), (other, "there")):
        flow = await Flow.start(where, place("a"), secrets={"token": value})
        assert ok(await where.secrets(await flow.one("a"))) == {"secrets": {"token": value}}


@pytest.mark.deviates_from_stock("stock stores errors as they are reported; the native API is ours")
@pytest.mark.parametrize("through", ["v0", "native"])
async def test_secrets_are_masked_in_errors_before_they_are_stored(api: Api, through: str) -> None:
    secrets = {"token": 't0ken-"välue"', "pin": "1234"}
    flow = await Flow.start(api, place("a"), secrets=secrets, retry_policy=NO_RETRY)
    error = f"KeyError: {secrets['token']!r}, body {json.dumps(secrets['token'])}, pin {secrets['pin']}"
    if through == "v0":
        state_id = await flow.fail("a", times=1, error=error)
    else:
        state = await claim_one(api)
        state_id, item = state["state_id"], item_for(state, outcome="errored", error=error)
        assert await report(api, item) == ["ok"]
        assert await report(api, item) == ["duplicate"]
    assert (await flow.detail(state_id))["error"] == "KeyError: '***', body \"***\", pin 1234"
