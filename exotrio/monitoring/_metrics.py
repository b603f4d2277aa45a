"""The metrics of a runtime for Prometheus. Events move the counters; gauges are read when scraped.

prometheus_client is imported here only when metrics are made. Labels are node names and words of
ours, never the id of a run or a state: each value of a label is a time series of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING

from exotrio._runtime.lifecycle import Phase
from exotrio._util.events import POLL_RESULTS, Event, LeaseLost, Polled, Requested, StateEnded
from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from exotrio._runtime.runtime import Runtime

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads; our names need nothing newer."""
STATE_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
"""Up to what a v0 claim may take; a long poll takes up to 15 s and is not slow."""


class RuntimeMetrics:
    """The metrics of one runtime. Make them before the runtime is started.

    Args:
        runtime: The runtime.
        registry: Where they are registered. Defaults to a registry of their own, never the global one.

    Attributes:
        registry: Where they are registered.

    Raises:
        LifecycleError: the runtime was started before.
        ConfigurationError: the registry has metrics of another runtime.
    """

    def __init__(self, runtime: Runtime, *, registry: CollectorRegistry | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._runtime = runtime
        self.registry: CollectorRegistry = CollectorRegistry() if registry is None else registry
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        try:
            self.registry.register(_Gauges(runtime))
            self._states = counter(
                "exotrio_states_total",
                "Claimed states that are no longer held, by what became of them.",
                ["node", "outcome"],
            )
            self._durations = histogram(
                "exotrio_state_duration_seconds",
                "From when a worker took a state until its node ended.",
                ["node"],
                buckets=STATE_BUCKETS,
            )
            self._polls = counter("exotrio_polls_total", "Claims, by their result.", ["result"])
            self._requests = histogram(
                "exotrio_manager_request_duration_seconds",
                "Requests to the state manager; the code is 'none' where no answer came.",
                ["op", "code"],
                buckets=REQUEST_BUCKETS,
            )
            self._lost = counter(
                "exotrio_leases_lost_total", "States the state manager gave to another runtime."
            )
            self._released = counter("exotrio_released_total", "States released, unstarted or cancelled.")
        except ValueError as error:
            raise ConfigurationError(
                "these metrics cannot be registered",
                [str(error)],
                fix="give each runtime a registry of its own",
            ) from error
        # A series that only begins at its first error has no rate of errors before it.
        for node in runtime.nodes:
            for outcome in ("completed", "errored"):
                self._states.labels(node.__name__, outcome)
        for result in POLL_RESULTS:
            self._polls.labels(result)
        runtime.observe(self._observe)

    def render(self) -> tuple[bytes, str]:
        """Return the present values in Prometheus' text format, and its content type. From any thread."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry), CONTENT_TYPE

    def _observe(self, event: Event) -> None:
        match event:
            case StateEnded(node, outcome, duration):
                self._states.labels(node, outcome).inc()
                if duration is not None:
                    self._durations.labels(node).observe(duration)
                if outcome in ("released", "cancelled"):
                    self._released.inc()
            case Polled(result):
                self._polls.labels(result).inc()
            case Requested(op, code, duration):
                self._requests.labels(op, "none" if code is None else str(code)).observe(duration)
            case LeaseLost():
                self._lost.inc()


class _Gauges:
    """Asks the runtime whenever somebody scrapes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Return the metrics, for the registry to check their names."""
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        vitals = self._runtime.vitals
        for name, text, value in (
            ("exotrio_workers", "Most states that run at once.", vitals.workers),
            ("exotrio_workers_busy", "States that run.", len(vitals.running)),
            ("exotrio_buffered_states", "Claimed states that wait for a worker.", vitals.buffered),
            ("exotrio_outcomes_pending", "Outcomes not delivered yet.", vitals.undelivered),
            ("exotrio_loop_lag_seconds", "How late the loop is.", vitals.loop_lag),
        ):
            yield GaugeMetricFamily(name, text, value)
        phases = GaugeMetricFamily("exotrio_phase", "1 for the phase the runtime is in.", labels=["phase"])
        for phase in Phase:
            phases.add_metric([phase.value], phase is vitals.phase)
        yield phases
        yield InfoMetricFamily(
            "exotrio_build",
            "What is running.",
            {
                "version": version("exotrio"),
                "python": python_version(),
                "namespace": self._runtime.namespace,
                "runtime": self._runtime.name,
            },
        )
