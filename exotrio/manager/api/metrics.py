"""The metrics of a state manager, for Prometheus.

prometheus_client is imported only when metrics are made: an embedded state manager has none. Labels are
routes, nodes and words of ours, never the id of a run or a state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exotrio.errors import DatabaseError
from exotrio.manager.api.routing import PATTERN
from exotrio.manager.queries.limits import load_of_limits
from exotrio.manager.queries.load import Backlog, backlog, oldest_graphs, schedules_paused
from exotrio.manager.queries.versions import load_of_versions, without_ended
from exotrio.manager.store.base import Store
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.view import View

if TYPE_CHECKING:
    from prometheus_client.core import Metric

K = TypeVar("K")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""
MAX_LABELS = 1_000
"""Graphs, and namespaces, that are counted separately: clients may make any number of them."""
OTHER_GRAPHS = "(other graphs)"
OTHER_NAMESPACES = "(other namespaces)"
RUN_STATUSES = {"SUCCESS": "SUCCESS", "ERRORED": "FAILED", "CANCELLED": "CANCELLED"}
"""How a run ended, to the value of the label."""
CACHED = 5.0
"""Seconds for which the counts of one query are served to all scrapers."""
MAX_QUERY = 3.0
STOP_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 300, 1_800, 7_200)
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
NODE, LIMIT, VERSION = ("namespace", "node"), ("namespace", "limit"), ("namespace", "version")
GAUGES = (
    (
        "exotrio_manager_states",
        "States that have not ended: CREATED waits (counted up to 100,000), QUEUED is held by a runtime.",
        (*NODE, "status"),
    ),
    (
        "exotrio_manager_event_waits",
        "States that wait for events or runs, which are not CREATED ones above; counted up to 100,000.",
        NODE,
    ),
    (
        "exotrio_manager_buffered_states",
        "QUEUED states whose execute has not begun: they wait for a worker, or their process starts.",
        NODE,
    ),
    (
        "exotrio_manager_reporting_states",
        "QUEUED states that have ended, and whose outcome is not accepted yet; the others run.",
        NODE,
    ),
    (
        "exotrio_manager_work_at_risk_seconds",
        "How long the running states have worked since their last stored checkpoints, or since they began; 0 "
        "of those of which no heartbeat has said when they began.",
        NODE,
    ),
    ("exotrio_manager_eligible_states", "States a runtime could claim now, counted up to 100,000.", NODE),
    (
        "exotrio_manager_oldest_eligible_seconds",
        "Since when the first of those could be claimed; 0 without any.",
        NODE,
    ),
    (
        "exotrio_manager_node_paused",
        "1 if nothing of the node is claimed since it is paused; its states do not count as eligible.",
        NODE,
    ),
    (
        "exotrio_manager_schedule_paused",
        "1 if the graph's schedule starts no runs since it is paused; of graphs that have one.",
        ("namespace", "graph"),
    ),
    (
        "exotrio_manager_limit_held_states",
        "States that hold the limit, with any key: they are claimed.",
        LIMIT,
    ),
    (
        "exotrio_manager_limit_waiting_states",
        "States that wait for the limit, with any key, counted up to 100,000.",
        LIMIT,
    ),
    (
        "exotrio_manager_version_runs",
        "Runs in flight that are pinned to the version, counted up to 10,000 for each version of a graph.",
        VERSION,
    ),
    ("exotrio_manager_version_runtimes", "Live runtimes of the version.", VERSION),
)
PREFIX = "exotrio_manager_"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Counted(NamedTuple):
    """What one query counted: by namespace and by graph, limit or version."""

    backlog: Sequence[Backlog] = ()
    schedules: Mapping[tuple[str, str], bool] = MappingProxyType({})
    limits: Mapping[tuple[str, str], tuple[int, int]] = MappingProxyType({})
    versions: Mapping[tuple[str, str], tuple[int, int]] = MappingProxyType({})


class ManagerMetrics:
    """The metrics of one state manager, in a separate registry. Commits are counted from now on.

    ``connections`` returns how many are open.
    """

    def __init__(
        self,
        store: Store,
        connections: Callable[[], int] = lambda: 0,
    ) -> None:
        from prometheus_client import CollectorRegistry, Histogram
        from prometheus_client import Counter as Total

        self._store = store
        self._connections = connections
        self._querying = trio.Lock()
        self._queried_at: float | None = None
        self._counted = Counted()
        self.registry: Any = CollectorRegistry()
        self.registry.register(self)
        # Any: the types would need prometheus_client to be imported above.
        self._requests: Any = Histogram(
            "exotrio_manager_http_request_duration_seconds",
            "From the head of a request to the head of its answer; a claim may wait for a first state.",
            ["route", "method", "code"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._ended: Any = Total(
            "exotrio_manager_states_ended_total",
            "States that ended, since this process began. One that is retried by hand or replaced "
            "after its end counts once more, as RETRY_CREATED.",
            ["namespace", "node", "status"],
            registry=self.registry,
        )
        self._runs_ended: Any = Total(
            "exotrio_manager_runs_ended_total",
            "Runs that ended, since this process began. A run that is retried ends again, and counts again.",
            ["namespace", "graph", "status"],
            registry=self.registry,
        )
        self._stops: Any = Histogram(
            "exotrio_manager_stop_duration_seconds",
            "From the request to stop a runtime to its last heartbeat; not of runtimes that vanished.",
            ["namespace"],
            buckets=STOP_BUCKETS,
            registry=self.registry,
        )
        self._work_lost: Any = Total(
            "exotrio_manager_work_lost_seconds_total",
            "How long nodes had run that a stop cut, or until the last heartbeat of a runtime that vanished.",
            ["namespace", "end"],
            registry=self.registry,
        )
        self._graphs: set[tuple[str, str]] = set()
        self._namespaces: set[str] = set()
        self._groups: Any = Histogram(
            "exotrio_manager_commit_group_size",
            "Writes that shared one sync to disk.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        store.on_commit = self._committed

    async def render(self) -> bytes:
        """Return the present values in Prometheus' text format."""
        from prometheus_client import generate_latest

        await self._query()
        return generate_latest(self.registry)

    def timed(self, app: ASGIApp) -> ASGIApp:
        """Return ``app`` with every request counted under the pattern of its route."""

        async def timing(scope: Scope, receive: Receive, send: Send) -> None:
            began = time.monotonic()
            code = "none"

            async def observing_send(message: Message) -> None:
                nonlocal code
                if message["type"] == "http.response.start":
                    code = str(message["status"])
                    observe()
                await send(message)

            def observe() -> None:
                # The pattern, so ids in the path do not become labels. A request that was refused has none.
                pattern = scope.get(PATTERN, "none")
                method = scope["method"] if scope["method"] in METHODS else "other"
                self._requests.labels(pattern, method, code).observe(time.monotonic() - began)

            try:
                await app(scope, receive, observing_send)
            finally:
                if code == "none":
                    observe()

        return timing

    def describe(self) -> list[Metric]:
        """Return what ``collect`` yields, for the names in the registry."""
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, for the registry."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        counted = f"Counted up to {CACHED:g} s ago."
        gauges = {
            name.removeprefix(PREFIX): GaugeMetricFamily(name, f"{about} {counted}", labels=labels)
            for name, about, labels in GAUGES
        }
        for key, (runs, runtimes) in self._counted.versions.items():
            gauges["version_runs"].add_metric(key, runs)
            gauges["version_runtimes"].add_metric(key, runtimes)
        for key, is_paused in self._counted.schedules.items():
            gauges["schedule_paused"].add_metric(key, is_paused)
        for key, (held, waiting) in self._counted.limits.items():
            gauges["limit_held_states"].add_metric(key, held)
            gauges["limit_waiting_states"].add_metric(key, waiting)
        for each in self._counted.backlog:
            node = [each.namespace, each.name]
            gauges["states"].add_metric([*node, "CREATED"], each.waiting)
            gauges["states"].add_metric([*node, "QUEUED"], each.running + each.buffered + each.reporting)
            gauges["event_waits"].add_metric(node, each.for_event)
            gauges["buffered_states"].add_metric(node, each.buffered)
            gauges["reporting_states"].add_metric(node, each.reporting)
            gauges["work_at_risk_seconds"].add_metric(node, each.work_at_risk or 0)
            gauges["eligible_states"].add_metric(node, each.eligible)
            gauges["oldest_eligible_seconds"].add_metric(node, each.oldest_due)
            gauges["node_paused"].add_metric(node, each.paused_at is not None)
        yield from gauges.values()
        yield GaugeMetricFamily(
            "exotrio_manager_connections", "Connections that are open.", self._connections()
        )
        yield InfoMetricFamily("exotrio_manager_build", "What runs here.", {"version": version("exotrio")})

    async def _query(self) -> None:
        async with self._querying:
            now = trio.current_time()
            if self._queried_at is not None and now - self._queried_at < CACHED:
                return
            # If the query fails, no numbers are shown: an alarm would trust old ones.
            self._counted, self._queried_at = Counted(), None
            with trio.move_on_after(MAX_QUERY):
                try:
                    counted, graphs = await self._store.read(self._count)
                except DatabaseError:
                    return  # logged by requests that needed an answer; the other numbers still help
                self._counted = counted
                self._queried_at = now
                for namespace, graph in graphs:
                    # From 0 on: a rate does not see a first failure that is the first value, too.
                    self._count_runs(namespace, graph, "ERRORED", 0)
                    for end in ("stopped", "vanished"):
                        self._count_work_lost(namespace, end, 0.0)

    def _count(self, view: View) -> tuple[Counted, list[tuple[str, str]]]:
        """Return what gauges show, and the graphs that have counters."""
        nodes = backlog(view)
        versions = load_of_versions(view, nodes, MAX_LABELS)
        limits, shown = load_of_limits(view, MAX_LABELS), without_ended(nodes, versions)
        return Counted(shown, schedules_paused(view), limits, versions), oldest_graphs(view, MAX_LABELS)

    def _count_runs(self, namespace: str, graph: str, status: str, count: int) -> None:
        name = graph if _is_separate((namespace, graph), self._graphs) else OTHER_GRAPHS
        self._runs_ended.labels(namespace, name, RUN_STATUSES[status]).inc(count)

    def _count_work_lost(self, namespace: str, end: str, seconds: float) -> None:
        self._work_lost.labels(self._shown(namespace), end).inc(seconds)

    def _shown(self, namespace: str) -> str:
        return namespace if _is_separate(namespace, self._namespaces) else OTHER_NAMESPACES

    def _committed(self, writes: int, effects: Sequence[Effects]) -> None:
        if writes:
            self._groups.observe(writes)
        for each in effects:
            for (namespace, node, status), count in each.final.items():
                self._ended.labels(namespace, node, status).inc(count)
            for (namespace, graph, status), count in each.ended_runs.items():
                if count:
                    self._count_runs(namespace, graph, status, count)
            for namespace, receipt in each.stops:
                if receipt.took is not None and not receipt.vanished:
                    self._stops.labels(self._shown(namespace)).observe(receipt.took)
                end = "vanished" if receipt.vanished else "stopped"
                self._count_work_lost(namespace, end, receipt.work_lost)


def _is_separate(key: K, separate: set[K]) -> bool:
    """Whether this is counted separately: the first ``MAX_LABELS`` are."""
    if len(separate) < MAX_LABELS:
        separate.add(key)
    return key in separate
