"""Statuses, times, numbers and values as a page shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic_core import from_json, to_json

from exotrio._util.times import format_coarse, format_quantile, from_unix_ms, iso_time, moment_ms, timestamp
from exotrio._wire.runs import StateTimes
from exotrio._wire.v0 import RunSummary
from exotrio._wire.vocabulary import short_id
from exotrio.manager.queries.load import BUFFERED, REPORTING, Performance
from exotrio.manager.queries.state_times import Times

MAX_VALUE = 20_000
"""Characters of one value on a page."""

FOR_EVENT = "event"
"""The class of states that wait for events or runs."""
_STATUSES = {
    "CREATED": ("waiting", "waiting"),
    "WAITING": ("waits for event or run", FOR_EVENT),
    "QUEUED": ("running", "running"),
    BUFFERED: ("buffered", "buffered"),
    REPORTING: ("reporting", "reporting"),
    "EXECUTED": ("finishing", "running"),
    "SUCCESS": ("success", "success"),
    "ERRORED": ("errored", "errored"),
    "NEXT_CREATED_ERROR": ("next failed", "errored"),
    "RETRY_CREATED": ("replaced", "replaced"),
    "PRUNED": ("pruned", "pruned"),
}
SHOWN_STATUS = {status: shown for status, (shown, _) in _STATUSES.items()}
"""The word that a page shows for a status."""
STATUS_CLASS = {status: kind for status, (_, kind) in _STATUSES.items()}
"""The class that it counts a status under, and colours it by."""
CLASSES = (
    *("success", "pruned", "reporting", "running", "buffered", FOR_EVENT, "waiting", "replaced", "errored"),
)
"""The classes of statuses, in the order of a bar."""
CANCELLED = "cancelled"
"""Replaces ``errored`` where a run was cancelled, since its counts do not tell the two apart."""

OPEN = "open"
"""States that wait, are claimed or run: the counts of a run in a list do not tell them apart."""
CLASS_WORDS = {
    FOR_EVENT: "awaiting events or runs",
    CANCELLED: "errored or cancelled",
    OPEN: "not ended",
}
"""What pages call the states of a class, if not by its name."""


def status_class(status: str, cancelled: bool = False) -> str:
    """Return the class of a status, such as ``errored``; ``cancelled`` instead if that was its cause."""
    name = STATUS_CLASS[status]
    return CANCELLED if cancelled and name == "errored" else name


def classed(counts: Mapping[str, int], *, cancelled: bool = False) -> dict[str, int]:
    """Return counts by status as counts by class, in the order of a bar."""
    by_class = dict.fromkeys((*CLASSES, CANCELLED), 0)
    for status, count in counts.items():
        by_class[status_class(status, cancelled)] += count
    return {name: count for name, count in by_class.items() if count}


def run_counts(run: RunSummary) -> dict[str, int]:
    """Return the states of a run in a list, as counts by class."""
    bad = CANCELLED if run.cancelled_at else "errored"
    ended_well = {"success": run.success_count - run.pruned_count, "pruned": run.pruned_count}
    counts = {**ended_well, OPEN: run.pending_count, bad: run.errored_count}
    return {name: count for name, count in counts.items() if count}


def took(run: RunSummary, now_ms: int) -> float:
    """Return how many ms a run took, or has taken so far."""
    seconds = run.duration_until(from_unix_ms(now_ms))
    assert seconds is not None, "only a v0 server leaves out when it began"
    return seconds * 1000


def times_of(at: Times, now_ms: int) -> str:
    """Return how long a state waited and ran, in words."""
    times = StateTimes.model_validate(at.spent(now_ms))
    return times.times_text(ended=at.is_over) or "a further output"


def quantile(recent: Performance, name: str, percent: int) -> str:
    """Return a percentile of how long states of a node ``waited``, ``awaited`` events or runs, were
    ``buffered`` or ``ran``."""
    ms = getattr(recent, name)[percent]
    is_bound = name == "ran" and recent.unreported > 0
    count = recent.ended - recent.unreported if name == "buffered" else recent.ended
    if name == "awaited":
        count = recent.waits
    return format_quantile(None if ms is None else ms / 1000, percent, count, is_bound=is_bound)


def ago(then: int | datetime | None, now_ms: int) -> str:
    """Return a time relative to now, rounded: ``12 s ago``, ``in 3 min``. An integer is in Unix ms."""
    if then is None:
        return "—"
    past = now_ms - (moment_ms(then) if isinstance(then, datetime) else then)
    if abs(past) < 1_000:
        return "now"
    text = format_coarse(abs(past) / 1000)
    return f"{text} ago" if past > 0 else f"in {text}"


def moment(at: int | datetime | None) -> str:
    """Return a time to the millisecond, in UTC. An integer is in Unix ms."""
    if at is None:
        return "—"
    return (iso_time(at) if isinstance(at, datetime) else timestamp(at)).replace("T", " ").removesuffix("Z")


def minute(ms: int) -> str:
    """Return a time of day, in UTC."""
    return from_unix_ms(ms).strftime("%H:%M")


def day(ms: int) -> str:
    """Return a day, in UTC: ``Wed 16 Sep``."""
    return from_unix_ms(ms).strftime("%a %d %b")


def value(data: object) -> str:
    """Return a value of a state as text, shortened if it is very long."""
    return shorten(text_of(data), MAX_VALUE)


def text_of(data: object) -> str:
    """Return a value as text: a string as it is, anything else as JSON."""
    return data if isinstance(data, str) else to_json(data, indent=2, inf_nan_mode="constants").decode()


def line_of(begin: str) -> str:
    """Return values, from their JSON or its beginning, as one line: ``total: 12, sku: A-1``."""
    values = from_json(begin, allow_partial="trailing-strings")
    texts = (text if isinstance(text, str) else to_json(text).decode() for text in values.values())
    return ", ".join(f"{name}: {text}" for name, text in zip(values, texts, strict=True))


def shorten(text: str, limit: int) -> str:
    """Return the text, or its beginning and how much is left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def short(identifier: str) -> str:
    """Return the part of an id that identifies it at a glance."""
    return identifier[:8] if "-" in identifier else short_id(identifier)
