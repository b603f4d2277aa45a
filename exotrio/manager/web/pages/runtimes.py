"""The runtimes: what each holds, whether it can be stopped now, and the button that drains it."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.load import states_held
from exotrio.manager.queries.state_detail import find_held
from exotrio.manager.queries.workers import Worker, disagreements, shown_workers, v0_runtimes
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest

STATES_SHOWN = 100
"""States of one runtime, longest held first."""


def load(view: View, request: PageRequest, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes"}}
    if "list" in wanted:
        held = states_held(view, request.namespace)
        workers = {worker.worker_id: worker for worker in request.workers(view)}
        data["list"] = {
            "workers": [
                {
                    **shown,
                    "held": len(held[shown["id"]]),
                    "states": _states(view, held[shown["id"]][:STATES_SHOWN], workers[shown["id"]]),
                }
                for shown in shown_workers(workers.values())
            ],
            "anonymous": v0_runtimes(view, request.namespace, request.monotonic),
            "disagreements": disagreements(workers.values()),
            "shown": STATES_SHOWN,
        }
    return data


def _states(view: View, held: list[Row], worker: Worker) -> list[Data]:
    reported = {state.state_id: state for state in worker.last.states}
    states = []
    for each in held:
        row = find_held(view, each["seq"])
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
                "stage": "just claimed" if beat is None else "running" if beat.running else "buffered",
            }
        )
    return states


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments={"list": Fragment(ages=2, pace=0.5)},
    load=load,
)
