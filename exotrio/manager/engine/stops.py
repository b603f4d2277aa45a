"""Receipts: how each runtime ended.

A runtime says it with its last heartbeat. One whose heartbeats end without that has vanished: the sweep that
ends its leases writes the receipt, in the same transaction, by its last heartbeat and the states that it
held. A runtime that is heard of again did not stop, and its receipt is removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from pydantic import ValidationError
from pydantic_core import from_json

from exotrio._util.times import from_unix_ms
from exotrio._wire.heartbeats import HeartbeatRequest
from exotrio._wire.stops import StopReceipt, StopReport
from exotrio._wire.vocabulary import DRAIN_COMMAND
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import NO_EFFECTS, Effects
from exotrio.manager.store.transaction import Transaction

MAX_STOPS = 2_000
"""Maximum of receipts in a database."""
_COLUMNS = ("namespace", "worker_id", "ended_at", "receipt")
_REPLACED = "(namespace, worker_id) DO UPDATE SET ended_at = excluded.ended_at, receipt = excluded.receipt"
MAX_VANISHED = 1_000
"""Maximum of vanished runtimes that one use case records."""


class DrainSource(IntEnum):
    """What asked a runtime to drain: the values of ``workers.drain_asked``, below zero once it has begun."""

    API = 1
    DASHBOARD = 2


DRAIN_TEXTS = {DrainSource.API: "a drain from the API", DrainSource.DASHBOARD: "a drain from the dashboard"}
Cause = tuple[str, tuple[int | str, ...]]
"""Which runtimes and held states are lost: a condition, and its parameters. The tables ``workers`` and
``states`` have the same columns for it: ``lease_until`` and ``manager``."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """A runtime that vanished: the number of its row, when its last heartbeat came, and the receipt."""

    row: int
    namespace: str
    beat_at: int
    receipt: StopReceipt


def record_stop(tx: Transaction, namespace: str, beat: HeartbeatRequest, drain_asked: int) -> Effects:
    """Store the receipt of a runtime that says, with its last heartbeat, that it stopped."""
    report = _report(beat.stop, drain_asked)
    receipt = _receipt(report, worker_id=beat.worker_id, runtime=beat.runtime, ended_at=tx.now_ms)
    return _store(tx, [(namespace, tx.now_ms, receipt)], is_latest=True)


def find_vanished(tx: Transaction, causes: Iterable[Cause]) -> list[Vanished]:
    """Return the runtimes that vanished, before the states that they held are taken back.

    They come in the order in which their states are taken back: of many, some are left for the next time.
    """
    rows = [
        row
        for which, parameters in causes
        for row in tx.execute(
            "SELECT id, namespace, worker_id, runtime, beat, beat_at, drain_asked, slots"
            f" FROM workers WHERE {which} ORDER BY lease_until, id LIMIT ?",
            (*parameters, MAX_VANISHED),
        )
    ]
    if not rows:
        return []
    held = _held_by(tx, [row["worker_id"] for row in rows])
    return [
        Vanished(
            row["id"], row["namespace"], row["beat_at"], _receipt_of_vanished(row, held[row["worker_id"]])
        )
        for row in rows
    ]


def record_vanished(tx: Transaction, vanished: Sequence[Vanished]) -> Effects:
    """Store the receipts of runtimes that vanished.

    It comes last in a transaction, and waits for no heartbeat: that one may wait for states.
    """
    if not vanished:
        return NO_EFFECTS
    # Race: a heartbeat may have come, or be on its way.
    unchanged = {
        (row["id"], row["beat_at"])
        for row in tx.execute(
            "SELECT id, beat_at FROM workers"
            f" WHERE {tx.any_of('id')} AND (lease_until IS NOT NULL OR manager IS NOT NULL)"
            f"{tx.skip_locked('workers')}",
            (tx.items([each.row for each in vanished]),),
        )
    }
    ended = [each for each in vanished if (each.row, each.beat_at) in unchanged]
    tx.execute(
        f"UPDATE workers SET lease_until = NULL, manager = NULL, heard = 0 WHERE {tx.any_of('id')}",
        (tx.items([each.row for each in ended]),),
    )
    return _store(tx, [(each.namespace, each.beat_at, each.receipt) for each in ended])


def remove_receipt(tx: Transaction, namespace: str, worker_id: str) -> None:
    """Remove the receipt of a runtime that is heard of again."""
    tx.execute("DELETE FROM stops WHERE namespace = ? AND worker_id = ?", (namespace, worker_id))


def remove_old_receipts(tx: Transaction, ended_before: int) -> None:
    """Remove receipts of runtimes that ended before a time in Unix ms."""
    tx.trim("stops", "WHERE ended_at < ? ORDER BY ended_at", (ended_before,))


def _store(
    tx: Transaction, ended: Sequence[tuple[str, int, StopReceipt]], *, is_latest: bool = False
) -> Effects:
    """Store receipts, each with its namespace and the time of the end; those that ``is_latest`` replace
    earlier ones.

    Only runtimes without a receipt count in metrics: a heartbeat may be repeated, or be delayed until its
    runtime has stopped.
    """
    workers = [receipt.worker_id for _, _, receipt in ended]
    known = {
        (row["namespace"], row["worker_id"])
        for row in tx.execute(
            f"SELECT namespace, worker_id FROM stops WHERE {tx.any_of('worker_id')}", (tx.items(workers),)
        )
    }
    rows = []
    for namespace, ended_at, receipt in ended:
        text = receipt.model_dump_json(exclude_defaults=True, exclude={"began_at"})
        rows.append((namespace, receipt.worker_id, ended_at, text))
    tx.insert("stops", _COLUMNS, sorted(rows), _REPLACED if is_latest else "DO NOTHING")
    tx.trim("stops", "ORDER BY ended_at DESC, id DESC", beyond=MAX_STOPS)
    return Effects(
        stops=[(each, receipt) for each, _, receipt in ended if (each, receipt.worker_id) not in known]
    )


def _held_by(tx: Transaction, workers: Sequence[str]) -> defaultdict[str, list[Row]]:
    """Return the states that some runtimes hold, by runtime."""
    held: defaultdict[str, list[Row]] = defaultdict(list)
    for state in tx.execute(
        "SELECT worker, claimed_at, begun_at, ran_ms, at FROM states INDEXED BY states_held"
        f" LEFT JOIN checkpoints ON state = seq WHERE status = 'QUEUED' AND {tx.any_of('worker')}",
        (tx.items(workers),),
    ):
        held[state["worker"]].append(state)
    return held


def _receipt_of_vanished(row: Row, held: Sequence[Row]) -> StopReceipt:
    try:
        # Its states are not parsed: another version of exotrio may have stored it.
        stored = from_json(row["beat"]).get("stop")
        report = None if stored is None else StopReport.model_validate(stored)
    except ValidationError:
        report = None
    report = _report(report, row["drain_asked"])
    cut = [state for state in held if state["begun_at"] is not None]
    report.cut += len(cut)
    unclear = sum(state["begun_at"] is None and state["ran_ms"] is None for state in held)
    busy = sum(state["ran_ms"] is None for state in cut)
    report.work_lost += sum(work_lost_ms(state, row["beat_at"]) for state in cut) / 1000
    return _receipt(
        report,
        perhaps_cut=max(0, min(unclear, row["slots"] - busy)),
        worker_id=row["worker_id"],
        runtime=row["runtime"],
        ended_at=row["beat_at"],
        vanished=True,
    )


def work_lost_ms(state: Row, until: int) -> int:
    """Return how long the execution of a claimed state had worked, by a time in Unix ms or until its end,
    since its last checkpoint was stored. ``at`` is the time of that; None without one."""
    begun_at: int | None = state["begun_at"]
    if begun_at is None:
        return 0  # as far as is known
    if state["ran_ms"] is not None:
        until = min(until, begun_at + state["ran_ms"])
    return max(0, until - max(begun_at, state["at"] or 0))


def _report(report: StopReport | None, drain_asked: int) -> StopReport:
    """Return what a runtime reported of its stop, with what the state manager knows of it."""
    report = StopReport() if report is None else report.model_copy()
    if drain_asked and report.why in ("", DRAIN_COMMAND):
        report.why = DRAIN_TEXTS[DrainSource(abs(drain_asked))]
    return report


def _receipt(
    report: StopReport,
    *,
    worker_id: str,
    runtime: str,
    ended_at: int,
    vanished: bool = False,
    perhaps_cut: int = 0,
) -> StopReceipt:
    return StopReceipt.model_construct(
        **dict(report),
        worker_id=worker_id,
        runtime=runtime,
        ended_at=from_unix_ms(ended_at),
        vanished=vanished,
        perhaps_cut=perhaps_cut,
    )
