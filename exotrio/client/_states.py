"""The calls of the public client about states: list, read, retry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload
from uuid import uuid4

from exotrio._fields.models import HasOutputs, M
from exotrio._util.error_message import message_line
from exotrio._wire.operations import (
    MAX_PAGE,
    RefusedState,
    RetriedState,
    RetryRunRequest,
    RunRetry,
    StatePage,
    StatesQuery,
    StateSummary,
)
from exotrio._wire.runs import Run
from exotrio._wire.states import StateHistory
from exotrio._wire.v0 import StateDetail, StateRetry
from exotrio._wire.vocabulary import FAILED, StateStatus, is_state_id
from exotrio.client._calls import checked_query
from exotrio.client._runs import RunCalls
from exotrio.errors import FieldsInvalid, ManagerUnavailable, NotFound, RequestRefused
from exotrio.graph.references import AddedNode, NodeOfRun, place_of, read_outputs

T = TypeVar("T")


class StateCalls(RunCalls):
    """The calls about states."""

    async def states(
        self,
        *,
        run: str | None = None,
        graph: str | None = None,
        node: str | None = None,
        identifier: str | None = None,
        status: StateStatus | Sequence[StateStatus] = (),
        outputs: bool = False,
        limit: int = 100,
        before: str | None = None,
    ) -> StatePage:
        """Return states that match, newest first. Without ``run`` it needs our server.

        They are those of the namespace's runs, and in runs of other namespaces those of its nodes.

        Args:
            node: Only of this registered node.
            identifier: Only of this place of the graph; needs ``run`` or ``graph``.
            status: Only with this status, or with one of these.
            outputs: With the outputs of each. Defaults to False. Through v0 they are left out.
            limit: Maximum number of states in the page, up to 1,000.
            before: ``next`` of the page before, for the following one.
        """
        statuses = [status] if isinstance(status, str) else list(status)
        filters = {"run": run, "graph": graph, "node": node, "identifier": identifier, "status": statuses}
        query = checked_query(StatesQuery, **filters, outputs=outputs, limit=limit, before=before)
        return await self._calls.prefer_native(
            lambda: self._filled_page(query), lambda: self._states_of_run(query)
        )

    @overload
    async def outputs(self, run: Run | str, node: str) -> list[dict[str, Any]]: ...
    @overload
    async def outputs(self, run: Run | str, node: AddedNode[T]) -> list[T]: ...
    @overload
    async def outputs(self, run: Run | str, node: type[HasOutputs[M]]) -> list[M]: ...
    @overload
    async def outputs(self, run: Run | str, node: type) -> list[Any]: ...

    async def outputs(self, run: Run | str, node: NodeOfRun) -> list[Any]:
        """Return the outputs of one node of a run's graph: those of each state that succeeded, oldest first.

        An attempt that was made after another one failed is a later state.
        There may be more while the run goes on; ``wait`` waits for its end. Through v0 there is a request for
        each state.

        Args:
            run: The run, as ``wait`` returns it, or its id.
            node: What ``graph.add`` returned; or its class, if it is once in the graph; or its identifier.

        Returns:
            For each state an ``Outputs`` of the node's class; a dict of texts if the class is not known,
            since the node was added, or is named here, by its name.

        Raises:
            NotFound: there is no such run, or its graph has no such node.
            ConfigurationError: several nodes of the graph are of this class.
            FieldsInvalid: the outputs of a state do not fit the class, which has changed since, perhaps.
        """
        run_id = run if isinstance(run, str) else run.run_id
        owner = f"run {run_id}"
        identifier = node if isinstance(node, str) else place_of(node, await self._places(run_id), owner)
        all_outputs: list[Any] = []
        before, more = None, True
        while more:
            page = await self.states(
                run=run_id, identifier=identifier, status=StateStatus.SUCCESS, outputs=True,
                limit=MAX_PAGE, before=before,
            )  # fmt: skip
            for each in page.states:
                outputs = each.outputs
                if outputs is None:
                    outputs = (await self.state(each.graph_name, run_id, each.id)).outputs
                try:
                    all_outputs.append(read_outputs(node, outputs))
                except FieldsInvalid as error:
                    raise FieldsInvalid(f"state {each.id}: {error.what}", error.problems) from None
            before, more = page.next, page.next is not None
        if not all_outputs and isinstance(node, str):
            place_of(node, await self._places(run_id), owner)
        return all_outputs[::-1]

    async def _places(self, run_id: str) -> dict[str, str]:
        """Return the identifier of each node of a run's graph, with the name of its class."""
        run = await self.status(run_id)
        if await self._calls.is_native():
            return {node.identifier: node.node_name for node in run.nodes}
        # Its nodes are only those that have states.
        nodes = (await self.get_graph(run.graph_name))["nodes"]
        return {node["identifier"]: node["node_name"] for node in nodes}

    async def state(self, graph: str, run_id: str, state_id: str) -> StateDetail:
        """Return one state in full: inputs, outputs, error, parents."""
        path = self._calls.v0("graph", graph, "run", run_id, "node", state_id)
        with _not_found_if_malformed(state_id):
            return await self._calls.fetch(StateDetail, "GET", path)

    async def history(self, state_id: str) -> StateHistory:
        """Return one state, found by its id alone, with its history. Needs our server.

        The history has the last claim and who holds the state now; lost leases, releases and other events;
        and all attempts.
        """
        return await self._calls.fetch_native(StateHistory, "GET", ("state", state_id))

    async def manual_retry(
        self, state_id: str, fanout_id: str | None = None, *, from_beginning: bool = False
    ) -> StateRetry:
        """Run a state that failed or was pruned once more, as a new state.

        At our server, nodes that united it, and ran without it, run again with all that follows them:
        ``history(state_id).runs_again`` names them beforehand.

        Args:
            fanout_id: Makes the request unique: with the same id it is refused the second time.
                Defaults to a new UUID.
            from_beginning: Do not continue from the state's checkpoint, if it has one
                (``history(state_id).checkpoint``); it is erased. Defaults to False.

        Returns:
            The new state's id and status.

        Raises:
            RequestRefused: it cannot be retried, or was already (409).
            ManagerUnavailable: no usable answer; repeat it with the same ``fanout_id``.

        Cancellation:
            The retry may have been created all the same.
        """
        path = self._calls.v0("state", state_id, "manual-retry")
        request: dict[str, object] = {"fanout_id": str(uuid4()) if fanout_id is None else fanout_id}
        if from_beginning:  # a server that does not know it stores no checkpoints
            request["from_beginning"] = True
        with _not_found_if_malformed(state_id):
            return await self._calls.repeat(
                lambda: self._calls.http.fetch(StateRetry, "POST", path, body=request), sent=False
            )

    async def retry_run(self, run_id: str, *, from_beginning: bool = False) -> RunRetry:
        """Retry every failed state of a run (ERRORED, NEXT_CREATED_ERROR), each as ``manual_retry`` does.

        Our server retries them together, and no state twice, even if the request has to be
        repeated. Nodes that united one of them, and ran without it, run again with all that follows them. At
        any other server the states are retried one after the other, and nothing else runs again.

        Args:
            from_beginning: Continue no state from its checkpoint; those are erased. Defaults to False.

        Returns:
            The states that were retried, each with its new state; those that were refused (for example a
            united node whose inputs still cannot be built), each with the reason; and what runs again. Of
            more than 500 failed states, how many others follow these soon, in portions.

        Raises:
            RequestRefused: it was cancelled, or has no failed states (409).

        Cancellation:
            States may have been retried all the same.
        """
        # Chosen once, so that repeating the request retries nothing twice.
        request = RetryRunRequest(request_id=str(uuid4()), from_beginning=from_beginning)
        path = self._calls.native("run", run_id, "retry")
        return await self._calls.prefer_native(
            lambda: self._calls.fetch(RunRetry, "POST", path, body=request),
            lambda: self._retry_each(run_id, request.request_id),
        )

    async def _retry_each(self, run_id: str, request_id: str) -> RunRetry:
        failed = [state for state in (await self.run(run_id)).nodes if state.status in FAILED]
        if not failed:
            raise RequestRefused(f"the run {run_id} has no failed states", status=409)
        reply = RunRetry(retried=[], refused=[])
        for state in failed:
            try:
                # With the id of the state: a stock server accepts one id only once for all states of a node.
                new = await self.manual_retry(state.id, f"{request_id}:{state.id}")
            except (NotFound, RequestRefused) as refusal:
                reply.refused.append(RefusedState(state_id=state.id, reason=refusal.what))
            else:
                reply.retried.append(RetriedState(state_id=state.id, new_state_id=new.id, status=new.status))
        return reply

    async def _filled_page(self, query: StatesQuery) -> StatePage:
        """Repeat the request until the page is full, since each searches a limited number of states."""
        states: list[StateSummary] = []
        limit = query.limit
        while True:
            page = await self._calls.fetch(StatePage, "GET", self._calls.native("states", query=query))
            states += page.states
            left = limit - len(states)
            # The same cursor twice would be requested without end.
            if left <= 0 or page.next in (None, query.before):
                return StatePage(states=states, next=page.next)
            query = query.model_copy(update={"before": page.next, "limit": left})

    async def _states_of_run(self, query: StatesQuery) -> StatePage:
        if query.run is None:
            self._calls.refuse_v0("states cannot be listed across runs", "name one run")
        graph = await self.run(query.run)
        matching = [
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
        ids = [state.id for state in matching]
        begin = ids.index(query.before) + 1 if query.before in ids else 0
        page = matching[begin : begin + query.limit]
        return StatePage(states=page, next=page[-1].id if matching[begin + query.limit :] else None)


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
