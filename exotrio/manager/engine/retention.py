"""Retention: runs that finished long enough ago are deleted, with everything that belongs to them.

A run is deleted in two steps. Its own row is deleted first, in one transaction that adds the run to
``discarded``: from then on neither the run nor a state of it is found. What belonged to it (states, counts,
unite_counters, unite_members, events, logs, checkpoints, calls, store, idle_times) is deleted later, in
transactions that are limited in time and delete many small runs or a part of a large one: a large run deleted
at once would delay every claim. If the process is killed meanwhile, the next one goes on. Numbers are not
used again, so a new run never finds rows of an old one.

The file does not shrink: SQLite keeps the free pages and fills them again. A backup is as small as its
content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from exotrio.manager.engine.due_work import IS_OLD, finished_before
from exotrio.manager.engine.managers import RETENTION, take_duty
from exotrio.manager.engine.stops import remove_old_receipts
from exotrio.manager.store.transaction import Transaction

BATCH = 500
"""Maximum of rows that one step deletes of each table."""
RUNS = 100
"""Maximum of runs in one step."""
PART = 10
"""States deleted by one statement: each may hold megabytes."""
TEXTS = 100
"""Maximum of rows with long texts that one step deletes of each table: most have up to 64 KiB."""
MAX_AUDIT = 100_000
"""Rows of the record of changes that are kept."""
MAX_BATCH = 0.01
"""Seconds after which a transaction begins no further step, or part of one."""


def discard(tx: Transaction, runs: Sequence[int], *, keep_ms: int) -> int:
    """Delete the rows of those of these runs that are old enough and return how many that were."""
    if take_duty(tx, RETENTION) is None:
        return 0
    # A run that is locked, for a retry by hand, is left for the next time.
    found = tx.execute(
        f"SELECT id FROM runs WHERE {tx.any_of('id')} AND {IS_OLD} ORDER BY id{tx.skip_locked('runs')}",
        (tx.items(runs), finished_before(tx, keep_ms)),
    ).fetchall()
    discard_runs(tx, [run["id"] for run in found])
    return len(found)


def discard_runs(tx: Transaction, ids: Iterable[int]) -> None:
    """Delete the rows of runs that have ended and are locked; ``clear`` deletes what belonged to them."""
    runs = sorted(ids)
    tx.insert("discarded", ("run",), [(run,) for run in runs])
    tx.execute(f"DELETE FROM runs WHERE {tx.any_of('id')}", (tx.items(runs),))


def trim_records(tx: Transaction, keep_ms: int | None) -> int:
    """Delete the oldest rows of the record of changes: those older than ``keep_ms``, if that is given, and
    those beyond ``MAX_AUDIT``. Return how many that were. Receipts as old as that are deleted, too."""
    if take_duty(tx, RETENTION) is None:
        return 0
    before = -1 if keep_ms is None else finished_before(tx, keep_ms)
    remove_old_receipts(tx, before)
    return tx.execute(
        # Only the oldest rows are read, however many there are.
        "DELETE FROM audit WHERE id < (SELECT min(id) FROM audit) + ?"
        " AND (at < ? OR id <= (SELECT max(id) FROM audit) - ?)",
        (BATCH, before, MAX_AUDIT),
    ).rowcount


def clear(tx: Transaction, runs: Sequence[int]) -> int:
    """Delete some of the rows of these discarded runs and return how many steps that took."""
    if take_duty(tx, RETENTION) is None:
        return 0
    steps = 0
    for start in range(0, len(runs), RUNS):
        part = runs[start : start + RUNS]
        is_cleared = False
        while not is_cleared:
            is_cleared = _clear_step(tx, part)
            steps += 1
            if tx.has_run_for(MAX_BATCH):
                return steps
    return steps


def _clear_step(tx: Transaction, runs: Sequence[int]) -> bool:
    """Delete some of the rows of some runs; return whether nothing is left of them."""
    which = f"SELECT seq, calls_size FROM states WHERE {tx.any_of('run')} LIMIT ?"
    rows = tx.execute(which, (tx.items(runs), BATCH)).fetchall()
    states = sorted(row["seq"] for row in rows)
    if not states:
        is_all = _clear_rows(
            tx,
            runs,
            ("counts", "run", "run, place", BATCH),
            ("store", "run", "run, key", TEXTS),
            ("mailbox", "run", "run, name", TEXTS),
            ("alerts", "run", "run, number", BATCH),
            ("idle_times", "run", "run, since", BATCH),
        )
        if is_all:
            tx.execute(f"DELETE FROM discarded WHERE {tx.any_of('run')}", (tx.items(runs),))
        return is_all
    has_calls = any(row["calls_size"] is not None for row in rows)
    if _clear_rows(
        tx,
        states,
        ("unite_counters", "target_state", "target_state, place", BATCH),
        ("unite_members", "target_state", "target_state, place, path", BATCH),
        *([("calls", "state", "state, key", TEXTS)] if has_calls else []),
        ("events", "state", "id", BATCH),
        ("logs", "state", "state", TEXTS),
        ("checkpoints", "state", "state", TEXTS),
    ):
        for start in range(0, len(states), PART):
            part = tx.items(states[start : start + PART])
            # Locked in the order in which a heartbeat locks them, or each could wait for the other.
            ordered = f"SELECT seq FROM states WHERE {tx.any_of('seq')} ORDER BY seq{tx.for_update('states')}"
            tx.execute(f"DELETE FROM states WHERE seq IN ({ordered})", (part,))
            if tx.has_run_for(MAX_BATCH):
                break
    return False


def _clear_rows(tx: Transaction, owners: Sequence[int], *tables: tuple[str, str, str, int]) -> bool:
    """Delete what belongs to runs or states in other tables; return whether that was all of it.

    Each table has the column of the owner, its key, and the maximum of rows to delete.
    """
    is_all = True
    for table, owner, key, limit in tables:
        which = f"SELECT {key} FROM {table} WHERE {tx.any_of(owner)} LIMIT ?"
        delete = f"DELETE FROM {table} WHERE ({key}) IN ({which})"
        is_all = tx.execute(delete, (tx.items(owners), limit)).rowcount < limit and is_all
    return is_all


def drop_templates(tx: Transaction) -> int:
    """Delete versions of graphs that are not the current one and that no run has; return how many.

    A run that is being triggered has locked its graph, so that its version is still the current one.
    """
    if take_duty(tx, RETENTION) is None:
        return 0
    unused = "NOT EXISTS (SELECT 1 FROM runs WHERE runs.template = templates.id)"
    rows = tx.execute(
        # CROSS JOIN keeps the order: by graph, of which there are few, not by version.
        "SELECT templates.id, graph FROM graphs CROSS JOIN templates ON templates.graph = graphs.id"
        f" WHERE templates.id <> graphs.template AND {unused} LIMIT ?",
        (BATCH,),
    ).fetchall()
    if not rows:
        return 0
    # A run that moves to another version has locked its graph, too: then it is seen below.
    graphs = sorted({row["graph"] for row in rows})
    lock = f"SELECT id FROM graphs WHERE {tx.any_of('id')} ORDER BY id{tx.for_update('graphs')}"
    tx.execute(lock, (tx.items(graphs),))
    return tx.execute(
        f"DELETE FROM templates WHERE {tx.any_of('id')} AND {unused}"
        " AND NOT EXISTS (SELECT 1 FROM graphs WHERE graphs.template = templates.id)",
        (tx.items(sorted(row["id"] for row in rows)),),
    ).rowcount
