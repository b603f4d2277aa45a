"""Bodies of the native routes about runtimes, which the API calls workers."""

from __future__ import annotations

from pydantic import Field

from exotrio._wire.body import Body, Seconds


class RuntimeInfo(Body):
    """A runtime in the list of them.

    Fields:
        worker_id: Id of the process.
        runtime: Name of the Runtime; empty before its first heartbeat.
        phase: Its phase at the last heartbeat; ``starting`` before the first.
        live: Whether it sent something within the last minute, and did not announce its end.
        asked_to_drain: Whether it was asked to drain and has not begun.
        workers: How many states it runs at once; 0 if it does not say.
        busy, buffered: States that ran, and that waited in it, at its last heartbeat.
        holds: States that it holds, by the database.
        heard_ago: Seconds since it sent something.
        polled_ago: Seconds since its last claim; None before the first.
        nodes: Names of the nodes that it claims states of.
        shows_tasks: Whether its task tree can be asked for.
    """

    worker_id: str
    runtime: str
    phase: str
    live: bool
    asked_to_drain: bool
    workers: int
    busy: int
    buffered: int
    holds: int
    heard_ago: Seconds = Field(alias="heard_ms")
    polled_ago: Seconds | None = Field(alias="polled_ms")
    nodes: list[str]
    shows_tasks: bool


class V0Runtime(Body):
    """Clients that claim the same nodes through v0, which does not identify them.

    Fields:
        nodes: Names of the nodes.
        polled_ago: Seconds since the last such claim.
    """

    nodes: list[str]
    polled_ago: Seconds = Field(alias="polled_ms")


class RuntimeList(Body):
    """Runtimes that sent something in the last ten minutes, or stopped in the last one.

    Fields:
        workers: The live ones first, by runtime and id.
        v0: Clients of v0, those with the latest claim first.
    """

    workers: list[RuntimeInfo]
    v0: list[V0Runtime]


class CommandReply(Body):
    """A command for a runtime was accepted; its next heartbeat fetches it."""

    worker_id: str
    command: str


class TasksReply(Body):
    """The last task tree of a runtime.

    Fields:
        asked: Whether another one was asked for and has not come yet.
        tasks: None before the first one.
        age_ms: Time since it came.
    """

    worker_id: str
    asked: bool
    tasks: str | None
    age_ms: int | None
