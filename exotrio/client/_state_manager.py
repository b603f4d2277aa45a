"""``StateManager``: the public client, with the stock SDK's calls and some of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload
from uuid import uuid4

from pydantic import BaseModel, ValidationError

from exotrio._http.endpoint import resolve_endpoint, version_problems
from exotrio._util.words import readable_errors
from exotrio._wire.checkup import Checkup
from exotrio._wire.graphs import GraphBody, GraphInfo, GraphsReply
from exotrio._wire.native import Run
from exotrio._wire.operations import (
    RunPage,
    RunRetry,
    RunsQuery,
    StateHistory,
    StatePage,
    StatesQuery,
)
from exotrio._wire.overview import ExportQuery, Overview, OverviewQuery
from exotrio._wire.runtimes import RuntimeList
from exotrio._wire.v0 import (
    NodesReply,
    RegisteredNode,
    RunGraph,
    RunList,
    StateDetail,
    StateRetry,
)
from exotrio._wire.vocabulary import RunStatus, StateStatus
from exotrio.client import _backup, _graphs, _operations, _runs
from exotrio.client._calls import Calls
from exotrio.errors import ConfigurationError
from exotrio.graph import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, check_name

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import httpx

M = TypeVar("M", bound=BaseModel)


class StateManager:
    """Talk to a state manager: declare graphs, start runs, look at them.

    The calls of the stock SDK's class keep their names, arguments and results, so that changing
    the import is the migration. All calls work from Trio and from asyncio, also from several event loops.

    Use it as ``async with StateManager(...) as manager``, or plainly and call ``aclose`` at the end.

    Args:
        namespace: Namespace of the graphs and runs.
        state_manager_uri: Base URI. Defaults to ``EXOSPHERE_STATE_MANAGER_URI``.
        key: API key. Defaults to ``EXOSPHERE_API_KEY``.
        state_manager_version: Only ``"v0"`` exists.
        transport: Way to a state manager in this process, from ``exotrio.manager.embedded``;
            then no URI and no key are needed.

    Raises:
        ConfigurationError: something is missing or unusable; every problem is named.
    """

    def __init__(
        self,
        namespace: str,
        state_manager_uri: str | None = None,
        key: str | None = None,
        state_manager_version: str = "v0",
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        endpoint, problems = resolve_endpoint(state_manager_uri, key, transport)
        problems += version_problems(state_manager_version)
        try:
            if not check_name(namespace):
                problems.append("the namespace is empty")
        except ValueError as error:
            problems.append(f"the namespace {error}")
        if problems or endpoint is None:
            raise ConfigurationError("the state manager cannot be addressed", problems)
        self._calls = Calls(endpoint, namespace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of the event loop it is called in. Safe to call twice.

        A later call opens new ones. What is not closed is closed when its event loop ends.
        """
        await self._calls.http.aclose()

    # -- as in the stock SDK

    async def trigger(
        self,
        graph_name: str,
        inputs: dict[str, str] | None = None,
        store: dict[str, str] | None = None,
        start_delay: int = 0,
        *,
        run_id: str | None = None,
    ) -> dict[str, Any]:
        """Start a run of a graph.

        One that a stock server is still validating is waited for, up to 60 s.

        Args:
            graph_name: The graph.
            inputs: Inputs of its first node, in place of those in the graph.
            store: The run's store.
            start_delay: Milliseconds before the run starts (milliseconds as in the stock SDK).
            run_id: A UUID for the run: asking again with the same one starts no second run. A state manager
                that speaks only v0 gives it another. Defaults to None: a new one is made.

        Returns:
            The reply: ``{"status": "CREATED", "run_id": ...}``.

        Raises:
            NotFound: there is no such graph.
            RequestRefused: the graph is not valid, or inputs or store do not fit it.
            ManagerUnavailable: no usable answer. Not repeated on a v0 server once it was sent, since
                that could start a second run: look at ``runs`` before trying again.
            KeyRefused: the key is wrong.

        Cancellation:
            The run may have been started all the same.
        """
        # Unchecked: the server says what is wrong with the values, and where.
        request = {"start_delay": start_delay, "inputs": inputs or {}, "store": store or {}}
        return await _graphs.trigger(self._calls, graph_name, request, run_id)

    async def get_graph(self, graph_name: str) -> dict[str, Any]:
        """Return a graph as the state manager has it, with its ``validation_status``.

        Raises:
            NotFound: there is no such graph.
            ManagerUnavailable: no usable answer, after some tries.
            KeyRefused, RequestRefused: as they say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _graphs.get_graph(self._calls, graph_name)

    @overload
    async def upsert_graph(
        self,
        graph_name: Graph,
        *,
        validation_timeout: float = 60,
        polling_interval: float = 1,
    ) -> dict[str, Any]: ...

    @overload
    async def upsert_graph(
        self,
        graph_name: str,
        graph_nodes: Sequence[GraphNodeModel],
        secrets: dict[str, str],
        retry_policy: RetryPolicyModel | None = None,
        store_config: StoreConfigModel | None = None,
        triggers: Sequence[CronTrigger] | None = None,
        validation_timeout: float = 60,
        polling_interval: float = 1,
    ) -> dict[str, Any]: ...

    async def upsert_graph(
        self,
        graph_name: str | Graph,
        graph_nodes: Sequence[GraphNodeModel] | None = None,
        secrets: dict[str, str] | None = None,
        retry_policy: RetryPolicyModel | None = None,
        store_config: StoreConfigModel | None = None,
        triggers: Sequence[CronTrigger] | None = None,
        validation_timeout: float = 60,
        polling_interval: float = 1,
    ) -> dict[str, Any]:
        """Create or replace a graph and wait until it is validated.

        Args:
            graph_name: Name of the graph; or a ``Graph``, which holds all but the last two.
            graph_nodes: Its nodes.
            secrets: Secret name to value; replaces all secrets of the graph.
            retry_policy: Defaults to the state manager's.
            store_config: Defaults to an empty store.
            triggers: Cron triggers. Defaults to none.
            validation_timeout: Seconds to wait for the validation.
            polling_interval: Seconds between two looks at it.

        Returns:
            The validated graph as the state manager shows it.

        Raises:
            GraphInvalid: the graph breaks rules; ``problems`` names each.
            ManagerUnavailable: no usable answer, or no result of the validation in time.
            KeyRefused, NotFound, RequestRefused: as they say.

        Cancellation:
            The graph may have been replaced all the same.
        """
        if isinstance(graph_name, Graph):
            parts = (graph_nodes, secrets, retry_policy, store_config, triggers)
            if any(part is not None for part in parts):
                raise TypeError("a Graph holds its nodes, secrets, policy, store and triggers: pass it alone")
            name, body = graph_name.name, GraphBody.of(graph_name)
        elif graph_nodes is None or secrets is None:
            raise TypeError("upsert_graph needs a Graph, or a name with graph_nodes and secrets")
        else:
            name = graph_name
            body = _graphs.graph_body(name, graph_nodes, secrets, retry_policy, store_config, triggers)
        return await _graphs.upsert_graph(
            self._calls,
            name,
            body,
            validation_timeout=validation_timeout,
            polling_interval=polling_interval,
        )

    # -- ours: nodes and graphs

    async def nodes(self) -> list[RegisteredNode]:
        """Return the node classes registered in the namespace.

        Raises:
            ManagerError: as its subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return (await self._calls.fetch_list(NodesReply, "nodes", "")).nodes

    async def graphs(self) -> list[GraphInfo]:
        """Return the graphs of the namespace, each as its next runs will use it; secrets by name only.

        Raises:
            ManagerError: as its subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return (await self._calls.fetch_list(GraphsReply, "graphs", "")).templates

    # -- ours: what happens

    async def overview(self, *, runs: int = 10) -> Overview:
        """Return what happens in the namespace: what runs, waits and failed, its nodes, runtimes, last runs.

        Args:
            runs: How many of the newest runs, up to 100.

        Raises:
            RequestRefused: the server speaks only v0.
            ConfigurationError: an argument is out of range.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _operations.overview(self._calls, _query(OverviewQuery, runs=runs))

    async def checkup(self) -> Checkup:
        """Return how the state manager is: its claims by node, lost leases, database and clock.

        Raises:
            RequestRefused: the server speaks only v0.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _operations.checkup(self._calls)

    # -- ours: runs

    async def runs(self, page: int = 1, size: int = 20) -> RunList:
        """Return one page of the namespace's runs, newest first.

        Args:
            page: 1 for the first.
            size: Runs per page.

        Raises:
            ManagerError: as its subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await self._calls.fetch_list(RunList, "runs", page, size)

    async def run(self, run_id: str) -> RunGraph:
        """Return the states of a run and how they follow each other.

        Raises:
            NotFound: there is no such run, or none of its states is in this namespace.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _runs.run(self._calls, run_id)

    async def state(self, graph: str, run_id: str, state_id: str) -> StateDetail:
        """Return one state in full: inputs, outputs, error, parents.

        Raises:
            NotFound: there is no such state in that run of that graph.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _runs.state(self._calls, graph, run_id, state_id)

    async def status(self, run_id: str) -> Run:
        """Return how far a run is, with counts per place of the graph.

        On a v0 server it is derived from the run's states; ``created_at`` is None then.

        Raises:
            NotFound: there is no such run.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _runs.status(self._calls, run_id)

    async def wait(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        on_progress: Callable[[Run], None] | None = None,
    ) -> Run:
        """Wait until a run is no longer PENDING. A state manager that is away is waited for up to 60 s.

        Our own server answers the moment the run ends; any other one is asked again and again.

        Args:
            run_id: The run.
            timeout: Seconds to wait at most. Defaults to no limit.
            poll_interval: Longest seconds between two looks; the first ones are closer.
            on_progress: Called with the first status, and again whenever it changed.

        Returns:
            The run, with status SUCCESS or FAILED.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by; the run goes on.
            NotFound: there is no such run.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; the run goes on.
        """
        return await _runs.wait(
            self._calls, run_id, timeout=timeout, poll_interval=poll_interval, on_progress=on_progress
        )

    async def cancel(self, run_id: str) -> Run:
        """End a run: what waits is ended at once, running nodes are cancelled, nothing follows.

        Workers hear of it with their next heartbeat, within 20 s by default. Cancelling a run again
        changes nothing. Its states cannot be retried.

        Args:
            run_id: The run.

        Returns:
            The run as it is now; on v0 its ended states show as ERRORED with the error ``cancelled``.

        Raises:
            NotFound: there is no such run.
            RequestRefused: it has already ended (409); or the server speaks only v0, which cannot
                cancel.
            ManagerError: as its other subclasses say.

        Cancellation:
            The run may have been cancelled all the same.
        """
        return await _runs.cancel(self._calls, run_id)

    async def manual_retry(self, state_id: str, fanout_id: str | None = None) -> StateRetry:
        """Run a state that failed or was pruned once more, as a new state.

        Args:
            state_id: The state.
            fanout_id: Makes the request unique: with the same id it is refused the second time.
                Defaults to a new UUID.

        Returns:
            The new state's id and status.

        Raises:
            NotFound: there is no such state.
            RequestRefused: it cannot be retried, or was already (409).
            ManagerUnavailable: no usable answer; repeat it with the same ``fanout_id``.
            KeyRefused: the key is wrong.

        Cancellation:
            The retry may have been created all the same.
        """
        chosen = str(uuid4()) if fanout_id is None else fanout_id
        return await _runs.manual_retry(self._calls, state_id, chosen)

    async def retry_run(self, run_id: str) -> RunRetry:
        """Retry every failed state of a run (ERRORED, NEXT_CREATED_ERROR), each as ``manual_retry`` does.

        On our server all of them in one step, and no state twice, however often the request has to
        be repeated. On a v0 server one after the other.

        Args:
            run_id: The run.

        Returns:
            Which states were retried, each with the new state in its place, and which were refused
            (a united node whose inputs still cannot be built, say), each with the reason.

        Raises:
            NotFound: there is no such run.
            RequestRefused: it was cancelled, or has no failed states (409).
            ManagerError: as its other subclasses say.

        Cancellation:
            States may have been retried all the same.
        """
        return await _runs.retry_run(self._calls, run_id)

    async def find_runs(
        self,
        *,
        graph: str | None = None,
        status: RunStatus | None = None,
        since: datetime | None = None,
        limit: int = 100,
        before: str | None = None,
    ) -> RunPage:
        """Return runs that match, newest first. Needs our server; ``runs`` works on every one.

        Args:
            graph: Only of this graph.
            status: Only with this status.
            since: Only those that began then or later; a time with its zone.
            limit: Most runs of the page, up to 1,000.
            before: ``next`` of the page before, for the following one.

        Raises:
            NotFound: there is no such graph.
            RequestRefused: the server speaks only v0.
            ConfigurationError: an argument is out of range.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        query = _query(RunsQuery, graph=graph, status=status, since=since, limit=limit, before=before)
        return await _runs.find_runs(self._calls, query)

    async def export(self, run_id: str, *, values: bool = True) -> bytes:
        """Return a run as one HTML page that stands alone: to be kept, mailed, or put into a ticket.

        It holds the graph, the timeline, counts, errors, states, events and the store. It needs no
        other file, has no script and loads nothing. Of a large run it shows a part of the states, those
        that failed first, and says what is left out. Secrets of the graph are masked.

        Args:
            run_id: The run.
            values: With inputs, outputs and values of the store. Defaults to True.

        Returns:
            The page, in UTF-8.

        Raises:
            NotFound: there is no such run.
            RequestRefused: the server speaks only v0.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _operations.export(self._calls, run_id, ExportQuery(values=values))

    # -- ours: states

    async def states(
        self,
        *,
        run: str | None = None,
        graph: str | None = None,
        node: str | None = None,
        identifier: str | None = None,
        status: StateStatus | Sequence[StateStatus] = (),
        limit: int = 100,
        before: str | None = None,
    ) -> StatePage:
        """Return states that match, newest first. Without ``run`` it needs our server.

        Args:
            run: Only of this run.
            graph: Only of this graph.
            node: Only of this registered node.
            identifier: Only of this place of the graph; needs ``run`` or ``graph``.
            status: Only with this status, or with one of these.
            limit: Most states of the page, up to 1,000.
            before: ``next`` of the page before, for the following one.

        Raises:
            NotFound: there is no such run, graph or node.
            RequestRefused: the server speaks only v0, and no run was named.
            ConfigurationError: an argument is out of range.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        statuses = [status] if isinstance(status, str) else list(status)
        query = _query(
            StatesQuery,
            run=run,
            graph=graph,
            node=node,
            identifier=identifier,
            status=statuses,
            limit=limit,
            before=before,
        )
        return await _runs.states(self._calls, query)

    async def history(self, state_id: str) -> StateHistory:
        """Return one state, found by its id alone, with all that happened to it.

        That is: what ``state`` returns; its last claim and who holds it now; leases lost, hand-backs
        and other events; and the chain of its attempts.

        Raises:
            NotFound: there is no such state in the namespace.
            RequestRefused: the server speaks only v0.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _runs.history(self._calls, state_id)

    # -- ours: workers

    async def workers(self) -> RuntimeList:
        """Return who works in the namespace: each process with a runtime, and who asks through v0.

        Those heard of in the last ten minutes are listed, and those that stopped in the last one.
        ``busy`` and ``buffered`` are what a worker said last; ``holds`` is what the database knows.

        Raises:
            RequestRefused: the server speaks only v0.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await _operations.workers(self._calls)

    async def drain(self, worker_id: str) -> None:
        """Ask a worker to drain: to claim nothing more, let running nodes end, hand the rest back, and stop.

        It hears of that with its next heartbeat, within 20 s by default. Asking again changes nothing.
        ``workers`` shows how far it is.

        Args:
            worker_id: As ``workers`` has it.

        Raises:
            NotFound: nobody was heard of under this id.
            RequestRefused: the server speaks only v0, which cannot ask.
            ManagerError: as its other subclasses say.

        Cancellation:
            It may have been asked all the same.
        """
        await _operations.drain(self._calls, worker_id)

    async def tasks(self, worker_id: str, *, timeout: float = 60.0) -> str:
        """Return the tree of a worker's tasks, with the lines of code where each waits, as text.

        It comes with the worker's next heartbeat, within 20 s by default.

        Args:
            worker_id: As ``workers`` has it.
            timeout: Seconds to wait at most.

        Raises:
            trio.TooSlowError, in asyncio TimeoutError: ``timeout`` seconds went by.
            NotFound: nobody was heard of under this id.
            RequestRefused: it was not started with ``--health-tasks`` or ``Runtime.show_tasks`` (409); or
                the server speaks only v0.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; the worker may still send it.
        """
        return await _operations.tasks(self._calls, worker_id, timeout)

    # -- ours: the database

    async def backup(self, path: str | Path, *, overwrite: bool = False) -> int:
        """Fetch a copy of the state manager's database, all namespaces in it, while that goes on working.

        The copy is consistent: it holds what was committed at one moment. It is written beside its
        place, synced and checked, and appears under its name only then; readable by its owner only.
        A state manager started on it (``python -m exotrio server --db FILE``) goes on with every run.

        Secrets of graphs are encrypted in it. The key that decrypts them is not part of it: keep
        ``<database>.secrets-key`` (or the value of ``SECRETS_ENCRYPTION_KEY``) too, in another place.

        Args:
            path: The file to write.
            overwrite: Replace the file if it exists. Defaults to False. The database of a state
                manager is never replaced.

        Returns:
            Its size in bytes.

        Raises:
            ConfigurationError: the file exists, or must not be replaced.
            DatabaseError: it cannot be written, or what arrived is damaged.
            RequestRefused: the server speaks only v0, or makes another backup just now (409).
            ManagerUnavailable: no usable answer, or it broke off.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; what was written so far is removed.
        """
        return await _backup.backup(self._calls, Path(path), overwrite=overwrite)


def _query(model: type[M], **fields: Any) -> M:
    """Return what to ask for, checked here so that a mistake is told without a server."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ConfigurationError("this cannot be asked for", readable_errors(error)) from error
