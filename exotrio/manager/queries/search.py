"""Finds what fits a text: runs, states, graphs, nodes, and runs whose states contain it.

As for commands, a run can be named by the first characters of its id, and a state by the last digits of its
id, without the zeros before them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic_core import from_json, to_json

from exotrio._wire.v0 import RunSummary
from exotrio.manager.engine.runs import RUNS
from exotrio.manager.engine.states import find_state
from exotrio.manager.queries.load import graphs_of, nodes_of
from exotrio.manager.queries.paging import Page, begins
from exotrio.manager.queries.run_detail import read_states
from exotrio.manager.queries.runs import FoundRun, find_runs, read_run
from exotrio.manager.queries.states import ListedState, show_states
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MIN_PREFIX = 6
MAX_HITS = 20
"""Maximum of each kind."""
MAX_COMPARED = 1_000
"""Maximum of runs whose key or id begins with the text that are compared to find the newest."""
MAX_READ = 20_000
"""Characters at the end of an error in which the text is looked for again, to show it."""
MAX_AROUND = 80
"""Characters that are shown before the text, and after it."""
_DIGITS = re.compile(r"[0-9a-f]{4,16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Where a text occurs in a state: in what, such as ``input note``, and the line around it."""

    state: ListedState
    what: str
    around: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What fits a text in a namespace.

    Attributes:
        runs: Those whose id or key begins with it, newest first.
        states: Those with this id.
        graphs, nodes: Names that contain it.
        texts: Further runs in which it occurs: one page of a search; not searched if the text is an id.
        matches: By the id of a run in ``texts``, where the text occurs in it.
    """

    runs: list[RunSummary]
    states: list[ListedState]
    graphs: list[str]
    nodes: list[str]
    texts: Page[FoundRun] = field(default_factory=Page)
    matches: dict[str, Match] = field(default_factory=dict)


def find(view: View, namespace: str, text: str) -> Hits:
    """Return what fits a text. It costs no more than one page of a search through runs."""
    runs = _runs(view, namespace, text)
    states = _states(view, namespace, text.lower())
    run_ids = [run.run_id for run in runs]
    if text.lower() in (*run_ids, *(state.id for state in states)):
        return Hits(runs=runs, states=states, graphs=[], nodes=[])
    graphs, nodes = (
        [name for name in names(view, namespace).values() if text.lower() in name.lower()][:MAX_HITS]
        for names in (graphs_of, nodes_of)
    )
    texts = find_runs(view, namespace, text=text)
    further = [hit for hit in texts.rows if hit.run.run_id not in run_ids]
    return Hits(
        runs=runs,
        states=states,
        graphs=graphs,
        nodes=nodes,
        texts=Page(further, texts.next, texts.searched),
        matches=matches_in(view, further[:MAX_HITS], text),
    )


def matches_in(view: View, runs: Sequence[FoundRun], text: str) -> dict[str, Match]:
    """Return where a text occurs in the states with it, by the ids of their runs."""
    seqs = [hit.state for hit in runs if hit.state is not None]
    rows = read_states(view, seqs, error=MAX_READ)
    return {
        state.run_id: Match(state=state, **_where(row, text))
        for row, state in zip(rows, show_states(view, seqs), strict=True)
    }


def _where(row: Row, text: str) -> dict[str, str]:
    texts = {"error": row["error"] or ""}
    for column in ("inputs", "outputs"):
        for name, value in from_json(row[column], allow_partial="trailing-strings").items():
            shown = value if isinstance(value, str) else to_json(value).decode()
            texts |= {f"{column[:-1]} {name}": shown, f"name of {column[:-1]} {name}": name}
    for what, content in texts.items():
        # The last line of an error has its message.
        for line in reversed(content.splitlines()):
            if hit := re.search(re.escape(text), line, re.IGNORECASE):
                start, end = max(0, hit.start() - MAX_AROUND), hit.end() + MAX_AROUND
                around = f"{'…' * (start > 0)}{line[start:end]}{'…' * (end < len(line))}"
                return {"what": what, "around": around}
    return {"what": "a long text", "around": ""}


def _runs(view: View, namespace: str, text: str) -> list[RunSummary]:
    # Only numbers, and of all namespaces: with a condition on that, SQLite would search all runs in it.
    searches = [("INDEXED BY runs_by_key WHERE key IS NOT NULL AND", begins("key", text))]
    if len(text) >= MIN_PREFIX:
        searches.append(("WHERE", begins("run_id", text.lower())))
    numbers = {
        row["id"]
        for which, (condition, *prefix) in searches
        for row in view.execute(f"SELECT id FROM runs {which} {condition} LIMIT ?", (*prefix, MAX_COMPARED))
    }
    rows = view.execute(f"{RUNS} WHERE {view.any_of('runs.id')}", (view.items(sorted(numbers)),))
    in_namespace = [row for row in rows if row["namespace"] == namespace]
    newest = sorted(in_namespace, key=lambda row: (row["created_at"], row["id"]), reverse=True)
    return [read_run(row) for row in newest[:MAX_HITS]]


def _states(view: View, namespace: str, text: str) -> list[ListedState]:
    state_id = view.state_id(int(text, 16) % 2**63) if _DIGITS.fullmatch(text) else text
    if view.seq(state_id) is None:
        return []
    state = find_state(view, namespace, state_id)
    return [] if state is None else show_states(view, [state["seq"]])
