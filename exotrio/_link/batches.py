"""Batches of the native API: many outcomes or releases in few requests, each item with its own settlement."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from exotrio._http.client import HttpClient
from exotrio._http.response import Answer, invalid_response, log_text
from exotrio._link.outcomes import added_fields, ended_fields, name_and_fields
from exotrio._link.port import Claim, Fate, Settlement
from exotrio._link.v0 import settle_failure
from exotrio._nodes.outcome import Errored, HandedOver, Outcome, Released, Report
from exotrio._util.json import encode
from exotrio._wire.native import ItemReply, ItemsReply
from exotrio._wire.vocabulary import MAX_BATCH, ItemResult
from exotrio.errors import KeyRefused, ManagerError, ManagerUnavailable

R = TypeVar("R", Outcome, Released)

log = logging.getLogger("exotrio")

BATCH_BYTES = 4 * 1024 * 1024
"""Far below the server's limit on a body, and little enough to repeat."""

_FATES = {
    ItemResult.OK: Fate.SETTLED,
    ItemResult.DUPLICATE: Fate.SETTLED,
    ItemResult.STALE: Fate.DROPPED,
    ItemResult.UNKNOWN: Fate.DROPPED,
    ItemResult.INVALID: Fate.REFUSED,
}
_BATCH_REFUSED = frozenset({400, 413, 422})


@dataclass(slots=True)
class BatchItem:
    """One encoded item of a batch, and where its settlement belongs."""

    index: int
    state_id: str
    content: bytes


def item_of(claim: Claim, report: Report) -> bytes:
    """Return the item of a batch for a report; raise NotJson if it has values that JSON lacks."""
    held = {"state_id": claim.state_id, "token": claim.token}
    if isinstance(report, Released):
        handed_over = {"handed_over": True} if isinstance(report, HandedOver) else {}
        return encode({**held, **ended_fields(report), **handed_over})
    name, fields = name_and_fields(report)
    if isinstance(report, Errored) and report.is_stuck:
        fields["stuck"] = True
    return encode({**held, "outcome": name, **fields, **added_fields(report)})


async def send_or_shorten(
    send: Callable[[dict[int, tuple[Claim, R]]], Awaitable[dict[int, Settlement]]],
    items: dict[int, tuple[Claim, R]],
) -> dict[int, Settlement]:
    """Send items; send those that are refused once more, without log lines and checkpoint, and log that.

    With these a report may be too large for a proxy.
    """
    settlements = await send(items)
    again = {
        index: (claim, replace(report, logs=(), checkpoint=None))
        for index, (claim, report) in items.items()
        if (report.logs or report.checkpoint) and settlements[index].fate is Fate.REFUSED
    }
    if not again:
        return settlements
    sent_again = await send(again)
    for index, settlement in sent_again.items():
        claim, report = items[index]
        if settlement.fate is not Fate.REFUSED:
            lost = "its checkpoint: work after the last stored one is repeated" if report.checkpoint else ""
            lost = " and ".join(filter(None, ("its log lines" if report.logs else "", lost)))
            what, why = f"state {claim.state_id} ({claim.identifier})", settlements[index].detail
            log.warning("%s was reported without %s (with it, the report was refused: %s)", what, lost, why)
    return settlements | sent_again


async def deliver(
    http: HttpClient, path: str, items: Sequence[BatchItem], frame: bytes
) -> dict[int, Settlement]:
    """Send items in batches; halve a batch that fails as a whole, down to the item at fault."""
    settlements: dict[int, Settlement] = {}
    waiting = deque(_split(items))
    outage: Settlement | None = None
    failed_alone = 0
    while waiting:
        batch = waiting.popleft()
        if outage is None:
            results = await _send(http, path, batch, frame)
            first = results[0]
            # The reporter gives up an item after some server errors, in which its neighbours must not count.
            if len(batch) > 1 and (first.status in _BATCH_REFUSED or first.fate is Fate.FAILED):
                half = len(batch) // 2
                waiting.extendleft((batch[half:], batch[:half]))
                continue
            failed_alone += first.fate is Fate.FAILED
            if failed_alone > 1:
                outage = replace(first, fate=Fate.RETRY, status=None)
            elif first.fate is Fate.RETRY:
                outage = replace(first, status=None)
            elif first.fate is Fate.KEY_REFUSED:
                outage = first
        else:  # one request in an outage is enough: each may take its whole timeout
            results = [outage] * len(batch)
        settlements.update(zip((item.index for item in batch), results, strict=True))
    return settlements


async def _send(http: HttpClient, path: str, batch: Sequence[BatchItem], frame: bytes) -> list[Settlement]:
    content = frame % b",".join(item.content for item in batch)
    try:
        answer = await http.ask("POST", path, body=content)
        return settlements_of(answer, answer.parse(ItemsReply).items, batch)
    except ManagerUnavailable as error:
        return [settle_failure(error)] * len(batch)
    except ManagerError as error:
        if isinstance(error, KeyRefused):
            fate = Fate.KEY_REFUSED
        else:
            # A 404 here is about the route: the server was replaced, and the next one may take it. A 400 to
            # a single item is repeated, too: ours answers 413 or 422 to an item that it will never take.
            final = error.status in _BATCH_REFUSED and not (error.status == 400 and len(batch) == 1)
            fate = Fate.REFUSED if final else Fate.RETRY
        return [Settlement(fate, log_text(error), status=error.status)] * len(batch)


def settlements_of(
    answer: Answer, replies: Sequence[ItemReply], batch: Sequence[BatchItem]
) -> list[Settlement]:
    """Return what the replies of an answer say of a batch."""
    check_same_states(answer, [reply.state_id for reply in replies], [item.state_id for item in batch])
    return [
        Settlement(_FATES[reply.result], _detail(reply), status=answer.status, after_error=reply.after_error)
        for reply in replies
    ]


def check_same_states(answer: Answer, replied: list[str], sent: list[str]) -> None:
    """Raise InvalidResponse unless an answer is about the states that were sent, in their order."""
    if replied != sent:
        what = "the answer is not about the same states"
        raise invalid_response(what, answer.request_line, status=answer.status)


def _split(items: Sequence[BatchItem]) -> Iterator[list[BatchItem]]:
    """Split ``items`` so that no batch has too many, or too many bytes unless it has a single item."""
    batch: list[BatchItem] = []
    size = 0
    for item in items:
        if batch and (len(batch) == MAX_BATCH or size + len(item.content) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.content) + 1
    if batch:
        yield batch


def _detail(reply: ItemReply) -> str:
    if _FATES[reply.result] is Fate.SETTLED:
        return reply.detail or ""
    return f"{reply.result.value}: {reply.detail}" if reply.detail else reply.result.value
