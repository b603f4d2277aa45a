"""What is due without a request: about runs that states wait for, runs that failures start, waits for events,
changes of large runs, and runs that finished long ago."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from enum import StrEnum
from itertools import chain

from exotrio.manager.engine.unfinished import ARE_ROWS, RUN
from exotrio.manager.store.clock import set_ahead_ms
from exotrio.manager.store.view import View

MAX_PER_STEP = 100
"""Runs or states that one transaction handles."""


class Step(StrEnum):
    """What is done about some of what is due. Runs that start others without an end are cancelled first."""

    ALERT = "alert"  # alerts.start_alerts, by the number of the failed run
    CANCEL = "cancel"  # child_cancellation.cancel_children, by that of the state that waited
    DELIVER = "deliver"  # children.deliver_ends, by that of the run that ended
    GO_ON = "go on"  # portions.go_on, by that of the run
    START = "start"  # children.start_children, by that of the state that waits
    WAIT = "wait"  # sending.handle_waits, by that of the state that waits
    DISCARD = "discard"  # retention.discard, by that of the run that finished long ago
    CLEAR = "clear"  # retention.clear, by that of the discarded run


WITHOUT_RETENTION = (Step.ALERT, Step.CANCEL, Step.DELIVER, Step.GO_ON, Step.START, Step.WAIT)
_WAITING = (
    "seq AS id FROM states INDEXED BY states_deadlines WHERE status = 'CREATED' AND lane = 'waiting'"
    " AND enqueue_after < 200000000000000 AND enqueue_after <= ? AND event IS{} NULL"
    " ORDER BY enqueue_after, seq"
)
IS_DELETABLE = (
    # The state that waits for a run has to get its result first, and what the failure of a run starts needs
    # its facts. With OFFSET, PostgreSQL looks for the alerts of each run, rather than read all alerts once.
    "pending = 0 AND awaited = 0 AND NOT EXISTS"
    " (SELECT 1 FROM alerts WHERE run = runs.id AND started IS NULL AND problem IS NULL LIMIT 1 OFFSET 0)"
)
"""Whether a run has ended, and nothing is due that needs it."""
IS_OLD = f"finished_at < ? AND {IS_DELETABLE}"
"""Which runs may be deleted, of those that finished before a time."""
_DUE = {
    Step.ALERT: "run AS id FROM alerts WHERE started IS NULL AND problem IS NULL ORDER BY at, run",
    Step.CANCEL: "state AS id FROM children_to_cancel ORDER BY state",
    Step.DELIVER: (
        "id FROM runs INDEXED BY runs_to_deliver WHERE awaited = 1 AND finished_at IS NOT NULL ORDER BY id"
    ),
    Step.GO_ON: f"{RUN} AS id FROM meta WHERE {ARE_ROWS} ORDER BY key",
    Step.START: _WAITING.format(""),
    Step.WAIT: _WAITING.format(" NOT"),
    Step.DISCARD: f"id FROM runs WHERE finished_at IS NOT NULL AND {IS_OLD} ORDER BY finished_at",
    Step.CLEAR: "run AS id FROM discarded ORDER BY run",
}


def due_work(
    view: View, steps: Collection[Step] = WITHOUT_RETENTION, limit: int = MAX_PER_STEP, keep_ms: int = 0
) -> dict[Step, list[int]]:
    """Return the numbers of some of the runs and states about which these steps have to do something, by the
    step: the oldest of each. ``keep_ms`` is how long finished runs are kept."""
    now_ms = finished_before(view, keep_ms) if Step.DISCARD in steps else view.now_ms
    selects = [f"SELECT '{step}' AS step, {_DUE[step]} LIMIT ?" for step in steps]
    found: defaultdict[str, list[int]] = defaultdict(list)
    for of_step, number in view.execute(
        " UNION ALL ".join(f"SELECT * FROM ({each}) AS due_{index}" for index, each in enumerate(selects)),
        tuple(chain.from_iterable((*[now_ms] * _DUE[step].count("?"), limit) for step in steps)),
    ):
        found[of_step].append(number)
    return {step: list(dict.fromkeys(found[step])) for step in steps if step in found}


def finished_before(view: View, keep_ms: int) -> int:
    """Return the time, in Unix ms, before which a run finished that was kept for so long."""
    return view.now_ms - keep_ms - set_ahead_ms(view, keep_ms)


def about(view: View, step: Step, number: int) -> str:
    """Return the run about which a step has something to do, for the log."""
    is_run = step in (Step.ALERT, Step.DELIVER, Step.GO_ON, Step.DISCARD, Step.CLEAR)
    which = "runs.id = ?" if is_run else "runs.id = (SELECT run FROM states WHERE seq = ?)"
    row = view.row(f"SELECT run_id, name FROM runs JOIN graphs ON graphs.id = graph WHERE {which}", (number,))
    return f"a deleted run ({number})" if row is None else f"run {row['run_id']} of graph {row['name']!r}"
