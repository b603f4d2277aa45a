"""Statuses, times, numbers and values as a page shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from exotrio._util.durations import format_coarse
from exotrio._util.times import timestamp

MAX_VALUE = 20_000
"""Characters of one value on a page."""

_STATUSES = {
    "CREATED": ("waiting", "waiting"),
    "QUEUED": ("running", "running"),
    "EXECUTED": ("finishing", "running"),
    "SUCCESS": ("success", "success"),
    "ERRORED": ("errored", "errored"),
    "NEXT_CREATED_ERROR": ("next failed", "errored"),
    "RETRY_CREATED": ("retried", "retried"),
    "PRUNED": ("pruned", "pruned"),
}
SHOWN_STATUS = {status: shown for status, (shown, _) in _STATUSES.items()}
"""The word that a page shows for a status."""
STATUS_CLASS = {status: kind for status, (_, kind) in _STATUSES.items()}
"""The class that it counts a status under, and colours it by."""
CLASSES = ("success", "pruned", "running", "waiting", "retried", "errored")
"""The classes of statuses, in the order of a bar."""
CANCELLED = "cancelled"
"""Replaces ``errored`` where a run was cancelled, since its counts do not tell the two apart."""


def status_class(status: str, cancelled: bool = False) -> str:
    """Return the class of a status, such as ``errored``; ``cancelled`` instead if that was its cause."""
    name = STATUS_CLASS[status]
    return CANCELLED if cancelled and name == "errored" else name


def classed(counts: Mapping[str, int], *, cancelled: bool = False) -> dict[str, int]:
    """Return counts by status as counts by class, in the order of a bar."""
    found = dict.fromkeys((*CLASSES, CANCELLED), 0)
    for status, count in counts.items():
        found[status_class(status, cancelled)] += count
    return {name: count for name, count in found.items() if count}


def run_counts(run: Mapping[str, Any]) -> dict[str, int]:
    """Return the states of a run in a list, as counts by class."""
    bad = CANCELLED if run["status"] == CANCELLED else "errored"
    counts = {"success": run["success"], "waiting": run["pending"], bad: run["errored"]}
    return {name: count for name, count in counts.items() if count}


def ago(then_ms: int | None, now_ms: int) -> str:
    """Return a time relative to now, rounded: ``12 s ago``, ``in 3 min``."""
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
    return timestamp(ms).replace("T", " ").removesuffix("Z")


def minute(ms: int) -> str:
    """Return a time of day, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%H:%M")


def day(ms: int) -> str:
    """Return a day, in UTC: ``Wed 16 Sep``."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%a %d %b")


def value(data: object) -> str:
    """Return a value of a state as text, shortened if it is very long."""
    return shorten(text_of(data), MAX_VALUE)


def text_of(data: object) -> str:
    """Return a value as text: a string as it is, anything else as JSON."""
    return data if isinstance(data, str) else to_json(data, indent=2, inf_nan_mode="constants").decode()


def shorten(text: str, longest: int) -> str:
    """Return the text, or its beginning and how much is left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"


def short(identifier: str) -> str:
    """Return the part of an id that identifies it at a glance."""
    return identifier[:8] if "-" in identifier else identifier[8:].lstrip("0").rjust(4, "0")
