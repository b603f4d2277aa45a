"""The runtimes: what each holds, whether it can be stopped now, and the button that asks it to."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from exotrio.manager.engine.workers import Worker
from exotrio.manager.queries.load import states_held
from exotrio.manager.queries.workers import disagreements, shown_workers
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page

STATES_SHOWN = 100
"""Of one runtime, those that it holds longest."""


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes", "now": view.now_ms}}
    if "list" in wanted:
        held = states_held(view, asked.namespace)
        workers = {worker.last.worker_id: worker for worker in asked.workers}
        data["list"] = {
            "workers": [
                {
                    **shown,
                    "held": len(held[shown["id"]]),
                    "states": _states(view, held[shown["id"]][:STATES_SHOWN], workers[shown["id"]]),
                }
                for shown in shown_workers(asked.workers, asked.monotonic)
            ],
            "anonymous": sorted(
                ((sorted(nodes), asked.monotonic - at) for nodes, at in asked.anonymous.items()),
                key=lambda each: each[1],
            ),
            "disagreements": disagreements(asked.workers, asked.monotonic),
            "shown": STATES_SHOWN,
        }
    return data


def _states(view: View, held: list[Row], worker: Worker) -> list[Data]:
    reported = {state.state_id: state for state in worker.last.states}
    states = []
    for each in held:
        row = view.row(
            "SELECT place, runs.run_id, runs.namespace, runs.template, graphs.name FROM states"
            " JOIN runs ON runs.id = run JOIN graphs ON graphs.id = runs.graph WHERE seq = ?",
            (each["seq"],),
        )
        assert row is not None, "a query sees one state of the database, in which it is held"
        state_id = view.state_id(each["seq"])
        beat = reported.get(state_id)
        states.append(
            {
                "id": state_id,
                "identifier": view.template(row["template"]).places[row["place"]].identifier,
                "graph": row["name"],
                "run_id": row["run_id"],
                "age": view.now_ms - each["claimed_at"],
                "progress": None if beat is None else beat.progress,
                "stage": "just claimed" if beat is None else "runs" if beat.running else "waits its turn",
            }
        )
    return states


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    service = asked.service
    return {"list": (service.store.written, service.workers.heard, view.now_ms // 2_000)}


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 0.5},
)
