"""Every route, requested without a key and without a session."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import trio
import trio.testing

from tests.fuzz.connection import exchange
from tests.fuzz.knowledge import World
from tests.fuzz.oracle import compare
from tests.fuzz.requests import right_requests
from tests.fuzz.routes import HOST, KEY, ORIGIN, TARGETS, Target
from tests.fuzz.wire import Request, Response, read_responses
from tests.fuzz.world import dump, opened, world

OPEN = {
    *("/health", "/livez", "/readyz", "/openapi.json", "/docs", "/sign-in", "/static/{version}/{name}"),
    "/event",  # only with a link, which sends one event: manager/web/test_event_links
}
"""Paths that need no key. Each addition needs a reason."""
CLOSED = [target for target in TARGETS if target.path not in OPEN]
GUESSES = [
    [],
    [(b"x-api-key", b"")],
    [(b"x-api-key", KEY[:-1].encode())],
    [(b"authorization", b"Bearer " + KEY.encode())],
    [(b"cookie", b"exotrio_8000=guess")],
]


@pytest.mark.parametrize("target", CLOSED, ids=str)
def test_a_client_without_a_key_learns_nothing_and_changes_nothing(target: Target) -> None:
    trio.run(partial(_try, world(), target), clock=trio.testing.MockClock(autojump_threshold=0))


async def _try(made: World, target: Target) -> None:
    async with opened(made) as here:
        before = await here.service.store.read(dump)
        for request in islice(right_requests(made, target), 3):
            for guess in GUESSES:
                answer = await _ask(here.app, replace(request, headers=guess))
                if target.is_page:
                    assert answer.status in (303, 401)
                    assert answer.status == 401 or answer.header(b"location").startswith(b"/sign-in")
                else:
                    assert answer.status == 401
                for texts in made.known.values():
                    assert not any(len(text) > 12 and text.encode() in answer.body for text in texts)
        compare(before, await here.service.store.read(dump), "a client without a key")


async def _ask(app: object, request: Request) -> Response:
    headers = [(b"host", HOST.encode()), (b"origin", ORIGIN.encode()), (b"connection", b"close")]
    sent = replace(request, headers=[*headers, *request.headers])
    (answer,) = read_responses(await exchange(app, [(sent.as_bytes(), 0)]))
    return answer
