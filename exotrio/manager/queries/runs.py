"""Runs in lists, found by a search.

A search reads the runs from the newest on. It stops at a full page, after ``MAX_SEARCHED`` runs, or after the
texts of ``MAX_STATES_READ`` states; the page shows this and links to the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic_core import to_json

from exotrio._util.times import moment_ms, timestamp
from exotrio._wire.operations import MAX_PAGE, RunsQuery
from exotrio._wire.v0 import RunSummary
from exotrio._wire.vocabulary import RunStatus, run_status, run_word
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.engine.order import NAMES, weight_of
from exotrio.manager.engine.runs import RUNS, find_run
from exotrio.manager.queries.paging import Page, Where
from exotrio.manager.rules.errors import InvalidQuery
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

PAGE_SIZE = 50
MAX_SEARCHED = 20_000
MAX_STATES_READ = 50_000
READ_AT_ONCE = 250
"""Runs that a search reads with one statement."""
NATIVE_FIELDS = {
    *("pruned_count", "finished_at", "cancelled_at", "key", "idle_ms", "duration_ms"),
    *("priority", "weight", "fair_key", "for_event_count", "for_run_count", "started_by", "origin"),
    "parent_run_id",
}
"""Fields of a run that v0 does not show."""


def status_of(run: Row) -> RunStatus:
    ended = run["success"] + run["retried"]
    return run_status(pending=run["pending"], errored=run["errored"], ended=ended)


MAX_UNFINISHED = 1_000
"""Runs that have not ended, besides the newest ones, of which an overview shows the newest."""
STATUSES = ("running", "failed", "success", "cancelled", "errored")
"""What pages call the status of a run; ``errored`` are runs with failed states, which may still run."""


def _has_status(run: Row, status: str) -> bool:
    is_cancelled = run["cancelled_at"] is not None
    word = run_word(status_of(run), is_cancelled=is_cancelled, waits=False)
    if is_cancelled:
        return status == "cancelled"
    return status == word or (status == "errored" and run["errored"] > 0)


def run_size(run: Row) -> int:
    """Return how many states a run has."""
    return int(run["pending"] + run["success"] + run["errored"] + run["retried"])


def summarize_run(run: Row) -> dict[str, Any]:
    """Return a run, selected by ``RUNS``, in the wire format of ``RunSummary``, whose class would take ten
    times as long."""
    return {
        "run_id": run["run_id"],
        "graph_name": run["graph_name"],
        "success_count": run["success"],
        "pruned_count": run["pruned"],
        "pending_count": run["pending"] - run["holds"],
        "for_event_count": run["for_event"],
        "for_run_count": run["for_run"],
        "errored_count": run["errored"],
        "retried_count": run["retried"],
        "total_count": run_size(run) - run["holds"],
        "status": status_of(run).value,
        "created_at": timestamp(run["created_at"]),
        "finished_at": None if run["finished_at"] is None else timestamp(run["finished_at"]),
        "cancelled_at": None if run["cancelled_at"] is None else timestamp(run["cancelled_at"]),
        "key": run["key"],
        "priority": NAMES[run["priority"]],
        "weight": weight_of(run["share"]),
        "fair_key": run["fair_key"],
        "started_by": run["started_by"],
        "origin": run["origin"],
        "parent_run_id": run["parent_run_id"],
        "idle_ms": run["idle"],
        "duration_ms": run["finished_at"]
        # The clock may have been set back.
        and max(0, run["finished_at"] - run["created_at"] - run["idle"]),
    }


def read_run(run: Row) -> RunSummary:
    """Return a run, selected by ``RUNS``, for a page: what a client reads from ``summarize_run``."""
    return RunSummary.model_validate(summarize_run(run))


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run that a search found, and the number of a state with the text, unless the run's key has it."""

    run: RunSummary
    state: int | None


def find_runs(
    view: View,
    namespace: str,
    *,
    graph: str = "",
    status: str = "",
    since_ms: int = 0,
    text: str = "",
    parent: str = "",
    before: str = "",
    limit: int = PAGE_SIZE,
) -> Page[FoundRun]:
    """Return one page of the runs that match every argument, newest first, after the cursor ``before``.

    ``status`` is one of ``STATUSES``. ``text`` occurs in the run's key, or in an input, an output or
    an error of one of its states. ``parent`` is the id of the run that started it.
    """
    where = Where()
    where.add("runs.created_at >= ?", since_ms)
    if parent:
        where.add("runs.parent_run = (SELECT id FROM runs WHERE run_id = ?)", parent)
    source = _BELOW if parent else RUNS
    reader = _Reader(view, text)
    matches: list[FoundRun] = []
    last: Row | None = None
    for searched, row in enumerate(_newest_first(view, namespace, where, before, READ_AT_ONCE, source)):
        is_full = len(matches) == limit
        if is_full or searched == MAX_SEARCHED or reader.left <= 0:
            assert last is not None
            return Page(matches, _cursor(last), None if is_full else searched)
        last = row
        if (
            graph in ("", row["graph_name"])
            and (not status or _has_status(row, status))
            and (state := reader.find(row)) is not None
        ):
            matches.append(FoundRun(read_run(row), state or None))
    return Page(matches)


def _newest_first(
    view: View, namespace: str, where: Where, before: str, at_once: int, source: str = RUNS
) -> Iterator[Row]:
    """Yield the runs after a cursor, selected by ``source``. They are read in parts of ``at_once``, since
    PostgreSQL's driver reads all rows of a statement, and most pages end soon."""
    cursor = _read_cursor(before) or (2**62, 2**62)
    while True:
        rows = view.execute(
            f"{source} WHERE runs.namespace = ? AND (runs.created_at, runs.id) < (?, ?) AND {where}"
            " ORDER BY runs.created_at DESC, runs.id DESC LIMIT ?",
            (namespace, *cursor, *where.parameters, at_once),
        ).fetchall()
        yield from rows
        if len(rows) < at_once:
            return
        cursor = rows[-1]["created_at"], rows[-1]["id"]


def _cursor(run: Row) -> str:
    """Return the cursor with which a client continues after a run."""
    return f"{run['created_at']}.{run['id']}"


def _read_cursor(text: str) -> tuple[int, int] | None:
    """Return (created_at, id) of a cursor, or None if it is not one."""
    created_at, _, number = text.partition(".")
    if all(part.isascii() and part.isdigit() and len(part) <= 18 for part in (created_at, number)):
        return int(created_at), int(number)
    return None


class _Reader:
    """Searches the states of runs for a text, until it has read ``MAX_STATES_READ`` of them."""

    def __init__(self, view: View, text: str) -> None:
        self._view = view
        self._text = text
        self.left = MAX_STATES_READ
        # Inputs and outputs are JSON, in which quotes and line breaks are escaped.
        self._patterns = (_like(to_json(text).decode()[1:-1]), _like(text))

    def find(self, run: Row) -> int | None:
        """Return the number of a state of a run with the text, 0 if its key has it, None if none has."""
        if self._text.lower() in (run["key"] or "").lower():
            return 0
        as_json, plain = self._patterns
        row = self._view.row(
            "SELECT seq FROM (SELECT seq, inputs, outputs, error FROM states WHERE run = ? LIMIT ?) AS texts"
            " WHERE inputs LIKE ? ESCAPE '\\' OR outputs LIKE ? ESCAPE '\\' OR error LIKE ? ESCAPE '\\'"
            " LIMIT 1",
            (run["id"], max(self.left, 1), as_json, as_json, plain),
        )
        self.left -= run_size(run)
        return None if row is None else int(row["seq"])


def _like(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, "\\" + special)
    return f"%{text}%"


# As ``run_status`` derives it.
_STATUS = {
    RunStatus.PENDING: "pending > 0",
    RunStatus.FAILED: "pending = 0 AND (errored > 0 OR success + retried = 0)",
    RunStatus.SUCCESS: "pending = 0 AND errored = 0 AND success + retried > 0",
}


# SQLite would otherwise search all runs of the namespace, in the order of the page.
_WITH_KEY, _BELOW = (
    RUNS.replace(" FROM runs JOIN ", f" FROM runs INDEXED BY {index} JOIN ")
    for index in ("runs_by_key", "runs_by_parent_run")
)


def list_runs(view: View, namespace: str, query: RunsQuery) -> dict[str, Any]:
    """Return one page of the runs that match a query of the native API, in the wire format of ``RunPage``."""
    where, source = Where(), RUNS
    if query.parent is not None:
        where.add("runs.parent_run = ?", find_run(view, namespace, query.parent)["id"])
        source = _BELOW
    if query.graph is not None:
        where.add("runs.graph = ?", find_graph(view, namespace, query.graph)["id"])
    if query.key is not None:
        where.add("key = ? AND key IS NOT NULL", query.key)
        source = _WITH_KEY
    if query.status is not None:
        where.add(_STATUS[query.status])
    if query.since is not None:
        where.add("runs.created_at >= ?", moment_ms(query.since))
    if query.before is not None and _read_cursor(query.before) is None:
        raise InvalidQuery(f"before is {query.before!r}, which is not the next of a page of runs")
    count = query.limit + 1
    rows = list(islice(_newest_first(view, namespace, where, query.before or "", count, source), count))
    page = rows[: query.limit]
    return {
        "runs": [summarize_run(row) for row in page],
        "next": _cursor(page[-1]) if len(rows) > len(page) else None,
    }


def list_runs_v0(view: View, namespace: str, page: int, size: int) -> dict[str, Any]:
    """Return one page of a namespace's runs, newest first. ``page`` counts from 1."""
    size = min(size, MAX_PAGE)
    total = view.one("SELECT count(*) FROM runs WHERE namespace = ?", (namespace,))[0]
    rows = newest_runs(view, namespace, size, min((page - 1) * size, 2**62))
    return {
        "namespace": namespace,
        "total": total,
        "page": page,
        "size": size,
        "runs": [
            {name: value for name, value in summarize_run(row).items() if name not in NATIVE_FIELDS}
            for row in rows
        ],
    }


def newest_runs(view: View, namespace: str, limit: int, offset: int = 0) -> list[Row]:
    """Return the newest runs, selected by ``RUNS``."""
    return view.execute(
        RUNS + " WHERE runs.namespace = ? ORDER BY runs.created_at DESC, runs.id DESC LIMIT ? OFFSET ?",
        (namespace, limit, offset),
    ).fetchall()


def unfinished_first(view: View, namespace: str, limit: int) -> list[Row]:
    """Return the newest runs, selected by ``RUNS``: first those that have not ended. Of these, all are found
    unless there are more than ``MAX_UNFINISHED``."""
    order = (
        "ORDER BY CASE WHEN runs.finished_at IS NULL THEN 0 ELSE 1 END, runs.created_at DESC, runs.id DESC"
    )
    return view.execute(
        f"{RUNS} WHERE runs.id IN (SELECT runs.id FROM runs WHERE runs.id IN"
        " (SELECT id FROM (SELECT runs.id FROM graphs CROSS JOIN templates ON templates.graph = graphs.id"
        " CROSS JOIN runs ON runs.template = templates.id WHERE graphs.namespace = ?"
        " AND runs.finished_at IS NULL LIMIT ?) AS unfinished UNION ALL"
        " SELECT id FROM (SELECT id FROM runs WHERE namespace = ? ORDER BY created_at DESC, id DESC LIMIT ?)"
        f" AS newest) {order} LIMIT ?) {order}",
        (namespace, MAX_UNFINISHED, namespace, limit, limit),
    ).fetchall()
