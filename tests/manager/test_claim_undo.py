"""A claim whose reply cannot be written is undone: no state is held by a runtime that does not know it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from exotrio.manager import create_app
from exotrio.manager.engine import claims, triggers
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.support.helpers import SettableClock, node_name, ok, place
from tests.support.manager import (
    KEY,
    Manager,
    gate,
    held_up,
    open_manager,
    recount,
    refuse_states,
    take_states,
)

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

V0 = "/v0/namespace/tests/states/enqueue"
NATIVE = "/exotrio/v1/namespace/tests/claim"
ALONG = "/exotrio/v1/namespace/tests/outcomes"
BODIES: dict[str, Any] = {
    V0: {"nodes": [node_name("a")], "batch_size": 5},
    NATIVE: {"worker_id": "w", "limits": {node_name("a"): 5}, "limit": 5, "claim_id": "c", "wait_ms": 0},
}
BODIES[ALONG] = [{"claim": {**BODIES[NATIVE], "at_once": 5}}]
both = pytest.mark.parametrize("path", [V0, NATIVE], ids=["v0", "native"])
each = pytest.mark.parametrize("path", [V0, NATIVE, ALONG], ids=["v0", "native", "with outcomes"])


class Gone(OSError):
    pass


async def ask(manager: Manager, path: str, send: Send, **more: Any) -> None:
    """Send a claim as a server would, with a client that reads by ``send``."""
    body = json.dumps({**BODIES[path], **more} if more else BODIES[path]).encode()
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await trio.sleep_forever()
        raise AssertionError

    headers = [(b"host", b"localhost"), (b"x-api-key", KEY.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    app = create_app(manager.service, key=KEY)
    await app({**scope, "query_string": b"", "root_path": ""}, receive, send)


async def lose(manager: Manager, path: str, meanwhile: Callable[[Message], Awaitable[object]]) -> None:
    """Send a claim whose client is gone when the reply is written, after what happens meanwhile."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await meanwhile(message)
            raise Gone

    with pytest.raises(Gone):
        await ask(manager, path, send)


async def send_as_servers_do(message: Message) -> None:
    await trio.lowlevel.checkpoint_if_cancelled()  # before the body


def first_in(message: Message) -> str:
    state_id: str = json.loads(message["body"])["states"][0]["state_id"]
    return state_id


async def ready(manager: Manager) -> Flow:
    return await Flow.start(manager.api, place("a"), runs=2)


async def check_claimable(manager: Manager) -> None:
    await manager.service.store.read(recount)
    states = ok(await manager.api.claim([node_name("a")], 10))["states"]
    assert len(states) == 2
    await manager.service.store.read(recount)


@each
@pytest.mark.parametrize("breaks_at", ["http.response.start", "http.response.body"])
async def test_a_reply_that_cannot_be_written_undoes_the_claim(
    manager: Manager, path: str, breaks_at: str
) -> None:
    async def send(message: Message) -> None:
        if message["type"] == breaks_at:
            raise Gone

    await ready(manager)
    with pytest.raises(Gone):
        await ask(manager, path, send)
    await check_claimable(manager)


@each
async def test_a_claim_that_cannot_be_undone_is_undone_as_soon_as_it_can(manager: Manager, path: str) -> None:
    await ready(manager)
    await lose(manager, path, lambda _: refuse_states(manager))
    await take_states(manager)
    await check_claimable(manager)


async def test_a_v0_claim_that_is_undone_late_does_not_release_states_that_were_claimed_again() -> None:
    async def claim_again(_: Message) -> None:
        clock.advance(1)
        for state in await manager.service.store.read(states_of):
            ok(await manager.api.requeue(state, 1))
        clock.advance(1)
        assert len(ok(await manager.api.claim([node_name("a")], 1))["states"]) == 1

    def states_of(view: View) -> list[str]:
        return [view.state_id(row["seq"]) for row in view.execute("SELECT seq FROM states")]

    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await ready(manager)
        await lose(manager, V0, claim_again)
        assert len(ok(await manager.api.claim([node_name("a")], 10))["states"]) == 1, "the other is taken"
        await manager.service.store.read(recount)


@each
async def test_a_reply_that_is_cancelled_while_it_is_written_undoes_the_claim(
    manager: Manager, path: str
) -> None:
    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            scope.cancel()
            await trio.sleep_forever()

    await ready(manager)
    with trio.CancelScope() as scope:
        await ask(manager, path, send)
    assert scope.cancelled_caught
    await check_claimable(manager)


async def test_a_poll_cancelled_at_the_moment_when_it_is_served_is_undone(manager: Manager) -> None:
    async def poll() -> None:
        with scope:
            await ask(manager, NATIVE, send_as_servers_do, wait_ms=15_000)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        await Flow.deploy(manager.api, place("a"))
        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            await manager.service.store.write(triggers.trigger, "tests", "graph", triggers.NewRun())
            scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        await check_claimable(manager)


@each
async def test_a_claim_cancelled_while_it_is_committed_is_undone(path: str, tmp_path: Path) -> None:
    async def claim() -> None:
        with scope:
            await ask(manager, path, send_as_servers_do)

    scope = trio.CancelScope()
    with trio.fail_after(60):
        async with open_manager(tmp_path / "state.db") as manager:
            await ready(manager)
            async with held_up(manager.service.store.write) as nursery:
                nursery.start_soon(claim)
                # The claim waits behind the held use case: the writer will run it after the cancel.
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
            assert scope.cancelled_caught
            await check_claimable(manager)


@both
async def test_a_claim_that_is_not_written_in_time_is_given_up_as_uncertain(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    with trio.fail_after(60):
        async with open_manager(tmp_path / "state.db") as manager:
            await ready(manager)
            async with held_up(manager.service.store.write):
                with monkeypatch.context() as impatient:
                    impatient.setattr("exotrio.manager.api.json.CLAIM_LIMIT", 0.1)
                    await ask(manager, path, send)
            # Not 503, which says that nothing was taken.
            assert statuses == [504]
            # Given up before the writer came to it, so it never happened.
            await check_claimable(manager)


@both
@pytest.mark.parametrize("closing", [False, True], ids=["while open", "while closing"])
async def test_a_claim_that_is_committed_after_it_was_given_up_is_undone(
    path: str, closing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claims.claim
    with gate() as closed, trio.fail_after(60):

        def slow_claim(*args: Any) -> WithEffects[claims.Claimed]:
            claimed = claim(*args)
            closed.hold()
            return claimed

        async with open_manager(tmp_path / "state.db") as manager:
            await ready(manager)
            with monkeypatch.context() as slow:
                slow.setattr("exotrio.manager.api.json.CLAIM_LIMIT", 0.1)
                slow.setattr("exotrio.manager.engine.claims.claim", slow_claim)
                await ask(manager, path, send_as_servers_do)
            closed.open()
            if not closing:
                await manager.service.store.write(lambda tx: None)
                await trio.testing.wait_all_tasks_blocked()
                await manager.service.store.write(lambda tx: None)
                await check_claimable(manager)
        if closing:
            async with open_manager(tmp_path / "state.db") as manager:
                await check_claimable(manager)


async def test_undoing_does_not_release_states_that_were_reported_meanwhile(manager: Manager) -> None:
    async def report(message: Message) -> None:
        ok(await manager.api.executed(first_in(message), {"v": "1"}))

    await ready(manager)
    await lose(manager, V0, report)
    await manager.service.store.read(recount)
    assert len(ok(await manager.api.claim([node_name("a")], 10))["states"]) == 1


async def test_undoing_does_not_release_states_that_another_runtime_holds() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await ready(manager)
        held: list[str] = []

        async def hand_over(message: Message) -> None:
            ok(await manager.api.requeue(first_in(message), 1))
            clock.advance(1)
            (state,) = ok(await manager.remote.native_claim({node_name("a"): 5}))["states"]
            held.append(state["state_id"])

        await lose(manager, V0, hand_over)
        (state,) = ok(await manager.api.claim([node_name("a")], 10))["states"]
        assert state["state_id"] not in held


async def test_undoing_does_not_release_states_that_a_repeated_claim_returned_since(manager: Manager) -> None:
    await ready(manager)
    again: list[Any] = []

    async def repeat(_: Message) -> None:
        again.extend(await repeated(manager))

    await lose(manager, NATIVE, repeat)
    assert len(again) == 2
    held = [{"state_id": state["state_id"], "token": state["lease"]["token"]} for state in again]
    items = ok(await manager.remote.heartbeat(states=held))["items"]
    assert [item["result"] for item in items] == ["ok", "ok"]
    assert len(await repeated(manager)) == 2, "nor is the id void"


async def test_a_reply_to_a_repeated_claim_that_cannot_be_written_undoes_it(manager: Manager) -> None:
    await ready(manager)
    assert len(await repeated(manager)) == 2
    await lose(manager, NATIVE, send_as_servers_do)
    await check_claimable(manager)


async def repeated(manager: Manager) -> list[Any]:
    """Claim under the very id that ``ask`` uses."""
    states: list[Any] = ok(await manager.remote.native_claim({node_name("a"): 5}, claim_id="c"))["states"]
    return states
