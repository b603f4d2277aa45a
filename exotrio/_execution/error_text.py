"""The text of a node's error as it is reported and logged: own frames, bounded, without secrets."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TypeVar

from exotrio._util.error_message import MAX_DEPTH, MAX_ERROR_BYTES, MAX_LINE, joined, of_group
from exotrio._util.exceptions import leaves, unfold
from exotrio._util.redaction import NO_SECRETS, Redactor
from exotrio._util.words import shortened

T = TypeVar("T")

MAX_PIECE = 6 * 1024
"""Characters of one message, or of one frame, in a traceback: in any script less than half of all."""
MAX_LEAVES = 5
"""Exceptions of a group that are named in one line."""
_NAME = type.__dict__["__name__"].__get__
_PARTS = BaseExceptionGroup.exceptions.__get__
_CAUSE = BaseException.__dict__["__cause__"].__get__
_CONTEXT = BaseException.__dict__["__context__"].__get__
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def error_text(error: BaseException, redactor: Redactor = NO_SECRETS, note: str = "") -> str:
    """Return the traceback of ``error`` with its causes: the node's own frames, redacted, at most 64 KiB.

    ``note`` is shown below its message, as notes of exceptions are.
    """
    try:
        found, depth = unfold(error)
        if _is_endless(error):
            return bounded(f"{error_line(error, redactor)} (it has no traceback that ends)\n{note}".rstrip())
        if depth > MAX_DEPTH:
            error = BaseExceptionGroup("what is in groups too deep to be shown", found)
        report = traceback.TracebackException.from_exception(error, compact=True, max_group_depth=MAX_DEPTH)
        _strip(report)
        if note:
            notes = report.__notes__ if isinstance(report.__notes__, list) else []
            report.__notes__ = [*notes, note]  # in the report only, not in an object of the node
        # Each piece is a frame or a message: one that is too long keeps its beginning. Redacted before,
        # since half a secret would not be found.
        text = "".join(_shortened(redactor.redact(piece)) for piece in report.format())
    except BaseException as failure:
        # Exceptions are user code too: one that cannot be formatted is still the error of its state.
        text = f"{error_line(error, redactor)} (its traceback cannot be shown: {name_of(failure)})\n{note}"
    return bounded(redactor.redact(text.rstrip("\n")))


def error_line(error: BaseException, redactor: Redactor = NO_SECRETS) -> str:
    """Return what ``error`` is in one line, redacted: its message; of a group, the messages in it."""
    found = leaves(error)
    messages = [_message(leaf, redactor) for leaf in found[:MAX_LEAVES]]
    line = messages[0] if len(found) == 1 else of_group(f"{name_of(error)} of {len(found)}", messages)
    return shortened(line, MAX_LINE)


def bounded(text: str) -> str:
    """Return ``text`` as valid UTF-8 of at most 64 KiB, cut in the middle: both ends say most."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MAX_ERROR_BYTES:
        # Indented as the frames of a traceback are: not to be taken for the message below them.
        note = f"\n  ... {len(data) - MAX_ERROR_BYTES} bytes or more left out ...\n  ".encode()
        half = (MAX_ERROR_BYTES - len(note)) // 2
        data = data[:half] + note + data[-half:]
    return data.decode("utf-8", "ignore")


def _shortened(piece: str) -> str:
    if len(piece) <= MAX_PIECE:
        return piece
    tail = MAX_PIECE // 4
    note = f"\n  ... {len(piece) - MAX_PIECE} characters left out ...\n"
    return piece[: MAX_PIECE - tail] + note + piece[-tail:]


def _is_endless(error: BaseException) -> bool:
    """Whether ``traceback`` might never end with it: that asks groups for their parts."""
    pending = [error]
    for part in _each_once(pending):
        if issubclass(type(part), BaseExceptionGroup):
            if inspect.getattr_static(type(part), "exceptions") is not BaseExceptionGroup.exceptions:
                return True
            pending += _PARTS(part)
        pending += [other for other in (_CAUSE(part), _CONTEXT(part)) if other is not None]
    return False


def _each_once(pending: list[T]) -> Iterator[T]:
    """Take what is pending, and what is added meanwhile, each object once."""
    seen = set()
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part


def _message(error: BaseException, redactor: Redactor) -> str:
    try:
        kind = type(error)
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "__main__"):
            name = f"{kind.__module__}.{name}"
        text = redactor.redact(str(error))  # before it is cut: half a secret would not be found
        lines = [line for line in f"{name}: {text}".splitlines() if line.strip()]
        return joined(lines, 0).removesuffix(":")
    except BaseException:
        return name_of(error)


def name_of(error: BaseException) -> str:
    """Return the name of its class."""
    # Not type(error).__name__, which a metaclass may have replaced.
    return str(_NAME(type(error)))


def _strip(report: traceback.TracebackException) -> None:
    skipped = (_PACKAGE, *_folders("trio", "anyio", "outcome", "asyncio"))
    pending = [report]
    for part in _each_once(pending):
        part.stack[:] = [
            frame for frame in part.stack if not os.path.abspath(frame.filename).startswith(skipped)
        ]
        pending += [other for other in (part.__cause__, part.__context__) if other is not None]
        pending += part.exceptions or ()


def _folders(*packages: str) -> list[str]:
    """Return the folders of these packages: their frames say how a node was run, not what it did."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in packages]
    return [os.path.dirname(os.path.abspath(file)) + os.sep for file in files if file]
