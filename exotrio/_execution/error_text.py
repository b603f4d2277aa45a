"""The text of a node's error as it is reported and logged: own frames, bounded, without secrets."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from itertools import islice

from exotrio._util.error_message import MAX_DEPTH, MAX_ERROR_BYTES
from exotrio._util.exceptions import leaves
from exotrio._util.redaction import NO_SECRETS, Redactor

MAX_PIECE = 6 * 1024
"""Characters of one message, or of one frame, in a traceback: in any script less than half of all."""
MAX_PARTS = 1000
"""Errors in one text, with those in groups and the causes: each takes time, also if it is cut in the end."""
MAX_SHOWN = 15
"""Errors of a group that has more, as in tracebacks of Python."""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def error_text(error: BaseException, redactor: Redactor = NO_SECRETS, note: str = "") -> str:
    """Return the traceback of ``error`` with its causes: the node's own frames, redacted, at most 64 KiB.

    ``note`` is shown below its message, as notes of exceptions are.
    """
    try:
        if _is_too_deep(error):
            error = BaseExceptionGroup("errors in groups that are nested too deep to be shown", leaves(error))
        shown, notes = error, [note] if note else []
        if len(list(islice(_formatted(error), MAX_PARTS + 1))) > MAX_PARTS:
            shown = _first_of(error)
            notes.insert(0, f"Causes are not shown: these are more than {MAX_PARTS} errors.")
        report = traceback.TracebackException.from_exception(shown, compact=True, max_group_depth=MAX_DEPTH)
        _strip(report)
        if notes:
            own = report.__notes__ if isinstance(report.__notes__, list) else []
            report.__notes__ = [*own, *notes]  # in the report only, not in an object of the node
        # Each piece is a frame or a message: one that is too long keeps its beginning. Redacted before,
        # since half a secret would not be recognized.
        text = "".join(_shortened(redactor.redact(piece)) for piece in report.format())
    except BaseException as failure:
        # Exceptions are user code too: one that cannot be formatted is still the error of its state.
        name = type(failure).__name__
        text = f"{type(error).__name__} (its traceback cannot be shown: {name})\n{note}"
    return bounded(redactor.redact(text.rstrip("\n")))


def bounded(text: str) -> str:
    """Return ``text`` as valid UTF-8 of at most 64 KiB, cut in the middle: both ends matter more."""
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


def _is_too_deep(error: BaseException) -> bool:
    """Whether ``error`` has parts within more groups than are shown."""
    parts = [error]
    for _ in range(MAX_DEPTH + 1):
        parts = [
            part for group in parts if isinstance(group, BaseExceptionGroup) for part in group.exceptions
        ]
    return bool(parts)


def _formatted(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a traceback shows: those in groups, and the causes of all."""
    seen, pending = set[int](), [error]
    while pending:
        part = pending.pop()
        yield part
        seen.add(id(part))
        cause = _cause_of(part)
        if cause is not None and id(cause) not in seen:
            pending.append(cause)
        if isinstance(part, BaseExceptionGroup):
            pending += reversed(part.exceptions)


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _first_of(error: BaseException) -> BaseException:
    """Return a group of the first errors in a group, or another error itself, without their causes."""
    first = [_without_cause(part) for part in leaves(error)[:MAX_SHOWN]]
    if not isinstance(error, BaseExceptionGroup):
        return first[0]
    group = BaseExceptionGroup(f"{error}, of which these are the first", first)
    return group.with_traceback(error.__traceback__)


def _without_cause(error: BaseException) -> BaseException:
    if _cause_of(error) is None:
        return error
    names = {"__module__": type(error).__module__, "__qualname__": type(error).__qualname__}
    alone: BaseException = type(type(error).__name__, (BaseException,), names)(str(error))
    return alone.with_traceback(error.__traceback__)


def _strip(report: traceback.TracebackException) -> None:
    skipped = (_PACKAGE, *_folders("trio", "anyio", "outcome", "asyncio"))
    pending = [report]
    while pending:
        part = pending.pop()
        part.stack[:] = [
            frame for frame in part.stack if not os.path.abspath(frame.filename).startswith(skipped)
        ]
        pending += [other for other in (part.__cause__, part.__context__) if other is not None]
        pending += part.exceptions or ()


def _folders(*packages: str) -> list[str]:
    """Return the folders of these packages: their frames say how a node was run, not what it did."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in packages]
    return [os.path.dirname(os.path.abspath(file)) + os.sep for file in files if file]
