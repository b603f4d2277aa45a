"""Reads the bodies of requests: of limited length, and large ones with a limited number of values.

A JSON text can become objects of fifty times its size, and while they are made nothing else runs in the
process. So the values in a large body are counted first, the server bounds those of all requests together
(``_httpd.reserve_values``), and the body is parsed in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from exotrio._httpd import MAX_VALUES, reserve_values
from exotrio._wire.native import OutcomeItem
from exotrio.manager.api.json import parse_model
from exotrio.manager.engine.reported_texts import has_texts, mask, secrets_to_mask
from exotrio.manager.service import Service

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

LARGE = 256 * 1024
"""Bytes above which the values of a body are counted, and it is parsed in a thread."""
PIECE = 1024 * 1024
"""Bytes of a text that are taken apart at once."""
_MARKS = b",[{"
"""One of them precedes each value in a list, and each field of an object."""


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads the bodies of the requests to one app."""

    service: Service
    max_bytes: int

    async def read(self, request: Request) -> bytes:
        """Return a body; refuse one that is too long or has too many values.

        A large one waits until its values fit among those in the large bodies that are being handled.
        """
        # Not by Starlette, which takes four times as long for a body of one message.
        parts: list[bytes] = []
        is_whole = False
        while not is_whole:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            is_whole = not message.get("more_body", False)
        body = b"".join(parts)
        # The server has the same limit, but requests from inside the process do not pass through it.
        if len(body) > self.max_bytes:
            raise HTTPException(413, f"the body is longer than {self.max_bytes} bytes")
        if len(body) > LARGE:
            count = await self.service.store.compute(count_values, body)
            if count > MAX_VALUES:
                raise HTTPException(413, f"the body has more than {MAX_VALUES:,} values: send less at once")
            await reserve_values(request.scope, count)
        return body

    async def parse(self, request: Request, parse: Callable[[bytes], T]) -> T:
        """Return what ``parse`` makes of the body, in a thread if that is large."""
        body = await self.read(request)
        return parse(body) if len(body) <= LARGE else await self.service.store.compute(parse, body)


def body_reader(request: Request) -> BodyReader:
    reader: BodyReader = request.app.bodies
    return reader


async def read_model(request: Request, model: type[M]) -> M:
    """Parse the body as ``model``; errors as in ``BodyReader.read`` and ``parse_model``."""
    return await body_reader(request).parse(request, lambda body: parse_model(body, model))


async def masked(service: Service, items: Sequence[OutcomeItem]) -> list[OutcomeItem]:
    """Return outcomes with the secrets of their graphs masked in errors and log lines."""
    state_ids = [item.state_id for item in items if has_texts(item)]
    if not state_ids:
        return list(items)
    secrets = await service.store.read(secrets_to_mask, state_ids, service.cipher)
    return await service.store.compute(mask, items, secrets) if secrets else list(items)


def count_values(body: bytes) -> int:
    """Return how many values a JSON text has at most; above ``MAX_VALUES`` only if it has too many.

    For any text the time is proportional to its length, and little memory is used.
    """
    count = _count_marks(body)
    if count <= MAX_VALUES:
        return count
    # Without the marks within strings. In pieces, so that this takes little memory.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    count = within = 0
    for at in range(0, len(unescaped), PIECE):
        parts = unescaped[at : at + PIECE].split(b'"')
        count += _count_marks(b"".join(parts[within::2]))
        if count > MAX_VALUES:
            break
        within ^= (len(parts) - 1) % 2
    return count


def _count_marks(text: bytes) -> int:
    return len(text) - len(text.translate(None, _MARKS))
