"""Every route, with requests that are nearly right, wrong, or anything at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exotrio._wire.keys import NewKey, make_key
from exotrio.manager.engine.keys import add_key
from tests.fuzz.connection import exchange
from tests.fuzz.knowledge import World
from tests.fuzz.oracle import check, compare, quiet_log
from tests.fuzz.requests import SIGNED_IN, any_requests, requests, right_requests
from tests.fuzz.routes import KEY, TARGETS, Target, sign_in
from tests.fuzz.wire import Request, Response, read_responses
from tests.fuzz.world import Opened, dump, open_client_to, opened, world
from tests.support.manager import recount

T = TypeVar("T")

PROFILE = settings().max_examples
IN_A_ROW = 4 if PROFILE > 100 else 2
LOOKS = [target for target in TARGETS if target.method == "GET"]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@settings(suppress_health_check=list(HealthCheck), max_examples=max(2, PROFILE // 12))
@given(data=st.data())
def test_a_route_takes_or_refuses_whatever_comes(target: Target, data: st.DataObject) -> None:
    made = world()
    drawn = requests(made, target) | requests(made, target, allowed=True)
    sequence = data.draw(st.lists(drawn, min_size=IN_A_ROW, max_size=IN_A_ROW))
    if target.method != "GET":
        # What was taken must be fit to be shown.
        looks = st.sampled_from(LOOKS).flatmap(lambda page: requests(made, page, allowed=True))
        sequence += data.draw(st.lists(looks, min_size=IN_A_ROW, max_size=IN_A_ROW))
    play(sequence)


@settings(suppress_health_check=list(HealthCheck), max_examples=PROFILE)
@given(data=st.data())
def test_requests_of_all_kinds_leave_the_database_sound(data: st.DataObject) -> None:
    play(data.draw(st.lists(any_requests(world()), min_size=1, max_size=10)))


def test_the_fuzz_begins_with_right_requests() -> None:
    """Without them it would not get behind the first check of a route."""
    made = world()
    refusing = [str(target) for target in TARGETS if not _run(partial(_takes, made), target)]
    assert len(refusing) <= len(TARGETS) // 10, f"send in world.py what these take: {refusing}"


async def _takes(made: World, target: Target) -> bool:
    async with opened(made) as here:
        for request in right_requests(made, target):
            if (await _ask(here, request)).status < 400:
                return True
    return False


MAY_CHANGE = {
    "read:*": {"sessions", "audit"},
    "admin": {"sessions", "sign_in_links", "keys", "audit", "meta"},
}
"""Tables that requests with a key of a scope may change; of other scopes, all but those below."""
STAY = {
    "runtime:*": {"graphs", "templates", "secrets", "limits", "cron_triggers", "keys", "sign_in_links"},
    "trigger:*": {"graphs", "templates", "secrets", "limits", "cron_triggers", "keys", "nodes", "workers"},
    "graphs:*": {"keys", "sign_in_links", "workers", "checkpoints"},
    "runtime:nowhere": {"graphs", "runs", "states", "secrets", "limits", "keys", "checkpoints"},
}


@pytest.mark.parametrize("scope", [*MAY_CHANGE, *STAY])
@settings(suppress_health_check=list(HealthCheck), max_examples=max(2, PROFILE // 12))
@given(data=st.data())
def test_requests_with_a_key_change_only_what_its_scope_allows(scope: str, data: st.DataObject) -> None:
    with quiet_log():
        sequence = data.draw(st.lists(any_requests(world()), min_size=1, max_size=10))
        _run(partial(_play_with_a_key, scope), sequence)


async def _play_with_a_key(scope: str, sequence: Sequence[Request]) -> None:
    async with opened(world()) as here:
        store, key = here.service.store, make_key()
        new = NewKey(name="fuzz", digest=key.digest, scopes=[scope])
        await store.write(add_key, key.id, new)
        async with open_client_to(here.app) as client:
            cookie = await sign_in(client, key.text)
        before = await store.read(dump)
        for request in sequence:
            headers = [
                (name, value.replace(KEY.encode(), key.text.encode())) for name, value in request.headers
            ]
            response = await _ask(
                replace(here, cookie=cookie),
                replace(request, headers=headers, body=request.body.replace(KEY.encode(), key.text.encode())),
            )
            assert response.status != 500, request
            after = await store.read(dump)
            changed = {table for table in after if before[table] != after[table]}
            is_refused = response.status >= 400 or request.method in ("GET", "HEAD")
            may_change = set() if is_refused else MAY_CHANGE.get(scope, set(after) - STAY.get(scope, set()))
            assert changed <= may_change | {"discarded"}, (
                f"{request.method} {request.target!r}: {response.status}"
            )
            before = after


def play(sequence: Sequence[Request]) -> None:
    """Send requests to a fresh copy of the world, one after the other."""
    with quiet_log():
        _run(_play, sequence)


def _run(play: Callable[[Any], Awaitable[T]], what: Any) -> T:
    return trio.run(play, what, clock=trio.testing.MockClock(autojump_threshold=0))


async def _play(sequence: Sequence[Request]) -> None:
    async with opened(world()) as here:
        store = here.service.store
        before = await store.read(dump)
        for request in sequence:
            response = await _ask(here, request)
            check(request, response)
            after = await store.read(dump)
            while after["discarded"]:
                # What a deleted graph leaves is cleared away in the background.
                await trio.sleep(60)
                after = await store.read(dump)
            if response.status >= 400 or request.method in ("GET", "HEAD"):
                compare(before, after, f"{request.method} {request.target!r}: {response.status}")
            before = after
        await store.read(recount)


async def _ask(here: Opened, request: Request) -> Response:
    headers = [(name, value.replace(SIGNED_IN, here.cookie)) for name, value in request.headers]
    sent = replace(request, headers=[*headers, (b"connection", b"close")])
    (response,) = read_responses(await exchange(here.app, [(sent.as_bytes(), 0)]))
    return response
