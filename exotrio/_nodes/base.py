"""``BaseNode``, which every node class inherits from, and what a running node sees of its runtime."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, overload

from pydantic import BaseModel

from exotrio._nodes.progress import ProgressView, checked_progress


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


class StopView:
    """Why a node should end, as the node sees it. The runtime writes it; threads may read it.

    A timeout sets no flag: each reader compares the clock with the deadline. So the node, its thread and the
    shutdown always agree on whether it has passed.

    Attributes:
        reason: What the runtime set.
        deadline: When the node's timeout is over, on the clock of ``now``.
        now: Returns the time, in any thread.
    """

    __slots__ = ("deadline", "now", "reason")

    def __init__(self) -> None:
        self.reason = Stopping.NO
        self.deadline = math.inf
        self.now: Callable[[], float] = float

    @property
    def why(self) -> Stopping:
        """Why the node should end. It does not change any more once the node was cancelled."""
        if self.reason in (Stopping.NO, Stopping.DRAINING) and self.now() >= self.deadline:
            return Stopping.TIMED_OUT
        return self.reason


_NEVER = StopView()


RunsIn = Literal["trio", "thread", "asyncio", "process"]
"""Where ``execute`` runs."""

Model = TypeVar("Model", bound=BaseModel, covariant=True)


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


class BaseNode(ABC):
    """Base of every node class: name the fields, write ``execute``.

    A subclass may define ``Inputs``, ``Outputs`` and ``Secrets``, pydantic models; those that it leaves out
    are empty. Fields of Secrets are ``str``. Those of the others may also be numbers, bools, dates,
    enums, Literals, UUIDs, lists, dicts, models of these, or any of them or None: they are sent as text
    and checked on arrival. Each execution has its own instance, made without arguments.

    ``async def execute(self)`` runs on the Trio loop and may use anyio or Trio; a plain ``def execute(self)``
    runs in a thread, unless ``runs_in`` says otherwise. Each returns one ``Outputs``, a list of them (a
    fan-out: the next nodes run once for each), or None; or raises ``PruneSignal`` or ``ReQueueAfterSignal``.
    Any other exception is the error of the state, which is retried as the graph's policy says, unless it is a
    ``NoRetry``.

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
        secrets = None

    runs_in: ClassVar[RunsIn | None] = None
    timeout: ClassVar[float | None] = None
    concurrency: ClassVar[int | None] = None
    no_retry: ClassVar[tuple[type[BaseException], ...]] = ()

    _stop_view: StopView = _NEVER
    _progress_view: ProgressView | None = None

    @abstractmethod
    def execute(self) -> Any:
        """Do the work of one state, as ``async def`` or plain ``def``: see the class."""
        raise NotImplementedError

    @property
    def stopping(self) -> Stopping:
        """Whether, and why, this execution should end soon.

        False (``Stopping.NO``) in normal operation; ``Stopping.DRAINING`` once the runtime was asked to
        stop. Once this node was cancelled, ``Stopping.CANCELLING``, ``LEASE_LOST``, ``RUN_CANCELLED`` or
        ``TIMED_OUT`` says why. The thread of a plain ``def`` cannot be interrupted: a node that works in
        steps should read this between them.
        """
        return self._stop_view.why

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
