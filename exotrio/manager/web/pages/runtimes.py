"""The list of runtimes: the states that each holds, a button that drains it, and how others stopped."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.audit import drained_by
from exotrio.manager.queries.load import count_held, states_held
from exotrio.manager.queries.runtimes import disagreements, list_stops, progress_of, v0_runtimes
from exotrio.manager.queries.states import show_states
from exotrio.manager.queries.versions import list_versions
from exotrio.manager.store.clock import DAY_MS
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest

STATES_SHOWN = 200
"""States of all runtimes, or of the one in the address, longest held first."""

STOPS_SHOWN = 50


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes"}}
    if "list" in parts:
        held = states_held(view, request.namespace)
        counts = count_held(view, request.namespace)
        runtimes = {runtime.worker_id: runtime for runtime in request.runtimes(view, counts)}
        progress = progress_of(view, runtimes.values())
        one = request.query.get("worker", "")
        chosen = [row for worker, rows in held.items() if worker == one or not one for row in rows]
        chosen.sort(key=lambda row: (row["claimed_at"], row["seq"]))
        asked = [worker for worker, runtime in runtimes.items() if runtime.asked_to_drain]
        data["list"] = {
            "workers": list(runtimes.values()),
            "drained_by": drained_by(view, request.namespace, asked),
            "states": [
                (state, runtimes.get(state.worker or ""), progress.get(state.id))
                for state in show_states(view, [row["seq"] for row in chosen[:STATES_SHOWN]])
            ],
            "held": len(chosen),
            "of_worker": one,
            "anonymous": v0_runtimes(view, request.namespace),
            "disagreements": disagreements(runtimes.values()),
            "versions": list_versions(view, request.namespace),
        }
    if "stops" in parts:
        stops = list_stops(view, request.namespace, DAY_MS)
        data["stops"] = {
            "receipts": stops.receipts[:STOPS_SHOWN],
            "total": stops.total.text(),
            "hidden": len(stops.receipts[STOPS_SHOWN:]),
        }
    return data


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments={"list": Fragment(ages=2, pace=0.5), "stops": Fragment(ages=10, pace=2.0)},
    load=load,
)
