"""Cron schedules: which graphs are to be triggered when, and the task that does it.

A schedule knows its next occurrence. Triggering it and moving on to the following one happen in one
transaction, so an occurrence fires exactly once, whatever crashes. After a time in which nothing
ran, the one missed occurrence that is due fires, and the next one lies in the future.
"""

from __future__ import annotations

import logging
import math

import trio

from exotrio._util.cron import next_occurrence_ms
from exotrio._wire.vocabulary import from_ms
from exotrio.errors import DatabaseError
from exotrio.manager.engine import runs
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Store, Transaction, View, log_level

logger = logging.getLogger("exotrio.manager.schedules")

MAX_SLEEP = 60.0
"""Seconds; wall clocks are set now and then, and a sleep does not notice."""
RETRY_AFTER = 5.0
"""Seconds after which the task looks again when the database could not be used."""


def fire(tx: Transaction) -> list[str]:
    """Trigger what is due and move it on; return a line for the log about each."""
    lines = []
    for row in tx.execute(
        "SELECT graph, expression, namespace, name FROM schedules JOIN graphs ON graphs.id = graph"
        " WHERE next_at <= ? ORDER BY next_at",
        (tx.now_ms,),
    ).fetchall():
        what = f"cron {row['expression']!r} of graph {row['name']!r} in namespace {row['namespace']!r}"
        try:
            with tx.attempt():
                run_id = runs.trigger(tx, row["namespace"], row["name"], inputs={}, store={})
            lines.append(f"{what} started run {run_id}")
        except Refused as refusal:
            # Invalid just now, or a store key that only a caller can give: the schedule goes on.
            lines.append(f"{what} could not start a run: {refusal.detail}")
        following = next_occurrence_ms(row["expression"], tx.now_ms)
        if following is None:
            tx.execute(
                "DELETE FROM schedules WHERE graph = ? AND expression = ?", (row["graph"], row["expression"])
            )
        else:
            tx.execute(
                "UPDATE schedules SET next_at = ? WHERE graph = ? AND expression = ?",
                (following, row["graph"], row["expression"]),
            )
    return lines


class Scheduler:
    """The task that fires schedules, and the bell that tells it of new ones."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = trio.Event()

    def notify(self) -> None:
        """Look at the schedules again: they changed."""
        self._changed.set()

    async def run(self) -> None:
        """Fire schedules as they come due. Never returns."""
        while True:
            self._changed = trio.Event()
            try:
                for line in await self._store.write(fire):
                    logger.info("%s", line)
                due_in = await self._store.read(_due_in)
            except DatabaseError as error:
                logger.log(log_level(error), "schedules could not be looked at: %s", error.what)
                due_in = RETRY_AFTER
            with trio.move_on_after(due_in):
                await self._changed.wait()


def _due_in(view: View) -> float:
    due = view.execute("SELECT min(next_at) FROM schedules").fetchone()[0]
    return math.inf if due is None else min(MAX_SLEEP, max(0.0, from_ms(due - view.now_ms)))
