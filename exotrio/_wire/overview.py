"""Bodies of the native routes that show what happens in a namespace, and that export a run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from exotrio._wire.body import Body, Moment, Seconds
from exotrio._wire.runtimes import RuntimeInfo
from exotrio._wire.v0 import RunSummary

EXPORT_TYPE = "text/html; charset=utf-8"
MAX_RUNS = 100
MAX_RUNTIMES = 100
"""Runtimes in an overview, at most."""


class OverviewQuery(Body):
    """Query of the route that shows an overview.

    Fields:
        runs: How many of the newest runs to show.
    """

    runs: Annotated[int, Field(ge=0, le=MAX_RUNS)] = 10


class ExportQuery(Body):
    """Query of the route that exports a run.

    Fields:
        values: Whether to include inputs, outputs and values of the store.
    """

    values: bool = True


class OldestState(Body):
    """The state that has been due longest.

    Fields:
        node: Its node.
        due: Seconds that it has been due.
    """

    node: str
    due: Seconds = Field(alias="waits_ms")


class Throughput(Body):
    """Attempts that ended in the last hour, by minute; the last minute is the present one.

    Fields:
        first_minute: When the first of these minutes began, in minutes of Unix time.
        ended: How many attempts ended.
        failed: How many of those failed, retried ones included.
    """

    first_minute: int
    ended: list[int]
    failed: list[int]


class NodeLoad(Body):
    """A registered node.

    Fields:
        waiting: Waiting states, those that are due later included; counted up to 100,000.
        eligible: Those of them that are due.
        oldest_due: Seconds that the first of those has been due; 0 without any.
        running: States that a runtime holds.
        ended, failed: Attempts of the last hour.
        p50, p95: Seconds that those ran; None without any.
        offered_by: Names of the live runtimes that claim its states.
    """

    name: str
    waiting: int
    eligible: int
    oldest_due: Seconds = Field(alias="oldest_ms")
    running: int
    ended: int
    failed: int
    p50: Seconds | None = Field(alias="p50_ms")
    p95: Seconds | None = Field(alias="p95_ms")
    offered_by: list[str]


class Overview(Body):
    """What happens in a namespace.

    Fields:
        at: When, by the clock of the state manager.
        running: States that runtimes hold.
        waiting: States that wait.
        waiting_is_more: Whether there are more than were counted.
        errored: States that failed within 24 h and were not retried.
        oldest: The state that has been due longest, if any is due.
        nodes: By name.
        runtimes: The live ones first; ``MAX_RUNTIMES`` of ``runtime_count``.
        v0_runtimes: Kinds of clients that claim through v0, which does not identify them.
        runs: The newest ones.
    """

    namespace: str
    at: Moment
    running: int
    waiting: int
    waiting_is_more: bool
    errored: int
    oldest: OldestState | None
    throughput: Throughput
    nodes: list[NodeLoad]
    runtimes: list[RuntimeInfo]
    runtime_count: int
    v0_runtimes: int
    runs: list[RunSummary]
