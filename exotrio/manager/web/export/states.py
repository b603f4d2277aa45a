"""The states in a report, with as many of their values as fit; what failed, grouped by how it was raised."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from exotrio._util.error_message import message_line
from exotrio.manager.queries.run_detail import (
    MAX_FAILURES,
    MAX_SEARCHED,
    choose_states,
    end_of_error,
    failures_of,
    read_states,
)
from exotrio.manager.queries.state_detail import summarize
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.export.texts import MAX_PARSED, MAX_VALUE, ReportTexts
from exotrio.manager.web.format import short
from exotrio.manager.web.page import Data

MAX_ERROR = 4_000
"""Characters of a state's error; states that failed alike have one traceback in full."""
MAX_BRIEF = 160
MAX_TEXT = 8_000_000
"""Characters of values and errors in a report."""
MAX_FAULTS = 30
MAX_MESSAGES = 5
MAX_NAMED = 5
MAX_COMPARED = 8_000
"""Characters of the end of an error that are compared."""
MAX_TRACE = 20_000
MAX_LINE = 300

# Of blanks only: line ends in it would be tried again from each line, which is quadratic.
_FRAME = re.compile(r'^[ \t|+-]*(File ".*", line \d+, in .*)$', re.MULTILINE)
_NAME = re.compile(r"^[ \t|+-]*([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


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
    }


# -- what failed


@dataclass(slots=True)
class Fault:
    """States of one node that failed in the same way.

    Attributes:
        first: Number of the first of them; ``message`` and ``trace`` are of that one.
        states: Some of them: id, and the id in short.
    """

    identifier: str
    first: int
    message: str
    count: int = 0
    others: list[str] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    trace: str = ""


def faults_of(view: View, run: Row, places: Sequence[Place], texts: ReportTexts) -> Data:
    """Return the ways in which states of a run failed, the most frequent first.

    ``compared`` counts the failed states that were compared; with ``is_part`` there may be more.
    """
    found: dict[tuple[int, int], Fault] = {}
    compared, last = 0, ((0, 0), "")
    for row in failures_of(view, run, MAX_COMPARED):
        compared += 1
        error = row["error"] or ""
        # A hash, since each state may have failed in a way of its own, and most ways are not shown.
        way = (row["place"], hash(signature(error)))
        fault = found.get(way)
        if fault is None:
            message = message_of(error, MAX_COMPARED, texts)
            fault = found[way] = Fault(places[row["place"]].identifier, row["seq"], message)
        elif len(fault.others) < MAX_MESSAGES and (way, error) != last:
            other = message_of(error, MAX_COMPARED, texts)
            if other != fault.message and other not in fault.others:
                fault.others.append(other)
        last = way, error
        fault.count += 1
        if len(fault.states) < MAX_NAMED:
            state_id = view.state_id(row["seq"])
            fault.states.append((state_id, short(state_id)))
    faults = sorted(found.values(), key=lambda fault: -fault.count)
    shown = faults[:MAX_FAULTS]
    for fault in shown:
        fault.trace = end_of(*end_of_error(view, fault.first, 2 * MAX_TRACE), MAX_TRACE, texts)
    return {
        "shown": shown,
        "compared": compared,
        "is_part": compared == MAX_FAILURES,
        "left_out": len(faults) - len(shown),
    }


def signature(error: str) -> str:
    """Return what an error has in common with those that were raised in the same way.

    That is the frames of its traceback and the name of the exception; of an error without a traceback it
    is its message, with the numbers left out.
    """
    frames = list(_FRAME.finditer(error))
    if not frames:
        return re.sub(r"\d+", "0", message_line(error))
    # Below a frame comes its line of code, perhaps with a row of ^^^ under it, indented deeper than a name.
    rest = [line for line in error[frames[-1].end() :].splitlines() if not line.startswith("    ")]
    name = next((found[1] for line in rest if (found := _NAME.match(line))), "")
    return "\n".join([*(frame[1] for frame in frames), name])


def message_of(error: str, window: int, texts: ReportTexts) -> str:
    """Return the line that says what was raised, from the last ``window`` characters of an error."""
    # Masked first: the line may begin where the window does, and that may be within a secret.
    masked = texts.masked(error, cut_before=len(error) == window)
    return texts.begin(message_line(masked, MAX_COMPARED), MAX_LINE)


def end_of(error: str, size: int, longest: int, texts: ReportTexts) -> str:
    """Return the end of an error of ``size`` characters (up to a NUL), from its last ``2 * longest``."""
    before = max(size - len(error), 1) if len(error) == 2 * longest else 0
    return texts.end(error, longest, before=before)
