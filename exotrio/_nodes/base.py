"""``BaseNode``, which every node class inherits from, and what a running node sees of its runtime."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, overload

from pydantic import BaseModel

from exotrio._fields.models import HasCheckpoint, M, Model, Values
from exotrio._nodes.calls import Calls, Child
from exotrio._nodes.checkpoint import CheckpointView, NodeCheckpoint
from exotrio._nodes.outcome import AwaitedEvent, ChildResult
from exotrio._nodes.progress import ProgressView, checked_progress

if TYPE_CHECKING:
    from exotrio.graph import Graph


class Stopping(StrEnum):
    """Why a node should end: the values of ``BaseNode.stopping``. ``NO`` is false, the others are true."""

    NO = ""
    """Nothing is stopping."""
    DRAINING = "draining"
    """The runtime drains: a node that finishes within the grace is reported as usual."""
    CANCELLING = "cancelling"
    """The grace is over: this node was cancelled; its state is released unless it returns a value."""
    LEASE_LOST = "lease lost"
    """The lease expired, since no heartbeat arrived in time, and another runtime may have the state: this
    node was cancelled. If it still returns a value, that is sent, and most likely not accepted."""
    RUN_CANCELLED = "run cancelled"
    """The run was cancelled, and this node with it, or a state before it was retried, after which this node
    runs again: nothing follows, whatever it returns."""
    TIMED_OUT = "timed out"
    """The node's ``timeout`` is over: its state becomes an error unless the node still returns a value."""


@dataclass(eq=False, slots=True)
class StopView:
    """Why a node should end, as the node sees it. The runtime writes it; threads may read it.

    A timeout sets no flag: each reader compares the clock with the deadline. So the node, its thread and the
    shutdown always agree on whether it has passed.

    Attributes:
        reason: What the runtime set.
        deadline: When the node's timeout is over, on the clock of ``now``.
        ends_at: When the grace is over or, once the node was cancelled, the time for its clean-up.
        now: Returns the time, in any thread. It is set before one of these times.
    """

    reason: Stopping = Stopping.NO
    deadline: float = math.inf
    ends_at: float = math.inf
    now: Callable[[], float] = float

    @property
    def why(self) -> Stopping:
        """Why the node should end. It does not change any more once the node was cancelled."""
        if self.reason in (Stopping.NO, Stopping.DRAINING) and self.now() >= self.deadline:
            return Stopping.TIMED_OUT
        return self.reason

    @property
    def why_ending(self) -> Stopping:
        """Why the node was told to end, and not only that it should soon; false if it was not."""
        why = self.why
        return Stopping.NO if why is Stopping.DRAINING else why

    @property
    def seconds_left(self) -> float:
        """Seconds until the node is cancelled or, once it was, until the time for its clean-up is over."""
        return max(0.0, min(self.deadline, self.ends_at) - self.now())


_NEVER = StopView()


RunsIn = Literal["trio", "thread", "asyncio", "process"]
"""Where ``execute`` runs."""


class _HasInputs(Protocol[Model]):
    @property
    def Inputs(self) -> type[Model]: ...


class _HasSecrets(Protocol[Model]):
    @property
    def Secrets(self) -> type[Model]: ...


# For type checkers only. A nested class of a subclass is a separate type, so an attribute of the base
# cannot have it as its type. A descriptor can: its protocol matches the class that it is read from. The
# second overload is for a class that leaves the models out.


class _InputsOfTheClass:
    """``self.inputs`` is an instance of the class's own ``Inputs``."""

    @overload
    def __get__(self, node: _HasInputs[Model], owner: object) -> Model: ...
    @overload
    def __get__(self, node: object, owner: object) -> BaseModel: ...
    def __get__(self, node: object, owner: object) -> BaseModel:
        raise NotImplementedError

    def __set__(self, node: object, value: BaseModel) -> None:
        raise NotImplementedError


class _SecretsOfTheClass:
    """``self.secrets`` is an instance of the class's own ``Secrets``."""

    @overload
    def __get__(self, node: _HasSecrets[Model], owner: object) -> Model: ...
    @overload
    def __get__(self, node: object, owner: object) -> BaseModel: ...
    def __get__(self, node: object, owner: object) -> BaseModel:
        raise NotImplementedError

    def __set__(self, node: object, value: BaseModel) -> None:
        raise NotImplementedError


class _HasDefaultCheckpoint(Protocol[Model]):
    @property
    def Checkpoint(self) -> Callable[[], Model]: ...


class _CheckpointOfTheClass:
    """``self.checkpoint`` is an instance of the class's own ``Checkpoint``. If that has a field without a
    default, it is None until one was set."""

    @overload
    def __get__(self, node: None, owner: object) -> _CheckpointOfTheClass: ...
    @overload
    def __get__(self, node: _HasDefaultCheckpoint[Model], owner: object) -> Model: ...
    @overload
    def __get__(self, node: HasCheckpoint[Model], owner: object) -> Model | None: ...
    def __get__(self, node: Any, owner: object) -> Any:
        return self if node is None else _checkpoint_of(node).read()

    def __set__(self, node: HasCheckpoint[M], value: M) -> None:
        _checkpoint_of(node).set(value)


class BaseNode(ABC):
    """Base of every node class: name the fields, write ``execute``.

    A subclass may define ``Inputs``, ``Outputs`` and ``Secrets``, pydantic models; those that it leaves out
    are empty. Fields of Secrets are ``str``. Those of the others may also be numbers, bools, dates,
    enums, Literals, UUIDs, lists, dicts, models of these, or any of them or None: they are sent as text
    and checked on arrival. Each execution has its own instance, made without arguments.

    ``async def execute(self)`` runs on the Trio loop and may use anyio or Trio; a plain ``def execute(self)``
    runs in a thread, unless ``runs_in`` says otherwise. Each returns one ``Outputs``, a list of them (a
    fan-out: the next nodes run once for each), or None; or raises ``PruneSignal``, ``ReQueueAfterSignal``,
    ``WaitForEvent`` or ``HandOver``. Any other exception is the error of the state, which is retried as the
    graph's policy says, unless it is a ``NoRetry``.

    Attributes:
        runs_in: Class attribute: where ``execute`` runs. None, the default: ``"trio"`` for an ``async def``,
            ``"thread"`` for a plain ``def``.

            - ``"asyncio"``: for an ``async def`` that uses libraries for asyncio. The runtime has one
              asyncio loop for all such nodes, in a separate thread. A node is cancelled as asyncio does
              it, by one CancelledError, and has 5 seconds for its clean-up; after that it is stuck: it goes
              on, and nothing waits for it. ``__init__`` runs on the Trio loop.
            - ``"process"``: for code that computes, or hangs, or crashes. It runs, ``__init__`` too, in one
              of the runtime's worker processes: a plain ``def`` in its main thread, an ``async def`` in a
              new Trio loop. It can always be ended: when it times out or is cancelled, its process
              is killed, with what it started; no ``finally`` runs then. A process that dies is an error
              of its state alone. The class must be importable: at the top level of a module or file.
        timeout: Class attribute: maximum seconds of one ``execute``. Then it is cancelled, and the state
            becomes an error that says so, unless it still returns a value. A plain ``def`` in a thread is
            stuck then: it goes on, and nothing waits for it. None, the default: no limit.
        concurrency: Class attribute: maximum number of states of this class that one runtime holds at once,
            running or waiting for a worker. A plain ``def`` that timed out does not count, even while its
            thread goes on. None, the default: only the runtime's own limit.
        no_retry: Class attribute: exceptions after which the state is not retried, as after ``NoRetry``; with
            their subclasses, alone or in a group: ``no_retry = (ValueError,)``. Defaults to none.
        inputs: The state's ``Inputs``.
        secrets: The node's ``Secrets``.
        checkpoint: The newest ``Checkpoint`` that was set for the state, by this execution or one before it.
            At first it is ``Checkpoint()``, or None if a field of it has no default. The class is a pydantic
            model with fields as those of ``Inputs``; a node that defines none has no checkpoint. Assign a new
            value whenever a part of the work is done, in any thread: that takes 0.01 ms and never waits. Only
            the newest counts: it is stored every 5 s, and together with whatever ends the execution but
            a result or ``PruneSignal``, which erase it. Assigning raises TypeError for another class, and
            ValueError for more than 64 KiB of text.
    """

    if TYPE_CHECKING:
        # Variables, since a nested class that replaces another nested class is an error to pyright.
        Inputs: ClassVar[type[BaseModel]]
        Outputs: ClassVar[type[BaseModel]]
        Secrets: ClassVar[type[BaseModel]]
        inputs: _InputsOfTheClass = _InputsOfTheClass()
        secrets: _SecretsOfTheClass = _SecretsOfTheClass()
    else:

        class Inputs(BaseModel):
            """No inputs."""

        class Outputs(BaseModel):
            """No outputs."""

        class Secrets(BaseModel):
            """No secrets."""

        inputs = None
        secrets = Secrets()

    runs_in: ClassVar[RunsIn | None] = None
    timeout: ClassVar[float | None] = None
    concurrency: ClassVar[int | None] = None
    no_retry: ClassVar[tuple[type[BaseException], ...]] = ()
    checkpoint: _CheckpointOfTheClass = _CheckpointOfTheClass()

    _run_id: str = ""
    _event: AwaitedEvent | None = None
    _children: Mapping[str, ChildResult] | None = None
    _calls: Calls | None = None
    _stop_view: StopView = _NEVER
    _checkpoint: NodeCheckpoint | None = None
    _progress_view: ProgressView | None = None

    @abstractmethod
    def execute(self) -> Any:
        """Do the work of one state, as ``async def`` or plain ``def``: see the class."""
        raise NotImplementedError

    @property
    def run_id(self) -> str:
        """The id of the run. API v0 does not tell it: then it is an empty text."""
        return self._run_id

    @property
    def event(self) -> AwaitedEvent | None:
        """The event for which an earlier execution of this state waited last, by ``WaitForEvent``.

        None if none did, or if one has ended by ``ReQueueAfterSignal`` since. An execution after an error, a
        crash or ``HandOver`` has it, too, so code must not take it for news: what was done with it is in the
        checkpoint.
        """
        return self._event

    def call(self, graph: Graph | str, inputs: Values | None = None, *, key: str | None = None) -> Child:
        """Call a graph as a child of this state, and return the child at once.

        The first ``child.outputs()`` that is not there yet ends this execution by a signal. All children that
        were called are started then, each once; when they have ended, the node is executed again from its
        first line, and has to make the same calls. Needs our server; at any other one it is an error.

        Args:
            graph: The graph, or its name. The state manager has to have it when the child starts.
            inputs: What ``graph.add`` takes for it by name: values or their texts, or an instance of a model
                that has them as fields. Defaults to none.
            key: Name of the child among those of this state. Defaults to the position of the call in the
                execution, among those without a key.

        Raises:
            NoRetry: an earlier execution called something else here, or this one calls too much.
            ValueError: the key cannot be one, or was given to another call.
            ConfigurationError: an input has no form as text.
        """
        if self._calls is None:
            self._calls = Calls(type(self).__name__, self._children or {})
        return self._calls.call(graph, inputs, key)

    @property
    def stopping(self) -> Stopping:
        """Whether, and why, this execution should end soon.

        False (``Stopping.NO``) in normal operation; ``Stopping.DRAINING`` once the runtime was asked to
        stop. Once this node was cancelled, ``Stopping.CANCELLING``, ``LEASE_LOST``, ``RUN_CANCELLED`` or
        ``TIMED_OUT`` says why. The thread of a plain ``def`` cannot be interrupted: a node that works in
        steps should read this between them.
        """
        return self._stop_view.why

    @property
    def seconds_left(self) -> float:
        """Seconds until this execution is cancelled; infinity while nothing limits it.

        Its timeout limits it; once the runtime was asked to stop, the end of the grace does, too, which a
        second signal makes earlier. After it was cancelled, this is the time that is left to clean up.
        """
        return self._stop_view.seconds_left

    async def save_checkpoint(self: HasCheckpoint[M], value: M) -> None:
        """Set ``checkpoint``, and wait until the state manager has it on disk. For an ``async def``.

        While the state manager is away, it waits. One that speaks only v0 stores none, and is not waited for.

        Raises:
            CheckpointNotSaved: the execution ended before the value was stored: this task outlives it.
            TypeError, ValueError: as for an assignment.

        Cancellation:
            The value is set; it may be stored or not. The next execution gets what is stored.
        """
        await _checkpoint_of(self).save(value)

    def save_checkpoint_sync(self: HasCheckpoint[M], value: M) -> None:
        """As ``save_checkpoint``, for a plain ``def`` and for threads: it blocks the thread.

        Raises:
            CheckpointNotSaved: the node was told to end (``stopping`` is neither false nor ``DRAINING``),
                or ended, before the value was stored. It is set all the same, and may be stored or not.
            LifecycleError: an event loop runs in this thread.
            TypeError, ValueError: as for an assignment.
        """
        node: Any = self
        _checkpoint_of(node).save_sync(value, lambda: node._stop_view.why_ending)

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Report the progress of this execution, for operators: ``self.progress(0.4, "12 of 30 pages")``.

        The last call counts. The progress is shown while the node runs, and not stored. Call it from any
        thread, and as often as you like: the call itself sends nothing.

        Args:
            fraction: The part that is done, from 0 to 1; None if it is not known.
            text: One line, up to 200 characters, for operators; the state's secrets are masked in it.

        Raises:
            ValueError: ``fraction`` is below 0 or above 1.
            TypeError: ``fraction`` is not a number, or ``text`` is not a str.
        """
        if self._progress_view is not None:
            self._progress_view.say(fraction, text)
        else:
            checked_progress(fraction, text)  # the same errors outside of a runtime


def runs_in_of(node: type[BaseNode]) -> RunsIn:
    """Return ``runs_in`` of a node, or what applies if it is None."""
    return node.runs_in or ("trio" if inspect.iscoroutinefunction(node.execute) else "thread")


def checkpoint_class_of(node: type[BaseNode]) -> type[BaseModel] | None:
    """Return the ``Checkpoint`` of a node class; None if it has none."""
    return getattr(node, "Checkpoint", None)


def _checkpoint_of(node: Any) -> NodeCheckpoint:
    checkpoint: NodeCheckpoint | None = node._checkpoint
    if checkpoint is None:  # outside of a runtime, or without a class
        name, model = type(node).__name__, checkpoint_class_of(type(node))
        if model is None:
            what = f"{name} has no checkpoint: define class Checkpoint(BaseModel) in it"
            raise AttributeError(what, name="checkpoint", obj=node)
        checkpoint = node._checkpoint = NodeCheckpoint(name, model, CheckpointView())
    return checkpoint
