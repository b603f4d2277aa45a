"""Who may come in, and what every reply carries."""

from __future__ import annotations

import base64
import hmac
import logging
import socket
import sys
import uuid
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._httpd import LOOPBACK_HOSTS
from exotrio.cli.commands.server import command as server_command
from exotrio.manager import create_app, open_service, serve
from exotrio.manager.queries import graphs
from exotrio.manager.security import refusals as wrong_keys
from exotrio.manager.security.keys import Keys
from exotrio.manager.security.refusals import FORGOTTEN_AFTER, MAX_DELAY, TRIES, WrongKeys
from exotrio.manager.security.sessions import Sessions
from exotrio.manager.store.opening import open_store
from tests.support import postgres
from tests.support.helpers import ok, open_client, refused
from tests.support.manager import KEY, NO_SETTINGS

Message = MutableMapping[str, Any]
SAME = "12345678-1234-5678-1234-567812345678"


@asynccontextmanager
async def opened(
    *, hosts: frozenset[str] | None = None, key: str | None = KEY, cors_origins: Sequence[str] = ()
) -> AsyncIterator[httpx.AsyncClient]:
    async with open_service(":memory:", settings=NO_SETTINGS) as service:
        app = create_app(service, key=KEY, allowed_hosts=hosts, cors_origins=cors_origins)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with open_client(url="http://localhost", key=key, transport=transport) as client:
            yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with opened() as holder_of_the_key:
        yield holder_of_the_key


@pytest.fixture
async def anonymous() -> AsyncIterator[httpx.AsyncClient]:
    async with opened(key=None) as keyless:
        yield keyless


@asynccontextmanager
async def served(
    *, key: str | None = KEY, db: str = ":memory:", **options: Any
) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """Serve on a port until the block ends; give the URL and a client with the key."""
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, port=0, db=db, key=KEY, **options))
        async with open_client(url=url.replace("0.0.0.0", "127.0.0.1"), key=key) as client:
            yield url, client
        nursery.cancel_scope.cancel()


# -- the key


@pytest.mark.parametrize("key", [None, "", KEY[:-1], KEY + "x", KEY.upper(), "ümlaut"])
@pytest.mark.parametrize("path", ["/v0/namespaces", "/exotrio/v1", "/no/such/route", "/health/"])
async def test_without_the_key_a_response_does_not_tell_what_exists(
    anonymous: httpx.AsyncClient, key: str | None, path: str
) -> None:
    headers = {} if key is None else {"x-api-key": key.encode()}
    assert "x-api-key" in refused(await anonymous.get(path, headers=headers), 401)  # type: ignore[arg-type]


async def test_a_key_may_hold_any_characters() -> None:
    async with open_service(":memory:", settings=NO_SETTINGS) as service:
        transport = httpx.ASGITransport(create_app(service, key="schlüssel"))
        async with open_client(transport=transport) as client:
            ok(await client.get("/v0/namespaces", headers=[(b"x-api-key", "schlüssel".encode())]))


async def test_keys_are_compared_in_constant_time(
    anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def noting(sent: bytes, right: bytes) -> bool:
        compared.append(sent)
        return compare(sent, right)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    refused(await anonymous.get("/v0/namespaces", headers={"x-api-key": "guess"}), 401)
    ok(await anonymous.get("/v0/namespaces", headers={"x-api-key": KEY}))
    assert compared == [b"guess", KEY.encode()]
    async with open_store(":memory:") as store:
        sessions = Sessions(store, KEY, Keys(store))
        assert await sessions.sign_in("guess") is None
        assert await sessions.sign_in(KEY) is not None
    assert len(compared) == 4


async def test_guesses_are_delayed_and_the_right_key_is_not(
    anonymous: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    for number in range(TRIES + 3):
        began = trio.current_time()
        refused(await anonymous.get("/v0/namespaces", headers={"x-api-key": f"guess {number}"}), 401)
        assert trio.current_time() - began == pytest.approx(0 if number < TRIES else MAX_DELAY)
    began = trio.current_time()
    ok(await anonymous.get("/v0/namespaces", headers={"x-api-key": KEY}))
    assert trio.current_time() == began


async def test_an_old_or_missing_key_is_refused_without_a_delay(
    anonymous: httpx.AsyncClient, autojump_clock: MockClock
) -> None:
    for _ in range(3 * TRIES):
        refused(await anonymous.get("/v0/namespaces", headers={"x-api-key": "old"}), 401)
        refused(await anonymous.get("/v0/namespaces"), 401)
    assert trio.current_time() == 0


async def test_wrong_keys_count_by_address_and_are_forgotten(autojump_clock: MockClock) -> None:
    guesses = WrongKeys()
    for number in range(1_000):
        assert (await guesses.delay_refusal("203.0.113.9", f"guess {number}") > 0) == (number >= TRIES)
    assert await guesses.delay_refusal("203.0.113.10", "guess") == 0
    await trio.sleep((TRIES + 1) * FORGOTTEN_AFTER)
    assert await guesses.delay_refusal("203.0.113.9", "guess") == 0


async def test_the_number_of_networks_in_memory_is_limited(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrong_keys, "MAX_NETWORKS", 5)
    guesses = WrongKeys()
    for number in range(TRIES):
        await guesses.delay_refusal("203.0.113.0", f"guess {number}")
    for network in range(1, 6):
        await guesses.delay_refusal(f"203.0.113.{network}", "guess")
    assert await guesses.delay_refusal("203.0.113.0", "guess") == 0, "its wrong keys were forgotten"


async def test_addresses_of_one_subscriber_count_together(autojump_clock: MockClock) -> None:
    guesses = WrongKeys()
    for number in range(TRIES):
        assert await guesses.delay_refusal(f"2001:db8:1:2::{number:x}", f"guess {number}") == 0
    assert await guesses.delay_refusal("2001:db8:1:2:ffff::1", "guess") > 0
    assert await guesses.delay_refusal("2001:db8:1:3::1", "guess") == 0
    for number in range(TRIES):
        assert await guesses.delay_refusal("::ffff:192.0.2.1", f"guess {number}") == 0
    assert await guesses.delay_refusal("192.0.2.1", "guess") > 0


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with served() as (url, client):
        ok(await client.get("/v0/namespaces"))
        refused(await client.get("/v0/nothing", params={"key": KEY}), 404)
        refused(await client.put("/v0/namespace/n/nodes/", content=KEY), 422)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("exotrio")]
    assert any(url in text for text in ours)
    assert not any(KEY in text for text in ours)


@pytest.mark.parametrize(("version", "warnings"), [((3, 11, 9), 1), ((3, 11, 10), 0)])
async def test_a_start_warns_of_a_python_with_slow_cookie_parsing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], warnings: int
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    async with served():
        pass
    assert sum("CVE-2024-7592" in record.getMessage() for record in caplog.records) == warnings


@pytest.mark.parametrize("is_elsewhere", [True, False])
async def test_a_start_warns_of_a_database_on_another_machine_without_tls(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    monkeypatch.setenv("SECRETS_ENCRYPTION_KEY", base64.b64encode(bytes(32)).decode())
    with postgres.database() as database:
        url = database.tcp_url
        if is_elsewhere:
            # By the name it is on another machine; the connection goes to the address.
            url = url.replace("@127.0.0.1:", "@db.example:") + "?hostaddr=127.0.0.1"
        async with served(db=url):
            pass
    warnings = [
        record.getMessage() for record in caplog.records if "may be unencrypted" in record.getMessage()
    ]
    assert len(warnings) == is_elsewhere
    assert postgres.PASSWORD not in caplog.text


async def test_the_mark_of_local_requests_cannot_be_sent_as_a_header(anonymous: httpx.AsyncClient) -> None:
    refused(await anonymous.get("/v0/namespaces", headers={"exotrio.local": "1"}), 401)


@pytest.mark.parametrize("headers", [[], [(b"host", b"evil.example"), (b"x-api-key", KEY.encode())]])
async def test_unauthenticated_clients_are_refused_before_their_body_is_read(
    headers: list[tuple[bytes, bytes]],
) -> None:
    statuses: list[int] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async with open_service(":memory:", settings=NO_SETTINGS) as service:
        app = create_app(service, key=KEY, allowed_hosts=LOOPBACK_HOSTS if headers else None)
        scope = {"type": "http", "method": "PUT", "path": "/v0/namespace/n/nodes", "headers": headers}
        await app({**scope, "query_string": b"", "root_path": ""}, receive, send)
    assert statuses == [421 if headers else 401]


# -- the Host header


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("localhost", True),
        ("localhost:8000", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:1", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("localhost:", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:8000", False),
        ("localhost.evil.example", False),
        ("localhost:80@evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("::1", False),
        ("localhost:8000:8000", False),
    ],
)
async def test_on_loopback_only_loopback_names_are_served(host: str, served: bool) -> None:
    async with opened(hosts=LOOPBACK_HOSTS) as client:
        response = await client.get("/v0/namespaces", headers={"host": host})
        if served:
            ok(response)
        else:
            assert "--allowed-host" in refused(response, 421)


@pytest.mark.skipif(sys.platform != "linux", reason="only 127.0.0.1 is there")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
async def test_a_server_accepts_its_own_address_as_host(host: str) -> None:
    async with served(host=host) as (_, client):
        ok(await client.get("/v0/namespaces"))
        refused(await client.get("/v0/namespaces", headers={"host": "evil.example"}), 421)


async def test_a_server_binds_this_machine_only_unless_told_otherwise() -> None:
    async with served() as (url, _):
        assert url.startswith("http://127.0.0.1:")
    (option,) = [option for option in server_command.params if option.name == "host"]
    assert option.default == "127.0.0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_an_allowed_host_is_served_and_no_other(host: str) -> None:
    async with served(host=host, allowed_hosts=["exotrio.example"]) as (_, client):
        ok(await client.get("/v0/namespaces", headers={"host": "exotrio.example:80"}))
        refused(await client.get("/v0/namespaces", headers={"host": "evil.example"}), 421)
        here = await client.get("/v0/namespaces")
        assert here.status_code == (200 if host == "127.0.0.1" else 421)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
async def test_a_server_on_ipv6_loopback_accepts_its_bracketed_address() -> None:
    async with served(host="::1") as (_, client):
        ok(await client.get("/v0/namespaces"))


# -- the request id


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "mine",
        "urn:" * 100 + SAME,
        SAME + "\n",
        "1234567812345678123456781234567\n",
        "\u0661" * 32,
    ],
)
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    headers = [(b"X-Exosphere-Request-ID", sent.encode())]
    replaced = (await client.get("/health", headers=headers)).headers["x-exosphere-request-id"]
    assert str(uuid.UUID(replaced)) == replaced != SAME


# -- forms of requests


@pytest.mark.parametrize("method", ["OPTIONS", "PATCH", "DELETE", "TRACE", "NONSENSE"])
@pytest.mark.parametrize("path", ["/v0/namespace/n/nodes/", "/v0/namespace/n/graph/g", "/exotrio/v1"])
async def test_other_methods_are_405_in_json(client: httpx.AsyncClient, method: str, path: str) -> None:
    response = await client.request(method, path)
    refused(response, 405)
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("path", ["/health", "/v0/namespaces", "/exotrio/v1", "/v0/namespace/n/nodes/"])
async def test_head_is_served_where_get_is(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("status", "namespace"),
    [
        *((422, each) for each in ("%2e%2e", "%2e", "a%00b", "a%0ab", "a%1fb", "a%7fb", "x" * 257)),
        *((404, each) for each in ("a%2Fb", "..%2f..", "a/b")),
    ],
)
async def test_an_invalid_name_is_422_and_a_slash_in_a_name_404(
    client: httpx.AsyncClient, status: int, namespace: str
) -> None:
    url = httpx.URL("http://localhost").copy_with(raw_path=f"/v0/namespace/{namespace}/nodes/".encode())
    refused(await client.get(url), status)


@pytest.mark.parametrize(
    "content", [b"", b" ", b"null", b"[]", b"5", b"{", b'{"a":}', b"\xff\xfe", b'"x"', b"{}x", b"[" * 100_000]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v0/namespace/n/nodes/"),
        ("PUT", "/v0/namespace/n/graph/g"),
        ("POST", "/v0/namespace/n/states/enqueue"),
        ("POST", "/exotrio/v1/namespace/n/claim"),
        ("POST", "/exotrio/v1/namespace/n/release"),
    ],
)
async def test_an_invalid_body_is_422_in_json(
    client: httpx.AsyncClient, method: str, path: str, content: bytes
) -> None:
    assert refused(await client.request(method, path, content=content), 422)


@pytest.mark.parametrize(
    "body",
    [
        b'{"secrets": {"a": "hunter2"},}',
        b'{"secrets": {"a": 1, "b": "hunter2"}, "nodes": 1}',
        b'{"secrets": "hunter2", "nodes": []}',
        b'{"secrets": {"a": 4713472}, "nodes": []}',
        b'{"secrets": {"a": ["hunter2"]}, "nodes": []}',
    ],
)
async def test_a_refused_body_is_not_echoed(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.put("/v0/namespace/n/graph/g", content=body)
    refused(response, 422)
    assert "hunter2" not in response.text
    assert "4713472" not in response.text


MANY = {str(number): 1 for number in range(10_000)}


@pytest.mark.parametrize(
    "fields",
    [
        {"secrets": MANY},
        {"secrets": {"k" * 100_000: 1}},
        {"secrets": MANY, "store_config": {"default_values": MANY}},
    ],
    ids=["many", "long", "several times many"],
)
async def test_a_refusal_of_a_long_request_is_short(
    client: httpx.AsyncClient, fields: dict[str, object]
) -> None:
    response = await client.put("/v0/namespace/n/graph/g", json={**fields, "nodes": []})
    refused(response, 422)
    assert len(response.content) < 20_000
    problems = response.json()["detail"]
    assert problems[0]["loc"][:2] == ["body", "secrets"]
    assert len(problems) <= 100


ORIGIN = "http://localhost:3000"
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "GET",
    "Access-Control-Request-Headers": "x-api-key",
}


async def test_other_origins_are_not_allowed_unless_configured(client: httpx.AsyncClient) -> None:
    reply = await client.get("/health", headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in reply.headers


async def test_a_configured_origin_gets_its_preflight_without_a_key() -> None:
    async with opened(key=None, cors_origins=[ORIGIN]) as client:
        preflight = await client.options("/v0/namespaces", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        other = {**PREFLIGHT, "Origin": "http://evil.example"}
        assert (await client.options("/v0/namespaces", headers=other)).status_code == 400
        answer = await client.get("/v0/namespaces", headers={"Origin": ORIGIN, "x-api-key": KEY})
        assert answer.headers["access-control-expose-headers"].lower() == "x-exosphere-request-id"
        reply = await client.get("/v0/namespaces", headers={"Origin": ORIGIN})
        refused(reply, 401)
        assert reply.headers["access-control-allow-origin"] == ORIGIN


async def test_the_allowed_origins_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", f"http://other.example , {ORIGIN}")
    async with served(key=None) as (_, client):
        for origin in (ORIGIN, "http://other.example"):
            preflight = await client.options("/v0/namespaces", headers={**PREFLIGHT, "Origin": origin})
            assert preflight.headers["access-control-allow-origin"] == origin
            assert preflight.headers["access-control-allow-credentials"] == "true"
            allowed = preflight.headers["access-control-allow-methods"].split(", ")
            assert {"GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} <= set(allowed)


# -- defects


async def test_a_defect_is_a_500_in_json_without_details_and_with_a_request_id(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(graphs, "list_nodes", fail)
    answer = await client.get("/v0/namespace/n/nodes/", headers={"X-Exosphere-Request-ID": SAME})
    assert answer.status_code == 500
    assert answer.json()["success"] is False
    assert isinstance(answer.json()["detail"], str)
    assert answer.headers["X-Exosphere-Request-ID"] == SAME
    assert "canary" not in answer.text
    ok(await client.get("/v0/namespaces"))
