"""How v0, the native API and the outbox write an outcome.

Each has a name, and one field that holds its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from exotrio._nodes.outcome import (
    Calling,
    CheckpointText,
    ChildCall,
    Errored,
    Executed,
    Outcome,
    Pruned,
    Report,
    Requeued,
    Waiting,
)
from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.json import sendable
from exotrio._wire.vocabulary import from_ms, to_ms

_FORMS: Mapping[type[Outcome], tuple[str, str]] = {
    Executed: ("executed", "outputs"),
    Errored: ("errored", "error"),
    Pruned: ("pruned", "data"),
    Requeued: ("requeued", "delay"),
    Waiting: ("waiting", "event"),
    Calling: ("calling", "calls"),
}
"""The name of each outcome, and its field."""
_BY_NAME: Mapping[str, Any] = {name: kind for kind, (name, _) in _FORMS.items()}


def name_and_value(outcome: Outcome) -> tuple[str, Any]:
    """Return the name of the outcome, and its value: outputs, error text, data, seconds, the name
    of an event, or calls."""
    name, field = _FORMS[type(outcome)]
    value = getattr(outcome, field)
    if isinstance(outcome, Errored):
        value = sendable(value)
    elif isinstance(outcome, Calling):
        value = [{"id": call.id, "graph": call.graph, "inputs": {**call.inputs}} for call in value]
    return name, value


def added_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the fields that only the native API and the outbox have, unless they are the default.

    They say that an error is not to be retried, or how long to wait for an event, and hold the trace context,
    the checkpoint, the output and the times of the execution.
    Older state managers, and older readers of the outbox, ignore them.
    """
    added = ended_fields(outcome)
    if outcome.logs:
        added["logs"] = outcome.logs
    # Durations, and not times: the clocks of two machines differ.
    if outcome.buffered is not None and outcome.ran is not None:
        added |= {"buffered_ms": round(outcome.buffered * 1000), "ran_ms": round(outcome.ran * 1000)}
    if isinstance(outcome, Errored) and not outcome.retry:
        added["retry"] = False
    if isinstance(outcome, Waiting) and outcome.timeout is not None:
        added["timeout_ms"] = requeue_delay_ms(outcome.timeout)
    return added


def ended_fields(report: Report) -> dict[str, Any]:
    """Return the fields of every end of an execution: its trace context and checkpoint, if it has them."""
    fields = {} if report.trace is None else {"trace": report.trace}
    return fields if report.checkpoint is None else fields | {"checkpoint": asdict(report.checkpoint)}


def outcome_of(name: str, value: Any, added: Mapping[str, Any]) -> Outcome:
    """Return the outcome that has this name, this value and the ``added_fields`` that are in ``added``.

    Raises:
        KeyError: no outcome has this name.
    """
    if name == "calling":
        value = tuple(ChildCall(**call) for call in value)
    fields = {field: added[field] for field in ("retry", "trace", "logs") if field in added}
    for field in ("buffered", "ran", "timeout"):
        if (ms := added.get(f"{field}_ms")) is not None:
            fields[field] = from_ms(ms)
    if "checkpoint" in added:
        fields["checkpoint"] = CheckpointText(**added["checkpoint"])
    outcome: Outcome = _BY_NAME[name](value, **fields)
    return outcome


def name_and_fields(outcome: Outcome) -> tuple[str, dict[str, Any]]:
    """Return the name of the outcome, and its value in the field of the native API for it."""
    name, value = name_and_value(outcome)
    if isinstance(outcome, Requeued):
        return name, {"delay_ms": requeue_delay_ms(value)}
    return name, {_FORMS[type(outcome)][1]: value}


def requeue_delay_ms(delay: float) -> int:
    """Return ``delay`` seconds as both APIs allow it: above zero, at most ten years."""
    return to_ms(min(max(delay, 0.001), from_ms(MAX_DELAY_MS)))
