"""The list of runtimes: the states that each holds, and a button that drains it."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.load import states_held
from exotrio.manager.queries.states import ListedState, show_states
from exotrio.manager.queries.workers import Worker, disagreements, v0_runtimes
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest

STATES_SHOWN = 200
"""States of all runtimes, or of the one in the address, longest held first."""


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes"}}
    if "list" in parts:
        held = states_held(view, request.namespace)
        workers = {worker.worker_id: worker for worker in request.workers(view)}
        one = request.query.get("worker", "")
        chosen = [row for worker, rows in held.items() if worker == one or not one for row in rows]
        chosen.sort(key=lambda row: (row["claimed_at"], row["seq"]))
        data["list"] = {
            "workers": list(workers.values()),
            "holds": {worker_id: len(held[worker_id]) for worker_id in workers},
            "states": [
                (state, *_at_its_runtime(state, workers.get(state.worker or "")))
                for state in show_states(view, [row["seq"] for row in chosen[:STATES_SHOWN]])
            ],
            "held": len(chosen),
            "of_worker": one,
            "anonymous": v0_runtimes(view, request.namespace, request.monotonic),
            "disagreements": disagreements(workers.values()),
        }
    return data


def _at_its_runtime(state: ListedState, worker: Worker | None) -> tuple[Worker | None, object, str]:
    """Return the runtime of a state that is held, the progress that it reported, and what it does."""
    beat = None if worker is None else worker.reported.get(state.id)
    if beat is None:
        return worker, None, "just claimed"
    if beat.running:
        return worker, beat.progress, "running"
    # A heartbeat does not say whether a state that does not run is buffered or being reported.
    is_reporting = worker is not None and worker.last.reporting
    return worker, beat.progress, "buffered or reporting" if is_reporting else "buffered"


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments={"list": Fragment(ages=2, pace=0.5)},
    load=load,
)
