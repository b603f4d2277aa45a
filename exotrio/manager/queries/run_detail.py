"""The states of one run as its page needs them: a page of a list, spans for the timeline, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from exotrio._util.error_message import MAX_ERROR_BYTES, message_line
from exotrio.manager.engine.runs import RUNS
from exotrio.manager.engine.states import CREATED, ERRORED, STATUSES
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.format import CANCELLED, SHOWN_STATUS, STATUS_CLASS, classed
from exotrio.manager.web.svg.graph import Box
from exotrio.manager.web.svg.timeline import MOST_BARS, Span

PAGE_SIZE = 25
MOST_LOOKED_AT = 100_000
"""States of a run that one page of a filtered list looks at."""
MOST_SPANS = 10_000
"""States that a timeline is drawn from; of a larger run it takes one in two, or in three..."""
ALWAYS_SHOWN = 10
"""The first states of a run, and the last ones, that its timeline shows however large it is."""
MAX_EVENTS = 20_000
"""Of the newest events of all runs, which are searched for those of one."""
EVENTS_SHOWN = 50


def find_run(view: View, namespace: str, run_id: str) -> Row | None:
    """Return a run with the name of its graph, or None."""
    return view.row(RUNS + " WHERE runs.run_id = ? AND runs.namespace = ?", (run_id, namespace))


def counts_of(view: View, run: int) -> dict[int, dict[str, int]]:
    """Return place to status to how many states of a run there are; costs the same for any run."""
    return {
        row["place"]: {status: row[status.lower()] for status in STATUSES if row[status.lower()]}
        for row in view.execute("SELECT * FROM counts WHERE run = ?", (run,))
    }


def run_classed(counts: Mapping[str, int], run: Row) -> dict[str, int]:
    """Return counts by status of states of a run as counts by class."""
    found = classed(counts)
    if run["cancelled_at"] is not None and "errored" in found:
        found[CANCELLED] = found.pop("errored")
    return found


def store_of(view: View, run: Row, template: Template) -> list[tuple[str, str]]:
    """Return the store of a run, with what its graph has for keys that were not given."""
    rows = view.execute("SELECT key, value FROM store WHERE run = ?", (run["id"],))
    given = {row["key"]: row["value"] for row in rows}
    return sorted({**template.body.store_config.default_values, **given}.items())


def boxes_of(
    template: Template,
    counts: Mapping[int, Mapping[str, int]],
    run: Row,
    href: Callable[[Place], str | None],
    note: Callable[[Place], str | None] = lambda place: None,
    *,
    chosen: str = "",
) -> list[Box]:
    """Return the boxes of a run's graph.

    Args:
        href: Where a click on a place leads, if anywhere.
        note: What is to be said of it, if anything.
        chosen: Identifier of the place whose states are listed.
    """
    return [
        Box(
            name=place.identifier,
            node=place.node_name,
            followers=declared.next_nodes or (),
            unites=declared.unites.identifier if declared.unites else None,
            counts=run_classed(counts.get(place.index, {}), run),
            note=note(place),
            href=href(place),
            chosen=place.identifier == chosen,
        )
        for place, declared in zip(template.places, template.body.nodes, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of states.

    Attributes:
        next: After which state to go on, if there may be more.
        looked_at: How many states were looked at, if the search ended before its page was full.
    """

    states: list[dict[str, Any]]
    next: str | None
    looked_at: int | None


def list_states(
    view: View,
    run: Row,
    template: Template,
    *,
    place: int | None,
    statuses: Sequence[str],
    after: str,
) -> Listed:
    """Return a page of a run's states in the order in which they were made.

    Args:
        place: Only of this place.
        statuses: Only in one of these; any if empty.
        after: Only behind the state with this id.
    """
    seq = view.seq(after) or 0
    conditions, parameters = ["TRUE"], list[Any]()
    if place is not None:
        conditions.append("place = ?")
        parameters.append(place)
    if statuses:
        conditions.append(f"status IN ({', '.join('?' * len(statuses))})")
        parameters += statuses
    # The inner query bounds what is looked at; the outer one ends it as soon as the page is full.
    rows = view.execute(
        "SELECT * FROM (SELECT seq, place, status, retry_count, enqueue_after, created_at, claimed_at,"
        f" finished_at, worker, substr(error, 1, {MAX_ERROR_BYTES}) AS error,"
        " substr(inputs, 1, 160) AS inputs, substr(outputs, 1, 160) AS outputs"
        " FROM states WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?)"
        f" WHERE {' AND '.join(conditions)} LIMIT ?",
        (run["id"], seq, MOST_LOOKED_AT, *parameters, PAGE_SIZE + 1),
    ).fetchall()
    page = rows[:PAGE_SIZE]
    states = [_listed(view, row, template) for row in page]
    if len(rows) > PAGE_SIZE:
        return Listed(states, view.state_id(page[-1]["seq"]), None)
    beyond = view.row(
        "SELECT seq FROM states WHERE run = ? AND seq > ? ORDER BY seq LIMIT 1 OFFSET ?",
        (run["id"], seq, MOST_LOOKED_AT - 1),
    )
    if beyond is None:
        return Listed(states, None, None)
    return Listed(states, view.state_id(beyond["seq"]), MOST_LOOKED_AT)


def _listed(view: View, row: Row, template: Template) -> dict[str, Any]:
    waits, runs, ends = times(row)
    now = view.now_ms
    return {
        "id": view.state_id(row["seq"]),
        "identifier": template.places[row["place"]].identifier,
        "status": row["status"],
        "cancelled": was_cancelled(row),
        "attempt": row["retry_count"] + 1,
        "waited": max(0, (runs if runs is not None else ends if ends is not None else now) - waits),
        "ran": None if runs is None else max(0, (now if ends is None else ends) - runs),
        "worker": row["worker"],
        "error": message_line(row["error"]),
        "inputs": row["inputs"],
        "outputs": row["outputs"],
    }


def times(state: Row) -> tuple[int, int | None, int | None]:
    """Return since when a state waited, since when it was held, and when it ended, in Unix ms.

    It waits from when it was made, or, if it was delayed, from when it might have run. One that waits
    again after it was held has not been held yet: what was before, its events tell.
    """
    waits = max(state["created_at"], state["enqueue_after"])
    runs = None if state["status"] == CREATED else state["claimed_at"]
    ends = state["finished_at"]
    if runs is not None:
        waits = min(waits, runs)
    elif ends is not None:
        waits = min(waits, ends)
    return waits, runs, ends


def was_cancelled(state: Row) -> bool:
    """Return whether a state ended because its run was cancelled."""
    return bool(state["status"] == ERRORED and state["error"] == "cancelled")


@dataclass(frozen=True, slots=True)
class Spans:
    """What a timeline is drawn from.

    Attributes:
        each: 1 if all states are here, 2 if about every second one is...
        until: Milliseconds from the begin of the run to its end, or to now.
    """

    spans: list[Span]
    each: int
    until: int


def spans_of(view: View, run: Row, template: Template, href: Mapping[str, str]) -> Spans:
    """Return the spans of a run's states.

    Args:
        href: ``before`` and ``after`` a state's id in the address of its page.
    """
    total = run["pending"] + run["success"] + run["errored"] + run["retried"]
    each = -(-total // MOST_SPANS) or 1
    begin = run["created_at"]
    with_links = total <= MOST_BARS
    spans = []
    latest = begin
    # Decided by the number alone, which the index has: of a state that is left out nothing is read. Its
    # digits are stirred, since every second state of a fan-out may be of the same place. What stands alone
    # in a large run mostly begins or ends it, and is never left out.
    first, last = _ends(view, run["id"])
    for row in view.execute(
        "SELECT seq, place, status, enqueue_after, created_at, claimed_at, finished_at FROM states"
        " WHERE run = ? AND ((((seq & 16777215) * 2654435761 & 4294967295) >> 12) % ? = 0"
        " OR seq <= ? OR seq >= ?) ORDER BY seq",
        (run["id"], each, first, last),
    ):
        waits, runs, ends = times(row)
        latest = max(latest, ends or 0)
        label, link = "", None
        if with_links:
            state_id = view.state_id(row["seq"])
            label = f"{template.places[row['place']].identifier} {state_id[-6:]}"
            link = href["before"] + state_id + href["after"]
        spans.append(
            Span(
                lane=row["place"],
                kind=_kind(row, run["cancelled_at"]),
                waits=waits - begin,
                runs=None if runs is None else runs - begin,
                ends=None if ends is None else ends - begin,
                label=label,
                href=link,
            )
        )
    end = latest if run["finished_at"] is not None else view.now_ms
    return Spans(spans, each, max(1, end - begin))


def _kind(state: Row, cancelled_at: int | None) -> str:
    # By its time, since its error may lie far behind large values.
    is_cancelled = state["status"] == ERRORED and state["finished_at"] == cancelled_at
    return CANCELLED if is_cancelled else STATUS_CLASS[state["status"]]


def _ends(view: View, run: int) -> tuple[int, int]:
    """Return the last of a run's first states, and the first of its last ones."""
    ends = []
    for order in ("ASC", "DESC"):
        rows = view.execute(
            f"SELECT seq FROM states WHERE run = ? ORDER BY seq {order} LIMIT {ALWAYS_SHOWN}", (run,)
        ).fetchall()
        ends.append(rows[-1]["seq"] if rows else 0)
    return ends[0], ends[1]


def events_of(
    view: View, run: Row, template: Template, most: int = EVENTS_SHOWN
) -> tuple[list[dict[str, Any]], bool]:
    """Return the newest events of a run's states, newest first, and whether there may be older ones.

    What happened to many states of one place one after the other is one entry.
    """
    rows = view.execute(
        "SELECT at, events.kind, events.worker, seq, place FROM"
        " (SELECT * FROM events ORDER BY id DESC LIMIT ?) AS events"
        " CROSS JOIN states ON states.seq = events.state WHERE states.run = ?",
        (MAX_EVENTS, run["id"]),
    )
    shown: list[dict[str, Any]] = []
    for (kind, worker, place), group in groupby(rows, lambda row: (row["kind"], row["worker"], row["place"])):
        if len(shown) == most:
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


def statuses_named(word: str) -> list[str]:
    """Return the statuses that a page calls by a word: one of them, or several alike."""
    return [status for status in STATUSES if word in (status, SHOWN_STATUS[status], STATUS_CLASS[status])]
