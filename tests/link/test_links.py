"""What the two adapters of the link make of a server's answers, and how they settle claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._http.client import HttpClient
from exotrio._http.endpoint import Endpoint
from exotrio._link.port import Claim, ClaimLost, Fate
from exotrio._link.v0 import V0Link
from exotrio._nodes.outcome import (
    CheckpointText,
    Errored,
    Executed,
    Outcome,
    Pruned,
    Released,
    Report,
    Requeued,
    Waiting,
)
from exotrio._runtime import outbox_store
from exotrio._wire.native import NativeClaimRequest, ReleaseRequest, outcome_item
from exotrio._wire.v0 import NodeDeclaration, RegisterRequest
from exotrio._wire.vocabulary import LEASE_HEADER, MAX_BATCH
from exotrio.errors import KeyRefused, ManagerUnavailable, NotFound, RequestRefused
from tests.link.links import native_link, native_state, released, v0_claimed, v0_link, v0_state
from tests.support.http_doubles import Handler, answer, done, no_nodes, silent, tcp_server

NODE = NodeDeclaration(name="Digest", inputs_schema={}, outputs_schema={}, secrets=[])
DONE = Executed([{"a": "b"}])


def claim(name: str = "s1", token: str | None = None) -> Claim:
    return Claim(name, "Digest", "d", {}, token=token)


def settled(request: httpx.Request, result: str = "ok") -> httpx.Response:
    """Answer a native batch: the same result for each of its items."""
    body = json.loads(request.content)
    items = body if isinstance(body, list) else body.get("states") or []
    return answer(200, {"items": [{"state_id": item["state_id"], "result": result} for item in items]})


def raising(error: Exception) -> Handler:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    return handler


def one_after_another(*steps: Callable[[httpx.Request], Any] | httpx.Response) -> Handler:
    rest = list(steps)

    def handler(request: httpx.Request) -> Any:
        step = rest.pop(0) if len(rest) > 1 else rest[0]
        return step if isinstance(step, httpx.Response) else step(request)

    return handler


async def cancelled(call: Callable[[], Any], after: float) -> None:
    """Make a call in a scope that is cancelled after some seconds, and see the cancellation come out."""
    with trio.move_on_after(after) as scope:
        await call()
        pytest.fail("the call returned although its scope was cancelled")
    assert scope.cancelled_caught


# -- v0: registering and secrets


async def test_v0_registers_as_the_stock_sdk_does() -> None:
    reply = {"runtime_name": "rt", "registered_nodes": []}
    link, double = v0_link(lambda _: answer(200, reply))
    await link.register("rt", [NODE])
    request = double.requests[0]
    assert (request.method, request.url.path) == ("PUT", "/v0/namespace/ns/nodes/")
    body = json.loads(request.content)
    assert body["runtime_namespace"] == "ns"
    assert body["nodes"][0]["namespace"] == "ns"
    assert RegisterRequest.model_validate(body).nodes == [NODE]


@pytest.mark.parametrize("body", [{}, [], {"runtime_name": "rt"}])
async def test_v0_an_answer_of_another_form_is_no_registration(body: Any) -> None:
    link, _ = v0_link(lambda _: answer(200, body))
    with pytest.raises(ManagerUnavailable, match="not with a RegisterReply"):
        await link.register("rt", [NODE])


async def test_v0_a_registration_that_is_not_found_may_be_repeated_and_one_that_is_refused_not() -> None:
    """Every state manager has that route: a 404 comes from something else."""
    link, _ = v0_link(one_after_another(answer(404), answer(422)))
    with pytest.raises(ManagerUnavailable):
        await link.register("rt", [NODE])
    with pytest.raises(RequestRefused):
        await link.register("rt", [NODE])


async def test_secrets_are_fetched_with_the_lease_token_if_there_is_one() -> None:
    link, double = v0_link(lambda _: answer(200, {"secrets": {"a": "b"}}))
    assert await link.secrets(claim()) == {"a": "b"}
    assert await link.secrets(claim(token="t1")) == {"a": "b"}
    assert LEASE_HEADER not in double.requests[0].headers
    assert double.requests[1].headers[LEASE_HEADER] == "t1"


# -- v0: claiming


async def test_v0_claims_all_unlimited_nodes_in_one_request() -> None:
    link, double = v0_link(lambda _: v0_claimed(v0_state("s1")))
    claims = await link.claim({"A": 4, "B": 9}, 4)
    assert [one.state_id for one in claims] == ["s1"]
    assert double.bodies("enqueue") == [{"nodes": ["A", "B"], "batch_size": 4}]


async def test_v0_claims_a_node_with_a_smaller_limit_on_its_own_and_never_exceeds_a_limit() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        name = body["nodes"][0]
        return v0_claimed(*(v0_state(f"{name}{i}", node_name=name) for i in range(body["batch_size"])))

    link, double = v0_link(handler)
    for _ in range(3):
        double.requests.clear()
        claims = await link.claim({"A": 2, "B": 1, "C": 5}, 5)
        assert len(claims) <= 5
        for name, limit in {"A": 2, "B": 1}.items():
            assert sum(one.node_name == name for one in claims) <= limit
        assert all(len(body["nodes"]) == 1 for body in double.bodies("enqueue"))


async def test_v0_portions_take_turns_so_that_a_busy_node_does_not_starve_the_others() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        return v0_claimed(*(v0_state(f"{i}") for i in range(body["batch_size"])))

    link, double = v0_link(handler)
    for _ in range(2):
        await link.claim({"busy": 4, "rare": 1}, 4)
    assert ["rare"] in [body["nodes"] for body in double.bodies("enqueue")]


async def test_v0_what_one_portion_brought_is_returned_when_the_next_fails() -> None:
    link, _ = v0_link(one_after_another(v0_claimed(v0_state("s1")), answer(500)))
    claims = await link.claim({"A": 1, "B": 4}, 4)
    assert [one.state_id for one in claims] == ["s1"]
    assert link.lost_claims > 0


@pytest.mark.parametrize(
    "handler",
    [
        raising(httpx.ReadError("reset")),
        raising(httpx.RemoteProtocolError("server disconnected")),
        lambda _: answer(500),
        lambda _: httpx.Response(502, text="<html>"),
        lambda _: httpx.Response(503, text="upstream reset"),
        lambda _: httpx.Response(200, text="{trunc"),
        lambda _: answer(200, {"count": 3}),
        lambda _: answer(200, {}),
        lambda _: answer(200, []),
    ],
)
async def test_v0_a_claim_whose_answer_is_lost_is_said_to_be_lost(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    link, double = v0_link(handler)
    with pytest.raises(ClaimLost, match="up to 7 states"):
        await link.claim({"A": 7}, 7)
    assert link.lost_claims == 7
    assert "7 states" in caplog.text
    assert len(double.requests) == 1


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (raising(httpx.ConnectError("refused")), ManagerUnavailable),
        (lambda _: answer(503, {"detail": "draining"}), ManagerUnavailable),
        (lambda _: answer(429), ManagerUnavailable),
        (lambda _: answer(401), KeyRefused),
        (lambda _: answer(404), NotFound),
        (lambda _: answer(422), RequestRefused),
    ],
)
async def test_v0_a_claim_that_took_nothing_for_sure_raises_what_happened(
    handler: Handler, kind: type[Exception]
) -> None:
    link, _ = v0_link(handler)
    with pytest.raises(kind):
        await link.claim({"A": 7}, 7)
    assert link.lost_claims == 0


async def test_v0_a_malformed_state_does_not_hide_the_good_ones_and_is_handed_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    states = [
        v0_state("good"),
        v0_state("bad", inputs=None),
        {"node_name": "x"},
        "nonsense",
        v0_state("fine"),
    ]
    link, double = v0_link(
        lambda request: v0_claimed(*states) if request.url.path.endswith("enqueue") else done()
    )
    claims = await link.claim({"A": 8}, 8)
    assert [one.state_id for one in claims] == ["good", "fine"]
    assert [r.url.path for r in double.requests[1:]] == ["/v0/namespace/ns/state/bad/re-enqueue-after"]
    assert "bad" in caplog.text
    assert link.lost_claims == 2  # the two without an id


async def test_v0_a_cancelled_claim_waits_for_its_answer_and_hands_back_what_it_brought(
    autojump_clock: MockClock,
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("enqueue"):
            await trio.sleep(20)
            return v0_claimed(v0_state("s1"), v0_state("s2"))
        return done()

    link, double = v0_link(handler)
    await cancelled(lambda: link.claim({"A": 4}, 4), 1)
    assert trio.current_time() == pytest.approx(20)
    assert sorted(r.url.path for r in double.requests[1:]) == [
        "/v0/namespace/ns/state/s1/re-enqueue-after",
        "/v0/namespace/ns/state/s2/re-enqueue-after",
    ]
    assert double.bodies("re-enqueue-after") == [{"enqueue_after": 1}] * 2
    assert link.lost_claims == 0


async def test_v0_a_cancelled_claim_also_hands_back_what_earlier_portions_brought(
    autojump_clock: MockClock,
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("enqueue"):
            await trio.sleep(10)
            return v0_claimed(v0_state(f"at{trio.current_time():.0f}"))
        return done()

    link, double = v0_link(handler)
    await cancelled(lambda: link.claim({"A": 1, "B": 1, "C": 1}, 4), 15)
    released = [r.url.path.split("/")[5] for r in double.requests if r.url.path.endswith("after")]
    assert sorted(released) == ["at10", "at20"]
    assert len(double.bodies("enqueue")) == 2  # nothing is claimed after the cancellation


async def test_v0_a_claim_cancelled_before_it_starts_sends_nothing() -> None:
    link, double = v0_link(lambda _: v0_claimed(v0_state("s1")))
    await cancelled(lambda: link.claim({"A": 4}, 4), 0)
    assert double.requests == []


async def test_v0_settle_by_shortens_the_wait_for_a_claim_in_flight(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await trio.sleep(50)
        return v0_claimed(v0_state("s1"))

    link, _ = v0_link(handler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled, lambda: link.claim({"A": 4}, 4), 1)
        await trio.sleep(2)
        link.shields.settle_by(trio.current_time() + 3)
    assert trio.current_time() <= 5.001
    assert link.lost_claims == 4
    assert "up to 4 states" in caplog.text


async def test_v0_an_answer_at_the_last_moment_is_handed_back_or_at_least_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("enqueue"):
            await trio.sleep(2.9)
            return v0_claimed(v0_state("quick"), v0_state("slow"))
        await trio.sleep(0.05 if "quick" in request.url.path else 5)
        return done()

    link, _ = v0_link(handler)
    link.shields.settle_by(trio.current_time() + 3)
    await cancelled(lambda: link.claim({"A": 4}, 4), 0.5)
    assert trio.current_time() == pytest.approx(3)
    assert link.lost_claims == 1
    assert "slow" in caplog.text
    assert "quick" not in caplog.text


async def test_v0_a_cancelled_claim_that_cannot_be_handed_back_is_logged_with_its_ids(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("enqueue"):
            await trio.sleep(2)
            return v0_claimed(v0_state("s1"), v0_state("s2"))
        if "s1" in request.url.path:
            raise httpx.ConnectError("refused")
        return httpx.Response(502, text="who knows")

    link, double = v0_link(handler)
    await cancelled(lambda: link.claim({"A": 4}, 4), 1)
    assert link.lost_claims == 2
    assert "s1" in caplog.text
    assert "s2" in caplog.text
    # s1 was provably not sent and is tried until the deadline; s2 may have arrived and is not repeated.
    assert sum("s2" in request.url.path for request in double.requests) == 1
    assert sum("s1" in request.url.path for request in double.requests) > 1
    assert trio.current_time() == pytest.approx(2 + 5)


@pytest.mark.parametrize("recovers", [True, False])
async def test_v0_what_a_cancelled_claim_brought_is_handed_back_through_a_gateway_without_a_route(
    autojump_clock: MockClock, recovers: bool
) -> None:
    """For two seconds it answers everything 404; or else the state is really not there any more."""

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("enqueue"):
            await trio.sleep(2)
            return v0_claimed(v0_state("s1"))
        if recovers and trio.current_time() < 4:
            return answer(404, {"detail": "no route"})
        if request.url.path.endswith("nodes/"):
            return no_nodes()
        return done() if recovers else answer(404, {"detail": "State not found"})

    link, double = v0_link(handler)
    await cancelled(lambda: link.claim({"A": 4}, 4), 1)
    assert link.lost_claims == 0
    assert (double.calls.count("POST re-enqueue-after") > 1) is recovers
    assert (trio.current_time() > 3.9) is recovers


async def test_v0_over_a_socket_a_cancelled_claim_is_settled() -> None:
    released = trio.Event()
    claimed = trio.Event()

    async def respond(stream: trio.SocketStream, request: bytes) -> None:
        body = done().content
        if b"/states/enqueue" in request:
            claimed.set()
            await trio.sleep(0.2)
            body = v0_claimed(v0_state("s1")).content
        elif b"/state/s1/re-enqueue-after" in request:
            released.set()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    async with tcp_server(respond) as (uri, _):
        http = HttpClient(Endpoint(uri, "the-key"))
        link = V0Link(http, "ns")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.claim, {"A": 4}, 4)
                await claimed.wait()
                scope.cancel()
        assert released.is_set()
        await http.aclose()


# -- v0: reporting and releasing


@pytest.mark.parametrize(
    ("outcome", "route", "body"),
    [
        (Executed([]), "executed", {"outputs": []}),
        (Executed([{"a": "b"}, {"a": "c"}]), "executed", {"outputs": [{"a": "b"}, {"a": "c"}]}),
        (Errored("why"), "errored", {"error": "why"}),
        (Errored("why", retry=False), "errored", {"error": "why"}),
        (Errored("file \udcff"), "errored", {"error": "file \\udcff"}),
        (Pruned({"n": 1}), "prune", {"data": {"n": 1}}),
        (Requeued(1.5), "re-enqueue-after", {"enqueue_after": 1500}),
        (Requeued(0.0001), "re-enqueue-after", {"enqueue_after": 1}),
        (
            Waiting("paid", 5.0),
            "errored",
            {
                "error": "'paid': WaitForEvent needs exotrio's own state manager (python -m exotrio server);"
                " this one has only v0"
            },
        ),
    ],
)
async def test_v0_each_outcome_goes_to_its_route(outcome: Outcome, route: str, body: Any) -> None:
    link, double = v0_link(lambda _: done())
    [settlement] = await link.report([(claim(), outcome)])
    assert settlement.fate is Fate.SETTLED
    assert settlement.status == 200
    assert double.requests[0].url.path == f"/v0/namespace/ns/state/s1/{route}"
    assert double.bodies(route) == [body]


UNANSWERED: list[tuple[Handler, int | None]] = [
    (raising(httpx.ReadError("reset")), None),
    (lambda _: answer(500), 500),
    (lambda _: httpx.Response(502, text="<html>"), 502),
    (lambda _: httpx.Response(200, text="<html>"), 200),
    (lambda _: answer(200, {}), 200),
    (lambda _: answer(200, []), 200),
    (lambda _: answer(200, {"status": "ok"}), 200),
    (lambda _: answer(503), 503),
    (lambda _: answer(429), 429),
    (lambda _: answer(408), 408),
]
REFUSALS: list[tuple[int, Fate]] = [
    (400, Fate.DROPPED),
    (404, Fate.DROPPED),
    (409, Fate.DROPPED),
    (413, Fate.REFUSED),
    (422, Fate.REFUSED),
    (401, Fate.KEY_REFUSED),
    (403, Fate.KEY_REFUSED),
    (405, Fate.RETRY),
]


@pytest.mark.parametrize(("handler", "status"), UNANSWERED)
@pytest.mark.parametrize("outcome", [DONE, Errored("x"), Pruned({})])
async def test_v0_a_guarded_report_without_a_usable_answer_may_be_repeated(
    handler: Handler, status: int | None, outcome: Outcome
) -> None:
    link, _ = v0_link(handler)
    [settlement] = await link.report([(claim(), outcome)])
    assert settlement.fate is Fate.RETRY
    assert settlement.status == status


@pytest.mark.parametrize(("handler", "status"), UNANSWERED)
async def test_v0_a_requeue_or_release_that_may_have_arrived_is_of_unknown_fate(
    handler: Handler, status: int | None
) -> None:
    link, _ = v0_link(handler)
    for settlements in (
        await link.report([(claim("s1"), Requeued(5))]),
        await link.report(released(claim("s2"))),
    ):
        assert [settlement.fate for settlement in settlements] == [Fate.UNKNOWN]
        assert settlements[0].status == status


async def test_v0_anything_that_provably_was_not_sent_may_be_repeated() -> None:
    link, _ = v0_link(raising(httpx.ConnectError("refused")))
    settlements = await link.report([(claim("s1"), DONE), (claim("s2"), Requeued(5))])
    settlements += await link.report(released(claim("s3")))
    assert [settlement.fate for settlement in settlements] == [Fate.RETRY] * 3


@pytest.mark.parametrize(("status", "fate"), REFUSALS)
async def test_v0_each_refusal_has_its_fate(status: int, fate: Fate) -> None:
    link, _ = v0_link(lambda _: answer(status, {"detail": "why"}))
    settlements = await link.report([(claim("s1"), DONE), (claim("s2"), Requeued(5))])
    settlements += await link.report(released(claim("s3")))
    assert {settlement.fate for settlement in settlements} == {fate}
    assert {settlement.status for settlement in settlements} == {status}


async def test_v0_not_queued_after_a_lost_answer_reads_as_probably_recorded() -> None:
    link, _ = v0_link(one_after_another(raising(httpx.ReadError("reset")), answer(400)))
    [first] = await link.report([(claim(), DONE)])
    [second] = await link.report([(claim(), DONE)])
    [third] = await link.report([(claim(), DONE)])
    assert (first.fate, second.fate, third.fate) == (Fate.RETRY, Fate.DROPPED, Fate.DROPPED)
    assert "probably recorded" in second.detail
    assert "probably recorded" not in third.detail


async def test_v0_a_release_after_a_report_of_unknown_fate_is_never_sent() -> None:
    link, double = v0_link(raising(httpx.ReadError("reset")))
    await link.report([(claim(), DONE)])
    [settlement] = await link.report(released(claim()))
    assert settlement.fate is Fate.UNKNOWN
    assert double.calls == ["POST executed"]


async def test_v0_a_release_after_a_report_that_was_cancelled_in_flight_is_never_sent(
    autojump_clock: MockClock,
) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await trio.sleep(10)
        return answer(200)

    link, double = v0_link(handler)
    await cancelled(lambda: link.report([(claim(), DONE)]), 1)
    [settlement] = await link.report(released(claim()))
    assert settlement.fate is Fate.UNKNOWN
    assert double.calls == ["POST executed"]


async def test_v0_a_state_that_is_claimed_again_starts_without_doubt() -> None:
    link, _ = v0_link(
        one_after_another(raising(httpx.ReadError("reset")), v0_claimed(v0_state("s1")), done())
    )
    [settlement] = await link.report([(claim("s1"), Requeued(1))])
    assert settlement.fate is Fate.UNKNOWN
    [again] = await link.claim({"A": 1}, 1)
    assert [s.fate for s in await link.report(released(again))] == [Fate.SETTLED]


async def test_v0_settlements_come_in_the_order_of_the_items_however_the_answers_come(
    autojump_clock: MockClock,
) -> None:
    running = 0
    peak = 0

    async def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        number = int(request.url.path.split("/")[5])
        await trio.sleep(10 - number)
        running -= 1
        return done() if number % 2 else answer(404)

    link, _ = v0_link(handler, concurrency=3)
    settlements = await link.report([(claim(str(number)), DONE) for number in range(9)])
    assert [s.status for s in settlements] == [404, 200, 404, 200, 404, 200, 404, 200, 404]
    assert peak == 3


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def endless() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), object(), Unprintable(), endless(), "lone \udcff", {1, object()}]
)
async def test_an_outcome_without_a_json_form_is_refused_alone(value: Any) -> None:
    items: list[tuple[Claim, Outcome]] = [
        (claim("s1", "t1"), DONE),
        (claim("s2", "t2"), Pruned({"x": value})),
        (claim("s3", "t3"), Executed([{"x": "NaN"}])),
    ]
    v0, v0_double = v0_link(lambda _: done())
    native, native_double = native_link(settled)
    for link in (v0, native):
        settlements = await link.report(items)
        assert [s.fate for s in settlements] == [Fate.SETTLED, Fate.REFUSED, Fate.SETTLED]
        assert "JSON" in settlements[1].detail
    assert v0_double.calls == ["POST executed"] * 2
    assert [item["state_id"] for item in native_double.bodies("outcomes")[0]] == ["s1", "s3"]
    # It is not tried without its lines, nor does that hold the others up.
    items = [(each, replace(outcome, logs=({"text": "a line"},))) for each, outcome in items]
    assert [s.fate for s in await native.report(items)] == [Fate.SETTLED, Fate.REFUSED, Fate.SETTLED]


async def test_native_what_a_report_loses_because_it_is_too_large_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse_large(request: httpx.Request) -> httpx.Response:
        return answer(413) if b"a line" in request.content or b"rows" in request.content else settled(request)

    lines, rows = ({"text": "a line"},), CheckpointText(1, '{"rows": 7}')
    items: list[tuple[Claim, Report]] = [
        (claim("s1", "t1"), DONE),
        (claim("s2", "t2"), replace(DONE, logs=lines)),
        (claim("s3", "t3"), Released(logs=lines, checkpoint=rows)),
        (claim("s4", "t4"), Errored("it broke", checkpoint=rows)),
    ]
    link, _ = native_link(refuse_large)
    assert [settlement.fate for settlement in await link.report(items)] == [Fate.SETTLED] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    messages = [
        record.getMessage().partition(" (with it, the report was refused: ")[0] for record in caplog.records
    ]
    lost = "its checkpoint: work after the last stored one is repeated"
    assert messages == [
        "state s2 (d) was reported without its log lines",
        f"state s4 (d) was reported without {lost}",
        f"state s3 (d) was reported without its log lines and {lost}",
    ]


# -- native: claiming


async def test_native_claims_carry_the_lease_and_the_request_its_own_id() -> None:
    link, double = native_link(lambda _: answer(200, {"states": [native_state("s1")]}))
    [first] = await link.claim({"A": 2}, 5, wait=90)
    await link.claim({"A": 2}, 5)
    assert (first.token, first.attempt, first.run_id) == ("t-s1", 1, "r")
    assert first.lease == pytest.approx(60, abs=1)
    requests = [NativeClaimRequest.model_validate(body) for body in double.bodies("claim")]
    assert requests[0].limits == {"A": 2}
    assert (requests[0].limit, requests[0].wait_ms, requests[1].wait_ms) == (5, 15_000, 0)
    assert requests[0].claim_id != requests[1].claim_id


async def test_native_a_lease_that_never_ends_has_no_length() -> None:
    lease = {"token": "t", "ttl_ms": None, "attempt": 1, "deliveries": 0}
    link, _ = native_link(lambda _: answer(200, {"states": [native_state("s1", lease=lease)]}))
    [first] = await link.claim({"A": 2}, 5)
    assert first.lease is None


async def test_native_a_long_poll_may_take_as_long_as_it_is_to_wait(autojump_clock: MockClock) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await trio.sleep(44)
        return answer(200, {"states": []})

    link, double = native_link(handler)
    assert await link.claim({"A": 2}, 5, wait=15) == []
    assert len(double.requests) == 1


async def test_native_a_claim_without_an_answer_is_repeated_under_the_same_id(
    autojump_clock: MockClock,
) -> None:
    link, double = native_link(
        one_after_another(
            raising(httpx.ReadError("reset")),
            answer(200, {"states": [native_state("s1")]}),
        )
    )
    [first] = await link.claim({"A": 2}, 5, wait=10)
    assert first.state_id == "s1"
    one, two = double.bodies("claim")
    assert one["claim_id"] == two["claim_id"]
    assert two["wait_ms"] == 0
    # ttl is what was left when the repeated claim was sent; the caller counts from its own call.
    assert first.lease == pytest.approx(60 + trio.current_time())


async def test_native_a_claim_without_a_usable_answer_is_repeated_when_the_server_says_but_within_5_s(
    autojump_clock: MockClock,
) -> None:
    link, _ = native_link(
        one_after_another(
            httpx.Response(502, text="<html>", headers={"Retry-After": "3"}),
            httpx.Response(502, text="<html>", headers={"Retry-After": "90"}),
            answer(200, {"states": [native_state("s1")]}),
        )
    )
    assert await link.claim({"A": 2}, 5)
    assert trio.current_time() == pytest.approx(3 + 5)


async def test_native_a_repeated_claim_that_brings_nothing_voids_its_id(autojump_clock: MockClock) -> None:
    """The first may wait at the server still: on a connection of which only this side knows that it broke."""
    link, double = native_link(
        one_after_another(
            raising(httpx.ReadError("reset")), answer(200, {"states": []}), answer(200, {"items": []})
        )
    )
    assert await link.claim({"A": 2}, 5, wait=10) == []
    assert double.calls == ["POST claim"] * 2 + ["POST release"]
    assert double.bodies("release")[0]["claim_id"] == double.bodies("claim")[0]["claim_id"]


async def test_native_a_claim_that_is_given_up_is_released_by_its_id(autojump_clock: MockClock) -> None:
    link, double = native_link(
        lambda request: (
            answer(200, {"items": []})
            if request.url.path.endswith("release")
            else httpx.Response(502, text="<html>")
        )
    )
    with pytest.raises(ManagerUnavailable):
        await link.claim({"A": 2}, 5)
    claim_ids = {body["claim_id"] for body in double.bodies("claim")}
    assert double.calls == ["POST claim"] * 3 + ["POST release"]
    [release] = [ReleaseRequest.model_validate(body) for body in double.bodies("release")]
    assert {release.claim_id} == claim_ids


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (raising(httpx.ConnectError("refused")), ManagerUnavailable),
        (lambda _: answer(503), ManagerUnavailable),
        (lambda _: answer(401), KeyRefused),
        (lambda _: answer(404), NotFound),
        (lambda _: answer(422), RequestRefused),
    ],
)
async def test_native_a_claim_that_took_nothing_for_sure_is_neither_repeated_nor_released(
    handler: Handler, kind: type[Exception]
) -> None:
    link, double = native_link(handler)
    with pytest.raises(kind):
        await link.claim({"A": 2}, 5)
    assert double.calls == ["POST claim"]


async def test_native_a_cancelled_claim_is_released_by_its_id_before_the_cancellation_leaves(
    autojump_clock: MockClock,
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("claim"):
            await trio.sleep_forever()
        return one_failure_then_ok(request)

    one_failure_then_ok = one_after_another(raising(httpx.ReadError("reset")), answer(200, {"items": []}))
    link, double = native_link(handler)
    await cancelled(lambda: link.claim({"A": 2}, 5, wait=15), 1)
    assert double.calls == ["POST claim", "POST release", "POST release"]
    assert double.bodies("release")[1] == {
        "states": None,
        "claim_id": double.bodies("claim")[0]["claim_id"],
        "delay_ms": 0,
    }
    assert trio.current_time() < 2


async def test_native_a_cancelled_claim_leaves_in_bounded_time_with_the_server_away(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    link, _ = native_link(silent)
    await cancelled(lambda: link.claim({"A": 2}, 5), 1)
    assert trio.current_time() == pytest.approx(4)
    assert "leases have to expire" in caplog.text
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled, lambda: link.claim({"A": 2}, 5), 1)
        await trio.sleep(2)
        link.v0.shields.settle_by(trio.current_time() + 0.5)
    assert trio.current_time() == pytest.approx(4 + 2.5)


async def test_native_a_cancelled_claim_is_released_through_a_gateway_without_a_route(
    autojump_clock: MockClock,
) -> None:
    async def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("claim"):
            await trio.sleep_forever()
        return answer(404, {"detail": "no route"}) if trio.current_time() < 2 else answer(200, {"items": []})

    link, double = native_link(handler)
    await cancelled(lambda: link.claim({"A": 2}, 5, wait=15), 1)
    assert double.calls.count("POST release") > 1
    assert 2 <= trio.current_time() < 4


async def test_native_a_malformed_state_does_not_hide_the_good_ones_and_is_released() -> None:
    bad = native_state("bad", inputs="no object")
    link, double = native_link(
        lambda request: (
            settled(request)
            if request.url.path.endswith("release")
            else answer(200, {"states": [native_state("good"), bad, 5]})
        )
    )
    claims = await link.claim({"A": 3}, 3)
    assert [one.state_id for one in claims] == ["good"]
    assert double.bodies("release")[0]["states"] == [{"state_id": "bad", "token": "t-bad"}]


# -- native: reporting and releasing


def leased(number: int) -> Claim:
    return claim(f"s{number}", f"t{number}")


async def test_native_reports_travel_as_one_batch_in_the_form_of_the_wire() -> None:
    link, double = native_link(settled)
    final = Errored("why", retry=False)
    outcomes: list[Outcome] = [DONE, Errored("why"), final, Pruned({"n": 1}), Requeued(1.5)]
    outcomes += [Waiting("paid", 1.5), Waiting("paid")]
    settlements = await link.report([(leased(i), outcome) for i, outcome in enumerate(outcomes)])
    assert [s.fate for s in settlements] == [Fate.SETTLED] * 7
    [request] = double.requests
    items = [outcome_item.validate_python(item) for item in json.loads(request.content)]
    names = ["executed", "errored", "errored", "pruned", "requeued", "waiting", "waiting"]
    assert [item.outcome for item in items] == names
    assert [item.token for item in items] == ["t0", "t1", "t2", "t3", "t4", "t5", "t6"]
    sent = json.loads(request.content)
    assert [item.get("retry") for item in sent] == [None, None, False, None, None, None, None]
    assert [(item["event"], item.get("timeout_ms")) for item in sent[5:]] == [("paid", 1500), ("paid", None)]


def test_an_outbox_keeps_for_how_long_a_node_waits() -> None:
    for outcome in (Waiting("paid", 1.5), Waiting("paid")):
        body = outbox_store._body(claim(), outcome)
        assert body is not None
        assert outbox_store._parsed(body) == (claim(), outcome)


@pytest.mark.parametrize(
    ("result", "fate"),
    [
        ("ok", Fate.SETTLED),
        ("duplicate", Fate.SETTLED),
        ("stale", Fate.DROPPED),
        ("unknown", Fate.DROPPED),
        ("invalid", Fate.REFUSED),
    ],
)
async def test_native_each_result_has_its_fate(result: str, fate: Fate) -> None:
    link, double = native_link(lambda request: settled(request, result))
    settlements = await link.report([(leased(1), DONE), (leased(2), DONE)])
    settlements += await link.report(released(leased(3), leased(4)))
    assert [s.fate for s in settlements] == [fate] * 4
    assert double.calls == ["POST outcomes", "POST release"]


@pytest.mark.parametrize(
    ("handler", "fate", "status"),
    [
        *((handler, Fate.RETRY, status) for handler, status in UNANSWERED),
        (raising(httpx.ConnectError("refused")), Fate.RETRY, None),
        (lambda _: answer(404), Fate.RETRY, 404),
        (lambda _: answer(405), Fate.RETRY, 405),
        (lambda _: answer(401), Fate.KEY_REFUSED, 401),
        (lambda _: answer(200, {"items": []}), Fate.RETRY, 200),
        (lambda _: answer(200, {"items": [{"state_id": "other", "result": "ok"}] * 2}), Fate.RETRY, 200),
    ],
)
async def test_native_a_batch_that_failed_as_a_whole_gives_every_item_that_fate(
    handler: Handler, fate: Fate, status: int | None
) -> None:
    link, _ = native_link(handler)
    settlements = await link.report([(leased(1), DONE), (leased(2), DONE)])
    settlements += await link.report(released(leased(3), leased(4)))
    assert [(s.fate, s.status) for s in settlements] == [(fate, status)] * 4


@pytest.mark.parametrize("status", [413, 422])
async def test_native_a_refused_batch_is_halved_until_only_the_item_at_fault_is_refused(status: int) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return answer(status) if b'"s5"' in request.content else settled(request)

    link, double = native_link(handler)
    settlements = await link.report([(leased(i), DONE) for i in range(9)])
    assert [s.fate for s in settlements] == [Fate.REFUSED if i == 5 else Fate.SETTLED for i in range(9)]
    assert len(double.requests) < 9


async def test_native_batches_stay_below_the_limits_of_items_and_of_bytes() -> None:
    link, double = native_link(settled)
    await link.report([(leased(i), Executed([])) for i in range(MAX_BATCH + 1)])
    assert [len(body) for body in double.bodies("outcomes")] == [MAX_BATCH, 1]
    double.requests.clear()
    big = Executed([{"text": "x" * 3_000_000}])
    await link.report([(leased(1), big), (leased(2), big), (leased(3), DONE)])
    assert [len(body) for body in double.bodies("outcomes")] == [1, 2]


async def test_native_an_outage_is_met_once_and_not_by_every_batch(autojump_clock: MockClock) -> None:
    link, double = native_link(raising(httpx.ReadError("reset")))
    settlements = await link.report([(leased(i), Executed([])) for i in range(3 * MAX_BATCH)])
    assert {s.fate for s in settlements} == {Fate.RETRY}
    assert len(double.requests) == 1


async def test_native_claims_made_without_a_lease_are_reported_and_released_over_v0() -> None:
    link, double = native_link(
        lambda request: settled(request) if "/exotrio/" in request.url.path else answer(404)
    )
    items: list[tuple[Claim, Outcome]] = [(claim("old"), DONE), (leased(1), DONE)]
    assert [s.fate for s in await link.report(items)] == [Fate.DROPPED, Fate.SETTLED]
    assert [s.fate for s in await link.report(released(leased(2), claim("older")))] == [
        Fate.SETTLED,
        Fate.DROPPED,
    ]
    assert sorted(double.calls) == ["POST executed", "POST outcomes", "POST re-enqueue-after", "POST release"]


async def test_nothing_to_report_sends_nothing() -> None:
    for link, double in (v0_link(settled), native_link(settled)):
        assert await link.report([]) == []
        assert double.requests == []


async def test_native_an_item_the_server_fails_at_does_not_take_its_neighbours_along() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return answer(500, {"detail": "no"}) if b'"s5"' in request.content else settled(request)

    link, _ = native_link(handler)
    settlements = await link.report([(leased(i), DONE) for i in range(9)])
    assert [s.fate for s in settlements] == [Fate.FAILED if i == 5 else Fate.SETTLED for i in range(9)]


async def test_native_a_server_that_fails_at_everything_gets_few_requests() -> None:
    link, double = native_link(lambda _: answer(500, {"detail": "no"}))
    settlements = await link.report([(leased(i), DONE) for i in range(64)])
    assert {s.fate for s in settlements} == {Fate.FAILED, Fate.RETRY}
    assert len(double.requests) < 10
    assert sum(s.fate is Fate.FAILED for s in settlements) <= 2
