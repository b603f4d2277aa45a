"""Triggering graphs by their schedules, which ``graphs`` stores."""

from __future__ import annotations

from exotrio._util.cron import next_occurrence_ms
from exotrio._util.words import plural
from exotrio._wire.vocabulary import Priority
from exotrio.manager.engine.graphs import delete_schedules, delete_schedules_of, lock_graph
from exotrio.manager.engine.managers import SCHEDULES, take_duty
from exotrio.manager.engine.order import LEVELS
from exotrio.manager.engine.triggers import SCHEDULE, NewRun, trigger
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

UNREADABLE_FOR_MS = 60_000
"""Time after which a schedule that cannot be read is due again."""


def fire_schedules(tx: Transaction) -> WithEffects[list[str]]:
    """Trigger the graphs whose schedules are due; return a line for the log about each.

    The transaction that triggers a graph also sets the following occurrence, so each occurrence triggers
    exactly once, whatever crashes. If nothing ran for a while, only one missed occurrence triggers, and the
    next one is in the future. Occurrences of a paused graph trigger nothing. A schedule that cannot be read
    is left to other state managers, or to a later time. Nothing is triggered while another state manager does
    it.
    """
    lines: list[str] = []
    effects = Effects()
    if take_duty(tx, SCHEDULES) is None:
        return WithEffects(lines, effects)
    later: list[tuple[int, str, int]] = []
    never: list[tuple[int, str]] = []
    # A transaction that pauses or stores one of these graphs waits until these runs began. In a separate
    # statement: the next one then sees the schedules that this one waited for.
    due = "SELECT graph FROM cron_triggers WHERE next_at <= ?"
    locked = tx.execute(
        f"SELECT id FROM graphs WHERE id IN ({due}) ORDER BY id{tx.for_share('graphs')}", (tx.now_ms,)
    ).fetchall()
    for row in tx.execute(
        "SELECT graph, expression, namespace, name, template, paused_at FROM cron_triggers"
        f" JOIN graphs ON graphs.id = graph WHERE next_at <= ? AND {tx.any_of('graph')}"
        " ORDER BY next_at, graph, expression",
        (tx.now_ms, tx.items([number for (number,) in locked])),
    ).fetchall():
        what = f"cron {row['expression']!r} of graph {row['name']!r} in namespace {row['namespace']!r}"
        try:
            following = next_occurrence_ms(row["expression"], tx.now_ms)
        except ValueError as problem:
            # Time zones are part of the machine or of a package, so machines may know different ones.
            lines.append(f"{what} cannot be read here and started no run: {problem}; upgrade tzdata")
            later.append((row["graph"], row["expression"], tx.now_ms + UNREADABLE_FOR_MS))
            continue
        try:
            if row["paused_at"] is None:
                with tx.attempt():
                    schedules = tx.template(row["template"]).body.schedules
                    priority = schedules.get(row["expression"], Priority.NORMAL)
                    run = NewRun(origin=SCHEDULE, priority=LEVELS[priority])
                    started, of_run = trigger(tx, row["namespace"], row["name"], run)
                effects.add(of_run)
                lines.append(f"{what} started run {started.run_id}")
        except Refused as refusal:
            # The graph is invalid at this time, or requires a store key: it stays scheduled.
            lines.append(f"{what} could not start a run: {refusal.detail}")
        if following is None:
            never.append((row["graph"], row["expression"]))
        else:
            later.append((row["graph"], row["expression"], following))
    tx.update("cron_triggers", ("graph", "expression"), ("next_at",), sorted(later))
    delete_schedules(tx, never)
    return WithEffects(lines, effects)


def due_in_ms(view: View) -> int | None:
    """Return the milliseconds until the next occurrence of a schedule, None if there is none."""
    (due,) = view.one("SELECT min(next_at) FROM cron_triggers")
    return None if due is None else max(0, due - view.now_ms)


def cancel_schedules(tx: Transaction, namespace: str, name: str) -> int:
    """Cancel the schedules of a graph until it is stored again; return how many there were.

    A run that one of them starts at this moment is either committed before, or not started.
    """
    count = delete_schedules_of(tx, lock_graph(tx, namespace, name)["id"])
    if count:
        tx.record("schedule.cancel", namespace, name, plural(count, "schedule"))
    return count
