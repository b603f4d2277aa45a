"""What changes schedules beside storing a graph (``graphs``) and their coming due (``runs``)."""

from __future__ import annotations

from exotrio._util.cron import next_occurrence_ms, parts_of
from exotrio.manager.engine.graphs import lock_graph
from exotrio.manager.store.port import Transaction


def cancel_schedules(tx: Transaction, namespace: str, name: str) -> int:
    """Cancel the schedules of a graph until it is stored again; return how many there were.

    A run that one of them is starting at this moment is there afterwards, or is not started.
    """
    graph = lock_graph(tx, namespace, name)
    return tx.execute("DELETE FROM schedules WHERE graph = ?", (graph["id"],)).rowcount


def correct_schedules(tx: Transaction) -> int:
    """Give schedules the zone that their graph names, where an older version ignored it; return how many."""
    corrected = 0
    for graph in tx.execute(
        "SELECT graphs.id, template FROM graphs JOIN templates ON templates.id = template"
        f" WHERE body LIKE '%\"timezone\"%' ORDER BY graphs.id{tx.for_update('graphs')}"
    ).fetchall():
        rows = tx.execute("SELECT expression FROM schedules WHERE graph = ?", (graph["id"],))
        known = {row["expression"] for row in rows}
        wanted = tx.template(graph["template"]).body.schedules
        expressions = {each: parts_of(each)[0] for each in wanted if each not in known}
        # What is there in UTC only: what was cancelled stays so.
        ignored = {each: old for each, old in expressions.items() if old in known and old not in wanted}
        tx.executemany(
            "DELETE FROM schedules WHERE graph = ? AND expression = ?",
            sorted((graph["id"], old) for old in set(ignored.values())),
        )
        new = [(graph["id"], each, next_occurrence_ms(each, tx.now_ms)) for each in sorted(ignored)]
        corrected += tx.insert(
            "schedules", ("graph", "expression", "next_at"), [row for row in new if row[2] is not None]
        )
    return corrected
