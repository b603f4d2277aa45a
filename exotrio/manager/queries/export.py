"""The states of a run that a report shows, and the errors it compares.

Of a small run it shows all states; of a large one, by node, those that failed, then those that have not
ended, then the slowest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from pydantic_core import to_json

from exotrio.manager.engine.states import ENDED
from exotrio.manager.queries.load import FAILED
from exotrio.manager.queries.run_detail import MAX_BARS, MAX_SEARCHED
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View

MIN_SHOWN = 5
"""States of each node of a larger run that are shown even if it has very many nodes."""
SLOWEST = 20
"""States of each node of a larger run that are shown although they neither failed nor are still open."""
MAX_FAILURES = 10_000
"""Failed states that are compared."""


def failures_of(view: View, run: Row, characters: int) -> Iterable[Row]:
    """Return the failed states of a run (seq, place, error), with the end of each error."""
    return view.execute(
        f"SELECT seq, place, substr(error, ?) AS error FROM states WHERE run = ? AND {FAILED}"
        " ORDER BY seq LIMIT ?",
        (-characters, run["id"], MAX_FAILURES),
    )


def end_of_error(view: View, seq: int, characters: int) -> tuple[str, int]:
    """Return the end of a state's error, and its length as SQLite counts it: up to the first NUL."""
    row = view.row(
        "SELECT substr(error, ?) AS error, length(error) AS size FROM states WHERE seq = ?",
        (-characters, seq),
    )
    assert row is not None, "a query sees one state of the database"
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
    # Failed states have their own query, since an index finds all of them among any number of others.
    for seq, place in view.execute(
        f"SELECT seq, place FROM states WHERE run = ? AND {FAILED} ORDER BY seq LIMIT ?",
        (run["id"], MAX_FAILURES),
    ):
        ranked[place].append((0, seq, seq))
        seen.add(seq)
    for row in view.execute(
        "SELECT seq, place, status, claimed_at, finished_at FROM states WHERE run = ? ORDER BY seq LIMIT ?",
        (run["id"], MAX_SEARCHED),
    ):
        seq = row["seq"]
        if seq in seen:
            continue
        if row["status"] not in ENDED:
            ranked[row["place"]].append((1, seq, seq))
            continue
        took = 0 if row["claimed_at"] is None else row["finished_at"] - row["claimed_at"]
        ranked[row["place"]].append((2, -took if many else seq, seq))
    chosen = []
    for each in ranked:
        best = heapq.nsmallest(quota, each)
        urgent = sum(rank < 2 for rank, _, _ in best)
        chosen.append([seq for _, _, seq in (best[: urgent + SLOWEST] if many else best)])
    return chosen


def read_states(view: View, chosen: Sequence[int], *, parsed: int, value: int, error: int) -> list[Row]:
    """Return states by their numbers, in that order.

    JSON of more than ``parsed`` characters is cut to its first ``value``, and ``..._size`` has its length; of
    an error the last ``error`` characters are returned.
    """
    begin = f"CASE WHEN length({{0}}) > {parsed} THEN substr({{0}}, 1, {value}) ELSE {{0}} END"
    found = {
        row["seq"]: row
        for row in view.execute(
            "SELECT seq, status, retry_count, enqueue_after, created_at, claimed_at, finished_at, worker,"
            f" {begin.format('inputs')} AS inputs, length(inputs) AS inputs_size,"
            f" {begin.format('outputs')} AS outputs, length(outputs) AS outputs_size,"
            f" {begin.format('data')} AS data, length(data) AS data_size,"
            " substr(error, ?) AS error, length(error) AS error_size"
            " FROM states WHERE seq IN (SELECT value FROM json_each(?))",
            (-error, to_json(chosen).decode()),
        )
    }
    return [found[seq] for seq in chosen]
