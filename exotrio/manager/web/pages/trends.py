"""Trends on pages: the choice of the span, and the charts."""

from __future__ import annotations

from exotrio.manager.queries.trends import DEFAULT_SPAN, SPANS, Trend
from exotrio.manager.web.page import Data, Fragment, PageRequest
from exotrio.manager.web.svg.trends import draw_counts, draw_times

TREND = Fragment(ages=60, pace=5.0)
"""Each load sums up a few thousand rows."""
NAMES = {"1h": "1 hour", "24h": "24 hours", "7d": "7 days"}


def span_of(request: PageRequest) -> Data:
    """Return the span in the address, and the names of all spans."""
    span = request.query.get("range", "")
    span = span if span in SPANS else DEFAULT_SPAN
    return {"span": span, "ranges": NAMES}


def show_trend(states: Trend, *, runs: Trend | None = None) -> Data:
    """Return the charts of states, of how long they waited, and of how long runs took; without ``runs``, how
    long states took."""
    timed = states if runs is None else runs
    slots = {"first_ms": states.first_ms, "width_ms": states.width_ms}
    return {
        "states": states,
        "timed": timed,
        "of_runs": runs is not None,
        "counts": draw_counts(states.ended, states.failed, **slots),
        "times": draw_times(timed.took.medians, timed.took.slowest, **slots),
        "waits": draw_times(states.waited.medians, states.waited.slowest, **slots),
    }
