"""How an execution ends: signals that a node raises to end in another way than with outputs, the error that
is not retried, and outcomes.

``_execution`` makes the outcomes, also those of signals, and the reporter sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

from exotrio._fields.models import HasCheckpoint, HasOutputs, M, checkpoint_of_text, from_text
from exotrio._wire.vocabulary import check_key
from exotrio.errors import ExotrioError

_FOR_THE_RUNTIME = "do not catch it: it has to reach the runtime"


class Signal(Exception):
    """Base of the signals; nodes raise the four below, and ``Child.outputs`` the last one."""


class PruneSignal(Signal):
    """End this branch of the run: nothing follows, nothing is retried, nothing failed.

    Args:
        data: Kept with the state by the state manager. Must be JSON. Defaults to ``{}``.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self.data: dict[str, Any] = dict(data or {})
        super().__init__(f"prune signal with data {self.data!r}; {_FOR_THE_RUNTIME}")


class ReQueueAfterSignal(Signal):
    """Run this state again, not before ``delay`` has passed. No retry is used up.

    Args:
        delay: At least a millisecond; anything shorter is rounded up to one.

    Raises:
        ValueError: ``delay`` is not above zero.
    """

    def __init__(self, delay: timedelta) -> None:
        if delay <= timedelta(0):
            raise ValueError(f"ReQueueAfterSignal needs a delay above zero, not {delay!r}")
        self.delay = delay
        super().__init__(f"re-enqueue signal with delay {delay}; {_FOR_THE_RUNTIME}")


class WaitForEvent(Signal):
    """Wait until an event is sent to the run, and run this state again then: ``self.event`` has it.

    No runtime holds the state meanwhile. No retry is used up, and its checkpoint is kept. An event that was
    sent before is there at once; to wait again for the one that ``self.event`` has is an error. Needs our
    server; at any other one it is an error.

    Args:
        event: Name of the event: 1 to 256 characters, no control characters, no blanks at its ends.
        timeout: How long it waits, up to ten years; then the state runs again without the event. Defaults to
            None: without a limit.

    Raises:
        ValueError: the name or the timeout cannot be one.
    """

    def __init__(self, event: str, *, timeout: timedelta | None = None) -> None:
        try:
            check_key(event)
        except ValueError as error:
            raise ValueError(f"WaitForEvent: the name {event!r:.300} {error}") from None
        if timeout is not None and timeout <= timedelta(0):
            raise ValueError(f"WaitForEvent needs a timeout above zero, not {timeout!r}")
        self.event = event
        self.timeout = timeout
        super().__init__(f"signal to wait for the event {event!r}; {_FOR_THE_RUNTIME}")


class HandOver(Signal):
    """Give the state back now: any runtime with room runs it next, and continues from its checkpoint.

    No retry is used up, and nothing is delayed. A runtime that stops does not take the state again.
    """

    def __init__(self) -> None:
        super().__init__(f"hand over signal; {_FOR_THE_RUNTIME}")


class CallChildren(Signal):
    """Start the children that were called, and run this state again once all of them have ended."""

    def __init__(self, calls: Sequence[ChildCall]) -> None:
        self.calls = tuple(calls)
        super().__init__(f"signal to wait for {len(self.calls)} children; {_FOR_THE_RUNTIME}")


class NoRetry(Exception):
    """The state failed for good: the graph's retry policy is not applied to it.

    ``raise NoRetry("the card was declined")``; a subclass counts as well, and so does one among others in an
    exception group. The state can still be retried by hand. For errors of libraries there is
    ``BaseNode.no_retry``. Only our state manager can be told: one that speaks only v0 applies the policy.
    """


# It is shown in tracebacks.
NoRetry.__module__ = "exotrio"


@dataclass(frozen=True, slots=True)
class AwaitedEvent:
    """The event that a node waited for by ``WaitForEvent``.

    Attributes:
        value: Field to text; None if the timeout was over before the event was sent.
    """

    name: str
    value: Mapping[str, str] | None = None

    @property
    def timed_out(self) -> bool:
        """Whether the timeout was over before the event was sent."""
        return self.value is None

    def read(self, model: type[M]) -> M:
        """Return the fields of the event as a model, with fields as ``Outputs`` has.

        Raises:
            ExotrioError: the timeout was over before the event was sent.
            FieldsInvalid: a field is missing, or is not a value of its type.
        """
        if self.value is None:
            raise ExotrioError(
                f"the event {self.name!r} was not sent in time", fix="check self.event.timed_out before"
            )
        return from_text(model, self.value)


# It is shown in tracebacks.
AwaitedEvent.__module__ = "exotrio"


@dataclass(frozen=True, slots=True)
class ChildCall:
    """A child to start, as ``_wire.children.CalledChild`` has it."""

    id: str
    graph: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChildResult:
    """What came of a child: its outputs, or its error."""

    run_id: str
    outputs: Mapping[str, str] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CheckpointText:
    """A value that a node set as its checkpoint, as ``_wire.native.Checkpoint`` has it."""

    number: int
    value: str


@dataclass(slots=True, kw_only=True)
class _Ended:
    """What every end of an execution has. Not frozen, as there is one for each state: that takes three times
    as long.

    Attributes:
        logs: What the execution logged and printed, as ``_wire.native.LogLine`` has it.
        trace: The trace context of the execution; None if it was not traced.
        buffered: Seconds from the claim until ``execute`` began; None if it did not, or is not known.
        ran: Seconds that ``execute`` took; None likewise.
        checkpoint: The newest one that it set, if the state manager may not have it yet.
    """

    logs: Sequence[Mapping[str, str | None]] = field(default=(), repr=False)
    trace: str | None = field(default=None, repr=False)
    buffered: float | None = field(default=None, repr=False, compare=False)
    ran: float | None = field(default=None, repr=False, compare=False)
    checkpoint: CheckpointText | None = field(default=None, repr=False, compare=False)

    def outputs_of(self, node: type[HasOutputs[M]]) -> list[M]:
        """Return what the node returned, each as an ``Outputs`` of its class.

        Raises:
            ExotrioError: the node did not return; the message has its error, or what it asked for.
        """
        how = self.error if isinstance(self, Errored) else repr(self)
        raise ExotrioError(f"{node.__name__} returned no outputs: {how}")

    def checkpoint_of(self, node: type[HasCheckpoint[M]]) -> M | None:
        """Return the newest checkpoint that this execution set, as a ``Checkpoint`` of its class, or None."""
        model: Any = node.Checkpoint  # to mypy it is a property
        value: Any = None if self.checkpoint is None else checkpoint_of_text(model, self.checkpoint.value)
        return cast("M | None", value)


@dataclass(slots=True)
class Executed(_Ended):
    """The node returned: no output, one, or several (a fan-out)."""

    outputs: list[dict[str, Any]]

    def outputs_of(self, node: type[HasOutputs[M]]) -> list[M]:
        model: Any = node.Outputs  # to mypy it is a property
        return [from_text(model, texts) for texts in self.outputs]


@dataclass(slots=True)
class Errored(_Ended):
    """The node failed.

    Attributes:
        error: The text to report, already redacted and bounded.
        retry: False if the retry policy is not to be applied. v0 cannot say so.
        is_stuck: Whether code of the node goes on all the same. v0 is not told.
    """

    error: str
    retry: bool = True
    is_stuck: bool = field(default=False, repr=False, compare=False)


@dataclass(slots=True)
class Pruned(_Ended):
    """The node ended its branch."""

    data: dict[str, Any]


@dataclass(slots=True)
class Requeued(_Ended):
    """The node wants to run again after ``delay`` seconds."""

    delay: float


@dataclass(slots=True)
class Waiting(_Ended):
    """The node wants to run again when ``event`` was sent, or after ``timeout`` seconds; None: no limit."""

    event: str
    timeout: float | None = None


@dataclass(slots=True)
class Calling(_Ended):
    """The node wants to run again when these children, started with this outcome, have ended."""

    calls: Sequence[ChildCall]


@dataclass(slots=True)
class Released(_Ended):
    """There is no outcome: the state was not begun, or was cancelled. It can run again at once, and no
    attempt is counted."""


@dataclass(slots=True)
class HandedOver(Released):
    """The node gave its state back, by ``HandOver``."""


Outcome = Executed | Errored | Pruned | Requeued | Waiting | Calling
Report = Outcome | Released
"""What a runtime sends to the state manager about a state that it claimed."""
