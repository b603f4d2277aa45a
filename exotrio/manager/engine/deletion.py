"""A graph is deleted, with its runs, versions, schedules and secrets.

It takes as many transactions as its runs need, so that nobody waits for long: first those that have not
ended are cancelled, then ``delete_graph`` is repeated until the graph is gone, which is in the last one. Each
has the graph to itself: a run that is triggered or retried meanwhile is found by the next one, or finds no
graph. What is found then is cancelled in the same transaction, or a graph that is triggered all the time
would never be gone. If it ends in between, the graph is still there, with fewer runs, and the same request
goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from exotrio._util.words import listed
from exotrio.manager.engine.graphs import delete_schedules_of, find_graph, lock_graph
from exotrio.manager.engine.retention import MAX_BATCH, RUNS, discard_runs
from exotrio.manager.engine.runs import cancel
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_PENDING = 1_000
"""Runs that are cancelled in transactions of their own before it is looked for more."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What one transaction deleted: runs, some of which it cancelled, and the graph, too, or not yet."""

    runs: int
    cancelled: int
    graph: bool


def pending_runs(view: View, namespace: str, name: str, may_be_cancelled: bool) -> list[str]:
    """Return runs of a graph that have not ended; refuse (409) if there are any that may not be cancelled."""
    graph = find_graph(view, namespace, name)["id"]
    found = [row["run_id"] for row in _some_runs(view, graph, "pending > 0", MAX_PENDING)]
    if found and not may_be_cancelled:
        raise Conflict(
            f"graph {name!r} has runs that have not ended ({listed(found, 3)}): wait for them, or ask for"
            " their cancellation, too (cancel_runs)",
        )
    return found


def delete_graph(
    tx: Transaction, namespace: str, name: str, *, is_first: bool, may_cancel: bool = False
) -> WithEffects[Deleted]:
    """Delete some of the runs of a graph, and the graph if these were the last ones.

    Runs that have not ended are cancelled if they ``may_cancel``. Otherwise they stay, with the graph, and
    nothing is deleted if it ``is_first``: then the whole deletion may be refused.
    """
    effects = Effects()
    graph = lock_graph(tx, namespace, name)["id"]
    locked: set[int] = set()
    # At first only, since among a million runs this takes long.
    if is_first and not may_cancel and _lock_runs(tx, graph, "pending > 0", locked):
        return WithEffects(Deleted(0, 0, graph=False), effects)
    deleted = cancelled = 0
    while True:
        while ended := _lock_runs(tx, graph, "pending = 0", locked):
            discard_runs(tx, ended)
            deleted += len(ended)
            # Not once it has cancelled some: those are few, and others would begin meanwhile.
            if len(ended) == RUNS and not cancelled and tx.has_run_for(MAX_BATCH):
                return WithEffects(Deleted(deleted, cancelled, graph=False), effects)
        begun = _lock_runs(tx, graph, "pending > 0", locked)  # or retried
        if not begun:
            break
        if not may_cancel:
            return WithEffects(Deleted(deleted, cancelled, graph=False), effects)
        for run_id in begun.values():
            effects.add(cancel(tx, namespace, run_id).effects)
        cancelled += len(begun)
    if _some_runs(tx, graph, "pending >= 0", 1):  # which others hold
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
    """Lock some runs of a graph for which a condition holds, and return their public ids.

    Only the first time, while none is ``locked``, it waits for those that others hold: later they might wait
    for one of these. Then it leaves them out.
    """
    ids = [row["id"] for row in _some_runs(tx, graph, condition, RUNS)]
    lock = tx.skip_locked("runs") if locked else tx.for_update("runs")
    locked.update(ids)
    # The condition again, since a run may have changed before it was locked.
    rows = tx.execute(
        f"SELECT id, run_id FROM runs WHERE {tx.any_of('id')} AND {condition} ORDER BY id{lock}",
        (tx.items(ids),),
    )
    return {row["id"]: row["run_id"] for row in rows}


def _some_runs(view: View, graph: int, condition: str, most: int) -> list[Row]:
    # By its versions, since runs have no index by their graph. And these first: of both in one statement
    # PostgreSQL makes a scan of all runs.
    rows = view.execute("SELECT id FROM templates WHERE graph = ?", (graph,))
    versions = view.items([row["id"] for row in rows])
    return view.execute(
        f"SELECT id, run_id FROM runs INDEXED BY runs_by_template WHERE {view.any_of('template')}"
        f" AND {condition} LIMIT ?",
        (versions, most),
    ).fetchall()
