"""What the page and the export of one run show: its inputs and results, its timeline, its events, its errors.

An export shows all states of a small run; of a large one, for each node, those that failed, then those that
have not ended, then the slowest.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from pydantic_core import from_json

from exotrio.manager.engine.states import ENDED, ERRORED, shown_status
from exotrio.manager.queries.load import FAILED
from exotrio.manager.queries.paging import end_of
from exotrio.manager.queries.run import counts_of, further_of
from exotrio.manager.queries.runs import run_size
from exotrio.manager.queries.state_times import HELD, Times, times_among
from exotrio.manager.queries.states import MAX_SEARCHED, read_rows
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_SPANS = 10_000
"""States in a timeline; of a larger run it has every second one, or every third..."""
MAX_BARS = 500
"""States of a run that are shown separately: as a bar of the timeline, or in an export."""
ALWAYS_SHOWN = 10
"""The first and the last states of a run that its timeline shows however large it is."""
MAX_EVENTS = 20_000
"""The newest events of all runs that are searched for those of one."""
EVENTS_SHOWN = 50
MIN_SHOWN = 5
"""States that are shown of each node of a larger run, however many nodes it has."""
SLOWEST = 20
"""States of each node of a larger run that are shown although they succeeded."""
MAX_PARSED = 65_536
"""Characters of JSON that are parsed; ..."""
BEGIN = 4_000
"""... of longer JSON only this beginning is read: twice what is shown, since secrets are masked in it."""
MAX_FAILURES = 10_000
"""Failed states that are compared."""


def first_state(view: View, run: Row) -> int:
    """Return the number of the state that a run began with."""
    return int(view.one("SELECT seq FROM states WHERE run = ? ORDER BY seq LIMIT 1", (run["id"],))["seq"])


def last_successes(view: View, run: Row, place: int, limit: int) -> list[int]:
    """Return the numbers of the last states of a place that succeeded, in their order.

    Only the last ``MAX_SEARCHED`` states of the run are searched, since most leaves are among them.
    """
    rows = view.execute(
        "SELECT seq FROM (SELECT seq, place, status FROM states WHERE run = ? ORDER BY seq DESC LIMIT ?)"
        " AS searched WHERE place = ? AND status = 'SUCCESS' LIMIT ?",
        (run["id"], MAX_SEARCHED, place, limit),
    )
    return sorted(row["seq"] for row in rows)


def store_of(view: View, run: Row, template: Template) -> list[tuple[str, str]]:
    """Return the store of a run, with the defaults of its graph."""
    rows = view.execute("SELECT key, value FROM store WHERE run = ?", (run["id"],))
    stored = {row["key"]: from_json(row["value"]) for row in rows}
    return sorted({**template.body.store_config.default_values, **stored}.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One state in time.

    Attributes:
        cancelled: Whether it ended because its run was cancelled.
        at: Its times, in milliseconds since its run began, without the times when the run was idle.
        state_id: None in a run of more than ``MAX_BARS`` states.
    """

    place: int
    status: str
    cancelled: bool = False
    at: Times
    state_id: str | None = None


class Lane(NamedTuple):
    """A node of a timeline; ``further`` of its ``states`` are further outputs of others."""

    name: str
    states: int
    further: int = 0


@dataclass(frozen=True, slots=True)
class Spans:
    """The data of a timeline: all states, or about one in ``each``. Times are in milliseconds.

    Attributes:
        lanes: The nodes of the graph, in its order.
        until: From the start of the run to its end, or to now, without the times when it was idle.
        breaks: Where such times are left out: after how many ms, and how long they were.
    """

    lanes: Sequence[Lane]
    spans: list[Span]
    each: int
    until: int
    breaks: Sequence[tuple[int, int]] = ()

    @property
    def many(self) -> bool:
        """Whether they are too many to be drawn one by one."""
        return len(self.spans) > MAX_BARS

    @property
    def has_event_waits(self) -> bool:
        return any(
            span.at.waits_for or any(each.name != HELD for each in span.at.earlier) for span in self.spans
        )

    @property
    def has_given_back(self) -> bool:
        """Whether states were held before, and given back."""
        return any(span.at.earlier for span in self.spans)

    @property
    def has_reporting(self) -> bool:
        """Whether outcomes were accepted long after the ends of their executions."""
        return any(span.at.is_reported_late(self.until) for span in self.spans)

    @property
    def without_begin(self) -> set[str]:
        """``ended`` and ``running``, if such states have no begin: as through v0, or not reported yet."""
        return {
            "running" if span.at.finished is None else "ended"
            for span in self.spans
            if span.at.claimed is not None
            and span.at.begun is None
            and span.at.stage is None
            and not span.at.never_began
        }


class _Working:
    """The time of a run without the times when it had ended and waited to be retried."""

    def __init__(self, view: View, run: Row) -> None:
        self._began: int = run["created_at"]
        rows = view.execute("SELECT since, until FROM idle_times WHERE run = ? ORDER BY since", (run["id"],))
        self._idle: list[tuple[int, int]] = [(row["since"], row["until"]) for row in rows]
        self._before = [0, *accumulate(until - since for since, until in self._idle)]

    def at(self, moment: int) -> int:
        """Return for how many ms the run had worked at a moment in Unix ms."""
        index = bisect_left(self._idle, (moment,))
        left_out = self._before[index]
        if index:
            left_out -= max(0, self._idle[index - 1][1] - moment)
        return max(0, moment - self._began - left_out)

    def breaks(self) -> list[tuple[int, int]]:
        return [(self.at(since), until - since) for since, until in self._idle]


def spans_of(view: View, run: Row) -> Spans:
    """Return the spans of a run's states, in the order in which they were created."""
    total = run_size(run)
    each = -(-total // MAX_SPANS) or 1
    working = _Working(view, run)
    spans = []
    latest = run["created_at"]
    # Which states are left out depends only on their numbers, which the index has, so that they are not read.
    # The number is hashed, since every second state of a fan-out may be of the same place. The first and last
    # states are never left out: they may be the only ones of their places.
    first, last = _ends(view, run["id"])
    rows = view.execute(
        "SELECT seq, place, status, lane, event, calls_size, enqueue_after, created_at, updated_at, worker,"
        " claimed_at, begun_at, ran_ms, finished_at FROM states"
        " WHERE run = ? AND ((((seq & 16777215) * 2654435761 & 4294967295) >> 12) % ? = 0"
        " OR seq <= ? OR seq >= ?) ORDER BY seq",
        (run["id"], each, first, last),
    ).fetchall()
    times = times_among(view, rows)
    for row in rows:
        at = times[row["seq"]]
        latest = max(latest, at.finished or 0)
        spans.append(
            Span(
                place=row["place"],
                status=shown_status(row["status"], row["lane"]),
                # By its time: to read its error, SQLite would have to read the large values before it.
                cancelled=row["status"] == ERRORED and at.finished == run["cancelled_at"],
                at=at.mapped(working.at),
                state_id=view.state_id(row["seq"]) if total <= MAX_BARS else None,
            )
        )
    end = latest if run["finished_at"] is not None else view.now_ms
    return Spans(_lanes(view, run), spans, each, max(1, working.at(end)), working.breaks())


def _lanes(view: View, run: Row) -> list[Lane]:
    counts, further = counts_of(view, run["id"]), further_of(view, run)
    return [
        Lane(place.identifier, sum(counts.get(place.index, {}).values()), further.get(place.index, 0))
        for place in view.template(run["template"]).places
    ]


def _ends(view: View, run: int) -> tuple[int, int]:
    """Return the number of the last of a run's first states, and of the first of its last ones."""
    ends = []
    for order in ("ASC", "DESC"):
        rows = view.execute(
            f"SELECT seq FROM states WHERE run = ? ORDER BY seq {order} LIMIT {ALWAYS_SHOWN}", (run,)
        ).fetchall()
        ends.append(rows[-1]["seq"] if rows else 0)
    return ends[0], ends[1]


def events_of(
    view: View, run: Row, template: Template, limit: int = EVENTS_SHOWN
) -> tuple[list[dict[str, Any]], bool]:
    """Return the newest events of a run's states, newest first, and whether there may be older ones.

    Equal successive events of states of one place are one entry.
    """
    rows = view.execute(
        "SELECT at, events.kind, events.worker, seq, place FROM"
        " (SELECT * FROM events ORDER BY id DESC LIMIT ?) AS events"
        " CROSS JOIN states ON states.seq = events.state WHERE states.run = ? ORDER BY events.id DESC",
        (MAX_EVENTS, run["id"]),
    )
    shown: list[dict[str, Any]] = []
    for (kind, worker, place), group in groupby(rows, lambda row: (row["kind"], row["worker"], row["place"])):
        if len(shown) == limit:
            return shown, True
        alike = list(group)
        shown.append(
            {
                "at": alike[0]["at"],
                "kind": kind,
                "worker": worker,
                "state": view.state_id(alike[0]["seq"]),
                "identifier": template.places[place].identifier,
                "more": len(alike) - 1,
            }
        )
    return shown, False


# -- for the export


def failures_of(view: View, run: Row, limit: int, characters: int) -> Iterable[Row]:
    """Return failed states of a run (seq, place, finished_at, failed_since, error), with the end of each
    error."""
    return view.execute(
        f"SELECT seq, place, finished_at, failed_since, {end_of('error', characters)} AS error FROM states"
        f" WHERE run = ? AND {FAILED} ORDER BY seq LIMIT ?",
        (run["id"], limit),
    )


def attempt_at(view: View, seq: int, at: int) -> int:
    """Return the number of the attempt at the work of a failed state that ended at a time, in Unix ms."""
    while (row := view.one("SELECT retry_of, finished_at FROM states WHERE seq = ?", (seq,)))["retry_of"]:
        if row["finished_at"] <= at:
            break
        seq = row["retry_of"]
    return seq


def end_of_error(view: View, seq: int, characters: int) -> tuple[str, int]:
    """Return the end of a state's error, and its length. SQLite counts up to the first NUL."""
    row = view.one(
        f"SELECT {end_of('error', characters)} AS error, length(error) AS size FROM states WHERE seq = ?",
        (seq,),
    )
    return row["error"] or "", row["size"] or 0


def choose_states(view: View, run: Row, totals: Sequence[int]) -> list[list[int]]:
    """Return the numbers of the states to show, in their order, for each node of the graph.

    ``totals`` counts the states of each.
    """
    total = sum(totals)
    many = total > MAX_BARS
    quota = max(MIN_SHOWN, MAX_BARS // max(1, sum(map(bool, totals)))) if many else total
    ranked: list[list[tuple[int, int, int]]] = [[] for _ in totals]
    seen = set()
    # Failed states have a separate query, since an index finds all of them among any number of others.
    for seq, place in view.execute(
        f"SELECT seq, place FROM states WHERE run = ? AND {FAILED} ORDER BY seq LIMIT ?",
        (run["id"], MAX_FAILURES),
    ):
        ranked[place].append((0, seq, seq))
        seen.add(seq)
    for row in view.execute(
        "SELECT seq, place, status, claimed_at, ran_ms, finished_at FROM states"
        " WHERE run = ? ORDER BY seq LIMIT ?",
        (run["id"], MAX_SEARCHED),
    ):
        seq = row["seq"]
        if seq in seen:
            continue
        if row["status"] not in ENDED:
            ranked[row["place"]].append((1, seq, seq))
            continue
        claimed, finished = row["claimed_at"], row["finished_at"]
        took = 0 if claimed is None else finished - claimed if row["ran_ms"] is None else row["ran_ms"]
        ranked[row["place"]].append((2, -took if many else seq, seq))
    chosen = []
    for each in ranked:
        best = heapq.nsmallest(quota, each)
        urgent = sum(rank < 2 for rank, _, _ in best)
        chosen.append([seq for _, _, seq in (best[: urgent + SLOWEST] if many else best)])
    return chosen


def read_states(view: View, chosen: Sequence[int], *, error: int = 1) -> list[Row]:
    """Return states by their numbers, in that order.

    JSON of more than ``MAX_PARSED`` characters is cut to its ``BEGIN``, and ``..._size`` has its length;
    of an error the last ``error`` characters are returned.
    """
    begin = f"CASE WHEN length({{0}}) > {MAX_PARSED} THEN substr({{0}}, 1, {BEGIN}) ELSE {{0}} END"
    values = ", ".join(
        f"{begin.format(column)} AS {column}, length({column}) AS {column}_size"
        for column in ("inputs", "outputs", "data")
    )
    return read_rows(
        view, chosen, f"{values}, {end_of('error', error)} AS error, length(error) AS error_size"
    )
