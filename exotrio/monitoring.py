"""Health checks and metrics of a runtime, for a program that serves them in its own way::

    runtime = Runtime(...)
    health, metrics = Health(runtime), RuntimeMetrics(runtime)    # before the runtime is started
    ...
    if why := health.ready():
        ...                            # answer 503, and why
    body, content_type = metrics.render()

``python -m exotrio worker --health-port`` serves them from a separate thread, which also answers
while node code blocks the loop. ``Runtime.observe`` passes the same events to any function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from platform import python_version
from typing import TYPE_CHECKING

from exotrio._nodes.progress import Progress
from exotrio._runtime.lifecycle import Phase
from exotrio._runtime.vitals import Running, Vitals
from exotrio._shared.events import (
    POLL_RESULTS,
    CheckpointStored,
    Event,
    LeaseLost,
    Observer,
    Polled,
    Requested,
    StateBegan,
    StateEnded,
)
from exotrio._version import VERSION
from exotrio.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

    from exotrio._runtime.runtime import Runtime

__all__ = [
    "CheckpointStored",
    "Event",
    "Health",
    "LeaseLost",
    "Observer",
    "Polled",
    "Progress",
    "Requested",
    "Running",
    "RuntimeMetrics",
    "StateBegan",
    "StateEnded",
    "Vitals",
]

MAX_LAG = 5.0
"""Seconds a loop may be late before its process counts as hung."""
POLL_MEMORY = 30.0
"""Seconds since the last successful claim, after which failing claims end the readiness."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads; our names need nothing newer."""
STATE_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
"""Up to the timeout of a v0 claim; a long poll takes up to 15 s and is not slow."""


class Health:
    """Whether one runtime is alive, and whether it is ready. Make it before the runtime is started.

    Answers from any thread, and never asks the state manager: while that is away, restarting every runtime
    would not help.

    Args:
        clock: Tells the time in seconds, in any thread. Defaults to ``time.monotonic``.

    Raises:
        LifecycleError: it was started before.
    """

    def __init__(self, runtime: Runtime, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._runtime = runtime
        self._clock = clock
        self._failing = False
        self._good_at: float | None = None
        runtime.observe(self._observe)

    def alive(self) -> str:
        """Return why the process should be restarted; empty if it should not."""
        lag = self._runtime.vitals.loop_lag
        if lag > MAX_LAG:
            return f"the loop is {lag:.1f} s late: node code blocks it, or the machine is overloaded"
        return ""

    def ready(self) -> str:
        """Return why this runtime begins no work; empty if it does."""
        vitals = self._runtime.vitals
        phase: str = vitals.phase.value
        if vitals.phase in (Phase.NEW, Phase.STARTING):
            return f"{phase}: its nodes are not registered yet"
        if vitals.phase is not Phase.RUNNING:
            return phase
        if vitals.stopping:
            return "a stop was requested"
        if problem := self.alive() or vitals.stuck:
            return problem
        if self._failing:
            # Only after a failure: while every worker is busy nothing is claimed, and that is fine.
            if self._good_at is None:
                return "no claim has succeeded yet"
            ago = self._clock() - self._good_at
            if ago > POLL_MEMORY:
                return f"claims fail; the last one that succeeded was {ago:.0f} s ago"
        return ""

    def _observe(self, event: Event) -> None:
        if isinstance(event, Polled):
            self._failing = event.result not in ("states", "empty")
            if not self._failing:
                self._good_at = self._clock()


class RuntimeMetrics:
    """The metrics of one runtime for Prometheus. Make them before the runtime is started.

    Labels are node names and fixed words, never the id of a run or a state: each value of a label is a
    separate time series.

    Args:
        registry: Where they are registered. Defaults to a new registry, never the global one.

    Raises:
        LifecycleError: the runtime was started before.
        ConfigurationError: the registry has metrics of another runtime.
    """

    def __init__(self, runtime: Runtime, *, registry: CollectorRegistry | None = None) -> None:
        # Here, as below: only metrics need this extra.
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
                "Time that execute took.",
                ["node"],
                buckets=STATE_BUCKETS,
            )
            self._buffered = histogram(
                "exotrio_state_buffered_seconds",
                "From the claim of a state until execute began.",
                ["node"],
                buckets=STATE_BUCKETS,
            )
            self._waited = histogram(
                "exotrio_state_waited_seconds",
                "Until the claim of a state, from when it could be claimed; not known through v0.",
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
            self._released = counter(
                "exotrio_released_total", "States released: unstarted, handed over or cancelled."
            )
        except ValueError as error:
            raise ConfigurationError(
                "these metrics cannot be registered",
                [str(error)],
                fix="give each runtime a separate registry",
            ) from error
        # A series that only begins at its first error has no rate of errors before it.
        for node in runtime.nodes:
            for outcome in ("completed", "errored"):
                self._states.labels(node.__name__, outcome)
        for result in POLL_RESULTS:
            self._polls.labels(result)
        runtime.observe(self._observe)

    def render(self) -> tuple[bytes, str]:
        """Return the current values in Prometheus' text format, and its content type. From any thread."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry), CONTENT_TYPE

    def _observe(self, event: Event) -> None:
        match event:
            case StateEnded(node, outcome, duration, _, buffered, waited, _):
                self._states.labels(node, outcome).inc()
                if duration is not None and buffered is not None:
                    self._durations.labels(node).observe(duration)
                    self._buffered.labels(node).observe(buffered)
                    if waited is not None:
                        self._waited.labels(node).observe(waited)
                if outcome in ("released", "handed_over", "cancelled"):
                    self._released.inc()
            case Polled(result):
                self._polls.labels(result).inc()
            case Requested(op, code, duration):
                self._requests.labels(op, "none" if code is None else str(code)).observe(duration)
            case LeaseLost():
                self._lost.inc()


class _Gauges:
    """Reads the vitals of the runtime at each scrape."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def describe(self) -> list[Metric]:
        """Return the metrics, for the registry to check their names."""
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        vitals = self._runtime.vitals
        busy = sum(state.begun for state in vitals.running)
        for name, text, value in (
            ("exotrio_workers", "Maximum number of states that run at once.", vitals.workers),
            ("exotrio_workers_busy", "Workers that run a node.", busy),
            (
                "exotrio_buffered_states",
                "Claimed states that have not begun: they wait for a worker, their secrets or their process.",
                vitals.buffered + len(vitals.running) - busy,
            ),
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
                "version": VERSION,
                "python": python_version(),
                "namespace": self._runtime.namespace,
                "runtime": self._runtime.name,
            },
        )
