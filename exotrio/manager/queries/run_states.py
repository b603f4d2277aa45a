"""The states of one run in pages: those that failed first, or in another order.

An index has the order of ``seq`` and the failed states, and of a run with a million states no more is read
than that takes. The slowest ones, and the order of the nodes, are found among its first ``MAX_SEARCHED``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio.manager.engine.states import ERRORED, NEXT_CREATED_ERROR
from exotrio.manager.queries.load import FAILED
from exotrio.manager.queries.run_detail import MAX_SEARCHED
from exotrio.manager.queries.runs import Found
from exotrio.manager.queries.state_detail import summarize
from exotrio.manager.queries.where import Where
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

PAGE_SIZE = 25
ORDERS = ("", "newest", "oldest", "slowest", "node")
"""How the states can be sorted; the first one, those that failed before all others, is the default."""
SORTED = {
    # One that runs is as slow as it has been so far; one that never ran comes last.
    "slowest": "CASE WHEN claimed_at IS NULL OR status = 'CREATED' THEN 1 ELSE 0 END,"
    " claimed_at - COALESCE(finished_at, {now})",
    "node": "place",
}
"""The orders that no index has."""
_NOT_FAILED = (
    "(status NOT IN ('ERRORED', 'NEXT_CREATED_ERROR') OR COALESCE(error, 'cancelled') = 'cancelled')"
)
_FAILED = "failed."
"""Begins the cursor of a page behind a failed state."""


def list_states(
    view: View,
    run: Row,
    template: Template,
    *,
    place: int | None,
    statuses: Sequence[str],
    order: str,
    after: str,
) -> Found:
    """Return a page of a run's states in one of ``ORDERS``, behind ``after``, a cursor.

    Any status matches if no ``statuses`` are given. States of one rank are in the order of their creation.
    """
    where = Where()
    if place is not None:
        where.add("place = ?", place)
    if statuses:
        where.add(f"status IN ({', '.join('?' * len(statuses))})", *statuses)
    searched = None
    if order in SORTED:
        seqs, following = _sorted(view, run, where, order, int(after[:9]) if after.isdecimal() else 0)
    elif order in ("newest", "oldest"):
        seqs, following, searched = _in_turn(view, run, where, view.seq(after), order == "newest")
    else:
        seqs, following, searched = _failed_first(view, run, where, statuses, after)
    return Found(_read(view, template, seqs), following, searched)


def _sorted(view: View, run: Row, where: Where, order: str, offset: int) -> tuple[list[int], str | None]:
    rows = view.execute(
        "SELECT seq FROM (SELECT seq, place, status, claimed_at, finished_at FROM states WHERE run = ?"
        f" ORDER BY seq LIMIT ?) AS searched WHERE {where}"
        f" ORDER BY {SORTED[order].format(now=view.now_ms)}, seq LIMIT ? OFFSET ?",
        (run["id"], MAX_SEARCHED, *where.parameters, PAGE_SIZE + 1, min(offset, MAX_SEARCHED)),
    ).fetchall()
    page = [row["seq"] for row in rows[:PAGE_SIZE]]
    return page, str(offset + PAGE_SIZE) if len(rows) > PAGE_SIZE else None


def _in_turn(
    view: View, run: Row, where: Where, after: int | None, backwards: bool, room: int = PAGE_SIZE
) -> tuple[list[int], str | None, int | None]:
    """Return the next states by number; the cursor of the page behind them; how many were searched, if the
    search ended before the page was full."""
    beyond, direction = ("<", "DESC") if backwards else (">", "ASC")
    first = (2**62 if backwards else 0) if after is None else after
    # The inner query bounds the search; the outer one ends it as soon as the page is full.
    rows = view.execute(
        f"SELECT seq FROM (SELECT seq, place, status, error FROM states WHERE run = ? AND seq {beyond} ?"
        f" ORDER BY seq {direction} LIMIT ?) AS searched WHERE {where} LIMIT ?",
        (run["id"], first, MAX_SEARCHED, *where.parameters, room + 1),
    ).fetchall()
    page = [row["seq"] for row in rows[:room]]
    if len(rows) > room:
        return page, view.state_id(page[-1] if page else first), None
    last = view.row(
        f"SELECT seq FROM states WHERE run = ? AND seq {beyond} ? ORDER BY seq {direction} LIMIT 1 OFFSET ?",
        (run["id"], first, MAX_SEARCHED - 1),
    )
    return (page, None, None) if last is None else (page, view.state_id(last["seq"]), MAX_SEARCHED)


def _failed_first(
    view: View, run: Row, where: Where, statuses: Sequence[str], after: str
) -> tuple[list[int], str | None, int | None]:
    """Return the next of the failed states, and then of the others: what was cancelled is one of those."""
    page: list[int] = []
    seq = view.seq(after)
    if seq is None:
        seq = view.seq(after.removeprefix(_FAILED)) or 0
        rows = view.execute(
            "SELECT seq FROM (SELECT seq, place, status, error FROM states WHERE run = ? AND seq > ?"
            " AND status IN ('ERRORED', 'NEXT_CREATED_ERROR') ORDER BY seq LIMIT ?) AS searched"
            f" WHERE {FAILED} AND {where} LIMIT ?",
            (run["id"], seq, MAX_SEARCHED, *where.parameters, PAGE_SIZE + 1),
        ).fetchall()
        page = [row["seq"] for row in rows[:PAGE_SIZE]]
        if len(rows) > PAGE_SIZE:
            return page, _FAILED + view.state_id(page[-1]), None
        following = view.row(
            "SELECT seq FROM states WHERE run = ? AND seq > ? AND status IN ('ERRORED', 'NEXT_CREATED_ERROR')"
            " ORDER BY seq LIMIT 1 OFFSET ?",
            (run["id"], seq, MAX_SEARCHED - 1),
        )
        if following is not None:
            return page, _FAILED + view.state_id(following["seq"]), MAX_SEARCHED
        if statuses and run["cancelled_at"] is None and {ERRORED, NEXT_CREATED_ERROR}.issuperset(statuses):
            return page, None, None
        seq = 0
    where.add(_NOT_FAILED)
    others, cursor, searched = _in_turn(view, run, where, seq, False, PAGE_SIZE - len(page))
    return [*page, *others], cursor, searched


def _read(view: View, template: Template, seqs: Sequence[int]) -> list[dict[str, Any]]:
    rows = view.execute(
        "SELECT seq, place, status, retry_count, enqueue_after, created_at, claimed_at, finished_at, worker,"
        f" substr(error, 1, {MAX_ERROR_BYTES}) AS error,"
        " substr(inputs, 1, 160) AS inputs, substr(outputs, 1, 160) AS outputs"
        f" FROM states WHERE {view.any_of('seq')}",
        (view.items(seqs),),
    )
    found = {
        row["seq"]: {
            **summarize(view, row),
            "identifier": template.places[row["place"]].identifier,
            "error": message_line(row["error"]),
            "inputs": row["inputs"],
            "outputs": row["outputs"],
        }
        for row in rows
    }
    return [found[seq] for seq in seqs]
