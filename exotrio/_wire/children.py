"""Bodies about the children of states: runs that nodes call."""

from typing import Annotated

from pydantic import AfterValidator, Field

from exotrio._wire.body import Body, Texts
from exotrio._wire.events import EventName
from exotrio._wire.vocabulary import MAX_CALL_BYTES, MAX_CALLS
from exotrio.graph import Name, PartByPart


class CalledChild(Body):
    """A run to start as a child of a state.

    Fields:
        id: Chosen by the runtime. A child of the state that has it already is not started again.
        graph: Name of a graph of the namespace.
        inputs: As a place that runs the graph would have them.
    """

    id: EventName
    graph: Name
    inputs: Texts = Field(default_factory=dict)


class EndedChild(Body):
    """A child that a state called, and that has ended: ``outputs``, or ``error`` if it failed."""

    run_id: str
    outputs: dict[str, str] | None = None
    error: str | None = None


def _bounded(calls: list[CalledChild]) -> list[CalledChild]:
    size = sum(len(text.encode()) for call in calls for item in call.inputs.items() for text in item)
    if size > MAX_CALL_BYTES:
        raise ValueError(f"have {size:,} bytes of inputs; at most {MAX_CALL_BYTES:,} are allowed")
    return calls


CalledChildren = Annotated[
    list[CalledChild], Field(min_length=1, max_length=MAX_CALLS), AfterValidator(_bounded), PartByPart
]
