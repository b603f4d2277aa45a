"""A run of which everything that is left waits for events: what it waits for, and how to answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from exotrio._fields.declared import declared
from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio._wire.runs import FAILURE
from exotrio.cli.lookup import list_runs
from exotrio.cli.program import command_line
from exotrio.client import EventWait, RunStatus, RunSummary, StateManager

MAX_SHOWN = 5
"""Events that are named."""


async def find_waits(manager: StateManager, top: RunSummary) -> list[tuple[RunSummary, EventWait]]:
    """Return the events for which a waiting run and those below it wait, if nothing goes on before that."""
    waits, runs = list[tuple[RunSummary, EventWait]](), [top]
    while runs:
        run = runs.pop(0)
        if run.for_run_count:
            found, _ = await list_runs(manager, None, RunStatus.PENDING, sys.maxsize, parent=run.run_id)
            children = [child for child in reversed(found) if child.origin != FAILURE]
            # A state that waits for runs may be about to start them.
            if len(children) < run.for_run_count or any(child.word != "waiting" for child in children):
                return []
            runs += children
        events = (await manager.events(run.run_id)).waiting if run.for_event_count else []
        # Its deadline passed while nothing ran: the state manager is about to end the wait.
        if any(event.until is not None and event.until <= datetime.now(UTC) for event in events):
            return []
        waits += [(run, event) for event in events]
    return waits


def waiting_lines(
    waits: Sequence[tuple[RunSummary, EventWait]], top: str, arguments: Sequence[str]
) -> list[str]:
    """Return what a run waits for, with a command for each event that answers it.

    Args:
        top: The id of the run; others of ``waits`` are below it.
        arguments: The options of the command that name the state manager and the namespace.
    """
    lines = [line for run, event in waits[:MAX_SHOWN] for line in _lines_of(run, event, top, arguments)]
    left = len(waits) - MAX_SHOWN
    return [*lines, f"... and for {plural(left, 'more event')}"] if left > 0 else lines


def _lines_of(run: RunSummary, event: EventWait, top: str, arguments: Sequence[str]) -> Iterator[str]:
    run_id = run.run_id
    states = "" if event.states == 1 else f" ({event.states} states)"
    until = "" if event.until is None else f" until {iso_time(event.until)}"
    below = "" if run_id == top else f" of run {run_id} of graph {run.graph_name}"
    yield f"{event.identifier}{below} waits for event {event.name}{until}{states}; to send it:"
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
