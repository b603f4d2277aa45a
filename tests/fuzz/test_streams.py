"""Whatever bytes a client sends, and however slowly: in virtual time, and on a real TCP socket."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exotrio.manager import Limits, serve
from tests.fuzz.connection import STREAM, Piece, converse, exchange
from tests.fuzz.oracle import check_any, compare, quiet_log
from tests.fuzz.requests import SIGNED_IN
from tests.fuzz.routes import KEY
from tests.fuzz.streams import Stream, streams
from tests.fuzz.wire import Response, read_responses
from tests.fuzz.world import SETTINGS, dump, opened, world
from tests.support.helpers import eventually
from tests.support.manager import recount

PROFILE = settings().max_examples
SPEED = 20.0
"""How many times faster the server on the real socket loses its patience, and the client sends."""
HURRIED = Limits(idle=0.6, head=10 / SPEED, body=10 / SPEED)
MAX_PAUSE = 0.8
HEAD_LIMIT = 10.0
PROBE = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


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


@pytest.fixture
def key_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRETS_ENCRYPTION_KEY", SETTINGS.secrets_encryption_key or "")


# In real time shrinking would take minutes.
@pytest.mark.usefixtures("key_for_secrets")
@settings(
    suppress_health_check=list(HealthCheck),
    max_examples=max(1, PROFILE // 2),
    phases=set(Phase) - {Phase.shrink},
)
@given(data=st.data())
def test_a_socket_takes_or_refuses_whatever_comes(data: st.DataObject) -> None:
    stream = data.draw(streams(world()))
    with quiet_log(), tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "state.db"
        db.write_bytes(world().database)
        trio.run(_on_a_socket, stream, db)


async def _on_a_socket(stream: Stream, db: Path) -> None:
    run = partial(serve, port=0, db=db, key=KEY, limits=HURRIED, clock=world().clock, lease_ttl=86_400.0)
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(run)
        port = int(url.rpartition(":")[2])
        before = _dump_file(db)
        pieces = [(piece, min(pause / SPEED, MAX_PAUSE)) for piece, pause in stream.pieces]
        answers = await _ask(port, pieces, half_close=stream.half_close)
        _check(answers)
        if _was_refused(stream, answers):
            compare(before, _dump_file(db), f"{stream}: {answers}")
        await eventually(partial(_probe, port))
        nursery.cancel_scope.cancel()


async def _probe(port: int) -> None:
    """See whether the server goes on serving. It may close on who is slow, as this machine may be."""
    assert [answer.status for answer in await _ask(port, [(PROBE, 0.0)])] == [200]


async def _ask(port: int, pieces: Sequence[Piece], *, half_close: bool = False) -> list[Response]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    return read_responses(await converse(stream, pieces, half_close=half_close))


def _dump_file(db: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(db)) as connection:
        return dump(connection)


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
    # An answer to somebody who closed is not sent.
    return not stream.half_close and all(answer.status >= 400 for answer in answers)
