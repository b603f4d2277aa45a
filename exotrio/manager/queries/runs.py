"""Runs in lists, and the search for them.

A search looks at runs from the newest on. It stops at a full page, after ``MOST_LOOKED_AT`` runs, or
after the texts of ``MOST_READ`` states, and the page says how to go on from there.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from exotrio.manager.queries.views import RUNS
from exotrio.manager.store.port import View
from exotrio.manager.web.format import CANCELLED

PAGE_SIZE = 50
MOST_LOOKED_AT = 20_000
MOST_READ = 50_000
STATUSES = ("running", "failed", "success", "cancelled")


def status_of(run: sqlite3.Row) -> str:
    """Return the status of a run in one word."""
    if run["cancelled_at"] is not None:
        return "cancelled"
    if run["pending"]:
        return "running"
    if run["errored"] or not run["success"] + run["retried"]:
        return "failed"
    return "success"


def run_row(run: sqlite3.Row, now_ms: int) -> dict[str, Any]:
    """Return a run, selected by ``RUNS``, as a list shows it."""
    total = run["pending"] + run["success"] + run["errored"] + run["retried"]
    bad = "errored" if run["cancelled_at"] is None else CANCELLED
    counts = {"success": run["success"], "waiting": run["pending"], bad: run["errored"]}
    over = run["finished_at"]
    return {
        "id": run["run_id"],
        "graph": run["graph_name"],
        "status": status_of(run),
        "counts": {name: count for name, count in counts.items() if count},
        "total": total - run["retried"],
        "ended": run["success"] + run["errored"],
        "errored": run["errored"],
        "retried": run["retried"],
        "created_at": run["created_at"],
        "took": (now_ms if over is None else over) - run["created_at"],
        "over": over is not None,
        "retryable": bool(run["errored"]) and run["cancelled_at"] is None,
        "cancellable": bool(run["pending"]) and run["cancelled_at"] is None,
    }


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a search.

    Attributes:
        runs: What matches, newest first.
        next: Where to go on, if there may be more.
        looked_at: How many runs were looked at, if the search ended before its page was full.
    """

    runs: list[dict[str, Any]]
    next: str | None
    looked_at: int | None


def search(
    view: View,
    namespace: str,
    *,
    graph: str = "",
    status: str = "",
    since_ms: int | None = None,
    text: str = "",
    before: str = "",
) -> Found:
    """Return one page of the runs that match everything given.

    Args:
        text: Stands in an input, an output or an error of one of the run's states.
        before: ``next`` of the page before.
    """
    cursor = _read_cursor(before)
    rows = view.execute(
        RUNS + " WHERE runs.namespace = ? AND (runs.created_at, runs.id) < (?, ?) AND runs.created_at >= ?"
        " ORDER BY runs.created_at DESC, runs.id DESC LIMIT ?",
        (namespace, *cursor, since_ms or 0, MOST_LOOKED_AT + 1),
    )
    reader = _Reader(view, text)
    found: list[dict[str, Any]] = []
    last: sqlite3.Row | None = None
    for looked_at, row in enumerate(rows):
        full = len(found) == PAGE_SIZE
        if full or looked_at == MOST_LOOKED_AT or reader.is_tired:
            assert last is not None
            return Found(found, f"{last['created_at']}.{last['id']}", None if full else looked_at)
        last = row
        fits = (not graph or row["graph_name"] == graph) and (not status or status_of(row) == status)
        if fits and reader.finds(row):
            found.append(run_row(row, view.now_ms))
    return Found(found, None, None)


def _read_cursor(text: str) -> tuple[int, int]:
    created_at, _, number = text.partition(".")
    if created_at.isascii() and created_at.isdigit() and number.isascii() and number.isdigit():
        return min(int(created_at[:18]), 2**62), min(int(number[:18]), 2**62)
    return 2**62, 2**62


class _Reader:
    """Looks for a text in the states of runs, as long as its patience lasts."""

    def __init__(self, view: View, text: str) -> None:
        self._view = view
        self._text = text
        self._left = MOST_READ
        # Inputs and outputs are JSON, where a quote or a line break stands escaped.
        self._patterns = (_like(to_json(text).decode()[1:-1]), _like(text))

    @property
    def is_tired(self) -> bool:
        return self._left <= 0

    def finds(self, run: sqlite3.Row) -> bool:
        if not self._text:
            return True
        as_json, plain = self._patterns
        row = self._view.row(
            "SELECT 1 FROM (SELECT inputs, outputs, error FROM states WHERE run = ? LIMIT ?)"
            " WHERE inputs LIKE ? ESCAPE '\\' OR outputs LIKE ? ESCAPE '\\' OR error LIKE ? ESCAPE '\\'"
            " LIMIT 1",
            (run["id"], max(self._left, 1), as_json, as_json, plain),
        )
        self._left -= run["pending"] + run["success"] + run["errored"] + run["retried"]
        return row is not None


def _like(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return f"%{text}%"
