"""The states of a run that a report shows: of a small run all; of a large one, by node, those that failed,
then those that have not ended, then the slowest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_json

from exotrio._util.error_message import message_line
from exotrio.manager.engine.states import CREATED, EXECUTED, QUEUED
from exotrio.manager.queries.load import FAILED
from exotrio.manager.queries.run_detail import MOST_LOOKED_AT, times, was_cancelled
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.export.error_signature import way_of
from exotrio.manager.web.export.redactor import LONGEST_PARSED, LONGEST_VALUE, Shareable
from exotrio.manager.web.format import short
from exotrio.manager.web.svg.timeline import MOST_BARS

MOST_SHOWN = MOST_BARS
"""States of a run that are all shown: the bars of a timeline of that many lead to them."""
LEAST_SHOWN = 5
"""Of each node of a larger run, if the run has very many nodes."""
SLOWEST = 20
"""Of each node of a larger run: of those that neither failed nor have yet to end."""
MOST_FAILURES = 10_000
"""Failed states of which errors are compared."""
MOST_FAULTS = 30
MOST_MESSAGES = 5
MOST_NAMED = 5
LONGEST_COMPARED = 8_000
LONGEST_TRACE = 20_000
LONGEST_ERROR = 4_000
"""Characters of a state's error; what failed alike has one traceback in full."""
LONGEST_LINE = 300
LONGEST_BRIEF = 160
MOST_TEXT = 8_000_000
"""Characters of values and errors in a report."""

_OPEN = (CREATED, QUEUED, EXECUTED)


@dataclass(slots=True)
class Fault:
    """States of one place that failed in the same way.

    Attributes:
        first: Number of the first of them.
        message: What that one said.
        others: What else such errors said.
        states: The first of them: id, and the id in short.
        trace: The first one's error in full.
    """

    identifier: str
    first: int
    message: str
    count: int = 0
    others: list[str] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Faults:
    """What went wrong in a run, the most frequent first.

    Attributes:
        compared: Failed states that were looked at.
        is_part: There may be more.
        left_out: Ways to fail that are not shown.
    """

    shown: list[Fault]
    compared: int
    is_part: bool
    left_out: int


def faults_of(view: View, run: Row, places: Sequence[Place], texts: Shareable) -> Faults:
    """Return the ways in which states of a run failed."""
    found: dict[tuple[int, int], Fault] = {}
    compared, last = 0, ((0, 0), "")
    for row in view.execute(
        "SELECT seq, place, substr(error, ?) AS error FROM states WHERE run = ?"
        f" AND {FAILED} ORDER BY seq LIMIT ?",
        (-LONGEST_COMPARED, run["id"], MOST_FAILURES),
    ):
        compared += 1
        error = row["error"] or ""
        # Each may have failed in a way of its own: of all that are not shown only this much is kept.
        way = (row["place"], hash(way_of(error)))
        fault = found.get(way)
        if fault is None:
            message = _message(error, LONGEST_COMPARED, texts)
            fault = found[way] = Fault(places[row["place"]].identifier, row["seq"], message)
        elif len(fault.others) < MOST_MESSAGES and (way, error) != last:
            other = _message(error, LONGEST_COMPARED, texts)
            if other != fault.message and other not in fault.others:
                fault.others.append(other)
        last = way, error
        fault.count += 1
        if len(fault.states) < MOST_NAMED:
            state_id = view.state_id(row["seq"])
            fault.states.append((state_id, short(state_id)))
    ways = sorted(found.values(), key=lambda fault: -fault.count)
    for fault in ways[:MOST_FAULTS]:
        fault.trace = _trace(view, fault.first, texts)
    return Faults(ways[:MOST_FAULTS], compared, compared == MOST_FAILURES, len(ways[MOST_FAULTS:]))


def _message(error: str, window: int, texts: Shareable) -> str:
    """Return the line that says what was raised, from the last ``window`` characters of an error."""
    # Masked first: the line may begin where the window does, and that may be within a secret.
    masked = texts.masked(error, cut_before=len(error) == window)
    return texts.begin(message_line(masked, LONGEST_COMPARED), LONGEST_LINE)


def _trace(view: View, seq: int, texts: Shareable) -> str:
    row = view.row(
        "SELECT substr(error, ?) AS error, length(error) AS size FROM states WHERE seq = ?",
        (-2 * LONGEST_TRACE, seq),
    )
    assert row is not None, "a query sees one state of the database"
    return _end(row["error"] or "", row["size"] or 0, LONGEST_TRACE, texts)


def _end(error: str, size: int, longest: int, texts: Shareable) -> str:
    """Return the end of an error, from its last ``2 * longest`` characters.

    Args:
        size: Its characters as SQLite counts them: up to the first NUL.
    """
    before = max(size - len(error), 1) if len(error) == 2 * longest else 0
    return texts.end(error, longest, before=before)


@dataclass(frozen=True, slots=True)
class Group:
    """The states of one place.

    Attributes:
        total: How many there are.
        states: Those that are shown.
    """

    place: Place
    total: int
    states: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Picked:
    """States of a run.

    Attributes:
        total: How many there are.
        shown: How many of them are here.
        bare: How many of these are without values, since those of the others were long.
        looked_at: How many were looked at to pick them.
        ids: Of those that are here.
    """

    groups: list[Group]
    total: int
    shown: int
    bare: int
    looked_at: int
    ids: frozenset[str]


def pick_states(
    view: View,
    run: Row,
    places: Sequence[Place],
    totals: Sequence[int],
    texts: Shareable,
    *,
    values: bool,
) -> Picked:
    """Return the states that a report shows.

    Args:
        places: Of the run's template.
        totals: How many states each of them has.
        values: With inputs and outputs.
    """
    total = sum(totals)
    chosen = _choose(view, run, totals)
    groups, bare = [], 0
    for place in places:
        states = []
        for row in _rows(view, chosen[place.index]):
            with_values = values and texts.spent < MOST_TEXT
            bare += values and not with_values
            states.append(_shown(view, row, texts, values=with_values))
        if totals[place.index]:
            groups.append(Group(place, totals[place.index], states))
    ids = frozenset(state["id"] for group in groups for state in group.states)
    return Picked(groups, total, len(ids), bare, min(total, MOST_LOOKED_AT), ids)


def _choose(view: View, run: Row, totals: Sequence[int]) -> list[list[int]]:
    """Return for each place the numbers of the states to show, in their order."""
    total = sum(totals)
    many = total > MOST_SHOWN
    quota = max(LEAST_SHOWN, MOST_SHOWN // max(1, sum(map(bool, totals)))) if many else total
    ranked: list[list[tuple[int, int, int]]] = [[] for _ in totals]
    seen = set()
    # Apart, since all of them are found through an index, however many others there are.
    for seq, place in view.execute(
        f"SELECT seq, place FROM states WHERE run = ? AND {FAILED} ORDER BY seq LIMIT ?",
        (run["id"], MOST_FAILURES),
    ):
        ranked[place].append((0, seq, seq))
        seen.add(seq)
    for row in view.execute(
        "SELECT seq, place, status, claimed_at, finished_at FROM states WHERE run = ? ORDER BY seq LIMIT ?",
        (run["id"], MOST_LOOKED_AT),
    ):
        seq, status = row["seq"], row["status"]
        if seq in seen:
            continue
        if status in _OPEN:
            ranked[row["place"]].append((1, seq, seq))
            continue
        took = 0 if row["claimed_at"] is None else row["finished_at"] - row["claimed_at"]
        ranked[row["place"]].append((2, -took if many else seq, seq))
    shown = []
    for each in ranked:
        best = heapq.nsmallest(quota, each)
        pressing = sum(rank < 2 for rank, _, _ in best)
        shown.append([seq for _, _, seq in (best[: pressing + SLOWEST] if many else best)])
    return shown


def _rows(view: View, chosen: Sequence[int]) -> list[Row]:
    # Of what is long only as much as can be shown, and some more in which secrets are looked for.
    begin = (
        f"CASE WHEN length({{0}}) > {LONGEST_PARSED} THEN substr({{0}}, 1, {2 * LONGEST_VALUE})"
        " ELSE {0} END"
    )
    found = {
        row["seq"]: row
        for row in view.execute(
            "SELECT seq, status, retry_count, enqueue_after, created_at, claimed_at, finished_at, worker,"
            f" {begin.format('inputs')} AS inputs, length(inputs) AS inputs_size,"
            f" {begin.format('outputs')} AS outputs, length(outputs) AS outputs_size,"
            f" {begin.format('data')} AS data, length(data) AS data_size,"
            " substr(error, ?) AS error, length(error) AS error_size"
            " FROM states WHERE seq IN (SELECT value FROM json_each(?))",
            (-2 * LONGEST_ERROR, to_json(chosen).decode()),
        )
    }
    return [found[seq] for seq in chosen]


def _shown(view: View, row: Row, texts: Shareable, *, values: bool) -> dict[str, Any]:
    waits, runs, ends = times(row)
    now = view.now_ms
    state_id = view.state_id(row["seq"])
    cancelled = was_cancelled(row)
    error = "" if cancelled else row["error"] or ""
    inputs: str = row["inputs"]
    came = "data" if row["data"] else "outputs"
    return {
        "id": state_id,
        "short": short(state_id),
        "status": row["status"],
        "cancelled": cancelled,
        "attempt": row["retry_count"] + 1,
        "waited": max(0, (runs if runs is not None else ends if ends is not None else now) - waits),
        "ran": None if runs is None else max(0, (now if ends is None else ends) - runs),
        "created_at": row["created_at"],
        "claimed_at": row["claimed_at"],
        "finished_at": row["finished_at"],
        "worker": row["worker"],
        "line": _message(error, 2 * LONGEST_ERROR, texts),
        "error": _end(error, row["error_size"] or 0, LONGEST_ERROR, texts),
        "values": values,
        "brief": texts.begin(inputs, LONGEST_BRIEF, cut_after=row["inputs_size"] > len(inputs))
        if values and inputs != "{}"
        else "",
        "inputs": texts.values(inputs, row["inputs_size"]) if values else [],
        "pruned": came == "data",
        "outputs": texts.values(row[came], row[f"{came}_size"]) if values else [],
    }
