"""The runtimes: what each holds, whether it can be stopped now, and the button that drains it."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.load import states_held
from exotrio.manager.queries.state_detail import find_held
from exotrio.manager.queries.workers import Worker, disagreements, v0_runtimes
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest

STATES_SHOWN = 200
"""States of all runtimes, or of the one in the address, longest held first."""


def load(view: View, request: PageRequest, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes"}}
    if "list" in wanted:
        held = states_held(view, request.namespace)
        workers = {worker.worker_id: worker for worker in request.workers(view)}
        one = request.query.get("worker", "")
        chosen = [row for worker, rows in held.items() if worker == one or not one for row in rows]
        chosen.sort(key=lambda row: (row["claimed_at"], row["seq"]))
        data["list"] = {
            "workers": list(workers.values()),
            "holds": {worker_id: len(held[worker_id]) for worker_id in workers},
            "states": [_state(view, row, workers.get(row["worker"])) for row in chosen[:STATES_SHOWN]],
            "held": len(chosen),
            "of_worker": one,
            "anonymous": v0_runtimes(view, request.namespace, request.monotonic),
            "disagreements": disagreements(workers.values()),
        }
    return data


def _state(view: View, held: Row, worker: Worker | None) -> Data:
    row, state_id = find_held(view, held["seq"]), view.state_id(held["seq"])
    beat = None if worker is None else worker.reported.get(state_id)
    if beat is None:
        stage = "just claimed"
    elif beat.running:
        stage = "running"
    else:
        # A heartbeat says of each state only whether it runs.
        stage = "buffered or reporting" if worker is not None and worker.last.reporting else "buffered"
    return {
        "id": state_id,
        "identifier": view.template(row["template"]).places[row["place"]].identifier,
        "graph": row["name"],
        "run_id": row["run_id"],
        "worker": held["worker"],
        "runtime": worker.runtime if worker is not None else "",
        "age": view.now_ms - held["claimed_at"],
        "progress": None if beat is None else beat.progress,
        "stage": stage,
    }


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments={"list": Fragment(ages=2, pace=0.5)},
    load=load,
)
