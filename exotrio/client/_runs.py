"""The calls of the public client about runs and states: read, wait, cancel, retry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import anyio

from exotrio._http.client import REQUEST_TIMEOUT
from exotrio._http.event_loop import event_loop
from exotrio._util.error_message import message_line
from exotrio._wire.native import NodeCounts, Run
from exotrio._wire.operations import (
    RefusedState,
    RetriedState,
    RetryRunRequest,
    RunPage,
    RunRetry,
    RunsQuery,
    StateHistory,
    StatePage,
    StatesQuery,
    StateSummary,
)
from exotrio._wire.v0 import ManualRetryRequest, RunGraph, StateDetail, StateRetry
from exotrio._wire.vocabulary import (
    ERRORED,
    MAX_WAIT_MS,
    PENDING,
    RETRIED,
    SUCCESS,
    RunStatus,
    StateStatus,
    from_ms,
    is_state_id,
    run_status,
    to_ms,
)
from exotrio.client._calls import Calls
from exotrio.errors import InvalidResponse, ManagerUnavailable, NotFound, RequestRefused

FIRST_POLL = 0.05
MAX_LONG_POLLS = 8
"""Half the connections of a client, so that its other calls find one; further waits poll instead."""
OUTAGE_TOLERANCE = 60.0
"""Seconds for which ``wait`` goes on asking a state manager that does not answer."""


async def run(calls: Calls, run_id: str) -> RunGraph:
    """Return the states of a run and how they follow each other."""
    reply = await calls.fetch(RunGraph, "GET", calls.v0("states", "run", run_id, "graph"))
    if not reply.nodes:  # what v0 answers for a run it does not know
        raise NotFound(f"there is no run {run_id} in namespace {calls.namespace!r}")
    return reply


async def status(calls: Calls, run_id: str, wait: float = 0.0, pause: float = 0.0) -> Run:
    """Return the status of a run: after ``wait`` seconds, or as soon as it has ended.

    Args:
        pause: Seconds to sleep first instead, at a server without long polls.
    """

    async def derived() -> Run:
        await anyio.sleep(pause)
        return _summarize(run_id, await run(calls, run_id))

    return await calls.prefer_native(lambda: _native_status(calls, run_id, wait, pause), derived)


def _summarize(run_id: str, graph: RunGraph) -> Run:
    """Return the counts of a run and its status, derived from its states as v0 does not give them.

    Nodes of the graph come in the order of their first states.
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

    return Run(
        run_id=run_id,
        graph_name=graph.graph_name,
        success_count=count(SUCCESS),
        pending_count=count(PENDING),
        errored_count=count(ERRORED),
        retried_count=count(RETRIED),
        total_count=totals.total(),
        status=run_status(
            pending=count(PENDING), errored=count(ERRORED), ended=count(SUCCESS) + count(RETRIED)
        ),
        created_at=None,
        nodes=list(places.values()),
    )


async def _native_status(calls: Calls, run_id: str, wait: float, pause: float) -> Run:
    if calls.long_polls == MAX_LONG_POLLS:
        await anyio.sleep(pause)
        wait = 0.0
    wait = min(wait, from_ms(MAX_WAIT_MS))
    path = calls.native("run", run_id, query={"wait_ms": to_ms(wait)})
    began = anyio.current_time()
    calls.long_polls += wait > 0
    try:
        found = await calls.fetch(Run, "GET", path, timeout=REQUEST_TIMEOUT + wait)
    finally:
        calls.long_polls -= wait > 0
    if found.status is RunStatus.PENDING:
        # A server that is stopping answers early: it must not be asked in a tight loop.
        await anyio.sleep_until(began + wait)
    return found


async def wait(
    calls: Calls,
    run_id: str,
    *,
    timeout: float | None,
    poll_interval: float,
    on_progress: Callable[[Run], None] | None,
) -> Run:
    """Wait until a run is no longer PENDING."""
    shown: Run | None = None
    # Without on_progress, nobody needs the first status: the first request already waits for the end.
    pause, held = 0.0, FIRST_POLL if on_progress is None else 0.0
    found: Run | None = None
    with _time_limit(timeout):
        while True:
            found = await _status_after_outages(calls, run_id, held, pause, known=found is not None)
            if on_progress is not None and found != shown:
                on_progress(found)
                shown = found
            if found.status is not RunStatus.PENDING:
                return found
            held = pause = min(max(pause * 1.5, FIRST_POLL), poll_interval)


async def _status_after_outages(calls: Calls, run_id: str, wait: float, pause: float, *, known: bool) -> Run:
    """Return the status of a run, asking again during an outage.

    Args:
        known: The state manager has answered before. Then an invalid response comes from a proxy in between,
            and counts as an outage.
    """
    give_up = anyio.current_time() + wait + OUTAGE_TOLERANCE
    while True:
        try:
            return await status(calls, run_id, wait, pause)
        except ManagerUnavailable as error:
            if anyio.current_time() >= give_up or (isinstance(error, InvalidResponse) and not known):
                raise
            await anyio.sleep(1.0)


def _time_limit(seconds: float | None) -> AbstractContextManager[object]:
    return nullcontext() if seconds is None else event_loop().fail_after(seconds)


async def cancel(calls: Calls, run_id: str) -> Run:
    """Cancel a run."""
    return await calls.prefer_native(
        lambda: calls.fetch(Run, "POST", calls.native("run", run_id, "cancel")),
        lambda: calls.refuse_v0(
            f"the run {run_id} cannot be cancelled", "stop the runtimes that run its nodes"
        ),
    )


async def manual_retry(calls: Calls, state_id: str, fanout_id: str) -> StateRetry:
    """Run a state once more, as a new state."""
    path = calls.v0("state", state_id, "manual-retry")
    request = ManualRetryRequest(fanout_id=fanout_id)
    with _not_found_if_malformed(state_id):
        return await calls.repeat(
            lambda: calls.http.fetch(StateRetry, "POST", path, body=request), sent=False
        )


async def state(calls: Calls, graph: str, run_id: str, state_id: str) -> StateDetail:
    """Return one state in full."""
    with _not_found_if_malformed(state_id):
        return await calls.fetch(
            StateDetail, "GET", calls.v0("graph", graph, "run", run_id, "node", state_id)
        )


@contextmanager
def _not_found_if_malformed(state_id: str) -> Iterator[None]:
    """Raise NotFound for a malformed id, which a stock server answers with 400 or 500."""
    try:
        yield
    except (RequestRefused, ManagerUnavailable) as error:
        if error.status not in {400, 500} or is_state_id(state_id):
            raise
        raise NotFound(
            f"there is no state {state_id!r}: the id of a state has 24 hex digits",
            status=error.status,
            where=error.where,
        ) from error


async def retry_run(calls: Calls, run_id: str) -> RunRetry:
    """Retry all failed states of a run."""
    # Chosen once, so that repeating the request retries nothing twice.
    request_id = str(uuid4())
    path = calls.native("run", run_id, "retry")
    return await calls.prefer_native(
        lambda: calls.fetch(RunRetry, "POST", path, body=RetryRunRequest(request_id=request_id)),
        lambda: _retry_each(calls, run_id, request_id),
    )


async def _retry_each(calls: Calls, run_id: str, request_id: str) -> RunRetry:
    failed = [state for state in (await run(calls, run_id)).nodes if state.status in ERRORED]
    if not failed:
        raise RequestRefused(f"the run {run_id} has no failed states", status=409)
    reply = RunRetry(retried=[], refused=[])
    for state in failed:
        try:
            # With the id of the state: a stock server accepts one id only once for all states of a node.
            new = await manual_retry(calls, state.id, f"{request_id}:{state.id}")
        except (NotFound, RequestRefused) as refusal:
            reply.refused.append(RefusedState(state_id=state.id, reason=refusal.what))
        else:
            reply.retried.append(RetriedState(state_id=state.id, new_state_id=new.id, status=new.status))
    return reply


async def find_runs(calls: Calls, query: RunsQuery) -> RunPage:
    """Return one page of runs."""
    path = calls.native("runs", query=_parameters(query))
    return await calls.prefer_native(
        lambda: calls.fetch(RunPage, "GET", path),
        lambda: calls.refuse_v0("runs cannot be searched", "page through runs()"),
    )


async def states(calls: Calls, query: StatesQuery) -> StatePage:
    """Return one page of states."""
    return await calls.prefer_native(lambda: _filled_page(calls, query), lambda: _states_of_run(calls, query))


async def _filled_page(calls: Calls, query: StatesQuery) -> StatePage:
    """Ask again until the page is full, since one request searches a limited number of states."""
    found: list[StateSummary] = []
    while True:
        page = await calls.fetch(StatePage, "GET", calls.native("states", query=_parameters(query)))
        found += page.states
        left = query.limit - len(found)
        # The same cursor twice would be asked for without end.
        if left <= 0 or page.next in (None, query.before):
            return StatePage(states=found, next=page.next)
        query = query.model_copy(update={"before": page.next, "limit": left})


async def _states_of_run(calls: Calls, query: StatesQuery) -> StatePage:
    if query.run is None:
        calls.refuse_v0("states cannot be listed across runs", "name one run")
    graph = await run(calls, query.run)
    found = [
        StateSummary(
            id=state.id,
            node_name=state.node_name,
            identifier=state.identifier,
            graph_name=graph.graph_name,
            run_id=query.run,
            status=state.status,
            error=state.error and message_line(state.error),
        )
        for state in reversed(graph.nodes)
        if query.graph in (None, graph.graph_name)
        and query.node in (None, state.node_name)
        and query.identifier in (None, state.identifier)
        and (not query.status or state.status in query.status)
    ]
    ids = [state.id for state in found]
    begin = ids.index(query.before) + 1 if query.before in ids else 0
    page = found[begin : begin + query.limit]
    return StatePage(states=page, next=page[-1].id if found[begin + query.limit :] else None)


async def history(calls: Calls, state_id: str) -> StateHistory:
    """Return one state with its history."""
    return await calls.prefer_native(
        lambda: calls.fetch(StateHistory, "GET", calls.native("state", state_id)),
        lambda: calls.refuse_v0(
            f"the state {state_id} cannot be found by its id alone",
            "ask state() with its graph and run",
        ),
    )


def _parameters(query: RunsQuery | StatesQuery) -> dict[str, Any]:
    return query.model_dump(mode="json", exclude_defaults=True)
