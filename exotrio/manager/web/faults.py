"""The failed states of a run, grouped by how they failed: for its page and for its export."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exotrio._util.error_message import message_line
from exotrio.manager.queries.graphs import last_failures
from exotrio.manager.queries.run_detail import MAX_FAILURES, attempt_at, end_of_error, failures_of
from exotrio.manager.rules.template import Place
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data
from exotrio.manager.web.texts import ShownTexts

MAX_FAULTS = 30
MAX_MESSAGES = 5
MAX_NAMED = 5
MAX_COMPARED = 8_000
"""Characters of the end of an error that are compared."""
MAX_SAME = 200
"""Failed states of a node in which the same error is looked for."""
MAX_TRACE = 20_000
MAX_LINE = 300

# Of blanks only: line ends in it would be tried again from each line, which is quadratic.
_FRAME = re.compile(r'^[ \t|+-]*(File ".*", line \d+, in .*)$', re.MULTILINE)
_NAME = re.compile(r"^[ \t|+-]*([A-Za-z_][\w.]*)(?::|$)", re.MULTILINE)


@dataclass(slots=True)
class Fault:
    """States of one node that failed in the same way.

    Attributes:
        first: Number of the first of them; ``message`` and ``trace`` are of that one.
        since: When the first attempt at one of them failed, in Unix ms; ``until`` when the last one did.
        states: Some of them: id, and the link to it, if there is one.
    """

    identifier: str
    first: int
    message: str
    since: int
    until: int
    count: int = 0
    others: list[str] = field(default_factory=list)
    states: list[tuple[str, str | None]] = field(default_factory=list)
    trace: str = ""


def faults_of(
    view: View,
    run: Row,
    places: Sequence[Place],
    texts: ShownTexts,
    href: Callable[[str], str | None],
    *,
    compare: int = MAX_FAILURES,
    limit: int = MAX_FAULTS,
    max_trace: int = MAX_TRACE,
) -> Data:
    """Return the ways in which states of a run failed, the most frequent first.

    ``first`` is the attempt that failed first, also if it was retried: its identifier, its id, its link and
    when that was; ``last_at`` is when the last one did; both are None if none did. ``compared`` counts the
    failed states that were compared; with ``is_part`` there may be more.

    Args:
        href: Returns the link to a state, by its id.
        compare: How many failed states are compared at most.
        limit: How many ways are shown at most.
        max_trace: Characters of each traceback.
    """
    by_way: dict[tuple[int, int], Fault] = {}
    compared = 0
    last: tuple[tuple[int, int], str | None] = (0, 0), None
    earliest: tuple[int, int, int] | None = None
    for row in failures_of(view, run, compare, MAX_COMPARED):
        compared += 1
        error = row["error"] or ""
        at: int = row["finished_at"]
        since: int = row["failed_since"] or at
        began = since, row["seq"], row["place"]
        earliest = min(earliest or began, began)
        # A hash, since each state may have failed in a different way, and most ways are not shown.
        way = (row["place"], last[0][1] if error == last[1] else hash(signature(error)))
        fault = by_way.get(way)
        if fault is None:
            message = message_of(error, MAX_COMPARED, texts)
            fault = by_way[way] = Fault(places[row["place"]].identifier, row["seq"], message, since, at)
        elif len(fault.others) < MAX_MESSAGES and (way, error) != last:
            other = message_of(error, MAX_COMPARED, texts)
            if other != fault.message and other not in fault.others:
                fault.others.append(other)
        last = way, error
        fault.count += 1
        fault.since, fault.until = min(fault.since, since), max(fault.until, at)
        if len(fault.states) < MAX_NAMED:
            state_id = view.state_id(row["seq"])
            fault.states.append((state_id, href(state_id)))
    faults = sorted(by_way.values(), key=lambda fault: -fault.count)
    shown = faults[:limit]
    for fault in shown:
        fault.trace = end_of(*end_of_error(view, fault.first, 2 * max_trace), max_trace, texts)
    first = None
    if earliest is not None:
        at, seq, place = earliest
        state_id = view.state_id(attempt_at(view, seq, at))
        first = {"identifier": places[place].identifier, "id": state_id, "href": href(state_id), "at": at}
    return {
        "shown": shown,
        "first": first,
        "last_at": max((fault.until for fault in faults), default=None),
        "compared": compared,
        "is_part": compared == compare,
        "left_out": len(faults) - len(shown),
    }


def same_failures(view: View, node_id: int, error: str) -> tuple[list[Data], bool]:
    """Return the newest failed states of a node that failed in the same way, as ``last_failures`` does, and
    whether there may be more."""
    if not error:
        return [], False
    way = signature(error[-MAX_COMPARED:])
    failures = last_failures(view, node_id, MAX_SAME)
    same = [each for each in failures if signature(each["text"][-MAX_COMPARED:]) == way]
    return same, len(failures) == MAX_SAME


def signature(error: str) -> str:
    """Return a text that is the same for all errors that were raised in the same way.

    It has the frames of the traceback and the name of the exception; of an error without a traceback it is
    the message, without its numbers.
    """
    frames = list(_FRAME.finditer(error))
    if not frames:
        return re.sub(r"\d+", "0", message_line(error))
    # After a frame comes its line of code, perhaps with a row of ^^^ below, both indented deeper than a name.
    rest = [line for line in error[frames[-1].end() :].splitlines() if not line.startswith("    ")]
    name = next((match[1] for line in rest if (match := _NAME.match(line))), "")
    return "\n".join([*(frame[1] for frame in frames), name])


def message_of(error: str, window: int, texts: ShownTexts) -> str:
    """Return the line that says what was raised, from the last ``window`` characters of an error."""
    # Masked first: the line may begin where the window does, and that may be within a secret.
    masked = texts.masked(error, cut_before=len(error) == window)
    return texts.begin(message_line(masked, MAX_COMPARED), MAX_LINE)


def end_of(error: str, size: int, limit: int, texts: ShownTexts) -> str:
    """Return the end of an error of ``size`` characters (up to a NUL), from its last ``2 * limit``."""
    before = max(size - len(error), 1) if len(error) == 2 * limit else 0
    return texts.end(error, limit, before=before)
