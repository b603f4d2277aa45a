"""States in lists: those of a namespace newest first for the API, and those of one run for its page.

A page begins where the one before ended, not at a distance from the start: states that are added meanwhile
shift nothing, and the thousandth page costs what the first does. Each search stops after a number of states,
however few of them match.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

from pydantic_core import from_json

from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio._util.times import timestamp
from exotrio._wire.operations import StatesQuery, StateSummary
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.engine.order import WAITING
from exotrio.manager.engine.states import CREATED, ERRORED, NEXT_CREATED_ERROR, QUEUED, shown_status
from exotrio.manager.queries.graphs import find_node
from exotrio.manager.queries.load import BUFFERED, FAILED, HELD, REPORTING
from exotrio.manager.queries.paging import Page, Where
from exotrio.manager.queries.state_times import Times, times_among
from exotrio.manager.queries.waiting import wait_reasons
from exotrio.manager.rules.errors import InvalidQuery, NotFound
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

WINDOW = 100_000
"""Numbers of states that one request of the API searches. It takes some ten milliseconds."""
MAX_SEQ = 2**63 - 1
MAX_OUTPUTS = 4 * 1024 * 1024
"""Characters of outputs in one page, unless the first state alone has more."""
MAX_SEARCHED = 100_000
"""States of a run that are searched for one page, or for a report."""
PAGE_SIZE = 25
"""States on the page of a run."""
MAX_BEGIN = 160
"""Characters shown of the JSON of inputs and outputs in lists."""
ORDERS = ("", "newest", "oldest", "slowest", "node")
"""How the states of a run can be sorted. The default is those that failed before all others."""
SORTED = {
    # By the time that a running state has taken so far, or since its claim; those that never ran are last.
    "slowest": "CASE WHEN claimed_at IS NULL OR status = 'CREATED' THEN 1 ELSE 0 END,"
    " -COALESCE(ran_ms, COALESCE(finished_at, {now}) - COALESCE(begun_at, claimed_at))",
    "node": "place",
}
"""The orders that no index has."""
BY_HAND, RERUN = "by hand", "rerun"
CAUSE = (
    "CASE WHEN retry_of IS NULL OR retry_count > 0 THEN ''"
    f" WHEN manual_fanout_id IS NULL THEN '{RERUN}' ELSE '{BY_HAND}' END AS cause"
)
"""The column ``cause`` of a ``ListedState``."""
LINE_OF_ERROR = f"substr(error, 1, {MAX_ERROR_BYTES}) AS error"
"""The column that ``message_line`` needs."""
_ENDED_BADLY = "status IN ('ERRORED', 'NEXT_CREATED_ERROR')"
"""The text of the index of failed states: SQLite recognizes no other."""
_NOT_FAILED = f"(NOT {_ENDED_BADLY} OR COALESCE(error, 'cancelled') = 'cancelled')"
_FAILED_CURSOR = "failed."
"""Prefix of the cursor of a page that ended with a failed state."""


class ListedState(StateSummary):
    """A state on a page: also its stage or its status, and the beginning of its values as JSON."""

    cause: str
    """``BY_HAND`` if it was retried by hand, ``RERUN`` if it is of a united node that runs again after such a
    retry; empty otherwise."""
    stage: str
    begin_of_inputs: str
    begin_of_outputs: str

    @property
    def is_cancelled(self) -> bool:
        return was_cancelled(self.status, self.error)


def was_cancelled(status: str, error: str | None) -> bool:
    """Return whether a state ended because its run was cancelled."""
    return status == ERRORED and error == "cancelled"


def list_states(view: View, namespace: str, query: StatesQuery) -> dict[str, Any]:
    """Return one page of the states whose run or node is of a namespace, newest first, in the wire format of
    ``StatePage``.

    The page may be short, or empty, and yet have a next one: if hardly any state matches, searching all of
    them would take seconds; and outputs may be large.
    """
    where = Where()
    where.add("? IN (runs.namespace, nodes.namespace)", namespace)
    graph = run = None
    if query.graph is not None:
        graph = find_graph(view, namespace, query.graph)["id"]
        where.add("(SELECT graph FROM runs WHERE id = run) = ?", graph)
    if query.run is not None:
        run = _find_run_with_states(view, namespace, query.run)
        where.add("run = ?", run)
    if query.node is not None:
        # By number, not by name: the index has the number.
        where.add("node_id = ?", find_node(view, namespace, query.node)["id"])
    if query.identifier is not None:
        places = _template_places(view, query.identifier, graph, run)
        template = "(SELECT template FROM runs WHERE id = run)"
        where.add(view.any_of(f"({template} || '.' || place)"), view.items(places))
    _add_statuses(where, query.status)
    if query.status and {ERRORED, NEXT_CREATED_ERROR}.issuperset(query.status):
        where.add(_ENDED_BADLY)
    before = _newest_below(view, MAX_SEQ) + 1 if query.before is None else view.seq(query.before)
    if before is None:
        raise InvalidQuery(f"before is {query.before!r}, which is not the id of a state here")
    floor = max(0, before - WINDOW) if run is None else 0
    where.add("seq < ? AND seq >= ?", before, floor)
    size = "length(outputs)" if query.outputs else "0"
    rows = _select(
        view,
        f"{LINE_OF_ERROR}, {size} AS size",
        f"{where} ORDER BY seq DESC LIMIT ?",
        (*where.parameters, query.limit + 1),
    )
    sizes = accumulate(row["size"] for row in rows[: query.limit])
    page = rows[: max(1, sum(size <= MAX_OUTPUTS for size in sizes))]
    following = page[-1]["seq"] if len(rows) > len(page) else _newest_below(view, floor) + 1
    at = times_among(view, page)
    reasons = wait_reasons(view, namespace, page)
    states = []
    for row in page:
        reason = reasons.get(row["seq"])
        shown = None if reason is None else reason.model_dump(mode="json")
        states.append({**_summary(view, row, at[row["seq"]]), "waits_for": shown})
    if query.outputs:
        seqs = [row["seq"] for row in page]
        for state, row in zip(states, read_rows(view, seqs, "outputs"), strict=True):
            state["outputs"] = from_json(row["outputs"])
    return {"states": states, "next": view.state_id(following) if following > 1 else None}


def _add_statuses(where: Where, statuses: Collection[str]) -> None:
    """Require one of these statuses, unless there are none; a state that is WAITING is stored as CREATED."""
    where.add_one_of(
        "status", sorted({CREATED if status == StateStatus.WAITING else status for status in statuses})
    )
    if len({CREATED, StateStatus.WAITING}.intersection(statuses)) == 1:
        is_waiting = "=" if StateStatus.WAITING in statuses else "<>"
        where.add(f"(status <> 'CREATED' OR coalesce(lane, '') {is_waiting} '{WAITING}')")


def _newest_below(view: View, number: int) -> int:
    """Return the highest number of a state below that one, 0 if there is none. Many numbers in a row may be
    unused (``store.numbers``)."""
    return int(view.one("SELECT coalesce(max(seq), 0) FROM states WHERE seq < ?", (number,))[0])


def _find_run_with_states(view: View, namespace: str, run_id: str) -> int:
    """Return the number of a run of this namespace, or of one with states of its nodes."""
    row = view.row(
        "SELECT id FROM runs WHERE run_id = ? AND (namespace = ? OR EXISTS (SELECT 1 FROM states"
        " JOIN nodes ON nodes.id = node_id WHERE run = runs.id AND nodes.namespace = ?))",
        (run_id, namespace, namespace),
    )
    if row is None:
        raise NotFound(f"there is no run {run_id!r} in namespace {namespace!r}")
    return int(row["id"])


def _template_places(view: View, identifier: str, graph: int | None, run: int | None) -> list[str]:
    """Return ``template.place`` for each place with the identifier, in any version of the graph, or in the
    version of the run."""
    if run is not None:
        rows = view.execute("SELECT template AS id FROM runs WHERE id = ?", (run,))
    elif graph is not None:
        rows = view.execute("SELECT id FROM templates WHERE graph = ?", (graph,))
    else:
        raise InvalidQuery("identifier names a place of a graph: give graph or run with it")
    return [
        f"{row['id']}.{place.index}"
        for row in rows.fetchall()
        for place in view.template(row["id"]).places
        if place.identifier == identifier
    ]


def list_states_of_run(
    view: View, run: Row, *, place: int | None, statuses: Sequence[str], order: str, after: str
) -> Page[ListedState]:
    """Return a page of a run's states in one of ``ORDERS``, after a cursor.

    Any status matches if there are no ``statuses``, which may have stages, too. States of one rank are in the
    order of their creation.
    """
    where = Where()
    if place is not None:
        where.add("place = ?", place)
    stages = {QUEUED, BUFFERED, REPORTING}.intersection(statuses)
    _add_statuses(where, [QUEUED if status in stages else status for status in statuses])
    if 0 < len(stages) < 3:
        held = Where()
        held.add_one_of("stage", sorted(stages))
        which = f"seq IN (SELECT seq FROM {HELD} WHERE run = ? AND {held})"
        where.add(f"(status <> 'QUEUED' OR {which})", run["id"], *held.parameters)
    if order in SORTED:
        page = _sorted(view, run, where, order, int(after[:9]) if after.isdecimal() else 0)
    elif order in ("newest", "oldest"):
        page = _by_number(view, run, where, view.seq(after), is_backwards=order == "newest")
    else:
        page = _failed_first(view, run, where, statuses, after)
    return Page(show_states(view, page.rows), page.next, page.searched)


def _sorted(view: View, run: Row, where: Where, order: str, offset: int) -> Page[int]:
    rows = view.execute(
        "SELECT seq FROM (SELECT seq, place, status, lane, claimed_at, begun_at, ran_ms, finished_at"
        f" FROM states WHERE run = ? ORDER BY seq LIMIT ?) AS searched WHERE {where}"
        f" ORDER BY {SORTED[order].format(now=view.now_ms)}, seq LIMIT ? OFFSET ?",
        (run["id"], MAX_SEARCHED, *where.parameters, PAGE_SIZE + 1, min(offset, MAX_SEARCHED)),
    ).fetchall()
    page = [row["seq"] for row in rows[:PAGE_SIZE]]
    return Page(page, str(offset + PAGE_SIZE) if len(rows) > PAGE_SIZE else None)


def _by_number(
    view: View,
    run: Row,
    where: Where,
    after: int | None,
    *,
    is_backwards: bool = False,
    among: str = "TRUE",
    room: int = PAGE_SIZE,
) -> Page[int]:
    """Return the next states by number, searched among those that an index finds by ``among``."""
    beyond, direction = ("<", "DESC") if is_backwards else (">", "ASC")
    first = (MAX_SEQ if is_backwards else 0) if after is None else after
    searched = f"FROM states WHERE run = ? AND seq {beyond} ? AND {among} ORDER BY seq {direction}"
    # The inner query limits the search; the outer one ends it as soon as the page is full.
    rows = view.execute(
        f"SELECT seq FROM (SELECT seq, place, status, lane, error {searched} LIMIT ?) AS searched"
        f" WHERE {where} LIMIT ?",
        (run["id"], first, MAX_SEARCHED, *where.parameters, room + 1),
    ).fetchall()
    page = [row["seq"] for row in rows[:room]]
    if len(rows) > room:
        return Page(page, view.state_id(page[-1] if page else first))
    last = view.row(f"SELECT seq {searched} LIMIT 1 OFFSET ?", (run["id"], first, MAX_SEARCHED - 1))
    return Page(page) if last is None else Page(page, view.state_id(last["seq"]), MAX_SEARCHED)


def _failed_first(view: View, run: Row, where: Where, statuses: Sequence[str], after: str) -> Page[int]:
    """Return the next of the failed states, then of the others, which include those that were cancelled."""
    failed: Page[int] = Page()
    seq = view.seq(after)
    if seq is None:
        seq = view.seq(after.removeprefix(_FAILED_CURSOR))
        failed = _by_number(view, run, where.with_condition(FAILED), seq, among=_ENDED_BADLY)
        if failed.next is not None:
            return Page(failed.rows, _FAILED_CURSOR + failed.next, failed.searched)
        if statuses and run["cancelled_at"] is None and {ERRORED, NEXT_CREATED_ERROR}.issuperset(statuses):
            return failed
        seq = 0
    room = PAGE_SIZE - len(failed.rows)
    others = _by_number(view, run, where.with_condition(_NOT_FAILED), seq, room=room)
    return Page([*failed.rows, *others.rows], others.next, others.searched)


def show_states(view: View, seqs: Sequence[int]) -> list[ListedState]:
    """Return states by their numbers, in that order, as a page lists them."""
    begins = ", ".join(f"substr({column}, 1, {MAX_BEGIN}) AS {column}" for column in ("inputs", "outputs"))
    states = []
    rows = read_rows(view, seqs, f"{LINE_OF_ERROR}, {begins}")
    times = times_among(view, rows)
    for row in rows:
        at = times[row["seq"]]
        fields = {
            **_summary(view, row, at),
            "cause": row["cause"],
            "stage": at.stage or shown_status(row["status"], row["lane"]),
            "begin_of_inputs": row["inputs"],
            "begin_of_outputs": row["outputs"],
        }
        states.append(ListedState.model_validate(fields))
    return states


def read_rows(view: View, seqs: Sequence[int], columns: str) -> list[Row]:
    """Return states by their numbers, in that order, with data of their runs and with more ``columns``."""
    rows = _select(view, columns, view.any_of("seq"), (view.items(seqs),))
    by_number = {row["seq"]: row for row in rows}
    return [by_number[seq] for seq in seqs]


def _select(view: View, columns: str, condition: str, parameters: tuple[Any, ...]) -> list[Row]:
    return view.execute(
        f"SELECT seq, place, states.status, retry_count, {CAUSE}, manual_fanout_id IS NOT NULL AS by_hand,"
        " enqueue_after, states.created_at, states.updated_at, claimed_at,"
        " begun_at, ran_ms, states.finished_at, worker, states.limits, lane, event, calls_size,"
        " states.priority, turn, nodes.namespace, nodes.name, runs.run_id, runs.template,"
        f" graphs.name AS graph_name, {columns} FROM states JOIN nodes ON nodes.id = node_id"
        f" JOIN runs ON runs.id = run JOIN graphs ON graphs.id = runs.graph WHERE {condition}",
        parameters,
    ).fetchall()


def _summary(view: View, row: Row, at: Times) -> dict[str, Any]:
    """Return a row with ``LINE_OF_ERROR`` in the wire format of ``StateSummary``."""
    return {
        "id": view.state_id(row["seq"]),
        "node_name": row["name"],
        "identifier": view.template(row["template"]).places[row["place"]].identifier,
        "graph_name": row["graph_name"],
        "run_id": row["run_id"],
        "status": shown_status(row["status"], row["lane"]),
        "error": row["error"] and message_line(row["error"]),
        "retry_count": row["retry_count"],
        "by_hand": bool(row["by_hand"]),
        "created_at": timestamp(row["created_at"]),
        "finished_at": None if row["finished_at"] is None else timestamp(row["finished_at"]),
        "worker": row["worker"],
        **at.spent(view.now_ms),
    }
