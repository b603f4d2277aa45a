"""``BaseNode``, the checks on node classes, and how a class is declared to the state manager."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel

from exotrio._nodes.fields import field_problems, fields_of
from exotrio._nodes.progress import ProgressView, checked_progress
from exotrio.graph import check_name

if TYPE_CHECKING:
    from exotrio._wire.v0 import NodeDeclaration


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

    The timeout is no flag that somebody sets: whoever asks compares the clock with the deadline. So
    the node, its thread and the stop path never differ on whether it is over.

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
            left behind. ``__init__`` runs on the Trio loop. Defaults to ``"trio"``.
        timeout: Class attribute: most seconds that one ``execute`` may take. Then it is cancelled,
            and the state is an error that says so; only a value that it returns all the same still
            counts. A plain ``def`` is left behind in its thread. None, the default: no limit.
        concurrency: Class attribute: most states of this class that one runtime holds at once, running
            or waiting for a worker. A plain ``def`` that timed out counts no more, though its thread may
            go on. None, the default: no limit but the runtime's own.
        inputs: The state's ``Inputs``.
        secrets: The node's ``Secrets``.
    """

    class Inputs(BaseModel):
        """No inputs."""

    class Outputs(BaseModel):
        """No outputs."""

    class Secrets(BaseModel):
        """No secrets."""

    event_loop: ClassVar[Literal["trio", "asyncio"]] = "trio"
    timeout: ClassVar[float | None] = None
    concurrency: ClassVar[int | None] = None

    # Any, since pydantic models nested in subclasses are unrelated types to a type checker: with
    # the base's empty models as type, every self.inputs.field of a user would be an error.
    inputs: Any = None
    secrets: Any = None
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


def node_problems(nodes: Sequence[Any]) -> list[str]:
    """Return everything that is wrong with these node classes, one line each."""
    problems: list[str] = []
    seen: dict[str, int] = {}
    for position, node in enumerate(nodes):
        if not isinstance(node, type):
            hint = "pass the class itself, not an instance" if isinstance(node, BaseNode) else "pass classes"
            problems.append(f"nodes[{position}] is {_short(node)}, not a class: {hint}")
            continue
        seen[node.__name__] = seen.get(node.__name__, 0) + 1
        if not issubclass(node, BaseNode):
            problems.append(f"{node.__name__} does not inherit from exotrio.BaseNode")
            continue
        problems += _class_problems(node)
    problems += [
        f"{count} node classes are named {name}: a state names its class, so names must differ"
        for name, count in seen.items()
        if count > 1
    ]
    return problems


def is_plain(node: type[BaseNode]) -> bool:
    """Whether ``execute`` is run in a thread."""
    return not needs_asyncio(node) and not inspect.iscoroutinefunction(node.execute)


def needs_asyncio(node: type[BaseNode]) -> bool:
    """Whether ``execute`` is run in the asyncio loop."""
    return node.event_loop == "asyncio"


def declare(node: type[BaseNode]) -> NodeDeclaration:
    """Return the declaration under which a checked node class is registered."""
    # Here: the classes of the bodies cost 10 ms, which a file that only declares nodes need not pay.
    from exotrio._wire.v0 import NodeDeclaration

    return NodeDeclaration(
        name=node.__name__,
        inputs_schema=_schema(node.Inputs),
        outputs_schema=_schema(node.Outputs),
        secrets=list(node.Secrets.model_fields),
    )


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    fields = fields_of(model)
    return model.model_json_schema() if fields is None else fields.schema()


def _class_problems(node: type[BaseNode]) -> list[str]:
    problems = []
    try:
        check_name(node.__name__)
    except ValueError as error:
        problems.append(f"the class name {node.__name__!r} {error}")
    missing = sorted(getattr(node, "__abstractmethods__", ()))
    if "execute" in missing:
        problems.append(f"{node.__name__} has no execute method: write async def execute(self)")
        missing.remove("execute")
    else:
        problems += _execute_problems(node)
    if missing:
        problems.append(f"{node.__name__} leaves abstract: {', '.join(missing)}")
    if not _callable_with(node, 0):
        problems.append(f"{node.__name__} cannot be made without arguments: give those of __init__ defaults")
    problems += _loop_problems(node)
    problems += _limit_problems(node)
    for part in ("Inputs", "Outputs", "Secrets"):
        problems += _model_problems(f"{node.__name__}.{part}", getattr(node, part, None))
    return problems


def _loop_problems(node: type[BaseNode]) -> list[str]:
    loop: Any = node.event_loop
    if loop not in ("trio", "asyncio"):
        return [f'{node.__name__}.event_loop is {_short(loop)}: it must be "trio" or "asyncio"']
    # A decorator may have made a plain function of a coroutine function.
    if loop == "asyncio" and not inspect.iscoroutinefunction(inspect.unwrap(node.execute)):
        return [
            f'{node.__name__}.event_loop is "asyncio", but its execute is a plain def: '
            "write async def execute(self), or leave event_loop out to have it run in a thread"
        ]
    return []


def _limit_problems(node: type[BaseNode]) -> list[str]:
    problems = []
    timeout: Any = node.timeout
    if timeout is not None:
        number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
        if not number or not math.isfinite(timeout) or timeout <= 0:
            problems.append(
                f"{node.__name__}.timeout is {_short(timeout)}: "
                "it must be a finite number of seconds above zero, or None"
            )
    concurrency: Any = node.concurrency
    if concurrency is not None:
        number = isinstance(concurrency, int) and not isinstance(concurrency, bool)
        if not number or concurrency < 1:
            problems.append(
                f"{node.__name__}.concurrency is {_short(concurrency)}: "
                "it must be a whole number, at least 1, or None"
            )
    return problems


def _execute_problems(node: type[BaseNode]) -> list[str]:
    execute: Any = inspect.getattr_static(node, "execute")
    if isinstance(execute, staticmethod | classmethod):
        return [f"{node.__name__}.execute must be a plain method, not a {type(execute).__name__}"]
    if not callable(execute):
        return [f"{node.__name__}.execute is {_short(execute)}, not a method: write async def execute(self)"]
    if inspect.isasyncgenfunction(execute) or inspect.isgeneratorfunction(execute):
        return [f"{node.__name__}.execute is a generator (it has a yield): return a list of Outputs instead"]
    if not _callable_with(execute, 1):
        return [
            f"{node.__name__}.execute must take no argument but self: "
            "inputs are in self.inputs, secrets in self.secrets"
        ]
    return []


def _model_problems(title: str, model: Any) -> list[str]:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return [f"{title} must be a class that inherits from pydantic.BaseModel, not {_short(model)}"]
    if title.endswith(".Secrets"):
        problems = [
            f"{title}.{field}: must be of type str, not {_type_name(info.annotation)}: secrets are text"
            for field, info in model.model_fields.items()
            if info.annotation is not str
        ]
    else:
        problems = [f"{title}.{problem}" for problem in field_problems(model)]
    if not problems:
        try:
            _schema(model)
        except Exception as error:
            problems.append(f"{title} has no JSON schema: {error}")
    return problems


def _callable_with(function: Any, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True  # no signature is known (C code): the call itself will tell
    return True


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
