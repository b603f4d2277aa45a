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
    """Why a running node should end, as ``BaseNode.stopping`` tells it. ``NO`` is false, the others true."""

    NO = ""
    """Nothing is stopping."""
    DRAINING = "draining"
    """The runtime stops: whoever finishes within the grace is reported as usual."""
    CANCELLING = "cancelling"
    """The grace is over: this node was cancelled; its state will be handed back unless it returns."""
    LEASE_LOST = "lease lost"
    """The state manager gave the state to another worker, having not heard of this one for too long:
    this node was cancelled. What it returns all the same is sent, and most likely not accepted."""
    RUN_CANCELLED = "run cancelled"
    """The run was cancelled, and this node with it: nothing will follow, whatever it returns."""
    TIMED_OUT = "timed out"
    """The node's ``timeout`` is over: its state is an error unless it returns all the same."""


class StopView:
    """What a node can see of the runtime that runs it. The runtime writes it; threads may read it.

    The timeout is not a flag that is set: whoever asks compares the clock with the deadline. So
    the node, its thread and the shutdown never differ on whether it is over.

    Attributes:
        told: What the runtime said.
        deadline: When the node's timeout is over, on the clock of ``now``.
        now: Tells the time, in any thread.
    """

    __slots__ = ("deadline", "now", "told")

    def __init__(self) -> None:
        self.told = Stopping.NO
        self.deadline = math.inf
        self.now: Callable[[], float] = float

    @property
    def why(self) -> Stopping:
        """Why the node should end. Once it was cancelled this does not change any more."""
        if self.told in (Stopping.NO, Stopping.DRAINING) and self.now() >= self.deadline:
            return Stopping.TIMED_OUT
        return self.told


_NEVER = StopView()


Model = TypeVar("Model", bound=BaseModel, covariant=True)


class _HasInputs(Protocol[Model]):
    @property
    def Inputs(self) -> type[Model]: ...


class _HasSecrets(Protocol[Model]):
    @property
    def Secrets(self) -> type[Model]: ...


class _InputsOfTheClass:
    """For type checkers: ``self.inputs`` is an instance of the class's own ``Inputs``."""

    @overload
    def __get__(self, node: _HasInputs[Model], owner: object) -> Model: ...
    @overload
    def __get__(self, node: object, owner: object) -> BaseModel: ...
    def __get__(self, node: object, owner: object) -> BaseModel:
        raise NotImplementedError

    def __set__(self, node: object, value: BaseModel) -> None:
        raise NotImplementedError


class _SecretsOfTheClass:
    """For type checkers: ``self.secrets`` is an instance of the class's own ``Secrets``."""

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

    A subclass may define ``Inputs``, ``Outputs`` and ``Secrets``, pydantic models; what it leaves out
    is empty. Fields of Secrets are ``str``. Those of the others may also be numbers, bools, dates,
    enums, Literals, UUIDs, lists, dicts, models of these, or any of them or None: they travel as text
    and are checked on arrival. Every execution gets an instance of its own, made
    without arguments.

    ``async def execute(self)`` runs on the Trio loop and may use anyio or Trio; with
    ``event_loop = "asyncio"`` it runs on an asyncio loop instead. A plain ``def execute(self)`` runs
    in a thread. Each returns one ``Outputs``, a list of them (a
    fan-out: what follows runs once for each), or None; or raises ``PruneSignal`` or
    ``ReQueueAfterSignal``. Any other exception is the error of that state.

    Attributes:
        event_loop: Class attribute: ``"asyncio"`` for an ``execute`` that awaits what needs asyncio. The
            runtime has one asyncio loop for all such nodes, in a thread of its own. A node is cancelled
            as asyncio does it, by one CancelledError, and has 5 seconds for its clean-up; then it is
            stuck: it goes on, and nothing waits for it. ``__init__`` runs on the Trio loop.
            Defaults to ``"trio"``.
        timeout: Class attribute: most seconds that one ``execute`` may take. Then it is cancelled,
            and the state is an error that says so; only a value that it returns all the same still
            counts. A plain ``def`` goes on in its thread, where it is stuck. None, the default: no limit.
        concurrency: Class attribute: most states of this class that one runtime holds at once, running
            or waiting for a worker. A plain ``def`` that timed out counts no more, though its thread may
            go on. None, the default: no limit but the runtime's own.
        inputs: The state's ``Inputs``.
        secrets: The node's ``Secrets``.
    """

    if TYPE_CHECKING:
        # Variables, since pyright takes a nested class that replaces another one for an error; and what an
        # instance has is typed by the classes of its own class.
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

    event_loop: ClassVar[Literal["trio", "asyncio"]] = "trio"
    timeout: ClassVar[float | None] = None
    concurrency: ClassVar[int | None] = None

    _stop_view: StopView = _NEVER
    _progress_view: ProgressView | None = None

    @abstractmethod
    def execute(self) -> Any:
        """Do the work of one state; ``async def`` or plain ``def``, see the class."""
        raise NotImplementedError

    @property
    def stopping(self) -> Stopping:
        """Whether, and why, this execution should come to an end soon.

        False (``Stopping.NO``) in normal operation. ``Stopping.DRAINING`` once the runtime was asked
        to stop; once this node was cancelled, ``Stopping.CANCELLING``, ``LEASE_LOST``,
        ``RUN_CANCELLED`` or ``TIMED_OUT`` says why. A plain ``def`` node is in a thread, which nobody
        can interrupt: one that works in steps should look here between them.
        """
        return self._stop_view.why

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Say how far this execution is, for whoever looks: ``self.progress(0.4, "12 of 30 pages")``.

        The last call counts. It is shown while the node runs, and nowhere kept. From any thread, and as
        often as you like: nothing is sent by it.

        Args:
            fraction: How much is done, from 0 to 1; None if that is not known.
            text: One line, up to 200 characters, for operators; the state's secrets are masked in it.

        Raises:
            ValueError: ``fraction`` is below 0 or above 1.
            TypeError: ``fraction`` is no number, or ``text`` no text.
        """
        if self._progress_view is not None:
            self._progress_view.say(fraction, text)
        else:
            checked_progress(fraction, text)  # the same errors, where nobody looks


def is_plain(node: type[BaseNode]) -> bool:
    """Whether ``execute`` is run in a thread."""
    return not needs_asyncio(node) and not inspect.iscoroutinefunction(node.execute)


def needs_asyncio(node: type[BaseNode]) -> bool:
    """Whether ``execute`` is run in the asyncio loop."""
    return node.event_loop == "asyncio"
