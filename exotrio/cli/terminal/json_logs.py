"""Log lines as JSON objects."""

from __future__ import annotations

import logging
from typing import Any

from exotrio._execution.handle import claim_fields, execution_context, phase_context
from exotrio._runtime.held_claim import HeldClaim
from exotrio._util.json import encode, sendable
from exotrio._util.redaction import NO_SECRETS, Redactor
from exotrio._util.times import timestamp
from exotrio._util.words import harmless_json

FIELDS = ("run", "graph", "state", "node", "attempt", "final", "phase")
"""Fields other than time, level, logger, message and exception."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time (UTC), level, logger, message; those of
    ``FIELDS`` that are known; exception.

    The fields are those of the state among the arguments of the record, or else of the state in whose
    execution the record was made. Secrets of an execution are masked, also in lines of other libraries.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; if its message cannot be formatted, the raw one with the reason."""
        execution = execution_context.get()
        redactor = NO_SECRETS if execution is None else execution.progress.redactor
        try:
            message = record.getMessage()
        except Exception as error:
            message = f"{record.msg!r} % {record.args!r} ({type(error).__name__}: {error})"
        entry: dict[str, Any] = {
            "time": timestamp(record.created * 1000),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
        }
        args = record.args.values() if isinstance(record.args, dict) else record.args or ()
        about = [arg.claim for arg in args if isinstance(arg, HeldClaim)]
        if not about and execution is not None:
            about = [execution.claim]
        if len(about) == 1:
            entry |= claim_fields(about[0])
        if (phase := phase_context.get()) is not None:
            entry["phase"] = phase()
        entry |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:  # it was raised in another process
            entry["exception"] = record.exc_text
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        line = encode({name: _plain(value, redactor) for name, value in entry.items()}).decode()
        return harmless_json(line)


def _plain(value: object, redactor: Redactor) -> object:
    # `extra` may hold any object, and text may have characters that UTF-8 lacks.
    if isinstance(value, int):
        return value
    return sendable(redactor.redact(str(value)))
