"""Whether executions go on where those before them were, as the journal of nodes with checkpoints shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tests.chaos.journal import Execution


def broken_checkpoints(
    key: str,
    executions: Sequence[Execution],
    stored: Collection[tuple[float, int]],
    is_handed_on: Callable[[Execution], bool],
) -> Iterator[str]:
    """Yield what is wrong with the checkpoints that the executions of one piece of work began with.

    Only the holder of a state changes its checkpoint. So what was stored before an execution began was stored
    before its worker got the state, unless that lost it meanwhile.

    Args:
        key: Of the work.
        executions: Those of it whose worker did not lose the state, in the order in which they began.
        stored: When its checkpoints were stored, and how many parts were done.
        is_handed_on: Whether the newest checkpoint of an execution was stored with its end.
    """
    for number, execution in enumerate(executions):
        if execution.received is None:
            continue
        if execution.owner not in ("-", key):
            yield f"{key} began with a checkpoint of {execution.owner}: {execution.id}"
        least = max((parts for at, parts in stored if at < execution.began), default=0)
        if number and is_handed_on(executions[number - 1]):
            least = max(least, executions[number - 1].parts)
        if execution.received < least:
            yield f"{key} began after {execution.received} parts although {least} were done: {execution.id}"


def acknowledged(request: Any, reply: Any) -> Iterator[dict[str, Any]]:
    """Yield the checkpoints of a native request that the state manager says it has."""
    # A claim that was given up is released without its states; and one that is sent with outcomes has none.
    sent = request if isinstance(request, list) else request.get("states") or ()
    answers = {answer["state_id"]: answer for answer in reply["items"]}
    for item in sent:
        if (checkpoint := item.get("checkpoint")) is not None:
            answer = answers[item["state_id"]]
            stored = answer.get("checkpoint", checkpoint["number"])
            if answer["result"] == "ok" and stored == checkpoint["number"]:
                yield json.loads(checkpoint["value"])
