"""Section 1: keys, error shapes, slashes, request ids, strict strings and lax integers."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.target import KEY, Target
from tests.support.helpers import UNKNOWN_ID, declare, ok, open_client, place, refused

RUN_ID = "7b0d1f9e-0000-4000-8000-000000000000"
SOME_UUID = "f47ac10b-0000-0000-0000-0e02b2c3d479"  # of no version

ROUTES: list[tuple[str, str, Any]] = [
    ("PUT", "/v0/namespace/ns/nodes/", {"runtime_name": "r", "nodes": []}),
    ("GET", "/v0/namespace/ns/nodes/", None),
    ("PUT", "/v0/namespace/ns/graph/g", {"secrets": {}, "nodes": []}),
    ("GET", "/v0/namespace/ns/graph/g", None),
    ("GET", "/v0/namespace/ns/graphs/", None),
    ("POST", "/v0/namespace/ns/graph/g/trigger", {}),
    ("POST", "/v0/namespace/ns/states/enqueue", {"nodes": [], "batch_size": 1}),
    ("POST", f"/v0/namespace/ns/state/{UNKNOWN_ID}/executed", {"outputs": []}),
    ("POST", f"/v0/namespace/ns/state/{UNKNOWN_ID}/errored", {"error": ""}),
    ("POST", f"/v0/namespace/ns/state/{UNKNOWN_ID}/prune", {"data": {}}),
    ("POST", f"/v0/namespace/ns/state/{UNKNOWN_ID}/re-enqueue-after", {"enqueue_after": 1}),
    ("POST", f"/v0/namespace/ns/state/{UNKNOWN_ID}/manual-retry", {"fanout_id": "f"}),
    ("GET", f"/v0/namespace/ns/state/{UNKNOWN_ID}/secrets", None),
    ("GET", "/v0/namespace/ns/runs/1/20", None),
    ("GET", f"/v0/namespace/ns/states/run/{RUN_ID}/graph", None),
    ("GET", f"/v0/namespace/ns/graph/g/run/{RUN_ID}/node/{UNKNOWN_ID}", None),
    ("GET", "/v0/namespaces", None),
]
WITH_BODY = [route for route in ROUTES if route[2] is not None]
NATIVE_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/exotrio/v1", None),
    ("DELETE", "/exotrio/v1/namespace/ns/graph/g", None),
    # Of v0, but in no release of the stock server.
    ("DELETE", "/v0/namespace/ns/graph/g/triggers", None),
    ("POST", "/exotrio/v1/namespace/ns/claim", {"worker_id": "w", "limits": {}, "limit": 1, "claim_id": "c"}),
    ("POST", "/exotrio/v1/namespace/ns/outcomes", []),
    ("POST", "/exotrio/v1/namespace/ns/release", {"states": []}),
    ("POST", "/exotrio/v1/namespace/ns/graph/g/trigger", {"run_id": RUN_ID}),
    ("POST", "/exotrio/v1/namespace/ns/graph/g/runs", {"runs": []}),
    ("GET", f"/exotrio/v1/namespace/ns/run/{RUN_ID}", None),
]


async def _send(client: httpx.AsyncClient, route: tuple[str, str, Any], **options: Any) -> httpx.Response:
    method, path, body = route
    if body is not None:
        options.setdefault("json", body)
    return await client.request(method, path, **options)


# -- keys


@pytest.mark.before_the_store
async def test_health_answers_without_a_key(target: Target, api: Api) -> None:
    assert ok(await api.health()) == {"message": "OK"}
    if target.key is not None:
        async with open_client(url=target.url) as keyless:
            assert ok(await keyless.get("/health")) == {"message": "OK"}


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "c"])
@pytest.mark.before_the_store
async def test_every_route_refuses_a_missing_or_wrong_key(keyed: Target, key: str | None) -> None:
    async with open_client(url=keyed.url, key=key) as client_without_key:
        for route in ROUTES:
            refused(await _send(client_without_key, route), 401)


@pytest.mark.deviates_from_stock("a stock server has no native routes")
@pytest.mark.before_the_store
async def test_every_native_route_refuses_a_missing_key(keyed: Target) -> None:
    async with open_client(url=keyed.url) as client_without_key:
        for route in NATIVE_ROUTES:
            refused(await _send(client_without_key, route), 401)


async def test_the_name_of_the_key_header_may_be_in_any_case(keyed: Target) -> None:
    async with open_client(url=keyed.url) as client:
        assert keyed.key is not None
        ok(await client.get("/v0/namespaces", headers=[(b"X-API-Key", keyed.key.encode())]))


@pytest.mark.deviates_from_stock("stock parses the body first: 422")
@pytest.mark.before_the_store
async def test_the_key_is_checked_before_the_body(keyed: Target) -> None:
    async with open_client(url=keyed.url) as client_without_key:
        for route in WITH_BODY:
            refused(await _send(client_without_key, route, content=b"{not json", json=None), 401)


@pytest.mark.before_the_store
async def test_the_key_is_checked_before_fields(keyed: Target) -> None:
    async with open_client(url=keyed.url) as client_without_key:
        for method, path, _ in WITH_BODY:
            refused(await client_without_key.request(method, path, json={}), 401)
        refused(await client_without_key.get("/v0/namespace/ns/runs/x/y"), 401)


# -- errors


@pytest.mark.parametrize("path", ["/", "/v0", "/v0/nothing", "/v0/namespace/ns/nothing", "/v1/namespaces"])
@pytest.mark.before_the_store
async def test_an_unknown_route_is_a_json_404(api: Api, path: str) -> None:
    if path == "/" and (await api.request("GET", "/")).status_code != 404:
        pytest.skip("the root serves a page")
    refused(await api.request("GET", path), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v0/namespace/ns/nodes/"),
        ("POST", "/v0/namespace/ns/graph/g"),
        ("GET", "/v0/namespace/ns/states/enqueue"),
        ("POST", "/v0/namespaces"),
        ("POST", "/health"),
    ],
)
@pytest.mark.before_the_store
async def test_a_wrong_method_is_a_json_405(api: Api, method: str, path: str) -> None:
    refused(await api.request(method, path), 405)


@pytest.mark.before_the_store
async def test_an_absent_body_is_a_422_that_points_at_the_body(api: Api) -> None:
    for method, path, _ in WITH_BODY:
        response = await api.request(method, path)
        assert response.status_code == 422, path
        assert response.json()["detail"][0]["loc"] == ["body"], path


@pytest.mark.parametrize("content", [b"{not json", b'{"a": 1', b"\xff\xfe"])
@pytest.mark.before_the_store
async def test_a_body_that_is_not_json_is_a_422_with_one_item(api: Api, content: bytes) -> None:
    for method, path, _ in WITH_BODY:
        headers = {"content-type": "application/json"}
        response = await api.request(method, path, content=content, headers=headers)
        if response.status_code == 400 and content == b"\xff\xfe":
            pytest.skip("stock answers 400 to bytes that are no text")
        assert response.status_code == 422, f"{path}: {response.text}"
        (item,) = response.json()["detail"]
        assert item["type"] == "json_invalid"
        assert item["loc"][0] == "body"
        assert isinstance(item["loc"][1], int)
        assert isinstance(item["msg"], str)


@pytest.mark.parametrize(
    ("content", "place"), [("{not json", 1), ('["é", x]', 6), ('{"nodes": [],\n "é": ü}', 20)]
)
@pytest.mark.before_the_store
async def test_the_position_where_a_body_stops_being_json_is_in_characters(
    api: Api, content: str, place: int
) -> None:
    headers = {"content-type": "application/json"}
    response = await api.v0("POST", "states/enqueue", content=content.encode(), headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", place]


@pytest.mark.parametrize("body", [[], "text", 5, None])
@pytest.mark.before_the_store
async def test_a_body_that_is_no_object_is_a_422(api: Api, body: Any) -> None:
    response = await api.v0("POST", "states/enqueue", json=body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"


@pytest.mark.before_the_store
async def test_a_validation_error_names_type_place_message_and_input(api: Api) -> None:
    response = await api.v0("PUT", "nodes/", json={"nodes": [{"name": 5}]})
    assert response.status_code == 422
    items = response.json()["detail"]
    by_place = {tuple(item["loc"]): item for item in items}
    for item in items:
        assert {"type", "loc", "msg", "input"} <= item.keys()
        assert isinstance(item["msg"], str)
    assert by_place[("body", "runtime_name")]["type"] == "missing"
    assert by_place[("body", "nodes", 0, "name")]["type"] == "string_type"
    assert by_place[("body", "nodes", 0, "name")]["input"] == 5
    assert by_place[("body", "nodes", 0, "secrets")]["type"] == "missing"


async def test_a_validation_error_in_the_path_points_at_the_path(api: Api) -> None:
    response = await api.runs("one", 20)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["path", "page"]


async def test_unknown_fields_are_ignored(api: Api) -> None:
    node = declare("Extra", ["a"]) | {"namespace": "elsewhere"}
    body = {"runtime_name": "r", "runtime_namespace": "elsewhere", "nodes": [node], "more": [1]}
    ok(await api.v0("PUT", "nodes/", json=body))
    assert ok(await api.nodes())["nodes"][0]["runtime_namespace"] == api.namespace
    ok(await api.v0("POST", "states/enqueue", json={"nodes": [], "batch_size": 1, "more": 1}))
    more = {"more": 1}
    united = place("c", unites="a", strategy="ALL_DONE")
    united["unites"] |= more
    nodes = [each | more for each in (place("a", "b"), place("b", "c"), united)]
    policy, store = {"max_retries": 7} | more, {"default_values": {"k": "v"}} | more
    body = api.body(nodes, retry_policy=policy, store_config=store) | more
    put = ok(await api.put_graph("g", body), 201)
    assert (put["retry_policy"]["max_retries"], put["store_config"]["default_values"]) == (7, {"k": "v"})
    assert put["nodes"][2]["unites"] == {"identifier": "a", "strategy": "ALL_DONE"}
    assert '"more"' not in json.dumps(put)


# -- types


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "nodes/", lambda value: {"runtime_name": value, "nodes": []}),
        ("PUT", "nodes/", lambda value: {"runtime_name": "r", "nodes": [declare("N") | {"name": value}]}),
        ("PUT", "graph/g", lambda value: {"secrets": {"s": value}, "nodes": []}),
        ("POST", "graph/g/trigger", lambda value: {"inputs": {"a": value}}),
        ("POST", "graph/g/trigger", lambda value: {"store": {"a": value}}),
        ("POST", "states/enqueue", lambda value: {"nodes": [value], "batch_size": 1}),
        ("POST", f"state/{UNKNOWN_ID}/errored", lambda value: {"error": value}),
        ("POST", f"state/{UNKNOWN_ID}/manual-retry", lambda value: {"fanout_id": value}),
    ],
    ids=["runtime", "node", "secret", "input", "store", "claim", "error", "fanout_id"],
)
@pytest.mark.before_the_store
async def test_strings_are_strict(api: Api, method: str, path: str, body: Any) -> None:
    values: list[Any] = [5, 1.5, True, None, [], {}]
    for value in values:
        response = await api.v0(method, path, json=body(value))
        assert response.status_code == 422, f"{value}: {response.text}"


@pytest.mark.parametrize("value", ["5", 5, 5.0, "5.0"])
async def test_integers_are_lax(api: Api, value: Any) -> None:
    ok(await api.claim(["N"], value))


async def test_integers_in_paths_are_lax(api: Api) -> None:
    reply = ok(await api.runs("2.0", "+20"))
    assert (reply["page"], reply["size"]) == (2, 20)


@pytest.mark.parametrize("value", [1.5, "1.5", "x", None, [], {}])
async def test_an_integer_that_is_no_whole_number_is_422(api: Api, value: Any) -> None:
    assert (await api.claim(["N"], value)).status_code == 422
    assert (await api.requeue(UNKNOWN_ID, value)).status_code == 422


@pytest.mark.deviates_from_stock("stock answers 500, and dies of a claim that asks for so many states")
@pytest.mark.parametrize("value", [2**63, 2**64, 10**30])
@pytest.mark.stored_values
async def test_integers_beyond_64_bits_are_no_server_error(api: Api, value: int) -> None:
    flow = await Flow.deploy(api, place("a"))
    responses = [
        await api.trigger(flow.graph, start_delay=value),
        await api.requeue(UNKNOWN_ID, value),
        await api.claim(["N"], value),
        await api.runs(1, value),
        await api.runs(value, 1),
    ]
    for response in responses:
        assert response.status_code in {200, 404, 422}, response.text
        response.json()


# -- paths


@pytest.mark.deviates_from_stock("stock redirects to the canonical form")
async def test_every_route_answers_the_same_in_both_slash_forms(keyed: Target) -> None:
    namespace = Api.fresh_namespace()
    async with open_client(url=keyed.url, key=keyed.key) as client:
        for method, path, body in ROUTES:
            path = path.replace("/namespace/ns/", f"/namespace/{namespace}/").rstrip("/")
            answers = [await _send(client, (method, form, body)) for form in (path, f"{path}/")]
            assert answers[0].status_code == answers[1].status_code != 307, path
            assert answers[0].content == answers[1].content


@pytest.mark.parametrize(
    "name",
    [
        *("with space", "ünïcode-名", "🙂", "100%", "%2F", "a+b", "q?x=1", "h#1", "a.b:c@d;e,f"),
        "'; DROP TABLE states; --",
    ],
)
@pytest.mark.stored_values
async def test_names_in_paths_are_percent_decoded(api: Api, name: str) -> None:
    here = api.elsewhere(f"{api.namespace} {name}")
    flow = await Flow.start(here, place("a"), graph=name)
    assert ok(await here.nodes())["namespace"] == here.namespace
    (listed,) = ok(await here.graphs())["templates"]
    assert (listed["name"], listed["namespace"]) == (name, here.namespace)
    assert (await flow.run_summary())["graph_name"] == name
    await flow.run("a")
    assert await flow.statuses() == {("a", "SUCCESS"): 1}


# -- request ids


@pytest.mark.parametrize(
    "request_id",
    [SOME_UUID, SOME_UUID.replace("-", ""), SOME_UUID.upper(), f"{{{SOME_UUID}}}", f"urn:uuid:{SOME_UUID}"],
)
@pytest.mark.before_the_store
async def test_a_request_id_that_is_a_uuid_is_echoed_verbatim(api: Api, request_id: str) -> None:
    header = {"X-Exosphere-Request-ID": request_id}
    for path in ("/health", "/v0/namespaces", "/v0/nothing", f"/v0/namespace/{api.namespace}/runs/x/1"):
        response = await api.request("GET", path, headers=header)
        assert response.headers["X-Exosphere-Request-ID"] == request_id, path


@pytest.mark.parametrize("request_id", [None, "", "not-a-uuid", "123"])
@pytest.mark.before_the_store
async def test_any_other_request_id_is_replaced_by_a_new_uuid4(api: Api, request_id: str | None) -> None:
    headers = {} if request_id is None else {"X-Exosphere-Request-ID": request_id}
    seen = set()
    for path in ("/health", "/v0/nothing"):
        echoed = (await api.request("GET", path, headers=headers)).headers["X-Exosphere-Request-ID"]
        assert uuid.UUID(echoed).version == 4
        seen.add(echoed)
    assert len(seen) == 2


@pytest.mark.before_the_store
async def test_a_refused_key_still_gets_its_request_id_back(keyed: Target) -> None:
    request_id = str(uuid.uuid4())
    async with open_client(url=keyed.url) as client_without_key:
        response = await client_without_key.get(
            "/v0/namespaces", headers={"X-Exosphere-Request-ID": request_id}
        )
    assert response.status_code == 401
    assert response.headers["X-Exosphere-Request-ID"] == request_id


# -- sizes and ids


async def test_outputs_of_several_mebibytes_are_accepted(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    text = "x" * (4 * 2**20)
    ok(await api.executed(state_id, {"v": text}))
    await flow.settled()
    assert (await flow.detail(state_id))["outputs"] == {"v": text}


@pytest.mark.deviates_from_stock("ours limits bodies to 16 MiB")
@pytest.mark.before_the_store
async def test_a_body_over_16_mib_is_refused_as_json(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    refused(await api.executed(state_id, {"v": "x" * (16 * 2**20 + 1)}), 413)
    assert await flow.status(state_id) == "QUEUED"
    ok(await api.executed(state_id, {"v": "small"}))


async def test_state_ids_are_24_hex_digits_and_run_ids_are_uuid4(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    assert uuid.UUID(flow.run_id).version == 4
    assert str(uuid.UUID(flow.run_id)) == flow.run_id
    state_id = await flow.one("a")
    assert len(state_id) == 24
    assert set(state_id) <= set("0123456789abcdef")


@pytest.mark.parametrize("malformed", ["x", "123", "g" * 24, UNKNOWN_ID + "0", "%20"])
@pytest.mark.deviates_from_stock("stock answers 500")
async def test_a_malformed_state_id_is_not_a_server_error(api: Api, malformed: str) -> None:
    flow = await Flow.start(api, place("a"))
    refused(await api.executed(malformed), 404, 422)
    refused(await api.errored(malformed), 404, 422)
    refused(await api.prune(malformed), 404, 422)
    refused(await api.requeue(malformed), 404, 422)
    refused(await api.manual_retry(malformed), 404, 422)
    refused(await api.secrets(malformed), 404, 422)
    refused(await api.state(flow.graph, flow.run_id, malformed), 400, 404, 422)
