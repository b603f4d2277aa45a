"""Cron schedules: which graphs are to be triggered when.

A schedule has its next occurrence. One transaction triggers the graph and sets the following occurrence, so
each fires exactly once, whatever crashes. After a time in which nothing ran, one missed occurrence fires, and
the next one is in the future.
"""

from __future__ import annotations

from exotrio._util.times import next_occurrence_ms
from exotrio.manager.engine import runs
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Transaction, View


def fire(tx: Transaction) -> list[str]:
    """Trigger what is due and set its next occurrence; return a line for the log about each."""
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
            # The graph is invalid just now, or needs a store key of its caller: it stays scheduled.
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


def due_in_ms(view: View) -> int | None:
    """Return the milliseconds until the next schedule comes due, None if there is none."""
    due = view.execute("SELECT min(next_at) FROM schedules").fetchone()[0]
    return None if due is None else max(0, due - view.now_ms)
