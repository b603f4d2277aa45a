"""A connection takes or refuses whatever bytes a client sends, however slowly."""

from __future__ import annotations

from collections.abc import Sequence

import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.connection import STREAM, exchange
from tests.fuzz.oracle import check_any, compare, quiet_log
from tests.fuzz.requests import SIGNED_IN
from tests.fuzz.streams import Stream, streams
from tests.fuzz.wire import Response, read_responses
from tests.fuzz.world import dump, opened, world
from tests.support.manager import recount

PROFILE = settings().max_examples
HEAD_LIMIT = 10.0


@settings(suppress_health_check=list(HealthCheck), max_examples=3 * PROFILE)
@given(data=st.data())
def test_a_connection_takes_or_refuses_whatever_comes(data: st.DataObject) -> None:
    stream = data.draw(streams(world()))
    with quiet_log():
        trio.run(_in_virtual_time, stream, clock=trio.testing.MockClock(autojump_threshold=0))


async def _in_virtual_time(stream: Stream) -> None:
    async with opened(world()) as here:
        before = await here.service.store.read(dump)
        pieces = [(piece.replace(SIGNED_IN, here.cookie), pause) for piece, pause in stream.pieces]
        answers = read_responses(await exchange(here.app, pieces, half_close=stream.half_close))
        _check(answers)
        # The sum: a piece may be empty, or a head be in several.
        if sum(pause for _, pause in stream.pieces) < HEAD_LIMIT:
            _count(stream, answers)
        if _was_refused(stream, answers):
            compare(before, await here.service.store.read(dump), f"{stream}: {answers}")
        await here.service.store.read(recount)


def _check(answers: Sequence[Response]) -> None:
    for answer in answers:
        check_any(answer)
    assert not any(_closes(answer) for answer in answers[:-1]), "something was answered after the last answer"


def _closes(answer: Response) -> bool:
    return answer.header(b"connection") == b"close"


def _count(stream: Stream, answers: Sequence[Response]) -> None:
    """Check that each request of a client that did nothing wrong has its answer."""
    ends_early = any(_closes(answer) or answer.media_type == STREAM for answer in answers)
    if not (stream.edited or stream.half_close or ends_early):
        assert len(answers) == stream.requests, "requests and answers differ in number"


def _was_refused(stream: Stream, answers: Sequence[Response]) -> bool:
    """Return whether nothing that was sent can have been done."""
    # An answer to a client that closed is not sent.
    return not stream.half_close and all(answer.status >= 400 for answer in answers)
