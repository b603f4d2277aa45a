"""How times, numbers and values read on a page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic_core import to_json

from exotrio._util.durations import format_coarse

LONGEST_VALUE = 20_000
"""Characters of one value that a page shows."""

SHOWN_STATUS = {
    "CREATED": "waiting",
    "QUEUED": "running",
    "EXECUTED": "finishing",
    "SUCCESS": "success",
    "ERRORED": "errored",
    "NEXT_CREATED_ERROR": "next failed",
    "RETRY_CREATED": "retried",
    "PRUNED": "pruned",
}
STATUS_CLASS = {
    "CREATED": "waiting",
    "QUEUED": "running",
    "EXECUTED": "running",
    "SUCCESS": "success",
    "ERRORED": "errored",
    "NEXT_CREATED_ERROR": "errored",
    "RETRY_CREATED": "retried",
    "PRUNED": "pruned",
}
CLASSES = ("success", "pruned", "running", "waiting", "retried", "errored")
"""In the order in which a bar shows them."""
CANCELLED = "cancelled"
"""In place of ``errored`` where a run was cancelled: its counts do not tell the two apart."""


def classed(counts: Mapping[str, int]) -> dict[str, int]:
    """Return counts by status as counts by what a page tells apart, in the order of a bar."""
    found = dict.fromkeys(CLASSES, 0)
    for status, count in counts.items():
        found[STATUS_CLASS[status]] += count
    return {name: count for name, count in found.items() if count}


def ago(then_ms: int | None, now_ms: int) -> str:
    """Return how long ago a time was, coarsely: ``12 s ago``."""
    if then_ms is None:
        return "—"
    past = now_ms - then_ms
    if abs(past) < 1_000:
        return "now"
    text = format_coarse(abs(past) / 1000)
    return f"{text} ago" if past > 0 else f"in {text}"


def moment(ms: int | None) -> str:
    """Return a time to the millisecond, in UTC."""
    if ms is None:
        return "—"
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{ms % 1000:03d}"


def minute(ms: int) -> str:
    """Return a time of day, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M")


def number(value: int) -> str:
    """Return a whole number with separators."""
    return f"{value:,}"


def value(data: object) -> str:
    """Return a value of a state as text: a string as it is, anything else as JSON; cut if it is very long."""
    text = data if isinstance(data, str) else to_json(data, indent=2, inf_nan_mode="constants").decode()
    return cut(text, LONGEST_VALUE)


def cut(text: str, longest: int) -> str:
    """Return the text, or its beginning and how much is left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def short(identifier: str) -> str:
    """Return the part of an id that tells it apart at a glance."""
    return identifier[:8] if "-" in identifier else identifier[-8:].lstrip("0").rjust(4, "0")
