"""The states in a report, with as many of their values as fit."""

from __future__ import annotations

from collections.abc import Sequence

from exotrio._util.times import moment_ms
from exotrio.manager.queries.run_detail import MAX_SEARCHED, choose_states, read_states
from exotrio.manager.queries.state_detail import logs_of, summarize
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.faults import end_of, message_of
from exotrio.manager.web.format import short
from exotrio.manager.web.page import Data
from exotrio.manager.web.texts import MAX_PARSED, MAX_VALUE, ReportTexts

MAX_ERROR = 4_000
"""Characters of a state's error; states that failed alike have one traceback in full."""
MAX_BRIEF = 160
MAX_TEXT = 8_000_000
"""Characters of values and errors in a report."""


def pick_states(
    view: View,
    run: Row,
    places: Sequence[Place],
    totals: Sequence[int],
    texts: ReportTexts,
    *,
    values: bool,
) -> Data:
    """Return the states that a report shows, by node, and how many there are of each (``totals``).

    ``bare`` counts those that are shown without values, since the report was long already; ``searched``
    those that were searched to pick the ones that are shown.
    """
    chosen = choose_states(view, run, totals)
    groups: list[Data] = []
    bare = 0
    for place in places:
        states = []
        # Of what is long more is read than is shown: secrets are looked for in the rest, too.
        for row in read_states(
            view, chosen[place.index], parsed=MAX_PARSED, value=2 * MAX_VALUE, error=2 * MAX_ERROR
        ):
            with_values = values and texts.spent < MAX_TEXT
            bare += values and not with_values
            states.append(_shown(view, row, texts, values=with_values))
        if totals[place.index]:
            groups.append({"place": place, "total": totals[place.index], "states": states})
    total = sum(totals)
    ids = frozenset(state["id"] for group in groups for state in group["states"])
    return {
        "groups": groups,
        "total": total,
        "shown": len(ids),
        "bare": bare,
        "searched": min(total, MAX_SEARCHED),
        "ids": ids,
    }


def _shown(view: View, row: Row, texts: ReportTexts, *, values: bool) -> Data:
    state = summarize(view, row)
    error = "" if state["cancelled"] else row["error"] or ""
    inputs: str = row["inputs"]
    came = "data" if row["data"] else "outputs"
    return {
        **state,
        "short": short(state["id"]),
        "created_at": row["created_at"],
        "claimed_at": row["claimed_at"],
        "finished_at": row["finished_at"],
        "line": message_of(error, 2 * MAX_ERROR, texts),
        "error": end_of(error, row["error_size"] or 0, MAX_ERROR, texts),
        "values": values,
        "brief": texts.begin(inputs, MAX_BRIEF, cut_after=row["inputs_size"] > len(inputs))
        if values and inputs != "{}"
        else "",
        "inputs": texts.values(inputs, row["inputs_size"]) if values else [],
        "pruned": came == "data",
        "outputs": texts.values(row[came], row[f"{came}_size"]) if values else [],
        # They may hold values, and of what went well nobody looks for them.
        "logs": _logs(view, row, texts) if values and error else [],
    }


def _logs(view: View, row: Row, texts: ReportTexts) -> list[Data]:
    """Return the lines that a state logged and printed."""
    return [
        {
            "at": moment_ms(line["at"]),
            "level": texts.begin(line["level"] or ""),
            "logger": texts.begin(line["logger"] or ""),
            "text": texts.begin(line["text"]),
        }
        for line in logs_of(view, row["seq"])
    ]
