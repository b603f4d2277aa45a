"""A run of which everything that is left waits for events: what it waits for, and how to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from exotrio._fields.declared import declared
from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio.cli.program import command_line
from exotrio.client import EventWait, StateManager

MAX_SHOWN = 5
"""Events that are named."""


async def is_overdue(manager: StateManager, run_id: str) -> bool:
    """Whether the deadline of a wait for an event has passed."""
    deadlines = [event.until for event in (await manager.events(run_id)).waiting if event.until is not None]
    return min(deadlines, default=datetime.max.replace(tzinfo=UTC)) <= datetime.now(UTC)


async def waiting_lines(manager: StateManager, run_id: str, arguments: Sequence[str]) -> list[str]:
    """Return what a run waits for, with a command for each event that answers it.

    Args:
        arguments: The options of the command that name the state manager and the namespace.
    """
    waiting = (await manager.events(run_id)).waiting
    lines = [line for event in waiting[:MAX_SHOWN] for line in _lines_of(event, run_id, arguments)]
    left = len(waiting) - MAX_SHOWN
    return [*lines, f"... and for {plural(left, 'more event')}"] if left > 0 else lines


def _lines_of(event: EventWait, run_id: str, arguments: Sequence[str]) -> Iterator[str]:
    states = "" if event.states == 1 else f" ({event.states} states)"
    until = "" if event.until is None else f" until {iso_time(event.until)}"
    yield f"{event.identifier} waits for event {event.name}{until}{states}; to send it:"
    required = {name: each for name, each in (event.fields or {}).items() if "default" not in each}
    fields = [word for name, schema in required.items() for word in ("-i", f"{name}={_sample(schema)}")]
    words = [run_id, event.name, *fields, *arguments]
    if event.name.startswith("-"):  # it would be taken for an option
        words = [*fields, *arguments, "--", run_id, event.name]
    yield f"  {command_line(['runs', 'send', *words])}"


def _sample(schema: object) -> str:
    """Return what stands for a value in a printed command."""
    values = declared(schema)
    return values.choices[0] if values.choices else values.type.upper().replace("STRING", "TEXT")
