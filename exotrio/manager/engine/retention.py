"""Retention: finished runs that are old enough are deleted, with everything that is theirs.

A run goes in two steps. Its own row goes first, in one transaction with a note in ``discarded``:
from then on nobody finds the run or a state of it. What belonged to it (states, counts,
unite_counters, unite_members, events, store) is then deleted in transactions that are limited in time, many
small runs or a part of a large one in each: a large run deleted at once would hold up every claim. A process
that is killed meanwhile leaves the note, and the next one goes on. Numbers are not used again, so a new run
never meets what an old one left.

The file does not shrink: SQLite keeps the free pages and fills them again. A backup is as small
as its content.
"""

from __future__ import annotations

import time

from pydantic_core import to_json

from exotrio.manager.store.clock import set_ahead_ms
from exotrio.manager.store.port import Transaction

BATCH = 500
"""Maximum of rows that one step deletes of each table."""
RUNS = 100
"""Maximum of runs of one step."""
MAX_BATCH = 0.01
"""Seconds after which a transaction begins no further step or state: each may hold megabytes."""


def discard(tx: Transaction, keep_ms: int) -> int:
    """Delete the rows of some runs that are old enough and return how many that were."""
    end = time.monotonic() + MAX_BATCH
    finished_before = tx.now_ms - keep_ms - set_ahead_ms(tx, keep_ms)
    deleted = 0
    while runs := tx.execute(
        "SELECT id FROM runs WHERE finished_at IS NOT NULL AND finished_at < ? AND pending = 0"
        " ORDER BY finished_at LIMIT ?",
        (finished_before, RUNS),
    ).fetchall():
        tx.executemany("INSERT INTO discarded VALUES (?)", [(run["id"],) for run in runs])
        tx.executemany("DELETE FROM runs WHERE id = ?", [(run["id"],) for run in runs])
        deleted += len(runs)
        if time.monotonic() >= end:
            break
    return deleted


def clear(tx: Transaction) -> int:
    """Delete some of the rows of discarded runs; return 0 if there are none."""
    end = time.monotonic() + MAX_BATCH
    steps = 0
    while _clear_step(tx, end):
        steps += 1
        if time.monotonic() >= end:
            break
    return steps


def _clear_step(tx: Transaction, end: float) -> bool:
    """Delete at most ``BATCH`` states of some runs, until ``end``; return False if there is nothing to do."""
    runs = [row["run"] for row in tx.execute("SELECT run FROM discarded ORDER BY run LIMIT ?", (RUNS,))]
    if not runs:
        return False
    chosen = to_json(runs).decode()
    states = [
        row["seq"]
        for row in tx.execute(
            "SELECT seq FROM json_each(?) CROSS JOIN states ON states.run = value ORDER BY key LIMIT ?",
            (chosen, BATCH),
        )
    ]
    if not states:
        for table in ("counts", "store", "discarded"):
            tx.execute(f"DELETE FROM {table} WHERE run IN (SELECT value FROM json_each(?))", (chosen,))
    elif _clear_hanging(tx, to_json(states).decode()):
        for seq in states:
            tx.execute("DELETE FROM states WHERE seq = ?", (seq,))
            if time.monotonic() >= end:
                break
    return True


def _clear_hanging(tx: Transaction, states: str) -> bool:
    """Delete what belongs to states, a JSON list, in other tables; return whether that was all of it."""
    members = tx.execute(
        "DELETE FROM unite_members WHERE (target_state, place, path) IN (SELECT target_state, place,"
        " unite_members.path FROM json_each(?) CROSS JOIN unite_members ON target_state = value LIMIT ?)",
        (states, BATCH),
    ).rowcount
    events = tx.execute(
        "DELETE FROM events WHERE id IN (SELECT events.id FROM json_each(?)"
        " CROSS JOIN events ON state = value LIMIT ?)",
        (states, BATCH),
    ).rowcount
    # At most one for each place of the graph.
    tx.execute("DELETE FROM unite_counters WHERE target_state IN (SELECT value FROM json_each(?))", (states,))
    return members < BATCH and events < BATCH


def drop_templates(tx: Transaction) -> int:
    """Delete versions of graphs that are not the current one and that no run has; return how many."""
    return tx.execute(
        # CROSS JOIN keeps the order: by graph, of which there are few, not by version.
        "DELETE FROM templates WHERE id IN (SELECT templates.id FROM graphs CROSS JOIN templates"
        " ON templates.graph = graphs.id WHERE templates.id != graphs.template"
        " AND NOT EXISTS (SELECT 1 FROM runs WHERE runs.template = templates.id) LIMIT ?)",
        (BATCH,),
    ).rowcount
