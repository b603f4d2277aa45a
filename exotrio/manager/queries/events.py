"""The events of a run, and what its states wait for."""

from __future__ import annotations

from pydantic_core import from_json, to_json

from exotrio._util.times import from_unix_ms
from exotrio._wire.events import MAX_SHOWN, EventWait, KeptEvent, RunEvents
from exotrio.manager.engine.order import waits_until
from exotrio.manager.engine.runs import find_run
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_FIELDS = 1024 * 1024
"""Bytes of the schemas of the fields of what a run waits for, each state of a fan-out with its own."""


def show_events(view: View, namespace: str, run_id: str) -> RunEvents:
    """Return the events of a run, and what it waits for."""
    run = find_run(view, namespace, run_id)
    sent = view.execute(
        "SELECT name, value, sent_at FROM mailbox WHERE run = ? ORDER BY sent_at DESC, name LIMIT ?",
        (run["id"], MAX_SHOWN),
    )
    return RunEvents(
        sent=[
            KeptEvent(name=name, value=from_json(value), sent_at=from_unix_ms(at)) for name, value, at in sent
        ],
        waiting=waits_in(view, run),
    )


def waits_in(view: View, run: Row) -> list[EventWait]:
    """Return what the states of a run wait for, the oldest first: fewer if their fields have much text."""
    places = view.template(run["template"]).places
    rows = view.execute(
        # Since when: a node began to wait when its state was changed last.
        "SELECT event, place, count(*) AS states, min(updated_at) AS since, min(enqueue_after) AS until"
        " FROM states INDEXED BY states_waiting WHERE status = 'CREATED' AND lane = 'waiting' AND run = ?"
        " AND event IS NOT NULL"
        " GROUP BY event, place ORDER BY since, event, place LIMIT ?",
        (run["id"], MAX_SHOWN),
    )
    waits: list[EventWait] = []
    sizes, left = dict[int, int](), MAX_FIELDS
    for row in rows:
        place, until = places[row["place"]], waits_until(row["until"])
        fields = None if place.wait is None else place.wait.model.outputs
        if place.index not in sizes:
            sizes[place.index] = len(to_json(fields))
        left -= sizes[place.index]
        if left < 0 and waits:
            break
        waits.append(
            EventWait(
                name=row["event"],
                identifier=place.identifier,
                node_name=place.node_name,
                states=row["states"],
                since=from_unix_ms(row["since"]),
                until=None if until is None else from_unix_ms(until),
                fields=fields,
            )
        )
    return waits
