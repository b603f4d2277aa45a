"""Discovery, choice, and what happens to a link when its server is replaced by the other kind."""

from __future__ import annotations

import json

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._link.auto import AutoLink
from exotrio._link.port import Claim, ClaimLost, Fate, LinkKind
from exotrio._nodes.outcome import Executed, Requeued
from exotrio._wire.heartbeats import HeartbeatRequest
from exotrio._wire.v0 import NodeDeclaration
from exotrio.errors import KeyRefused, ManagerUnavailable, NotFound
from tests.link.links import native_state, released, v0_claimed, v0_state
from tests.support.http_doubles import Double, answer, done, no_nodes, silent

NODE = NodeDeclaration(name="Digest", inputs_schema={}, outputs_schema={}, secrets=[])
DONE = Executed([])


class Server:
    """A server that is ours, or another, or away; switch ``kind`` to replace it.

    Attributes:
        gone: States it does not know.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.version = "1"
        self.capabilities = ["leases"]
        self.gone: set[str] = set()
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
            return answer(200, {"version": self.version, "capabilities": self.capabilities})
        if path.endswith("/nodes/"):
            if request.method == "GET":
                return no_nodes()
            return answer(200, {"runtime_name": "rt", "registered_nodes": []})
        if path.endswith("/claim"):
            return answer(200, {"states": [native_state("n1")]})
        if path.endswith("/enqueue"):
            return v0_claimed(v0_state("v1"))
        if path.endswith("/heartbeat"):
            return answer(200, {"items": [], "ttl_ms": 60_000})
        if path.endswith(("/outcomes", "/release")):
            body = json.loads(request.content)
            items = body if isinstance(body, list) else body["states"]
            ids = [item["state_id"] for item in items]
            results = ["unknown" if state_id in self.gone else "ok" for state_id in ids]
            replies = [{"state_id": s, "result": r} for s, r in zip(ids, results, strict=True)]
            return answer(200, {"items": replies})
        if path.split("/")[5] in self.gone:
            return answer(404, {"detail": "State not found"})
        return done()

    def link(self, kind: LinkKind = "auto") -> AutoLink:
        return AutoLink(self.double.endpoint, "ns", kind=kind, worker_id="me", workers=4)

    def new_calls(self) -> list[str]:
        """Return the requests since the last call."""
        calls = self.double.calls
        self.double.requests.clear()
        return calls


FAILED = answer(500, {"success": False, "detail": "contact support"})
"""What a state manager answers when it fails."""


async def registered(kind: str) -> tuple[Server, AutoLink]:
    """Return a server, and a link that has registered there."""
    server = Server(kind)
    link = server.link()
    await link.register("rt", [NODE])
    return server, link


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_the_first_registration_finds_out_what_the_server_is(kind: str) -> None:
    server, link = await registered(kind)
    assert link.is_native is (kind == "native")
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token == ("t-n1" if kind == "native" else None)
    if kind == "native":
        assert server.new_calls() == ["GET v1", "PUT nodes", "POST claim"]
    else:
        assert server.new_calls() == ["GET v1", "GET nodes", "GET v1", "PUT nodes", "POST enqueue"]


async def test_a_newer_native_version_is_spoken_to_over_v0_with_one_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server("native")
    server.version = "2"
    link = server.link()
    await link.register("rt", [NODE])
    assert not link.is_native
    server.away = httpx.ReadError("reset")
    with pytest.raises(ClaimLost):
        await link.claim({"D": 1}, 1)
    server.away = None
    await link.claim({"D": 1}, 1)
    assert server.new_calls().count("GET nodes") == 2
    [warning] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "version 2 of the native API" in warning.getMessage()
    assert "upgrade exotrio" in warning.getMessage()
    server.version = "1"
    await trio.sleep(60)
    await link.claim({"D": 1}, 1)
    assert link.is_native


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_a_pinned_link_does_not_ask_before_something_fails(kind: LinkKind) -> None:
    server = Server("native")
    link = server.link(kind)
    await link.register("rt", [NODE])
    assert link.is_native is (kind == "native")
    assert server.new_calls() == ["PUT nodes"]


async def test_a_link_pinned_to_native_at_a_v0_server_says_so() -> None:
    link = Server("v0").link("native")
    await link.register("rt", [NODE])
    with pytest.raises(ManagerUnavailable, match="does not speak the native API"):
        await link.claim({"D": 1}, 1)


async def test_registering_at_a_server_that_is_away_may_be_repeated() -> None:
    server = Server("native")
    link = server.link()
    server.away = httpx.ConnectError("refused")
    with pytest.raises(ManagerUnavailable):
        await link.register("rt", [NODE])
    server.away = None
    await link.register("rt", [NODE])
    assert link.is_native


async def test_a_native_server_replaced_by_a_v0_one_is_noticed_by_the_next_claim() -> None:
    server, link = await registered("native")
    server.kind = "v0"
    server.new_calls()
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token is None
    assert server.new_calls() == ["POST claim", "GET v1", "GET nodes", "GET v1", "PUT nodes", "POST enqueue"]


class BehindGateway(Server):
    """A native server. As ``v0``, a gateway answers its discovery in its place, until the next request."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.startswith("/exotrio/"):
            self.kind = "native"
        return super().__call__(request)


async def test_a_gateway_that_ends_during_the_discovery_makes_no_server_a_v0_one() -> None:
    # Else it would claim states without leases. If it were killed then, they would be lost.
    server = BehindGateway("native")
    link = server.link()
    await link.register("rt", [NODE])
    server.new_calls()
    server.kind = "v0"
    with pytest.raises(NotFound):
        await link.claim({"D": 1}, 1)
    assert server.new_calls() == ["POST claim", "GET v1", "GET nodes", "GET v1", "PUT nodes"]
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token == "t-n1"


async def test_a_gateway_that_ends_during_the_first_discovery_makes_no_server_a_v0_one() -> None:
    server = BehindGateway("v0")
    link = server.link()
    await link.register("rt", [NODE])
    assert link.is_native


async def test_a_claim_with_a_lease_is_reported_without_it_once_the_server_speaks_v0_only() -> None:
    server, link = await registered("native")
    [claim] = await link.claim({"D": 1}, 1)
    server.kind = "v0"
    server.new_calls()
    [first] = await link.report([(claim, DONE)])
    assert (first.fate, first.status) == (Fate.RETRY, 404)
    [second] = await link.report([(claim, DONE)])
    assert second.fate is Fate.SETTLED
    assert server.new_calls() == [
        *("POST outcomes", "GET v1", "GET nodes", "GET v1", "PUT nodes", "POST executed")
    ]


async def test_after_an_outage_the_server_is_identified_and_gets_the_nodes_again() -> None:
    server, link = await registered("v0")
    [old] = await link.claim({"D": 1}, 1)
    server.away = httpx.ReadError("reset")
    with pytest.raises(ClaimLost):
        await link.claim({"D": 5}, 5)
    server.away, server.kind = None, "native"
    server.new_calls()
    assert [s.fate for s in await link.report([(old, DONE)])] == [Fate.SETTLED]
    [new] = await link.claim({"D": 1}, 1)
    assert new.token == "t-n1"
    assert server.new_calls() == ["GET v1", "PUT nodes", "POST executed", "POST claim"]
    assert link.lost_claims == 5


async def test_during_an_outage_a_v0_claim_is_not_risked_again() -> None:
    server, link = await registered("v0")
    server.away = httpx.Response(502, text="<html>")
    with pytest.raises(ClaimLost):
        await link.claim({"D": 5}, 5)
    for _ in range(3):
        with pytest.raises(ManagerUnavailable) as caught:
            await link.claim({"D": 5}, 5)
        assert not caught.value.sent
    assert link.lost_claims == 5
    assert server.new_calls()[4:] == ["POST enqueue"] + ["GET v1"] * 3


async def test_during_an_outage_reports_and_releases_are_unsent_and_blame_no_item() -> None:
    server, link = await registered("v0")
    server.away = httpx.Response(502, text="<html>", headers={"retry-after": "9"})
    claims = [Claim(f"s{i}", "D", "d", {}) for i in range(3)]
    await link.report([(claims[0], DONE)])
    settlements = await link.report([(claim, DONE) for claim in claims]) + await link.report(
        released(*claims)
    )
    assert [(s.fate, s.status, s.retry_after) for s in settlements] == [(Fate.RETRY, None, 9.0)] * 6


@pytest.mark.parametrize(
    ("status", "identifies"),
    [
        *((status, True) for status in (404, 405, 502, 503, 504)),
        *((status, False) for status in (401, 403, 408, 425, 429)),
    ],
)
async def test_after_which_statuses_the_server_is_identified_again(status: int, identifies: bool) -> None:
    server, link = await registered("native")
    server.away = answer(status)
    await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    server.away = None
    server.new_calls()
    await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    assert server.new_calls() == ["GET v1", "PUT nodes"] * identifies + ["POST outcomes"]


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_a_500_of_the_state_manager_itself_is_not_an_outage(kind: str) -> None:
    server, link = await registered(kind)
    server.away = FAILED
    [settlement] = await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    assert (settlement.fate, settlement.status) == (Fate.FAILED, 500)
    server.new_calls()
    await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    assert server.new_calls() == ["POST outcomes" if kind == "native" else "POST executed"]


@pytest.mark.parametrize("kind", ["native", "v0"])
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(500, text="<html><h1>Internal Server Error</h1></html>"),
        answer(500, {"message": "Internal server error"}),
        answer(500, ["detail"]),
    ],
)
async def test_a_500_of_a_proxy_is_an_outage(response: httpx.Response, kind: str) -> None:
    server, link = await registered(kind)
    server.away = response
    [settlement] = await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    assert (settlement.fate, settlement.status) == (Fate.RETRY, 500)
    server.new_calls()
    await link.report([(Claim("s1", "D", "d", {}, token="t"), DONE)])
    assert server.new_calls() == ["GET v1"]


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_a_probe_registers_again_and_reports_for_a_state_that_does_not_exist(kind: str) -> None:
    server, link = await registered(kind)
    server.gone = {"f" * 24}
    server.new_calls()
    assert (await link.probe()).fate is Fate.SETTLED
    identified = (
        ["GET v1", "PUT nodes"] if kind == "native" else ["GET v1", "GET nodes", "GET v1", "PUT nodes"]
    )
    assert server.new_calls() == [*identified, "POST outcomes" if kind == "native" else "POST executed"]


@pytest.mark.parametrize("fails", ["GET v1", "GET nodes", "PUT nodes", "POST executed"])
async def test_a_probe_fails_if_any_of_its_requests_does(fails: str) -> None:
    server, link = await registered("v0")
    server.gone = {"f" * 24}

    def handler(request: httpx.Request) -> httpx.Response:
        return FAILED if server.double.calls[-1] == fails else server(request)

    server.double.handler = handler
    assert (await link.probe()).fate is Fate.RETRY


@pytest.mark.parametrize("kind", ["native", "v0"])
@pytest.mark.parametrize("status", [413, 422])
async def test_a_probe_that_is_refused_got_through(kind: str, status: int) -> None:
    """Else an outcome with which the state manager failed once would never be sent again."""
    server, link = await registered(kind)

    def handler(request: httpx.Request) -> httpx.Response:
        response = server(request)
        return answer(status) if server.double.calls[-1].startswith("POST") else response

    server.double.handler = handler
    assert (await link.probe()).fate is Fate.SETTLED


async def test_a_probe_with_a_key_that_is_refused_says_so() -> None:
    server, link = await registered("v0")
    server.away = answer(401)
    assert (await link.probe()).fate is Fate.KEY_REFUSED


async def test_after_a_500_what_can_be_sent_only_once_is_not_risked_on_a_server_that_fails() -> None:
    server, link = await registered("v0")
    [claim, other] = [Claim(f"s{i}", "D", "d", {}) for i in range(2)]
    server.away = FAILED
    await link.report([(claim, DONE)])
    server.new_calls()
    # As a stock server answers whose database is away.
    settlements = await link.report([*released(other), (other, Requeued(1))])
    assert [(s.fate, s.status) for s in settlements] == [(Fate.RETRY, None)] * 2
    assert "POST re-enqueue-after" not in server.new_calls()
    server.away = None
    assert [s.fate for s in await link.report(released(other))] == [Fate.SETTLED]
    assert [s.fate for s in await link.report(released(claim))] == [Fate.UNKNOWN], (
        "its report may have arrived"
    )
    assert server.new_calls() == ["GET v1", "GET nodes", "GET v1", "PUT nodes", "POST re-enqueue-after"]


async def test_a_key_refused_by_discovery_keeps_the_outcomes() -> None:
    server = Server("v0")
    link = server.link()
    server.away = answer(401)
    with pytest.raises(KeyRefused):
        await link.register("rt", [NODE])
    settlements = await link.report([(Claim("s1", "D", "d", {}), DONE)])
    assert [s.fate for s in settlements] == [Fate.KEY_REFUSED]


async def test_tasks_that_wait_for_the_same_discovery_share_its_failure(autojump_clock: MockClock) -> None:
    double = Double(silent)
    link = AutoLink(double.endpoint, "ns", worker_id="me", workers=4)
    fates: list[Fate] = []

    async def report(number: int) -> None:
        fates.extend(s.fate for s in await link.report([(Claim(f"s{number}", "D", "d", {}), DONE)]))

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(report, number)
    assert fates == [Fate.RETRY] * 8
    assert trio.current_time() == pytest.approx(10)
    assert double.calls == ["GET v1"]


async def test_a_refused_new_registration_does_not_keep_outcomes_from_being_reported() -> None:
    server, link = await registered("v0")
    server.away = httpx.ConnectError("refused")
    claim = Claim("s1", "D", "d", {})
    await link.report([(claim, DONE)])
    server.away = None
    server.double.handler = lambda r: answer(422) if r.method == "PUT" else server(r)
    assert [s.fate for s in await link.report([(claim, DONE)])] == [Fate.SETTLED]


async def test_settle_by_reaches_whatever_adapter_is_in_use(autojump_clock: MockClock) -> None:
    server, link = await registered("v0")

    server.double.handler = silent
    with trio.move_on_after(1):
        link.settle_by(trio.current_time() + 4)
        await link.claim({"D": 3}, 3)
    assert trio.current_time() <= 4
    assert link.lost_claims == 3


# -- what refuses everything for a while


OTHER_SERVERS = [
    answer(404, {"detail": "Not Found"}),
    answer(400, {"detail": "State is not queued"}),
    answer(409, {"message": "conflict"}),
    answer(422, {"detail": []}),
    answer(410, {"detail": "gone"}),
    answer(200, {}),
    answer(200, {"status": "ok"}),
]


@pytest.mark.parametrize("other", OTHER_SERVERS)
@pytest.mark.parametrize("kind", ["native", "v0"])
@pytest.mark.parametrize("pinned", [True, False])
async def test_another_server_at_the_address_costs_neither_an_outcome_nor_the_link(
    kind: LinkKind, other: httpx.Response, pinned: bool
) -> None:
    server = Server(kind)
    link = server.link(kind if pinned else "auto")
    await link.register("rt", [NODE])
    [claim] = await link.claim({"D": 1}, 1)
    server.away = other
    for _ in range(2):
        settlements = await link.report([(claim, DONE)])
        if kind == "native" or other.status_code != 200:  # else what was sent once is not sent again
            settlements += await link.report(released(claim))
        assert {settlement.fate for settlement in settlements} == {Fate.RETRY}
        with pytest.raises((ManagerUnavailable, ClaimLost)):
            await link.claim({"D": 1}, 1)
    assert link.lost_claims <= 1
    server.away = None
    assert [s.fate for s in await link.report([(claim, DONE)])] == [Fate.SETTLED]
    assert link.is_native is (kind == "native")
    [again] = await link.claim({"D": 1}, 1)
    assert again.token == claim.token


@pytest.mark.parametrize("kind", ["native", "v0"])
async def test_a_refusal_is_believed_if_a_server_that_said_what_it_is_repeats_it(kind: str) -> None:
    server, link = await registered(kind)
    server.gone = {"s1"}
    claims = [Claim("s1", "D", "d", {}), Claim("s2", "D", "d", {})]
    server.new_calls()
    fates = [s.fate for s in await link.report([(claim, DONE) for claim in claims])]
    assert fates == [Fate.DROPPED, Fate.SETTLED]
    calls = ["GET v1", "PUT nodes"] if kind == "native" else ["GET v1", "GET nodes", "GET v1", "PUT nodes"]
    assert server.new_calls() == ["POST executed"] * 2 + calls + ["POST executed"]


async def test_a_refusal_is_not_believed_while_the_registration_is_not_found() -> None:
    """By turns a state manager and something else answer."""
    server, link = await registered("v0")
    server.double.handler = lambda r: (
        server(r) if r.method == "GET" and "nodes" in r.url.path else answer(404)
    )
    assert [s.fate for s in await link.report([(Claim("s1", "D", "d", {}), DONE)])] == [Fate.RETRY]


async def test_a_result_that_only_another_server_refuses_is_delivered() -> None:
    """It answers the outcome, and is gone when it is to be identified."""
    server, link = await registered("v0")
    strange = [answer(404)]
    server.double.handler = lambda r: strange.pop() if r.method == "POST" and strange else server(r)
    assert [s.fate for s in await link.report([(Claim("s1", "D", "d", {}), DONE)])] == [Fate.SETTLED]


async def test_not_queued_after_a_lost_answer_still_reads_as_probably_recorded() -> None:
    server, link = await registered("v0")
    claim = Claim("s1", "D", "d", {})
    server.away = httpx.ReadError("reset")
    await link.report([(claim, DONE)])
    server.away = None
    server.double.handler = lambda r: answer(400) if r.url.path.endswith("executed") else server(r)
    [settlement] = await link.report([(claim, DONE)])
    assert settlement.fate is Fate.DROPPED
    assert "probably recorded" in settlement.detail


async def test_a_server_of_an_earlier_version_whose_root_is_hidden_is_used_over_v0_until_it_is_seen_again(
    autojump_clock: MockClock,
) -> None:
    server, link = await registered("native")
    server.double.handler = lambda r: answer(404) if r.url.path.startswith("/exotrio/") else server(r)
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token is None
    server.double.handler = server
    await trio.sleep(59)
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token is None
    await trio.sleep(1)
    [claim] = await link.claim({"D": 1}, 1)
    assert claim.token == "t-n1"


@pytest.mark.parametrize("kind", ["native", "auto"])
async def test_a_heartbeat_does_not_wait_until_it_is_known_what_the_server_is(kind: LinkKind) -> None:
    server = Server("native")
    link = server.link(kind)
    await link.register("rt", [NODE])
    heartbeat = HeartbeatRequest(worker_id="me", runtime="rt", phase="running")
    server.away = answer(404)
    with pytest.raises(NotFound):
        await link.heartbeat(heartbeat, (), timeout=1)
    server.away = None
    server.new_calls()
    await link.heartbeat(heartbeat, (), timeout=1)
    assert server.new_calls() == ["POST heartbeat"]


async def test_a_server_that_stays_v0_is_identified_once_a_minute_without_registering_again(
    autojump_clock: MockClock,
) -> None:
    server, link = await registered("v0")
    server.new_calls()
    for _ in range(121):
        await link.claim({"D": 1}, 1)
        await trio.sleep(1)
    calls = server.new_calls()
    assert calls.count("GET v1") == 2
    assert "PUT nodes" not in calls


async def test_closing_twice_does_no_harm() -> None:
    link = Server("v0").link()
    await link.register("rt", [NODE])
    await link.aclose()
    await link.aclose()
