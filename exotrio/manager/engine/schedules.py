"""What changes schedules beside storing a graph (``graphs``) and their coming due (``runs``)."""

from __future__ import annotations

from exotrio._util.cron import next_occurrence_ms, parts_of, schedule_of
from exotrio.manager.engine.graphs import (
    delete_schedules,
    delete_schedules_of,
    insert_schedules,
    lock_graph,
    schedules_of,
)
from exotrio.manager.engine.managers import SCHEDULES as DUTY
from exotrio.manager.engine.managers import take_duty
from exotrio.manager.store import schema
from exotrio.manager.store.port import Transaction


def cancel_schedules(tx: Transaction, namespace: str, name: str) -> int:
    """Cancel the schedules of a graph until it is stored again; return how many there were.

    A run that one of them is starting at this moment is there afterwards, or is not started.
    """
    return delete_schedules_of(tx, lock_graph(tx, namespace, name)["id"])


def correct_schedules(tx: Transaction) -> tuple[int, bool]:
    """Give schedules the zone that their graph names, where version 1 of the tables ignored it.

    It returns how many schedules were not of their graph, and whether none will be any more.

    State managers of that version store graphs as long as they are there, during an update: then for one
    expression there may be a schedule in UTC and one with the zone that the graph had before.
    """
    # As a duty, since it locks many graphs, and what comes due locks them in another order.
    if take_duty(tx, DUTY) is None:
        return 0, False
    # First: what they stored before they ended is then seen.
    is_final = tx.row("SELECT 1 FROM managers WHERE schema_version < ?", (schema.VERSION,)) is None
    corrected = 0
    for graph in tx.execute(
        "SELECT graphs.id, template FROM graphs JOIN templates ON templates.id = template WHERE"
        " body LIKE '%\"timezone\"%' OR EXISTS (SELECT 1 FROM zoned_schedules WHERE graph = graphs.id)"
        f" ORDER BY graphs.id{tx.for_update('graphs')}"
    ).fetchall():
        # Without those in zones that only other state managers know.
        known = {each for each in schedules_of(tx, graph["id"]) if schedule_of(*parts_of(each)) == each}
        wanted = set(tx.template(graph["template"]).body.schedules)
        ignored = {parts_of(each)[0] for each in known - wanted}
        # Of an expression that is there. What was cancelled stays so.
        missing = [each for each in wanted - known if parts_of(each)[0] in ignored]
        delete_schedules(tx, [(graph["id"], each) for each in known - wanted])
        due = [(graph["id"], each, next_occurrence_ms(each, tx.now_ms)) for each in missing]
        insert_schedules(tx, [(number, each, at) for number, each, at in due if at is not None])
        corrected += len(known - wanted)
    return corrected, is_final
