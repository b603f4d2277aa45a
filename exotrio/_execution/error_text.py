"""The text of a node's error as it is reported and logged: own frames, bounded, without secrets."""

from __future__ import annotations

import os
import sys
import traceback

from exotrio._util.error_message import MAX_DEPTH, MAX_ERROR_BYTES
from exotrio._util.exceptions import leaves
from exotrio._util.redaction import NO_SECRETS, Redactor

MAX_PIECE = 6 * 1024
"""Characters of one message, or of one frame, in a traceback: in any script less than half of all."""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def error_text(error: BaseException, redactor: Redactor = NO_SECRETS, note: str = "") -> str:
    """Return the traceback of ``error`` with its causes: the node's own frames, redacted, at most 64 KiB.

    ``note`` is shown below its message, as notes of exceptions are.
    """
    try:
        if _is_too_deep(error):
            error = BaseExceptionGroup("errors in groups that are nested too deep to be shown", leaves(error))
        report = traceback.TracebackException.from_exception(error, compact=True, max_group_depth=MAX_DEPTH)
        _strip(report)
        if note:
            notes = report.__notes__ if isinstance(report.__notes__, list) else []
            report.__notes__ = [*notes, note]  # in the report only, not in an object of the node
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
