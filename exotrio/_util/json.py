"""JSON for the wire: a value without a JSON form is an error, never replaced by a similar one."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json, to_json


class NotJson(ValueError):
    """The value has no JSON form; the message says why."""


def encode(value: Any) -> bytes:
    """Return ``value`` (plain data, dates, pydantic models) as JSON.

    Raises:
        NotJson: it holds something without a JSON form: NaN, a cycle, a foreign object, a lone surrogate.
    """
    try:
        text = to_json(value)
        # to_json writes NaN and Infinity, which other JSON readers refuse.
        if b"NaN" in text or b"Infinity" in text:
            from_json(text, allow_inf_nan=False)
    except Exception as error:  # the value is a user's: its own serializers may raise anything
        raise NotJson(f"{type(error).__name__}: {error}") from error
    return text


def decode(text: bytes) -> Any:
    """Return the value of a JSON text; raise NotJson if it is not JSON."""
    try:
        # Most values are unique: to keep them, too, takes as long again.
        return from_json(text, cache_strings="keys")
    except ValueError as error:
        raise NotJson(str(error)) from error


def sendable(text: str) -> str:
    """Return ``text`` with lone surrogates (from file names in tracebacks) escaped, ready to be sent."""
    return text.encode("utf-8", "backslashreplace").decode()
