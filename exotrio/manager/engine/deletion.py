"""Deleting a graph with its runs, versions, schedules and secrets.

It takes as many transactions as its runs need, so that no other write waits for long. First, runs that have
not ended are cancelled. Then ``delete_graph`` is repeated until the graph is gone, which is in the last
transaction. Each transaction locks the graph: a run that is triggered or retried meanwhile is found by the
next transaction, or finds no graph. Such a run is cancelled in the transaction that finds it, or a graph that
is triggered all the time would never be gone. If the deletion ends early, the graph is still there, with
fewer runs, and the same request goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from exotrio._util.words import listed, plural
from exotrio.manager.engine.due_work import IS_DELETABLE
from exotrio.manager.engine.graphs import delete_schedules_of, find_graph, lock_graph
from exotrio.manager.engine.retention import MAX_BATCH, RUNS, discard_runs
from exotrio.manager.engine.runs import cancel
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

_UNFINISHED = "pending > 0 AND cancelled_at IS NULL"
MAX_PENDING = 1_000
"""Runs that are cancelled, each in a separate transaction, before more of them are searched."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one transaction deleted: runs, some of which it cancelled, and whether also the graph."""

    runs: int
    cancelled: int
    graph: bool


def pending_runs(view: View, namespace: str, name: str, may_be_cancelled: bool) -> list[str]:
    """Return runs of a graph that have not ended; raise Conflict if these may not be cancelled."""
    graph = find_graph(view, namespace, name)["id"]
    which = _UNFINISHED if may_be_cancelled else "pending > 0"
    pending = [row["run_id"] for row in _some_runs(view, graph, which, MAX_PENDING)]
    if pending and not may_be_cancelled:
        raise Conflict(
            f"graph {name!r} has runs that have not ended ({listed(pending, 3)}): wait for them, or ask for"
            " their cancellation, too (cancel_runs)",
        )
    return pending


def delete_graph(
    tx: Transaction, namespace: str, name: str, *, before: int = 0, may_cancel: bool = False
) -> WithEffects[Deleted]:
    """Delete some of the runs of a graph, and the graph if these were the last ones.

    With ``may_cancel``, runs that have not ended are cancelled. Otherwise they stay, with the graph; and in
    the first transaction, ``before`` which no runs were deleted, nothing is deleted then, so that the whole
    deletion can be refused. The first and the last transaction are recorded.
    """
    done, effects = _delete_some(tx, namespace, name, is_first=not before, may_cancel=may_cancel)
    if done.graph:
        tx.record("graph.delete", namespace, name, f"with {plural(before + done.runs, 'run')}")
    elif done.runs and not before:
        tx.record("graph.delete", namespace, name, f"begun: {plural(done.runs, 'run')} deleted")
    return WithEffects(done, effects)


def _delete_some(
    tx: Transaction, namespace: str, name: str, *, is_first: bool, may_cancel: bool
) -> WithEffects[Deleted]:
    effects = Effects()
    graph = lock_graph(tx, namespace, name)["id"]
    locked: set[int] = set()
    # Only in the first one, since among a million runs this takes long.
    if is_first and not may_cancel and _lock_runs(tx, graph, "pending > 0", locked):
        return WithEffects(Deleted(0, 0, graph=False), effects)
    deleted = cancelled = 0
    while True:
        # Others are deleted once what is due about them is done.
        while ended := _lock_runs(tx, graph, IS_DELETABLE, locked):
            discard_runs(tx, ended)
            deleted += len(ended)
            # Go on if some were cancelled: those are few, and others would begin meanwhile.
            if len(ended) == RUNS and not cancelled and tx.has_run_for(MAX_BATCH):
                return WithEffects(Deleted(deleted, cancelled, graph=False), effects)
        # Begun or retried just now. Large ones end in later transactions.
        unfinished = _lock_runs(tx, graph, _UNFINISHED, locked)
        if not unfinished:
            break
        if not may_cancel:
            return WithEffects(Deleted(deleted, cancelled, graph=False), effects)
        for run_id in unfinished.values():
            effects.add(cancel(tx, namespace, run_id).effects)
        cancelled += len(unfinished)
    if _some_runs(tx, graph, "pending >= 0", 1):  # that other transactions have locked
        return WithEffects(Deleted(deleted, cancelled, graph=False), effects)
    with tx.secure_delete():
        tx.execute("DELETE FROM secrets WHERE graph = ?", (graph,))
    delete_schedules_of(tx, graph)
    # SQLite gives its number to another graph.
    tx.execute("DELETE FROM trends WHERE graph = ?", (graph,))
    tx.execute("DELETE FROM templates WHERE graph = ?", (graph,))
    tx.execute("DELETE FROM graphs WHERE id = ?", (graph,))
    return WithEffects(Deleted(deleted, cancelled, graph=True), effects)


def _lock_runs(tx: Transaction, graph: int, condition: str, locked: set[int]) -> dict[int, str]:
    """Lock some runs of a graph that meet a condition, and return their public ids.

    While none is ``locked``, it waits for runs that other transactions have locked. Later it skips those:
    their transactions might wait for one of these.
    """
    ids = [row["id"] for row in _some_runs(tx, graph, condition, RUNS)]
    lock = tx.skip_locked("runs") if locked else tx.for_update("runs")
    locked.update(ids)
    # Check the condition again: a run may have changed before it was locked.
    rows = tx.execute(
        f"SELECT id, run_id FROM runs WHERE {tx.any_of('id')} AND {condition} ORDER BY id{lock}",
        (tx.items(ids),),
    )
    return {row["id"]: row["run_id"] for row in rows}


def _some_runs(view: View, graph: int, condition: str, limit: int) -> list[Row]:
    # By the versions of the graph, since runs have no index by graph. In a separate statement: for a join
    # PostgreSQL would scan all runs.
    rows = view.execute("SELECT id FROM templates WHERE graph = ?", (graph,))
    versions = view.items([row["id"] for row in rows])
    return view.execute(
        f"SELECT id, run_id FROM runs INDEXED BY runs_by_template WHERE {view.any_of('template')}"
        f" AND {condition} LIMIT ?",
        (versions, limit),
    ).fetchall()
