"""``StateManager``: the public client, with the stock SDK's calls and some of our own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload
from uuid import uuid4

import trio
from pydantic import BaseModel

from exotrio._backoff import full_jitter
from exotrio._discovery import discover
from exotrio._endpoint import resolve_endpoint, version_problems
from exotrio._errors import ConfigurationError, ManagerUnavailable, NotFound, RequestRefused
from exotrio._graph import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, check_name
from exotrio._http_client import HttpClient, require_trio
from exotrio._run_status import summarize
from exotrio._upsert import REFUSED, as_graph, graph_body, only_valid
from exotrio._wire import NATIVE_VERSION, RunStatus, ValidationStatus, native_path, v0_path
from exotrio._wire_native import NativeRun
from exotrio._wire_v0 import (
    ManualRetryReply,
    ManualRetryRequest,
    RunGraphReply,
    RunsReply,
    StateDetail,
    TriggerReply,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import httpx

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

TRIES = 4
LONGEST_PAUSE = 5.0
FIRST_POLL = 0.05
OUTAGE_TOLERANCE = 60.0
"""How long ``wait`` goes on asking a state manager that does not answer."""


class StateManager:
    """Talk to a state manager: declare graphs, start runs, look at them.

    The calls of the stock SDK's class keep their names, arguments and results, so that changing
    the import is the migration. Trio only.

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
        self._namespace = namespace
        self._http = HttpClient(endpoint)
        self._native: bool | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice; a later call opens new ones."""
        await self._http.aclose()

    # -- as in the stock SDK

    async def trigger(
        self,
        graph_name: str,
        inputs: dict[str, str] | None = None,
        store: dict[str, str] | None = None,
        start_delay: int = 0,
    ) -> dict[str, Any]:
        """Start a run of a graph.

        Args:
            graph_name: The graph.
            inputs: Inputs of its first node, in place of those in the graph.
            store: The run's store.
            start_delay: Milliseconds before the run starts (milliseconds as in the stock SDK).

        Returns:
            The reply: ``{"status": "CREATED", "run_id": ...}``.

        Raises:
            NotFound: there is no such graph.
            RequestRefused: the graph is not valid (yet), or inputs or store do not fit it.
            ManagerUnavailable: no usable answer. Not repeated on a v0 server once it was sent, since
                that could start a second run: look at ``runs`` before trying again.
            KeyRefused: the key is wrong.

        Cancellation:
            The run may have been started all the same.
        """
        # Unchecked: the server says what is wrong with the values, and where.
        request = {"start_delay": start_delay, "inputs": inputs or {}, "store": store or {}}
        if await self._is_native():
            try:
                return await self._trigger_native(graph_name, request)
            except NotFound:
                self._native = None
                if await self._is_native():  # it is the graph that is not known
                    raise
        path = v0_path(self._namespace, "graph", graph_name, "trigger")
        return await self._repeat(lambda: self._ask(TriggerReply, "POST", path, request), sent=False)

    async def get_graph(self, graph_name: str) -> dict[str, Any]:
        """Return a graph as the state manager has it, with its ``validation_status``.

        Raises:
            NotFound: there is no such graph.
            ManagerUnavailable: no usable answer, after some tries.
            KeyRefused, RequestRefused: as they say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        path = v0_path(self._namespace, "graph", graph_name)
        return as_graph(await self._repeat(lambda: self._http.ask("GET", path)), graph_name)

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
            name, body = graph_name.name, graph_name.to_wire().model_dump(mode="json")
        elif graph_nodes is None or secrets is None:
            raise TypeError("upsert_graph needs a Graph, or a name with graph_nodes and secrets")
        else:
            name = graph_name
            body = graph_body(graph_nodes, secrets, retry_policy, store_config, triggers)
        path = v0_path(self._namespace, "graph", name)
        answer = await self._repeat(lambda: self._http.ask("PUT", path, body=body, accept=REFUSED))
        graph = as_graph(answer, name)
        give_up = trio.current_time() + validation_timeout
        while graph["validation_status"] == ValidationStatus.PENDING:
            if trio.current_time() > give_up:
                raise ManagerUnavailable(
                    f"graph {name!r} is still not validated after {validation_timeout} s",
                    where=f"asked: {answer.asked}",
                    fix="wait longer (validation_timeout), or see what keeps the state manager busy",
                )
            await trio.sleep(polling_interval)
            graph = await self.get_graph(name)
        return only_valid(graph, name)

    # -- ours

    async def runs(self, page: int = 1, size: int = 20) -> RunsReply:
        """Return one page of the namespace's runs, newest first.

        Args:
            page: 1 for the first.
            size: Runs per page.

        Raises:
            ManagerError: as its subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        return await self._get(RunsReply, v0_path(self._namespace, "runs", page, size))

    async def run(self, run_id: str) -> RunGraphReply:
        """Return the states of a run and how they follow each other.

        Raises:
            NotFound: there is no such run, or none of its states is in this namespace.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        path = v0_path(self._namespace, "states", "run", run_id, "graph")
        reply = await self._get(RunGraphReply, path)
        if not reply.nodes:  # what v0 answers for a run it does not know
            raise NotFound(f"there is no run {run_id} in namespace {self._namespace!r}")
        return reply

    async def state(self, graph: str, run_id: str, state_id: str) -> StateDetail:
        """Return one state in full: inputs, outputs, error, parents.

        Raises:
            NotFound: there is no such state in that run of that graph.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        path = v0_path(self._namespace, "graph", graph, "run", run_id, "node", state_id)
        return await self._get(StateDetail, path)

    async def status(self, run_id: str) -> NativeRun:
        """Return how far a run is, with counts per place of the graph.

        On a v0 server it is derived from the run's states; ``created_at`` is empty then.

        Raises:
            NotFound: there is no such run.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; nothing changes at the server.
        """
        if await self._is_native():
            try:
                return await self._get(NativeRun, native_path(self._namespace, "run", run_id))
            except NotFound:
                self._native = None
                if await self._is_native():  # it is the run that is not known
                    raise
        return summarize(run_id, await self.run(run_id))

    async def wait(
        self,
        run_id: str,
        *,
        timeout: float | None = None,
        poll_interval: float = 1.0,
        on_progress: Callable[[NativeRun], None] | None = None,
    ) -> NativeRun:
        """Wait until a run is no longer PENDING. A state manager that is away is waited for up to 60 s.

        Args:
            run_id: The run.
            timeout: Seconds to wait at most. Defaults to no limit.
            poll_interval: Longest seconds between two looks; the first ones are closer.
            on_progress: Called with the first status, and again whenever it changed.

        Returns:
            The run, with status SUCCESS or FAILED.

        Raises:
            trio.TooSlowError: ``timeout`` seconds went by; the run goes on.
            NotFound: there is no such run.
            ManagerError: as its other subclasses say.

        Cancellation:
            Safe; the run goes on.
        """
        require_trio()
        shown: NativeRun | None = None
        pause = min(FIRST_POLL, poll_interval)
        with _time_limit(timeout):
            while True:
                run = await self._status_after_outages(run_id)
                if on_progress is not None and run != shown:
                    on_progress(run)
                    shown = run
                if run.status is not RunStatus.PENDING:
                    return run
                await trio.sleep(pause)
                pause = min(pause * 1.5, poll_interval)

    async def cancel(self, run_id: str) -> NativeRun:
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
        if await self._is_native():
            try:
                path = native_path(self._namespace, "run", run_id, "cancel")
                return await self._repeat(lambda: self._http.fetch(NativeRun, "POST", path))
            except NotFound:
                self._native = None
                if await self._is_native():  # it is the run that is not known
                    raise
        raise RequestRefused(
            f"the run {run_id} cannot be cancelled: the state manager at {self._http.endpoint.shown} speaks "
            "only v0, which has no way to cancel a run",
            fix="stop the runtimes that run its nodes; or use exotrio's server (python -m exotrio server)",
        )

    async def manual_retry(self, state_id: str, fanout_id: str | None = None) -> ManualRetryReply:
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
        request = ManualRetryRequest(fanout_id=str(uuid4()) if fanout_id is None else fanout_id)
        path = v0_path(self._namespace, "state", state_id, "manual-retry")
        return await self._repeat(
            lambda: self._http.fetch(ManualRetryReply, "POST", path, body=request), sent=False
        )

    # -- how calls are made

    async def _is_native(self) -> bool:
        if self._native is None:
            found = await self._repeat(lambda: discover(self._http))
            self._native = found is not None and found.version == NATIVE_VERSION
        return self._native

    async def _trigger_native(self, graph_name: str, request: dict[str, Any]) -> dict[str, Any]:
        # The id is chosen once, so that repeating the request cannot start a second run.
        body = {**request, "run_id": str(uuid4())}
        path = native_path(self._namespace, "graph", graph_name, "trigger")
        return await self._repeat(lambda: self._ask(TriggerReply, "POST", path, body))

    async def _ask(
        self, model: type[BaseModel], method: str, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        answer = await self._http.ask(method, path, body=body)
        answer.parse(model)
        return cast("dict[str, Any]", answer.body)

    async def _get(self, model: type[M], path: str) -> M:
        return await self._repeat(lambda: self._http.fetch(model, "GET", path))

    async def _repeat(self, call: Callable[[], Awaitable[T]], *, sent: bool = True) -> T:
        """Make a call, some times if need be; with ``sent=False`` only while it provably did not arrive."""
        for attempt in range(TRIES - 1):
            try:
                return await call()
            except ManagerUnavailable as error:
                if error.sent and not sent:
                    raise
                self._native = None  # another server may answer next
                pause = max(full_jitter(attempt, base=0.25, cap=2.0), error.retry_after or 0.0)
                await trio.sleep(min(pause, LONGEST_PAUSE))
        return await call()

    async def _status_after_outages(self, run_id: str) -> NativeRun:
        give_up = trio.current_time() + OUTAGE_TOLERANCE
        while True:
            try:
                return await self.status(run_id)
            except ManagerUnavailable:
                if trio.current_time() >= give_up:
                    raise
                await trio.sleep(1.0)


def _time_limit(seconds: float | None) -> AbstractContextManager[object]:
    return nullcontext() if seconds is None else trio.fail_after(seconds)
