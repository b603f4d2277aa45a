"""From what a node returned or raised to the outcome of its state."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from exotrio._fields.models import fields_of
from exotrio._nodes.base import BaseNode, place_of
from exotrio._nodes.outcome import (
    Errored,
    Executed,
    Outcome,
    Pruned,
    PruneSignal,
    ReQueueAfterSignal,
    Requeued,
    Signal,
)
from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.json import NotJson, decode, encode
from exotrio._wire.vocabulary import from_ms
from exotrio.errors import FieldsInvalid

_WITHOUT_ASYNCIO = ("no running event loop", "trio.run received unrecognized yield message")


def hint_at_asyncio(node: type[BaseNode], error: BaseException) -> None:
    """Add a note to an error that a node for asyncio raises on Trio: what its class has to say."""
    if place_of(node) != "trio" or type(error) not in (RuntimeError, TypeError):
        return
    # Only a str: another object could do anything when its text is asked for.
    if error.args and type(error.args[0]) is str and error.args[0].startswith(_WITHOUT_ASYNCIO):
        error.add_note(f'{node.__name__} needs asyncio, but runs on Trio: give its class runs_in = "asyncio"')


def signalled(signal: Signal) -> Outcome:
    """Return the outcome that a node asked for by a signal."""
    match signal:
        case PruneSignal():
            data = dict(signal.data)
            try:
                decode(encode(data))  # a state manager could not read it either
            except NotJson as error:
                raise ValueError(f"PruneSignal: its data cannot be sent as JSON: {error}") from error
            return Pruned(data)
        case ReQueueAfterSignal():
            delay = signal.delay.total_seconds()
            if not 0 < delay <= from_ms(MAX_DELAY_MS):
                return Errored(f"ReQueueAfterSignal: needs a delay above 0, up to 10 years: {signal.delay}")
            return Requeued(delay)
    raise TypeError(f"{type(signal).__name__} is neither a PruneSignal nor a ReQueueAfterSignal") from signal


def returned(node: type[BaseNode], value: object) -> Outcome:
    """Return the outcome of a node that returned ``value``."""
    if value is None:
        return Executed([])
    values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    outputs: list[BaseModel] = []
    for position, item in enumerate(values):
        if not isinstance(item, node.Outputs):
            where = f"item {position} of what" if values is value else "what"
            kind = type(item).__qualname__
            if isinstance(item, BaseModel):
                kind = f"{kind} of another class"
            return Errored(
                f"{where} {node.__name__}.execute returned is a {kind}, not {node.__name__}.Outputs: "
                "return one Outputs, a list of them, or None"
            )
        outputs.append(item)
    fields = fields_of(node.Outputs)
    if fields is None:
        return Executed([item.model_dump() for item in outputs])
    try:
        return Executed([fields.encode(item) for item in outputs])
    except FieldsInvalid as error:
        head = f"what {node.__name__}.execute returned does not fit {node.__name__}.Outputs:"
        return Errored("\n  ".join([head, *error.problems]))
