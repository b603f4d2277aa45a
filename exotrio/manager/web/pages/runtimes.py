"""The list of runtimes: the states that each holds, and a button that drains it."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.load import states_held
from exotrio.manager.queries.runtimes import RuntimeRow, disagreements, v0_runtimes
from exotrio.manager.queries.states import ListedState, show_states
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest

STATES_SHOWN = 200
"""States of all runtimes, or of the one in the address, longest held first."""


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Runtimes"}}
    if "list" in parts:
        held = states_held(view, request.namespace)
        holds = {worker_id: len(rows) for worker_id, rows in held.items()}
        runtimes = {runtime.worker_id: runtime for runtime in request.runtimes(view, holds)}
        one = request.query.get("worker", "")
        chosen = [row for worker, rows in held.items() if worker == one or not one for row in rows]
        chosen.sort(key=lambda row: (row["claimed_at"], row["seq"]))
        data["list"] = {
            "workers": list(runtimes.values()),
            "states": [
                (state, *_at_its_runtime(state, runtimes.get(state.worker or "")))
                for state in show_states(view, [row["seq"] for row in chosen[:STATES_SHOWN]])
            ],
            "held": len(chosen),
            "of_worker": one,
            "anonymous": v0_runtimes(view, request.namespace, request.monotonic),
            "disagreements": disagreements(runtimes.values()),
        }
    return data


def _at_its_runtime(state: ListedState, runtime: RuntimeRow | None) -> tuple[RuntimeRow | None, object, str]:
    """Return the runtime of a held state, the reported progress, and the stage of the state."""
    beats = () if runtime is None else runtime.heartbeat.states
    beat = next((beat for beat in beats if beat.state_id == state.id), None)
    if beat is None:
        return runtime, None, "just claimed"
    if beat.running:
        return runtime, beat.progress, "running"
    # A heartbeat contains for each state only whether it runs.
    is_reporting = runtime is not None and runtime.reporting
    return runtime, beat.progress, "buffered or reporting" if is_reporting else "buffered"


PAGE = Page(
    path="/ns/{namespace}/runtimes",
    folder="runtimes",
    fragments={"list": Fragment(ages=2, pace=0.5)},
    load=load,
)
