"""The text of a node's error as it is reported and logged: own frames, bounded, without secrets."""

from __future__ import annotations

import os
import sys
import traceback

from exotrio._redaction import NO_SECRETS, Redactor

LONGEST_ERROR_BYTES = 64 * 1024
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def error_text(error: BaseException, redactor: Redactor = NO_SECRETS) -> str:
    """Return the traceback of ``error`` with its causes: the node's own frames, redacted, at most 64 KiB."""
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        _strip(report)
        text = "".join(report.format())
    except Exception as failure:
        # Exceptions are user code too: one that cannot be formatted is still the error of its state.
        text = f"{type(error).__name__} (its traceback cannot be shown: {type(failure).__name__})"
    return bounded(redactor.redact(text.rstrip("\n")))


def bounded(text: str) -> str:
    """Return ``text`` as valid UTF-8 of at most 64 KiB, cut in the middle: both ends say most."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > LONGEST_ERROR_BYTES:
        note = f"\n... {len(data) - LONGEST_ERROR_BYTES} bytes or more left out ...\n".encode()
        half = (LONGEST_ERROR_BYTES - len(note)) // 2
        data = data[:half] + note + data[-half:]
    return data.decode("utf-8", "ignore")


def last_line(text: str) -> str:
    """Return the line that names the error, for a log that has one line for it."""
    return text.rstrip().rpartition("\n")[2][:500]


def _strip(report: traceback.TracebackException) -> None:
    skipped = (_PACKAGE, *_folders("trio", "anyio", "outcome", "asyncio"))
    pending = [report]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part.stack[:] = [
            frame for frame in part.stack if not os.path.abspath(frame.filename).startswith(skipped)
        ]
        pending += [other for other in (part.__cause__, part.__context__) if other is not None]
        pending += part.exceptions or ()


def _folders(*packages: str) -> list[str]:
    """Return the folders of these packages: their frames say how a node was run, not what it did."""
    found = []
    for name in packages:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            found.append(os.path.dirname(os.path.abspath(file)) + os.sep)
    return found
