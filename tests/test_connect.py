"""Discovery, choice, and what happens to a link when its server is replaced by the other kind."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import trio

from exotrio._connect import AutoLink, LinkKind, open_link
from exotrio._endpoint import EMBEDDED_URI, Endpoint
from exotrio._errors import ConfigurationError, KeyRefused, ManagerUnavailable, NotFound
from exotrio._link import Claim, ClaimLost, Fate
from exotrio._outcome import Executed, Requeued
from exotrio._wire_v0 import NodeDeclaration
from tests.http_doubles import Double, answer

NODE = NodeDeclaration(name="Digest", inputs_schema={}, outputs_schema={}, secrets=[])
DONE = Executed([])


class Server:
    """A server that is ours, or another, or away; switch ``kind`` to replace it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.away: Exception | httpx.Response | None = None
        self.double = Double(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.away, Exception):
            raise self.away
        if self.away is not None:
            return self.away
        path = request.url.path
        if path.startswith("/exotrio/") and self.kind != "native":
            return answer(404, {"detail": "Not Found"})
        if path == "/exotrio/v1":
            return answer(200, {"version": "1", "capabilities": []})
        if path.endswith("/nodes/"):
            return answer(200, {"runtime_name": "rt", "registered_nodes": []})
        if path.endswith("/claim"):
            lease = {"token": "t1", "ttl_ms": 60_000, "attempt": 1, "deliveries": 0}
            state = {"graph_name": "g", "run_id": "r", "lease": lease}
            return answer(200, {"states": [{**self.state("n1"), **state}]})
        if path.endswith("/enqueue"):
            reply = {"count": 1, "namespace": "ns", "status": "QUEUED", "states": [self.state("v1")]}
            return answer(200, reply)
        if path.endswith(("/outcomes", "/release")):
            body = json.loads(request.content)
            items = body if isinstance(body, list) else body["states"]
            return answer(200, {"items": [{"state_id": i["state_id"], "result": "ok"} for i in items]})
        return answer(200)

    @staticmethod
    def state(state_id: str) -> dict[str, Any]:
        return {"state_id": state_id, "node_name": "D", "identifier": "d", "inputs": {}, "created_at": ""}

    def link(self, kind: LinkKind = "auto") -> AutoLink:
        return open_link(self.double.endpoint, "ns", kind=kind, worker_id="me", workers=4)

    def asked_anew(self) -> list[str]:
        """What was asked since the last call."""
        asked = self.double.asked
        self.double.requests.clear()
        return asked


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_the_first_registration_finds_out_what_the_server_is(kind: str) -> None:
    server = Server(kind)
    link = server.link()
    await link.register("rt", [NODE])
    assert link.capabilities.leases is (kind == "native")
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token == ("t1" if kind == "native" else None)
    assert server.asked_anew() == [
        "GET v1",
        "PUT nodes",
        "POST claim" if kind == "native" else "POST enqueue",
    ]


async def test_a_newer_native_version_is_spoken_to_over_v0() -> None:
    server = Server("native")
    double = Double(
        lambda r: (
            answer(200, {"version": "2", "capabilities": []}) if r.url.path == "/exotrio/v1" else server(r)
        )
    )
    link = open_link(double.endpoint, "ns", worker_id="me", workers=1)
    await link.register("rt", [NODE])
    assert not link.capabilities.leases


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_a_pinned_link_never_asks(kind: LinkKind) -> None:
    server = Server("native")
    link = server.link(kind)
    await link.register("rt", [NODE])
    assert link.capabilities.leases is (kind == "native")
    assert server.asked_anew() == ["PUT nodes"]


async def test_a_link_pinned_to_native_meets_a_v0_server_with_a_plain_refusal() -> None:
    link = Server("v0").link("native")
    await link.register("rt", [NODE])
    with pytest.raises(NotFound):
        await link.claim({"D": 1}, 1)


async def test_registering_at_a_server_that_is_away_may_be_repeated() -> None:
    server = Server("native")
    link = server.link()
    server.away = httpx.ConnectError("refused")
    with pytest.raises(ManagerUnavailable):
        await link.register("rt", [NODE])
    server.away = None
    await link.register("rt", [NODE])
    assert link.capabilities.leases


async def test_a_native_server_replaced_by_a_v0_one_is_noticed_by_the_next_claim() -> None:
    server = Server("native")
    link = server.link()
    await link.register("rt", [NODE])
    server.kind = "v0"
    server.asked_anew()
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token is None
    assert server.asked_anew() == ["POST claim", "GET v1", "PUT nodes", "POST enqueue"]


async def test_a_claim_with_a_lease_is_reported_without_it_once_the_server_speaks_v0_only() -> None:
    server = Server("native")
    link = server.link()
    await link.register("rt", [NODE])
    [claim] = await link.claim({"D": 1}, 1)
    server.kind = "v0"
    server.asked_anew()
    [first] = await link.report([(claim, DONE)])
    assert (first.fate, first.status) == (Fate.RETRY, 404)
    [second] = await link.report([(claim, DONE)])
    assert second.fate is Fate.SETTLED
    assert server.asked_anew() == ["POST outcomes", "GET v1", "PUT nodes", "POST executed"]


async def test_after_an_outage_the_server_is_asked_again_what_it_is_and_told_the_nodes() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    [old] = await link.claim({"D": 1}, 1)
    server.away = httpx.ReadError("reset")
    with pytest.raises(ClaimLost):
        await link.claim({"D": 5}, 5)
    server.away, server.kind = None, "native"
    server.asked_anew()
    assert [s.fate for s in await link.report([(old, DONE)])] == [Fate.SETTLED]
    [new] = await link.claim({"D": 1}, 1)
    assert new.token == "t1"
    assert server.asked_anew() == ["GET v1", "PUT nodes", "POST executed", "POST claim"]
    assert link.lost_claims == 5


async def test_during_an_outage_a_v0_claim_is_not_risked_again() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    server.away = httpx.Response(502, text="<html>")
    with pytest.raises(ClaimLost):
        await link.claim({"D": 5}, 5)
    for _ in range(3):
        with pytest.raises(ManagerUnavailable) as caught:
            await link.claim({"D": 5}, 5)
        assert not caught.value.sent
    assert link.lost_claims == 5
    assert server.asked_anew()[2:] == ["POST enqueue"] + ["GET v1"] * 3


async def test_during_an_outage_reports_and_releases_are_unsent_and_blame_no_item() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    server.away = httpx.Response(502, text="<html>", headers={"retry-after": "9"})
    claims = [Claim(f"s{i}", "D", "d", {}) for i in range(3)]
    await link.report([(claims[0], DONE)])
    settlements = await link.report([(claim, DONE) for claim in claims]) + await link.release(claims)
    assert [(s.fate, s.status, s.retry_after) for s in settlements] == [(Fate.RETRY, None, 9.0)] * 6


async def test_a_500_for_one_state_is_no_outage() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    server.away = answer(500)
    [settlement] = await link.report([(Claim("s1", "D", "d", {}), DONE)])
    assert (settlement.fate, settlement.status) == (Fate.RETRY, 500)
    server.asked_anew()
    await link.report([(Claim("s1", "D", "d", {}), DONE)])
    assert server.asked_anew() == ["POST executed"]


async def test_after_a_500_what_can_be_sent_only_once_is_not_risked_on_a_server_that_fails() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    [claim, other] = [Claim(f"s{i}", "D", "d", {}) for i in range(2)]
    server.away = answer(500)
    await link.report([(claim, DONE)])
    server.asked_anew()
    # As a stock server answers whose database is away; without a database it says what it is all the same.
    settlements = await link.release([other]) + await link.report([(other, Requeued(1))])
    assert [(s.fate, s.status) for s in settlements] == [(Fate.RETRY, None)] * 2
    assert "POST re-enqueue-after" not in server.asked_anew()
    server.away = None
    assert [s.fate for s in await link.release([other])] == [Fate.SETTLED]
    assert [s.fate for s in await link.release([claim])] == [Fate.UNKNOWN], "its report may have arrived"
    assert server.asked_anew() == ["GET v1", "PUT nodes", "POST re-enqueue-after"]


async def test_a_key_refused_while_asking_keeps_the_outcomes() -> None:
    server = Server("v0")
    link = server.link()
    server.away = answer(401)
    with pytest.raises(KeyRefused):
        await link.register("rt", [NODE])
    settlements = await link.report([(Claim("s1", "D", "d", {}), DONE)])
    assert [s.fate for s in settlements] == [Fate.KEY_REFUSED]


async def test_tasks_that_wait_for_the_same_question_share_its_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def silent(_: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    double = Double(silent)
    link = open_link(double.endpoint, "ns", worker_id="me", workers=4)
    fates: list[Fate] = []

    async def report(number: int) -> None:
        fates.extend(s.fate for s in await link.report([(Claim(f"s{number}", "D", "d", {}), DONE)]))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(report, number)
    assert fates == [Fate.RETRY] * 8
    assert trio.current_time() == pytest.approx(10)
    assert double.asked == ["GET v1"]


async def test_a_refused_new_registration_does_not_keep_outcomes_from_being_reported() -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])
    server.away = httpx.ConnectError("refused")
    claim = Claim("s1", "D", "d", {})
    await link.report([(claim, DONE)])
    server.away = None
    server.double.handler = lambda r: answer(422) if r.url.path.endswith("/nodes/") else server(r)
    assert [s.fate for s in await link.report([(claim, DONE)])] == [Fate.SETTLED]


async def test_hurry_reaches_whatever_adapter_is_in_use(autojump_clock: trio.testing.MockClock) -> None:
    server = Server("v0")
    link = server.link()
    await link.register("rt", [NODE])

    async def slow(_: httpx.Request) -> httpx.Response:
        await trio.sleep(50)
        return answer(200)

    server.double.handler = slow
    with trio.move_on_after(1):
        link.hurry(trio.current_time() + 4)
        await link.claim({"D": 3}, 3)
    assert trio.current_time() <= 4
    assert link.lost_claims == 3


@pytest.mark.parametrize(("option", "value"), [("kind", "v1"), ("state_manager_version", "v9")])
def test_a_link_that_does_not_exist_is_a_configuration_error(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=value):
        open_link(Endpoint(EMBEDDED_URI, None), "ns", worker_id="me", workers=1, **{option: value})


async def test_closing_twice_does_no_harm() -> None:
    link = Server("v0").link()
    await link.register("rt", [NODE])
    await link.aclose()
    await link.aclose()
