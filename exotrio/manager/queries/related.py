"""Runs that started other runs: by a state that runs a graph, or by failing (``Graph.on_failure``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from exotrio._util.times import from_unix_ms
from exotrio._wire.checkup import UnstartedRun
from exotrio._wire.runs import FAILURE, RelatedRun
from exotrio.manager.engine.runs import RUNS
from exotrio.manager.queries.runs import status_of
from exotrio.manager.rules.template import Template
from exotrio.manager.store.clock import DAY_MS
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_UNSTARTED = 5
"""Entries of either kind of ``Checkup.unstarted``."""
MAX_SHOWN = 100
"""Runs that are shown of those that one run, or one state, started."""


def parent_of(view: View, run: Row) -> RelatedRun | None:
    """Return the run that started a run, with the state that did; None if there is none, or not any more."""
    if run["parent_run_id"] is None:
        return None
    above = view.one(RUNS + " WHERE runs.id = ?", (run["parent_run"],))
    state = _starting_states(view, [run]).get(run["id"])
    return _related(view, above, origin=run["origin"], state=state, above=above)


def children_of(view: View, run: Row) -> tuple[list[RelatedRun], int]:
    """Return runs that a run started, and how many it started; also those that it could not start, or is
    about to start."""
    children = _unstarted(view, run)
    total = len(children)
    if run["has_children"]:
        rows = view.execute(
            f"{RUNS} WHERE runs.parent_run = ? ORDER BY CASE WHEN runs.errored > 0 THEN 0"
            " WHEN runs.pending > 0 THEN 1 ELSE 2 END, runs.id LIMIT ?",
            (run["id"], MAX_SHOWN),
        ).fetchall()
        states = _starting_states(view, rows)
        children += [
            _related(view, row, origin=row["origin"], state=states.get(row["id"]), above=run) for row in rows
        ]
        total += view.one("SELECT count(*) AS number FROM runs WHERE parent_run = ?", (run["id"],))["number"]
    return children, total


def started_by(view: View, state: Row) -> list[RelatedRun]:
    rows = view.execute(
        f"{RUNS} WHERE runs.parent_state = ? ORDER BY runs.id LIMIT ?", (state["seq"], MAX_SHOWN)
    ).fetchall()
    return [_related(view, row, origin=row["origin"]) for row in rows]


def _unstarted(view: View, run: Row) -> list[RelatedRun]:
    """Return the runs that the failure of a run is to start and has not started, and why, if it cannot."""
    template = view.template(run["template"])
    if template.body.on_failure is None:
        return []
    rows = view.execute(
        "SELECT state, at, problem FROM alerts WHERE run = ? AND started IS NULL ORDER BY number",
        (run["id"],),
    )
    return [
        RelatedRun(
            graph_name=template.body.on_failure,
            origin=FAILURE,
            state_id=view.state_id(row["state"]),
            created_at=from_unix_ms(row["at"]),
            problem=row["problem"],
        )
        for row in rows
    ]


class Awaited(NamedTuple):
    """The first run that a state waits for, and how many."""

    run_id: str | None
    graph: str | None
    runs: int


def awaited_by(view: View, reader: str, states: Iterable[int]) -> dict[int, Awaited]:
    """Return what states wait for that have started runs, by their numbers. Of runs outside
    the namespace ``reader`` only how many: a key for the namespace of a node may not read them."""
    if not (seqs := sorted(states)):
        return {}
    rows = view.execute(
        "SELECT state, run_id, graphs.name, number, runs.namespace FROM"
        " (SELECT parent_state AS state, min(id) AS first, count(*) AS number"
        f" FROM runs INDEXED BY runs_by_parent WHERE {view.any_of('parent_state')}"
        " AND parent_state IS NOT NULL AND pending > 0 GROUP BY parent_state) AS waiting"
        " JOIN runs ON runs.id = first JOIN graphs ON graphs.id = runs.graph",
        (view.items(seqs),),
    )
    return {
        state: Awaited(run_id, graph, number) if namespace == reader else Awaited(None, None, number)
        for state, run_id, graph, number, namespace in rows
    }


def naming(view: View, namespace: str) -> dict[str, Template]:
    """Return the graphs of a namespace that name others, as those that they run or by ``on_failure``."""
    rows = view.execute(
        "SELECT graphs.name, template FROM graphs JOIN templates ON templates.id = template"
        " WHERE namespace = ? AND (body LIKE '%\"on_failure\":%' OR body LIKE '%\"graph\":{%')"
        " ORDER BY graphs.name",
        (namespace,),
    )
    return {row["name"]: view.template(row["template"]) for row in rows.fetchall()}


def unstarted_in(view: View, namespace: str) -> list[UnstartedRun]:
    """Return what ``Checkup.unstarted`` has."""
    rows = view.execute(
        "SELECT run_id, runs.template, graphs.name, alerts.at, alerts.problem FROM alerts"
        " JOIN runs ON runs.id = alerts.run JOIN graphs ON graphs.id = runs.graph"
        " WHERE alerts.problem IS NOT NULL AND alerts.at >= ? AND runs.namespace = ?"
        " ORDER BY alerts.at DESC, alerts.run LIMIT ?",
        (view.now_ms - DAY_MS, namespace, MAX_UNSTARTED),
    )
    failed = [
        UnstartedRun(
            graph=row["name"],
            on_failure=str(view.template(row["template"]).body.on_failure),
            problem=row["problem"],
            run_id=row["run_id"],
            at=from_unix_ms(row["at"]),
        )
        for row in rows
    ]
    graphs, known = naming(view, namespace).items(), set[str]()
    named = {graph: each.body.on_failure for graph, each in graphs if each.body.on_failure is not None}
    if named:
        others = view.items(sorted({*named.values()}))
        found = f"SELECT name FROM graphs WHERE namespace = ? AND {view.any_of('name')}"
        known = {row["name"] for row in view.execute(found, (namespace, others))}
    return (
        failed
        + [
            UnstartedRun(graph=graph, on_failure=other, problem=f"there is no graph {other!r}")
            for graph, other in named.items()
            if other not in known
        ][:MAX_UNSTARTED]
    )


def _related(
    view: View, run: Row, *, origin: str, state: Row | None = None, above: Row | None = None
) -> RelatedRun:
    """Return one of two runs, of which ``above`` started the other one, with the state that did."""
    template = None if above is None else view.template(above["template"])
    return RelatedRun(
        run_id=run["run_id"],
        graph_name=run["graph_name"],
        status=status_of(run),
        origin=origin,
        state_id=None if state is None else view.state_id(state["seq"]),
        identifier=None if state is None or template is None else template.places[state["place"]].identifier,
        created_at=from_unix_ms(run["created_at"]),
        finished_at=from_unix_ms(run["finished_at"]),
        cancelled_at=from_unix_ms(run["cancelled_at"]),
        waits=0 < run["pending"] == run["for_event"] + run["for_run"],
    )


def _starting_states(view: View, runs: Sequence[Row]) -> dict[int, Row]:
    """Return the state (seq, place) that started each of these runs below one, or the first of those whose
    failure did."""
    seqs = {run["id"]: run["parent_state"] for run in runs if run["parent_state"] is not None}
    if failures := {run["run_id"]: run["id"] for run in runs if run["origin"] == FAILURE}:
        alerts = view.execute(
            "SELECT started, state FROM alerts WHERE run = ? AND started IS NOT NULL",
            (runs[0]["parent_run"],),
        )
        seqs |= {failures[row["started"]]: row["state"] for row in alerts if row["started"] in failures}
    rows = view.execute(
        f"SELECT seq, place FROM states WHERE {view.any_of('seq')}", (view.items(sorted({*seqs.values()})),)
    )
    states = {row["seq"]: row for row in rows}
    return {run: states[seq] for run, seq in seqs.items() if seq in states}
