"""One run: the counts of its nodes, what its result lacks, what a retry runs again, its states as a graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from exotrio._util.times import timestamp
from exotrio._wire.runs import WaitReason, missing_of
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.manager.engine.runs import find_run
from exotrio.manager.engine.states import CREATED, QUEUED, STATUSES
from exotrio.manager.engine.unfinished import shown_changes
from exotrio.manager.engine.unites import ran_before
from exotrio.manager.queries.branches import with_values
from exotrio.manager.queries.load import FAILED, count_stages, paused_nodes
from exotrio.manager.queries.related import children_of, parent_of
from exotrio.manager.queries.runs import run_size, status_of, summarize_run
from exotrio.manager.queries.runtimes import Node
from exotrio.manager.queries.state_times import waits_in_run
from exotrio.manager.queries.waiting import event_reasons_in, reasons_in
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.rules.unreached import Unreached, why_unreached
from exotrio.manager.store.driver import Row
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

MAX_TIMED = 20_000
"""Maximum of states of a run for the averages of their times."""


def counts_of(view: View, run: int) -> dict[int, dict[str, int]]:
    """Return the number of states of a run by place and status. The cost grows with its places, and with its
    states that are held or wait for events, only."""
    counts: dict[int, dict[str, int]] = {}
    for place, queued, waiting, pending, *ended in view.execute(
        "WITH held AS (SELECT place, count(*) AS number FROM states INDEXED BY states_held"
        " WHERE status = 'QUEUED' AND run = ? GROUP BY place),"
        " waiting AS (SELECT place, count(*) AS number FROM states INDEXED BY states_waiting"
        " WHERE status = 'CREATED' AND lane = 'waiting' AND run = ? GROUP BY place)"
        " SELECT counts.place, coalesce(held.number, 0), coalesce(waiting.number, 0), pending, success,"
        " errored, next_created_error, retry_created, pruned FROM counts"
        " LEFT JOIN held ON held.place = counts.place LEFT JOIN waiting ON waiting.place = counts.place"
        " WHERE run = ? ORDER BY counts.place",
        (run, run, run),
    ):
        # No state is stored as EXECUTED: the step from QUEUED to the end is one transaction.
        numbers = dict(zip(STATUSES, (pending - queued - waiting, queued, 0, *ended), strict=True))
        numbers[StateStatus.WAITING] = waiting
        counts[place] = {status: number for status, number in numbers.items() if number}
    return counts


def further_of(view: View, run: Row) -> dict[int, int]:
    """Return how many states of a run are further outputs of others, by place, where there are any."""
    rows = view.execute("SELECT place, further FROM counts WHERE run = ? AND further > 0", (run["id"],))
    return {row["place"]: row["further"] for row in rows}


def missing_in(view: View, run: Row, counts: Mapping[int, Mapping[str, int]]) -> list[str]:
    """Return what the result of a run lacks because states failed, as ``Run.missing``."""
    if not run["errored"]:
        return []
    further = further_of(view, run)
    return missing_of(
        (
            (place.identifier, counts.get(place.index, {}), further.get(place.index, 0))
            for place in view.template(run["template"]).places
        ),
        is_cancelled=run["cancelled_at"] is not None,
    )


def stages_of(view: View, run: int, counts: Mapping[int, dict[str, int]]) -> dict[int, dict[str, int]]:
    """Return what ``counts_of`` returned, with the stages of states that are claimed."""
    has_claimed = any(QUEUED in each for each in counts.values())
    stages = count_stages(view, run) if has_claimed else {}
    return {
        place: each | {QUEUED: 0} | stages[place] if place in stages else each
        for place, each in counts.items()
    }


def paused_places(view: View, run: Row, counts: Mapping[int, Mapping[str, int]]) -> dict[int, int]:
    """Return the places of a run where states wait for a paused node, and since when, in Unix ms."""
    if not any(CREATED in each for each in counts.values()):
        return {}
    paused = paused_nodes(view)
    return {
        place.index: paused[place.namespace, place.node_name]
        for place in view.template(run["template"]).places
        if CREATED in counts.get(place.index, {}) and (place.namespace, place.node_name) in paused
    }


def unreached_in(view: View, run: Row, counts: Mapping[int, Mapping[str, int]]) -> dict[int, Unreached]:
    """Return why places of a run have no states."""
    unreached = why_unreached(
        view.template(run["template"]), counts, is_cancelled=run["cancelled_at"] is not None
    )
    return with_values(view, run, counts, unreached)


def run_again(view: View, template: Template, states: Iterable[tuple[int, str]]) -> list[str]:
    """Return the united nodes that run again if these states, given as (place, groups), are retried."""
    ran = {row["place"] for row in ran_before(view, template, states)}
    return [template.places[place].identifier for place in sorted(ran)]


def run_again_with_failed(view: View, run: Row) -> list[str]:
    """Return the united nodes that run again if the failed states of a run are retried."""
    template = view.template(run["template"])
    if not run["errored"] or run["cancelled_at"] is not None or not template.uniters:
        return []
    failed = view.execute(
        f"SELECT DISTINCT place, groups FROM states WHERE run = ? AND {FAILED}", (run["id"],)
    )
    return run_again(view, template, [(row["place"], row["groups"]) for row in failed])


def failed_with_checkpoint(view: View, run: Row) -> int:
    """Return how many failed states of a run would continue from a checkpoint if it is retried."""
    if not run["errored"] or run["cancelled_at"] is not None:
        return 0
    which = f"run = ? AND {FAILED} AND status = 'ERRORED' AND checkpoint_size IS NOT NULL"
    return int(view.one(f"SELECT count(*) AS number FROM states WHERE {which}", (run["id"],))["number"])


def show_run(view: View, namespace: str, run_id: str, *, reasons: bool = False) -> dict[str, Any]:
    """Return one run with its counts per place, in the order of the template, in the wire format of
    ``Run``.

    With ``reasons`` it says why states wait.
    """
    return _shown(view, find_run(view, namespace, run_id), has_reasons=reasons)


def _shown(view: View, run: Row, *, has_reasons: bool = False) -> dict[str, Any]:
    counts = counts_of(view, run["id"])
    paused, further = paused_places(view, run, counts), further_of(view, run)
    unreached = {index: why.text for index, why in unreached_in(view, run, counts).items() if why.is_final}
    reasons = reasons_in(view, run, counts) if has_reasons else {}
    events = event_reasons_in(view, run, counts) if has_reasons else {}
    template = view.template(run["template"])
    nodes = [
        {
            "identifier": place.identifier,
            "node_name": place.node_name,
            "waits_for": _waits_for(place, counts, reasons, events),
            "counts": counts.get(place.index, {}),
            "not_reached": unreached.get(place.index),
            "paused_at": timestamp(paused[place.index]) if place.index in paused else None,
            "further": further.get(place.index, 0),
            "is_last": not declared.next_nodes,
        }
        for place, declared in zip(template.places, template.body.nodes, strict=True)
    ]
    parent, (children, total) = parent_of(view, run), children_of(view, run)
    return {
        **summarize_run(run),
        **_average_times(view, run),
        "nodes": nodes,
        "missing": missing_in(view, run, counts),
        "parent": parent and parent.model_dump(mode="json"),
        "children": [child.model_dump(mode="json") for child in children],
        "children_count": total,
        "changing": shown_changes(view, run["id"]),
    }


def _waits_for(
    place: Place,
    counts: Mapping[int, Mapping[str, int]],
    reasons: Mapping[Node, WaitReason],
    events: Mapping[str, WaitReason],
) -> dict[str, Any] | None:
    is_due = CREATED in counts.get(place.index, {})
    reason = reasons.get((place.namespace, place.node_name)) if is_due else events.get(place.identifier)
    return None if reason is None else reason.model_dump(mode="json")


def _average_times(view: View, run: Row) -> dict[str, Any]:
    """Return the average times of the executions of a run that ended, as ``Run`` has them."""
    if run["pending"] or run_size(run) > MAX_TIMED:
        return {}
    # Where the clock was set back, it is 0.
    row = view.one(
        "SELECT sum(CASE WHEN created_at > claimed_at OR enqueue_after > claimed_at THEN 0"
        " WHEN updated_at > created_at AND updated_at > enqueue_after AND updated_at <= claimed_at"
        " THEN claimed_at - updated_at"
        " WHEN enqueue_after > created_at THEN claimed_at - enqueue_after"
        " ELSE claimed_at - created_at END) AS waited, sum(begun_at - claimed_at) AS buffered,"
        " sum(ran_ms) AS ran, sum(CASE WHEN finished_at > claimed_at THEN finished_at - claimed_at"
        " ELSE 0 END) AS held, sum(CASE WHEN updated_at > created_at AND updated_at <= claimed_at"
        " THEN updated_at - created_at END) AS earlier, count(*) AS number,"
        " count(ran_ms) AS reported, max(CASE WHEN event IS NOT NULL OR calls_size IS NOT NULL THEN 1 END)"
        " AS have_waited FROM states WHERE run = ? AND claimed_at IS NOT NULL",
        (run["id"],),
    )
    if row["reported"] < row["number"] or not row["number"]:
        return {}
    sums = {name: row[name] for name in ("waited", "buffered", "ran", "held", "earlier")}
    if row["have_waited"]:
        waits = waits_in_run(view, run["id"])
        sums |= {**waits, "earlier": max(0, (sums["earlier"] or 0) - sum(waits.values())) or None}
    return {f"{name}_ms": None if ms is None else round(ms / row["number"]) for name, ms in sums.items()}


def show_run_once_ended(tx: Transaction, namespace: str, run_id: str) -> WithEffects[dict[str, Any] | None]:
    """Return a run as ``show_run`` does, or None while it has not ended."""
    run = find_run(tx, namespace, run_id)
    is_pending = status_of(run) is RunStatus.PENDING
    return WithEffects(None if is_pending else _shown(tx, run), Effects(waits_for={run_id: math.inf}))


def show_run_graph(view: View, namespace: str, run_id: str) -> dict[str, Any]:
    """Return the states of a run and the edges between them, as the dashboard draws them.

    In a namespace that is not the run's, only those of its nodes. An unknown run is an empty one. Each state
    has an edge from its direct parent only.
    """
    summary = dict.fromkeys(STATUSES, 0)
    nodes: list[dict[str, Any]] = []
    parents: dict[str, str | None] = {}
    graph_name = ""
    for row in view.execute(
        "SELECT seq, place, status, error, parent, runs.template, nodes.name, graphs.name AS graph_name"
        " FROM runs JOIN states ON states.run = runs.id JOIN nodes ON nodes.id = states.node_id"
        " JOIN graphs ON graphs.id = runs.graph WHERE run_id = ?"
        " AND ? IN (runs.namespace, nodes.namespace) ORDER BY seq",
        (run_id, namespace),
    ):
        graph_name = row["graph_name"]
        state_id = view.state_id(row["seq"])
        parents[state_id] = None if row["parent"] is None else view.state_id(row["parent"])
        summary[row["status"]] += 1
        nodes.append(
            {
                "id": state_id,
                "node_name": row["name"],
                "identifier": view.template(row["template"]).places[row["place"]].identifier,
                "status": row["status"],
                "error": row["error"],
            }
        )
    edges = [{"source": parent, "target": child} for child, parent in parents.items() if parent in parents]
    return {
        "root_states": [node for node in nodes if parents[node["id"]] is None],
        "graph_name": graph_name,
        "nodes": nodes,
        "edges": edges,
        "node_count": len(nodes),
        "edge_count": len(edges),
        "execution_summary": summary,
    }
