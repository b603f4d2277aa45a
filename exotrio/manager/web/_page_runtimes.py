"""The runtimes: what each does, whether it can be stopped now, and the button that asks it to."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from pydantic_core import to_json

from exotrio._wire_native import HeartbeatRequest
from exotrio.manager._transaction import View
from exotrio.manager.web._page import Asked, Data, Page
from exotrio.manager.web._workers_shown import shown_workers

STATES_SHOWN = 100
"""Of one runtime, those that run longest."""


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes", "now": view.now_ms}}
    if "list" in wanted:
        beats = {worker.last.worker_id: worker.last for worker in asked.workers}
        data["list"] = {
            "workers": [
                {**worker, "states": _states(view, beats[worker["id"]])} for worker in shown_workers(asked)
            ],
            "anonymous": sorted(
                ((sorted(nodes), asked.monotonic - at) for nodes, at in asked.anonymous.items()),
                key=lambda each: each[1],
            ),
            "shown": STATES_SHOWN,
        }
    return data


def _states(view: View, beat: HeartbeatRequest) -> list[Data]:
    """Return what a runtime runs, as its last heartbeat says, longest first."""
    seqs = [seq for state in beat.states if state.running and (seq := view.seq(state.state_id)) is not None]
    rows = view.execute(
        "SELECT seq, place, claimed_at, runs.run_id, runs.namespace, runs.template, graphs.name"
        " FROM json_each(?) JOIN states ON seq = value JOIN runs ON runs.id = run"
        " JOIN graphs ON graphs.id = runs.graph ORDER BY claimed_at, seq LIMIT ?",
        (to_json(seqs).decode(), STATES_SHOWN),
    )
    return [
        {
            "id": view.state_id(row["seq"]),
            "identifier": view.template(row["template"]).places[row["place"]].identifier,
            "graph": row["name"],
            "run_id": row["run_id"],
            "age": view.now_ms - (row["claimed_at"] or view.now_ms),
        }
        for row in rows.fetchall()
    ]


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    return {"list": (asked.service.workers.heard, view.now_ms // 2_000)}


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 0.5},
)
