"""The checkpoint of a running node: the newest value that was set, and what the state manager has of it.

A value is kept as text from the moment that it is set: so its size is known at the node's own line, and what
the node does to the object afterwards changes nothing.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from exotrio._fields.models import checkpoint_of_text, fields_of
from exotrio._nodes.outcome import CheckpointText
from exotrio._util.json import NotJson, encode
from exotrio._wire.vocabulary import MAX_CHECKPOINT
from exotrio.errors import CheckpointNotSaved, LifecycleError

STOP_CHECK_INTERVAL = 0.2
"""Seconds after which a thread that waits for its checkpoint notices that it should end."""


@dataclass(eq=False, slots=True)
class CheckpointView:
    """The checkpoint of one execution. Any thread may use it: a new value is one assignment.

    Attributes:
        last: The newest value; None if there is none yet. At first what the state manager had when the state
            was claimed.
        now: Returns the time, in any thread. Defaults to none: 0.
        is_stored: Returns whether the state manager stores it, now or at the end of the execution. Defaults
            to no.
        send: Called to have the newest value sent at once.
        set_at: When it was set here, on the clock of ``now``; minus infinity before.
        confirmed: The number of the value that the state manager is known to have.
        confirmed_at: When that was set here, as ``set_at``.
        has_ended: The execution is over: what is set now is not stored.
    """

    last: CheckpointText | None = None
    _: KW_ONLY
    now: Callable[[], float] = float
    is_stored: Callable[[], bool] = lambda: False
    send: Callable[[], object] = lambda: None
    set_at: float = -math.inf
    confirmed: int = 0
    confirmed_at: float = -math.inf
    has_ended: bool = False
    _numbers: Iterator[int] = field(init=False)
    _waiting: dict[object, tuple[int, Callable[[], object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.last is not None:
            self.confirmed = self.last.number
        self._numbers = count(self.confirmed + 1)

    def set(self, text: str) -> int:
        """Keep a value as the newest one, and return its number."""
        number = next(self._numbers)
        self.take(CheckpointText(number, text))
        return number

    def take(self, value: CheckpointText) -> None:
        """Keep a value that was numbered in another process."""
        self.last, self.set_at = value, self.now()

    @property
    def unconfirmed(self) -> CheckpointText | None:
        """The newest value, unless the state manager is known to have it."""
        last = self.last
        return None if last is None or last.number <= self.confirmed else last

    @property
    def is_awaited(self) -> bool:
        """Whether the node waits until a value is stored."""
        return bool(self._waiting)

    def confirm(self, number: int, set_at: float = -math.inf) -> None:
        """Record that the state manager has the value of this number, and when that was set."""
        self.confirmed = max(self.confirmed, number)
        self.confirmed_at = max(self.confirmed_at, set_at)
        self.wake()

    def end(self) -> None:
        """Record that the execution is over. Threads and tasks that it left may still wait."""
        self.has_ended = True
        self.wake()

    def wake(self) -> None:
        """Wake those who wait for a value that is stored, or for any if none is stored any more."""
        waits = self.is_stored() and not self.has_ended
        for key, (number, wake) in list(self._waiting.items()):
            if number <= self.confirmed or not waits:
                self._waiting.pop(key, None)
                wake()

    def is_lost(self, number: int) -> bool:
        """Whether the execution ended before the value of this number was stored."""
        return self.has_ended and number > self.confirmed and self.is_stored()

    def when_stored(self, number: int, wake: Callable[[], object]) -> Callable[[], object]:
        """Have ``wake`` called, in any thread, once the value is stored or cannot be; return its end."""
        key = object()
        self._waiting[key] = number, wake
        self.wake()  # Race: it may have been confirmed before this entry was made.
        if key in self._waiting:
            self.send()
        return lambda: self._waiting.pop(key, None)


def text_of_checkpoint(name: str, model: type[BaseModel], value: object) -> str:
    """Return the text of a value for the checkpoint of node class ``name``.

    Raises:
        TypeError: it is not of the class.
        FieldsInvalid: it has values that are not of the types of its fields.
        ValueError: it is too large, or has no JSON form.
    """
    if not isinstance(value, model):
        raise TypeError(f"{name}.checkpoint: assign a {name}.Checkpoint, not a {type(value).__qualname__}")
    fields = fields_of(model)
    try:
        # Without an error for a wrong type, the value could be stored, but not read again.
        text = encode(value.model_dump(warnings="error") if fields is None else fields.encode(value))
    except NotJson as error:
        raise ValueError(f"{name}.checkpoint: the value cannot be stored as JSON: {error}") from None
    except PydanticSerializationError as error:
        raise ValueError(f"{name}.checkpoint: the value does not fit its class: {error}") from None
    if len(text) > MAX_CHECKPOINT:
        raise ValueError(
            f"{name}.checkpoint: the value has {len(text):,} bytes as text; at most {MAX_CHECKPOINT:,} are "
            "allowed: keep what is large elsewhere, and its name in the checkpoint"
        )
    return text.decode()


class NodeCheckpoint:
    """The checkpoint of one execution, as its node sees it.

    Args:
        name: Name of the node class, for messages.
        view: Keeps the texts of the values.

    Raises:
        FieldsInvalid: what is stored does not fit the class.
    """

    def __init__(self, name: str, model: type[BaseModel], view: CheckpointView) -> None:
        self._name, self._model, self._view = name, model, view
        # Reentrant, for a signal handler that sets a value in the thread that sets one.
        self._setting = threading.RLock()
        self._current: tuple[BaseModel, str] | None = None
        """The value, and its text when it was set."""
        if view.last is not None:
            self._keep(checkpoint_of_text(model, view.last.value))
        elif not any(info.is_required() for info in model.model_fields.values()):
            self._keep(model())

    def read(self) -> BaseModel | None:
        """Return the newest value. Raises TypeError if it was changed after it was set."""
        if self._current is None:
            return None
        value, text = self._current
        if self._text_of(value) != text:
            raise TypeError(
                f"{self._name}.checkpoint was changed after it was set, which saves nothing: "
                f"assign a new {self._name}.Checkpoint instead"
            )
        return value

    def set(self, value: object) -> int:
        """Set a value, and return its number. Raises as ``text_of_checkpoint``."""
        with self._setting:  # else the newest number might come with an older value
            return self._view.set(self._keep(value))

    async def save(self, value: object) -> None:
        """Set a value, and wait until it is stored, or cannot be. In a Trio or an asyncio loop.

        Raises:
            CheckpointNotSaved: the execution ended before it was stored: this task outlives it.

        Cancellation:
            It is set; it may be stored or not.
        """
        number = self.set(value)
        asyncio = sys.modules.get("asyncio")
        stored: Any
        if asyncio is not None and _in_asyncio_task():
            stored, loop = asyncio.Event(), asyncio.get_running_loop()

            def wake() -> None:
                with suppress(RuntimeError):  # the loop was closed at this moment
                    loop.call_soon_threadsafe(stored.set)
        else:
            import trio

            # Here, since it imports Trio, which is loaded where nodes run.
            from exotrio._util.crossing import call_in_loop

            stored, token = trio.Event(), trio.lowlevel.current_trio_token()

            def wake() -> None:
                call_in_loop(token, stored.set)

        forget = self._view.when_stored(number, wake)
        try:
            await stored.wait()
        finally:
            forget()
        self._check_stored(number)

    def save_sync(self, value: object, why_ending: Callable[[], str]) -> None:
        """Set a value, and block this thread until it is stored, or cannot be.

        Args:
            why_ending: Returns why the node was told to end; empty if it was not.

        Raises:
            CheckpointNotSaved: the node was told to end, or ended, before it was stored.
            LifecycleError: an event loop runs in this thread.
        """
        if _in_event_loop():
            raise LifecycleError(
                f"{self._name}.save_checkpoint_sync() was called in an event loop, which it would block",
                fix="write: await self.save_checkpoint(...)",
            )
        number, stored = self.set(value), threading.Event()
        forget = self._view.when_stored(number, stored.set)
        try:
            while not stored.is_set():
                if why := why_ending():
                    what = f"{self._name} waited for its checkpoint to be stored, and should end: {why}"
                    raise CheckpointNotSaved(what)
                stored.wait(STOP_CHECK_INTERVAL)
        finally:
            forget()
        self._check_stored(number)

    def _check_stored(self, number: int) -> None:
        if self._view.is_lost(number):
            raise CheckpointNotSaved(f"{self._name} ended before its checkpoint was stored")

    def _keep(self, value: object) -> str:
        text = self._text_of(value)
        assert isinstance(value, BaseModel)
        self._current = value, text
        return text

    def _text_of(self, value: object) -> str:
        return text_of_checkpoint(self._name, self._model, value)


def _in_asyncio_task() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.current_task() is not None
    except RuntimeError:  # no loop runs in this thread
        return False


def _in_event_loop() -> bool:
    trio = sys.modules.get("trio")
    return _in_asyncio_task() or (trio is not None and trio.lowlevel.in_trio_run())
