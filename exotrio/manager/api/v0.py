"""Routes of the v0 API: what stock runtimes, the stock client and the stock dashboard call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import trio
from pydantic_core import to_json
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from exotrio._util.words import plural
from exotrio._wire import v0
from exotrio._wire.graphs import CancelledTriggers, GraphReply, GraphRequest, GraphsReply
from exotrio._wire.native import ErroredItem, ExecutedItem, ItemAnswer, OutcomeItem, PrunedItem, RequeuedItem
from exotrio._wire.vocabulary import (
    LEASE_HEADER,
    MAX_BATCH,
    NATIVE_HEADER,
    NATIVE_VERSION,
    ItemResult,
    StateStatus,
)
from exotrio.manager.api.bodies import body_reader, masked
from exotrio.manager.api.json import ClaimReply, in_time, parse_model, path_int, reply
from exotrio.manager.api.releases import warn_of_broken_runs
from exotrio.manager.api.routing import (
    ANY_KEY,
    GRAPHS,
    OPEN,
    READ,
    RUNTIME,
    TRIGGER,
    Endpoints,
    delete,
    get,
    post,
    put,
)
from exotrio.manager.engine import claims, outcomes, retries, runs, schedules, triggers
from exotrio.manager.engine import graphs as graphs_engine
from exotrio.manager.engine import nodes as nodes_engine
from exotrio.manager.engine.claim_replies import V0_FIELDS
from exotrio.manager.queries import graphs as graph_queries
from exotrio.manager.queries import runs as run_queries
from exotrio.manager.queries.paging import Page
from exotrio.manager.queries.run import show_run_graph
from exotrio.manager.queries.state_detail import show_state
from exotrio.manager.rules.access import Caller, Permission
from exotrio.manager.rules.errors import InvalidRequest, NotFound
from exotrio.manager.security.access import LOCAL, EndsWithKey, owner_of
from exotrio.manager.service import Service
from exotrio.manager.store.view import View

MAX_COMPARING = 5.0
"""Seconds that a registration waits to be compared with the runs in flight."""

NS = "/v0/namespace/{namespace}"


def _joined(page: Page[bytes]) -> bytes:
    return b",".join(page.rows)


class V0(Endpoints):
    """``native``: whether the native API is served, too."""

    def __init__(self, service: Service, *, native: bool) -> None:
        super().__init__(service)
        self._of_nodes = {NATIVE_HEADER: NATIVE_VERSION} if native else {}

    @get("/health", "Say that the process serves", OPEN)
    async def health(self) -> object:
        return {"message": "OK"}

    # -- nodes and graphs

    @put(NS + "/nodes", "Register nodes", RUNTIME, v0.RegisterReply)
    async def register(self, caller: Caller, namespace: str, body: v0.RegisterRequest) -> Response:
        former = await self._store.write(nodes_engine.register, namespace, body, caller.key)
        shown = v0.RegisterReply(runtime_name=body.runtime_name, registered_nodes=body.nodes)
        warn = partial(warn_of_broken_runs, self._store, caller, namespace, body.runtime_name, former)
        later = BackgroundTask(warn) if former else None
        if former and body.wants_broken_runs:
            with trio.move_on_after(MAX_COMPARING):
                if broken := await warn():
                    shown.broken_runs = broken
                later = None
        # As plain data: before pydantic 2.14 a nested model whose build is deferred has no serializer yet.
        answer = reply(shown.model_dump(exclude_unset=True))
        answer.background = later
        return answer

    @get(NS + "/nodes", "List registered nodes", READ, v0.NodesReply)
    async def list_nodes(self, namespace: str) -> Response:
        nodes = await self._store.read_with_deadline(graph_queries.list_nodes, namespace)
        answer = reply({"namespace": namespace, "count": len(nodes), "nodes": nodes})
        answer.headers.update(self._of_nodes)
        return answer

    @get("/v0/namespaces", "List namespaces that have registered nodes", ANY_KEY)
    async def list_namespaces(self, caller: Caller) -> object:
        names = await self._store.read_with_deadline(graph_queries.list_namespaces)
        namespaces = [name for name in names if caller.may(Permission.READ, name)]
        return {"namespaces": namespaces, "count": len(namespaces)}

    @put(
        NS + "/graph/{graph}", "Create or replace a graph", GRAPHS, GraphReply, body=GraphRequest, status=201
    )
    async def upsert_graph(self, request: Request, caller: Caller, namespace: str, graph: str) -> object:
        body = await body_reader(request).read(request)
        now_ms = await self._store.read(lambda view: view.now_ms)
        new = await self._store.compute(
            lambda: graphs_engine.prepare(
                namespace, graph, parse_model(body, GraphRequest), self._service.cipher, now_ms
            )
        )
        for place in new.template.places:
            caller.require(Permission.GRAPHS, place.namespace)
        shown = await self._store.write_as(caller, graphs_engine.upsert, namespace, graph, new)
        self._service.scheduler.notify()
        return shown

    @get(NS + "/graph/{graph}", "Show a graph", READ, GraphReply)
    async def get_graph(self, namespace: str, graph: str) -> object:
        return await self._store.read(graphs_engine.get_graph, namespace, graph)

    @get(NS + "/graphs", "List graphs", READ, GraphsReply)
    async def list_graphs(self, namespace: str) -> Response:
        def begin(view: View) -> tuple[int, Page[bytes]]:
            return graph_queries.count_graphs(view, namespace), graph_queries.list_graphs(view, namespace)

        count, first = await self._store.read_with_deadline(begin)
        begun = b'{"namespace":%b,"count":%d,"templates":[%b' % (to_json(namespace), count, _joined(first))
        if first.next is None:
            return Response(begun + b"]}", media_type="application/json")
        # A long list is never in memory as a whole. A graph is listed as it was when its page was read.
        rest = self._graphs(namespace, begun, first.next)
        return EndsWithKey(StreamingResponse(rest, media_type="application/json"))

    async def _graphs(self, namespace: str, begun: bytes, after: str | None) -> AsyncIterator[bytes]:
        yield begun
        while after is not None:
            page = await self._store.read_with_deadline(graph_queries.list_graphs, namespace, after)
            after = page.next
            if page.rows:
                yield b"," + _joined(page)
        yield b"]}"

    @post(NS + "/graph/{graph}/trigger", "Start a run", TRIGGER, v0.TriggerReply)
    async def trigger(self, caller: Caller, namespace: str, graph: str, body: v0.TriggerRequest) -> object:
        run = triggers.NewRun(
            inputs=body.inputs, store=body.store, start_delay_ms=body.start_delay, key=body.key
        )
        started = await self._store.write_as(caller, triggers.trigger, namespace, graph, run)
        of_key = {} if body.key is None else {"created": started.created}
        return {"status": StateStatus.CREATED, "run_id": started.run_id, **of_key}

    @delete(
        NS + "/graph/{graph}/triggers",
        "Cancel the cron triggers of a graph until it is put again",
        GRAPHS,
        CancelledTriggers,
    )
    async def cancel_triggers(self, caller: Caller, namespace: str, graph: str) -> object:
        # The stock project has a proposal for this route; no release contains it.
        count = await self._store.write_as(caller, schedules.cancel_schedules, namespace, graph)
        message = f"{plural(count, 'trigger')} cancelled" if count else "no trigger was scheduled"
        return CancelledTriggers(
            namespace=namespace, graph_name=graph, cancelled_count=count, message=message
        )

    # -- states

    @post(NS + "/states/enqueue", "Claim states, without a lease", RUNTIME)
    async def claim(self, request: Request, namespace: str, body: v0.ClaimRequest) -> Response:
        limit = min(body.batch_size, MAX_BATCH)
        claimer = self._service.claimer(local=LOCAL in request.scope, owner=owner_of(request.scope))
        limits = dict.fromkeys(body.nodes, limit)

        async def claim() -> claims.Claimed:
            await self._service.polled(namespace, None, body.nodes)
            return await self._store.write(claims.claim, namespace, limits, limit, claimer)

        claimed = await in_time(claim())
        return ClaimReply(
            {
                "count": len(claimed.states),
                "namespace": namespace,
                "status": StateStatus.QUEUED,
                "states": [{name: state[name] for name in V0_FIELDS} for state in claimed.states],
            },
            undo=claimed.undo and partial(self._store.write_later, claimed.undo),
        )

    @post(NS + "/state/{state_id}/executed", "Report outputs of a state", RUNTIME, v0.OutcomeReply)
    async def executed(
        self, request: Request, namespace: str, state_id: str, body: v0.ExecutedRequest
    ) -> object:
        # What was parsed is not validated again: there may be 200,000 outputs.
        item = ExecutedItem.model_construct(state_id=state_id, token="", outputs=body.outputs)
        await self._record(request, namespace, item)
        return {"status": StateStatus.EXECUTED}

    @post(NS + "/state/{state_id}/errored", "Report an error of a state", RUNTIME, v0.OutcomeReply)
    async def errored(
        self, request: Request, namespace: str, state_id: str, body: v0.ErroredRequest
    ) -> object:
        item = ErroredItem(state_id=state_id, token="", error=body.error)
        recorded, _ = await self._record(request, namespace, item)
        after_error = recorded.get("after_error")
        retried = after_error is not None and after_error.retried
        return {"status": StateStatus.ERRORED, "retry_created": retried}

    @post(NS + "/state/{state_id}/prune", "End a branch at a state", RUNTIME, v0.OutcomeReply)
    async def prune(self, request: Request, namespace: str, state_id: str, body: v0.PruneRequest) -> object:
        item = PrunedItem(state_id=state_id, token="", data=body.data)
        _, enqueue_after = await self._record(request, namespace, item, repeatable=True)
        return {"status": StateStatus.PRUNED, "enqueue_after": enqueue_after}

    @post(
        NS + "/state/{state_id}/re-enqueue-after",
        "Run a state again after some milliseconds",
        RUNTIME,
        v0.OutcomeReply,
    )
    async def requeue(
        self, request: Request, namespace: str, state_id: str, body: v0.RequeueRequest
    ) -> object:
        item = RequeuedItem(state_id=state_id, token="", delay_ms=body.enqueue_after)
        _, enqueue_after = await self._record(request, namespace, item, repeatable=True)
        return {"status": StateStatus.CREATED, "enqueue_after": enqueue_after}

    async def _record(
        self, request: Request, namespace: str, item: OutcomeItem, *, repeatable: bool = False
    ) -> tuple[ItemAnswer, int]:
        """Record an outcome, as ``record_v0`` does; a repeated one is refused unless ``repeatable``.

        A stock runtime repeats a prune or re-enqueue whose reply was lost, and ends if that is refused.
        """
        (item,) = await masked(self._service, [item])
        recorded, at = await self._store.write(outcomes.record_v0, namespace, item, owner_of(request.scope))
        if recorded["result"] is ItemResult.UNKNOWN:
            raise NotFound(recorded.get("detail") or "there is no such state")
        if recorded["result"] is ItemResult.OK or (repeatable and recorded["result"] is ItemResult.DUPLICATE):
            return recorded, at
        raise InvalidRequest(recorded.get("detail") or "this outcome was already recorded")

    @post(NS + "/state/{state_id}/manual-retry", "Retry a state that ended badly", GRAPHS, v0.StateRetry)
    async def manual_retry(
        self, caller: Caller, namespace: str, state_id: str, body: v0.ManualRetryRequest
    ) -> object:
        done = await self._store.write_as(
            caller,
            retries.retry_by_hand,
            namespace,
            state_id,
            body.fanout_id,
            from_beginning=body.from_beginning,
        )
        return {"id": done.retried[0].new_state_id, "status": StateStatus.CREATED}

    @get(
        NS + "/state/{state_id}/secrets",
        "Give the holder of a state the secrets of its node",
        RUNTIME,
        v0.SecretsReply,
    )
    async def secrets(self, request: Request, namespace: str, state_id: str) -> object:
        token = request.headers.get(LEASE_HEADER)
        owner, graph, ciphertexts = await self._store.read(
            runs.secrets_of, namespace, state_id, token, owner_of(request.scope)
        )
        secrets = {
            name: self._service.cipher.decrypt(text, namespace=owner, graph=graph, name=name)
            for name, text in ciphertexts.items()
        }
        return {"secrets": secrets}

    # -- runs

    @get(NS + "/runs/{page}/{size}", "List runs, newest first", READ, v0.RunList)
    async def list_runs(self, namespace: str, page: str, size: str) -> object:
        numbers = path_int("page", page), path_int("size", size)
        return await self._store.read_with_deadline(run_queries.list_runs_v0, namespace, *numbers)

    @get(NS + "/states/run/{run_id}/graph", "Show the states of a run", READ, v0.RunGraph)
    async def run_graph(self, namespace: str, run_id: str) -> object:
        return await self._store.read_with_deadline(show_run_graph, namespace, run_id)

    @get(NS + "/graph/{graph}/run/{run_id}/node/{state_id}", "Show a state", READ, v0.StateDetail)
    async def state(self, namespace: str, graph: str, run_id: str, state_id: str) -> object:
        return await self._store.read_with_deadline(show_state, namespace, graph, run_id, state_id)
