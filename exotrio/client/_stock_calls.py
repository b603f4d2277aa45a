"""The calls of the stock SDK's ``StateManager``, with its names, arguments and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from exotrio._fields.models import Values
from exotrio._http.endpoint import resolve_endpoint, version_problems
from exotrio._wire.graphs import GraphBody
from exotrio.client import _graphs
from exotrio.client._calls import Calls
from exotrio.client._new_runs import NewRun
from exotrio.client._triggers import trigger
from exotrio.errors import ConfigurationError
from exotrio.graph import (
    CronTrigger,
    Graph,
    GraphNodeModel,
    LimitModel,
    RetryPolicyModel,
    StoreConfigModel,
    check_name,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import httpx


class StockCalls:
    """A client of one namespace of a state manager, with what the stock SDK's class has."""

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

    async def trigger(
        self,
        graph_name: str,
        inputs: Values | None = None,
        store: Mapping[str, object] | None = None,
        start_delay: int = 0,
        *,
        run_id: str | None = None,
        key: str | None = None,
        priority: str = "normal",
        weight: float = 1.0,
        fair_key: str | None = None,
    ) -> dict[str, Any]:
        """Start a run of a graph. ``trigger_many`` starts many.

        While a stock server still validates the graph, this waits, up to 60 s.

        Args:
            inputs: Inputs of its first node, in place of those in the graph: an instance of its ``Inputs``,
                which gives all of them, or a dict of values or their texts. None is a value of inputs that
                are declared with it.
            store: The run's store, values or their texts.
            start_delay: Milliseconds before the run starts (milliseconds as in the stock SDK).
            run_id: A UUID for the run: a second call with the same one starts no second run. A state manager
                that speaks only v0 gives it another. Defaults to None: a new one is made.
            key: What the run is about, such as an order's number: all calls with the same key for the same
                graph are for the same run, for as long as the run is kept. Up to 256 characters, which are
                shown with the run: not a secret. Needs our server. Defaults to None: each call starts a run.
            priority: ``"high"``, ``"normal"`` or ``"low"``. No state is claimed while one of a higher
                priority waits for the same node. Needs our server, as do the next two. Defaults to
                ``"normal"``.
            weight: The share of the run among those of its priority, 0.01 to 100. Defaults to 1.
            fair_key: Runs with the same key, such as a customer, share the node as one run. Up to 256
                characters: not a secret. Defaults to None: the run alone.

        Returns:
            The reply: ``{"status": "CREATED", "run_id": ..., "created": True}``. ``created`` is False if the
            run with this id or key existed already, which it also does if this call had to be repeated since
            an answer was lost. A server that speaks only v0 leaves it out.

        Raises:
            RequestRefused: the graph is not valid, or inputs or store do not fit it. With a ``key``: it
                belongs to a run with other inputs or another store (409). Or the server does not know keys,
                or priorities, weights and fairness keys. Nothing was started.
            ManagerUnavailable: no usable answer. Not repeated on a v0 server once it was sent, since
                that could start a second run: check ``runs`` before you repeat it.

        Cancellation:
            The run may have been started all the same.
        """
        run = NewRun(
            inputs=inputs or {},
            store=store or {},
            start_delay=start_delay,
            run_id=run_id,
            key=key,
            priority=priority,
            weight=weight,
            fair_key=fair_key,
        )
        return await trigger(self._calls, graph_name, run)

    async def get_graph(self, graph_name: str) -> dict[str, Any]:
        """Return a graph as the state manager has it, with its ``validation_status``."""
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
        secrets: Mapping[str, str],
        retry_policy: RetryPolicyModel | None = None,
        store_config: StoreConfigModel | None = None,
        triggers: Sequence[CronTrigger] | None = None,
        validation_timeout: float = 60,
        polling_interval: float = 1,
        limits: Sequence[LimitModel] | None = None,
        on_failure: str | None = None,
        version: str | None = None,
        outputs: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Any]: ...

    async def upsert_graph(
        self,
        graph_name: str | Graph,
        graph_nodes: Sequence[GraphNodeModel] | None = None,
        secrets: Mapping[str, str] | None = None,
        retry_policy: RetryPolicyModel | None = None,
        store_config: StoreConfigModel | None = None,
        triggers: Sequence[CronTrigger] | None = None,
        validation_timeout: float = 60,
        polling_interval: float = 1,
        limits: Sequence[LimitModel] | None = None,
        on_failure: str | None = None,
        version: str | None = None,
        outputs: Mapping[str, Sequence[str]] | None = None,
    ) -> dict[str, Any]:
        """Create or replace a graph and wait until it is validated.

        Args:
            graph_name: Name of the graph; or a ``Graph``, which holds all of it.
            secrets: Secret name to value; replaces all secrets of the graph.
            retry_policy: Defaults to the state manager's.
            store_config: Defaults to an empty store.
            triggers: Cron triggers. Defaults to none.
            validation_timeout: Seconds to wait for the validation.
            polling_interval: Maximum seconds between two requests for its status; the first pause is 0.05 s.
            limits: Limits of the namespace that are declared with it. Defaults to none.
            on_failure: Name of the graph of which a run is started when a run of this one ends with errors.
                Defaults to none.
            version: The version of the code that its runs need. Defaults to any.
            outputs: Its outputs by name: references to outputs of its nodes, of which the first that there is
                counts. Defaults to none.

        Returns:
            The validated graph as the state manager shows it.

        Raises:
            GraphInvalid: the graph breaks rules; ``problems`` names each.
            RequestRefused: it has limits or something else that the server would ignore.
            ManagerUnavailable: no usable answer, or no result of the validation in time.

        Cancellation:
            The graph may have been replaced all the same.
        """
        parts: dict[str, Any] = {
            "nodes": graph_nodes,
            "secrets": secrets,
            "retry_policy": retry_policy,
            "store_config": store_config,
            "triggers": triggers,
            "limits": limits,
            "on_failure": on_failure,
            "version": version,
            "outputs": outputs,
        }
        parts = {name: part for name, part in parts.items() if part is not None}
        if isinstance(graph_name, Graph):
            if parts:
                raise TypeError("a Graph holds its nodes, secrets, policy and all else: pass it alone")
            name, body = graph_name.name, GraphBody.of(graph_name)
        elif graph_nodes is None or secrets is None:
            raise TypeError("upsert_graph needs a Graph, or a name with graph_nodes and secrets")
        else:
            name, body = graph_name, _graphs.graph_body(graph_name, parts)
        return await self._upsert(name, body, validation_timeout, polling_interval)

    async def _upsert(
        self, name: str, body: GraphBody, validation_timeout: float, polling_interval: float = 1
    ) -> dict[str, Any]:
        """Create or replace a graph from its whole body, so that no field is left out."""
        return await _graphs.upsert_graph(
            self._calls,
            name,
            body,
            validation_timeout=validation_timeout,
            polling_interval=polling_interval,
        )
