"""Native routes about graphs, runs, their states and events: trigger, search, show, cancel, retry, delete."""

from __future__ import annotations

from functools import partial

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from exotrio._httpd import while_connected
from exotrio._util.times import moment_ms
from exotrio._wire import operations
from exotrio._wire.events import (
    EVENT_PATH,
    EventLinkReply,
    EventLinkRequest,
    EventRequest,
    RunEvents,
    SentEvent,
)
from exotrio._wire.graphs import GraphPage, GraphsQuery
from exotrio._wire.runs import NativeTriggerRequest, PriorityRequest, Run, RunQuery, TriggerManyReply
from exotrio._wire.states import StateHistory
from exotrio._wire.v0 import TriggerReply
from exotrio._wire.vocabulary import StateStatus
from exotrio.manager.api.bodies import body_reader
from exotrio.manager.api.json import CLAIM_LIMIT, entries_refused, max_wait_of, parse_entries
from exotrio.manager.api.routing import GRAPHS, NS, READ, TRIGGER, Endpoints, delete, get, post
from exotrio.manager.engine import pinning, retries, sending, triggers
from exotrio.manager.engine import runs as runs_engine
from exotrio.manager.engine.event_links import make_event_link
from exotrio.manager.engine.order import LEVELS, share_of
from exotrio.manager.engine.triggers import NewRun
from exotrio.manager.queries import graphs as graph_queries
from exotrio.manager.queries import runs as run_queries
from exotrio.manager.queries import states as state_queries
from exotrio.manager.queries.run import show_run, show_run_once_ended
from exotrio.manager.queries.state_detail import show_history
from exotrio.manager.queries.waiting import show_events
from exotrio.manager.rules.access import Caller
from exotrio.manager.rules.errors import Conflict, EntriesRefused, NotFound
from exotrio.manager.security.access import while_valid

REPINNED_AT_ONCE = 100
"""Runs that one request moves to another version, each in a transaction."""


class Runs(Endpoints):
    @get(NS + "/graphs", "List graphs, by pages", READ, GraphPage)
    async def graphs(self, namespace: str, query: GraphsQuery) -> Response:
        page = await self._store.read_with_deadline(graph_queries.list_graphs, namespace, query.after)
        content = b'{"graphs":[%b],"next":%b}' % (b",".join(page.rows), to_json(page.next))
        return Response(content, media_type="application/json")

    @delete(NS + "/graph/{graph}", "Delete a graph with its runs", GRAPHS, operations.DeletedGraph)
    async def delete_graph(
        self, caller: Caller, namespace: str, graph: str, query: operations.DeletionQuery
    ) -> object:
        deleted, cancelled = await self._service.delete_graph(
            caller, namespace, graph, cancel_runs=query.cancel_runs
        )
        return operations.DeletedGraph(
            namespace=namespace, graph_name=graph, deleted_runs=deleted, cancelled_runs=cancelled
        )

    @post(NS + "/graph/{graph}/trigger", "Start a run, once for an id or a key", TRIGGER, TriggerReply)
    async def trigger(self, caller: Caller, namespace: str, graph: str, body: NativeTriggerRequest) -> object:
        started = await self._store.write_as(
            caller, triggers.trigger, namespace, graph, _new_run(body), self._service.cipher
        )
        return {"status": StateStatus.CREATED, "run_id": started.run_id, "created": started.created}

    @post(
        NS + "/graph/{graph}/runs",
        "Start many runs",
        TRIGGER,
        TriggerManyReply,
        body=dict[str, list[NativeTriggerRequest]],
    )
    async def trigger_many(self, request: Request, caller: Caller, namespace: str, graph: str) -> object:
        parse = partial(parse_entries, name="runs", model=NativeTriggerRequest)
        entries = await body_reader(request).parse(request, parse)
        runs = [_new_run(entry) for entry in entries]
        try:
            started = await self._store.write_as(
                caller, triggers.trigger_many, namespace, graph, runs, self._service.cipher
            )
        except EntriesRefused as refusal:
            raise entries_refused(refusal, "runs") from None
        ids, created = [run.run_id for run in started], [run.created for run in started]
        return {"run_ids": ids, "created": created}

    @get(NS + "/run/{run_id}", "Show a run, at once or when it has ended", READ, Run)
    async def run(self, request: Request, namespace: str, run_id: str, query: RunQuery) -> object:
        max_wait = max_wait_of(request, query.wait_ms)
        run = None
        if max_wait > 0:
            show = show_run_once_ended
            with while_valid(request.scope), while_connected(request.scope, max_wait + CLAIM_LIMIT):
                run = await self._store.write_once_ready(max_wait, show, namespace, run_id)
        return run or await self._store.read(show_run, namespace, run_id, reasons=max_wait <= 0)

    @post(NS + "/run/{run_id}/cancel", "Cancel a run", GRAPHS, Run)
    async def cancel(self, caller: Caller, namespace: str, run_id: str) -> object:
        await self._store.write_as(caller, runs_engine.cancel, namespace, run_id)
        return await self._store.read(show_run, namespace, run_id)

    @post(NS + "/run/{run_id}/priority", "Change the priority of a run", GRAPHS, Run)
    async def set_priority(
        self, caller: Caller, namespace: str, run_id: str, body: PriorityRequest
    ) -> object:
        to_move = await self._store.write_as(
            caller, runs_engine.set_priority, namespace, run_id, body.priority
        )
        return {**await self._store.read(show_run, namespace, run_id), "to_move": to_move}

    @post(
        NS + "/run/{run_id}/repin", "Let a run need another version of the code", GRAPHS, operations.Repinned
    )
    async def repin(
        self, caller: Caller, namespace: str, run_id: str, body: operations.RepinRequest
    ) -> object:
        return await self._store.write_as(caller, pinning.repin, namespace, run_id, body.version)

    @post(
        NS + "/version/{version}/repin",
        "Let the runs in flight of a version of the code need another one",
        GRAPHS,
        operations.RepinnedRuns,
    )
    async def repin_all(
        self, caller: Caller, namespace: str, version: str, body: operations.RepinAllRequest
    ) -> object:
        done = operations.RepinnedRuns(repinned=[], refused=[])
        of_version = namespace, version, body.after, REPINNED_AT_ONCE
        runs = await self._store.read(pinning.runs_of_version, *of_version)
        for number, run_id in runs:
            done.next = number if len(runs) == REPINNED_AT_ONCE else None
            try:
                moved = await self._store.write_as(caller, pinning.repin, namespace, run_id, body.version)
                done.repinned.append(moved)
            except Conflict as refusal:
                done.refused.append(operations.RefusedRun(run_id=run_id, reason=refusal.detail))
            except NotFound:
                pass  # it was deleted meanwhile
        return done

    @post(NS + "/run/{run_id}/retry", "Retry the failed states of a run", GRAPHS, operations.RunRetry)
    async def retry(
        self, caller: Caller, namespace: str, run_id: str, body: operations.RetryRunRequest
    ) -> object:
        return await self._store.write_as(
            caller, retries.retry_run, namespace, run_id, body.request_id, from_beginning=body.from_beginning
        )

    @get(NS + "/runs", "Search runs", READ, operations.RunPage)
    async def runs(self, namespace: str, query: operations.RunsQuery) -> object:
        return await self._store.read_with_deadline(run_queries.list_runs, namespace, query)

    @get(NS + "/states", "Search states", READ, operations.StatePage)
    async def states(self, namespace: str, query: operations.StatesQuery) -> object:
        return await self._store.read_with_deadline(state_queries.list_states, namespace, query)

    @get(NS + "/state/{state_id}", "Show the history of a state", READ, StateHistory)
    async def state(self, namespace: str, state_id: str) -> object:
        return await self._store.read_with_deadline(show_history, namespace, state_id)

    @post(NS + "/run/{run_id}/events", "Send an event to a run", GRAPHS, SentEvent)
    async def send_event(self, caller: Caller, namespace: str, run_id: str, body: EventRequest) -> object:
        return await self._store.write_as(caller, sending.send, namespace, run_id, body.name, body.value)

    @get(NS + "/run/{run_id}/events", "Show events, and what the run waits for", READ, RunEvents)
    async def events(self, namespace: str, run_id: str) -> object:
        return await self._store.read_with_deadline(show_events, namespace, run_id)

    @post(NS + "/run/{run_id}/event-link", "Make a link that sends one event", GRAPHS, EventLinkReply)
    async def make_link(self, caller: Caller, namespace: str, run_id: str, body: EventLinkRequest) -> object:
        until, cipher = moment_ms(body.until), self._service.cipher
        link = await self._store.write_as(
            caller, make_event_link, cipher, namespace, run_id, body.name, body.value, until
        )
        return {"path": f"{EVENT_PATH}?link={link}"}


def _new_run(entry: NativeTriggerRequest) -> NewRun:
    return NewRun(
        inputs=entry.inputs,
        store=entry.store,
        start_delay_ms=entry.start_delay,
        run_id=entry.run_id,
        key=entry.key,
        trace=entry.trace,
        priority=LEVELS[entry.priority],
        share=share_of(entry.weight),
        fair_key=entry.fair_key,
    )
