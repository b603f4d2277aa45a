"""How far a run is, derived from its states where the server does not say. Pure."""

from __future__ import annotations

from collections import Counter

from exotrio._wire.native import NodeCounts, Run
from exotrio._wire.v0 import RunGraph
from exotrio._wire.vocabulary import ERRORED, PENDING, RETRIED, SUCCESS, RunStatus, StateStatus


def summarize(run_id: str, graph: RunGraph) -> Run:
    """Return the counts of a run and its status, by the rules v0 servers use for their list of runs.

    Places come in the order their first states do; ``created_at`` is not known and None.
    """
    places: dict[str, NodeCounts] = {}
    totals: Counter[StateStatus] = Counter()
    for state in graph.nodes:
        place = places.setdefault(
            state.identifier, NodeCounts(identifier=state.identifier, node_name=state.node_name, counts={})
        )
        place.counts[state.status] = place.counts.get(state.status, 0) + 1
        totals[state.status] += 1

    def count(statuses: tuple[StateStatus, ...]) -> int:
        return sum(totals[status] for status in statuses)

    if count(PENDING):
        status = RunStatus.PENDING
    elif count(ERRORED) or not graph.nodes:
        status = RunStatus.FAILED
    else:
        status = RunStatus.SUCCESS
    return Run(
        run_id=run_id,
        graph_name=graph.graph_name,
        success_count=count(SUCCESS),
        pending_count=count(PENDING),
        errored_count=count(ERRORED),
        retried_count=count(RETRIED),
        total_count=totals.total(),
        status=status,
        created_at=None,
        nodes=list(places.values()),
    )
