"""Health checks and metrics of a runtime, for a program that serves them in its own way::

    runtime = Runtime(...)
    health, metrics = Health(runtime), RuntimeMetrics(runtime)    # before the runtime is started
    ...
    if why := health.ready():
        ...                            # answer 503, and why
    body, content_type = metrics.render()

``python -m exotrio worker --health-port`` serves them from a thread of its own, which also answers
while node code blocks the loop. ``Runtime.observe`` takes a function of your own instead.
"""

from __future__ import annotations

from exotrio._nodes.progress import Progress
from exotrio._runtime.vitals import Running, Vitals
from exotrio._util.events import Event, LeaseLost, Observer, Polled, Requested, StateEnded
from exotrio.monitoring._health import Health
from exotrio.monitoring._metrics import RuntimeMetrics

__all__ = [
    "Event",
    "Health",
    "LeaseLost",
    "Observer",
    "Polled",
    "Progress",
    "Requested",
    "Running",
    "RuntimeMetrics",
    "StateEnded",
    "Vitals",
]
