"""Start a run of another graph for each run that ended with errors (``failures``, ``Graph.on_failure``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from exotrio._util.words import shortened
from exotrio._wire.runs import FAILURE
from exotrio.manager.engine.failures import given
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.engine.triggers import NewRun, Parent, trigger
from exotrio.manager.rules.errors import Refused
from exotrio.manager.rules.lineage import parent_in
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction

MAX_ERROR = 16 * 1024
"""Characters of an error that the other run is given."""
KEY = "on_failure:"
"""What the key of a run that is started begins with, before the id of the failed one."""


def start_alerts(tx: Transaction, runs: Sequence[int]) -> WithEffects[int]:
    """Start the runs that are due for these failed ones, and return how many that were.

    Each is started once: its row is locked, and changed in the same commit. No run is locked.
    """
    due = tx.execute(
        f"SELECT run, number, state FROM alerts WHERE {tx.any_of('run')} AND started IS NULL"
        f" AND problem IS NULL ORDER BY at, run{tx.skip_locked('alerts')}",
        (tx.items(runs),),
    ).fetchall()
    effects = Effects()
    for row in due:
        failed = tx.row(
            "SELECT run_id, runs.namespace, graphs.name, runs.template, place, error, trace FROM runs"
            " JOIN graphs ON graphs.id = runs.graph JOIN states ON states.run = runs.id"
            " WHERE runs.id = ? AND states.seq = ?",
            (row["run"], row["state"]),
        )
        key = (row["run"], row["number"])
        if failed is None or _is_of_alert(tx, row["run"]):
            tx.execute("DELETE FROM alerts WHERE run = ? AND number = ?", key)
            continue
        started, problem = _start(tx, failed, *key, effects)
        update = "UPDATE alerts SET started = ?, problem = ? WHERE run = ? AND number = ?"
        tx.execute(update, (started, problem, *key))
        what = f"run {failed['run_id']} of graph {failed['name']!r} failed"
        if problem is None:
            effects.lines.append((logging.INFO, f"{what} and started run {started}"))
        else:
            fix = f"fix that, then trigger graph {_on_failure(tx, failed)!r} with what failed, or retry run"
            fix += f" {failed['run_id']}: it starts one if it fails again"
            effects.lines.append((logging.WARNING, f"{what} and started no run: {problem}; {fix}"))
    return WithEffects(len(due), effects)


def _on_failure(tx: Transaction, failed: Row) -> str:
    """Return the graph that is to run after a failed run."""
    return str(tx.template(failed["template"]).body.on_failure)


def _is_of_alert(tx: Transaction, run: int) -> bool:
    """Whether a failure started a run, or the run whose state started it, and so on: then it starts none."""
    above = tx.row(
        "WITH RECURSIVE above (origin, parent_run) AS (SELECT origin, parent_run FROM runs WHERE id = ?"
        " UNION ALL SELECT runs.origin, runs.parent_run FROM above JOIN runs ON runs.id = above.parent_run)"
        " SELECT 1 AS found FROM above WHERE origin = ? LIMIT 1",
        (run, FAILURE),
    )
    return above is not None


def _start(
    tx: Transaction, failed: Row, run: int, number: int, effects: Effects
) -> tuple[str, None] | tuple[None, str]:
    """Start the run for one that failed; return its id, or why it cannot be started."""
    template = tx.template(failed["template"])
    name, namespace = _on_failure(tx, failed), failed["namespace"]
    facts = {
        "graph": failed["name"],
        "run": failed["run_id"],
        "place": template.places[failed["place"]].identifier,
        "error": shortened(failed["error"] or "", MAX_ERROR),
    }
    try:
        # So a run that cannot start leaves nothing.
        with tx.attempt():
            other = tx.template(find_graph(tx, namespace, name)["template"])
            inputs, store = given(other, facts)
            key = f"{KEY}{failed['run_id']}:{number}"
            new = NewRun(
                inputs=inputs,
                store=store,
                key=key,
                trace=parent_in(failed["trace"]),
                origin=FAILURE,
                parent=Parent(run, awaited=0),
            )
            started, of_run = trigger(tx, namespace, name, new)
    except Refused as refusal:
        return None, refusal.detail
    effects.add(of_run)
    return started.run_id, None
