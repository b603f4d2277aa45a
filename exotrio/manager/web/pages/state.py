"""One state: its inputs and outputs, its error, and its history."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.engine.states import RETRYABLE, get_state
from exotrio.manager.queries.load import stages_among
from exotrio.manager.queries.runtimes import progress_of
from exotrio.manager.queries.state_detail import history_of, newest_event
from exotrio.manager.queries.states import was_cancelled
from exotrio.manager.rules.access import Permission
from exotrio.manager.store.view import View
from exotrio.manager.web.faults import same_failures
from exotrio.manager.web.format import status_class
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest
from exotrio.manager.web.svg.bars import split

MAX_EVENTS = 200
MAX_ANCESTORS = 200


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    row = get_state(view, request.namespace, request.params["state_id"])
    state = history_of(view, request.namespace, row)
    page: Data = {"title": f"{state.identifier} {state.id[-6:]}", "state": state}
    if "state" not in parts:
        return {"page": page}
    cancelled = was_cancelled(state.status, state.error)
    numbers = {attempt.id: view.seq(attempt.id) or 0 for attempt in state.attempts}
    stages = stages_among(view, {numbers[attempt.id]: attempt.status for attempt in state.attempts})
    text, kind = state.spent_text or "a further output", status_class(state.status, cancelled)
    runtimes = request.runtimes(view)
    holder = next((runtime for runtime in runtimes if runtime.worker_id == state.worker), None)
    # Of a node in another namespace, the states of other runs are not shown here.
    is_shown = not cancelled and row["namespace"] == request.namespace
    same, are_more = same_failures(view, row["node_id"], (is_shown and state.error) or "")
    same = [each for each in same if each["id"] != state.id]
    return {
        "page": page,
        "state": {
            "cancelled": cancelled,
            "times": text,
            "split": None if state.held is None else split(state, kind, text),
            "stages": {
                attempt.id: stages.get(numbers[attempt.id], attempt.status) for attempt in state.attempts
            },
            "progress": progress_of(view, runtimes).get(state.id),
            "last_seen": holder and f"{holder.runtime}, last seen {holder.heard_ago:.0f} s ago",
            "local": row["manager"] is not None,
            "retryable": state.status in RETRYABLE
            and row["cancelled_at"] is None
            and request.caller.may(Permission.GRAPHS, row["run_namespace"]),
            "same": len(same),
            "same_runs": len({each["run"] for each in same}),
            "are_more": are_more,
            "node_namespace": row["namespace"],
            "ancestors": list(state.parents.items())[-MAX_ANCESTORS:],
            "events": state.events[::-1][:MAX_EVENTS],
        },
    }


def versions(view: View, request: PageRequest) -> dict[str, object]:
    state = get_state(view, request.namespace, request.params["state_id"])
    moment = None if state["finished_at"] is not None else view.now_ms // 2_000
    columns = ("status", "updated_at", "claimed_at", "begun_at", "ran_ms", "cancelled_at")
    return {"state": (*(state[column] for column in columns), newest_event(view, state), moment)}


PAGE = Page(
    path="/ns/{namespace}/states/{state_id}",
    folder="state",
    fragments={"state": Fragment()},
    load=load,
    own_versions=versions,
)
