"""Bodies of the native routes about workers, the processes in which runtimes work. As in ``_wire``, both
sides use them."""

from __future__ import annotations

from exotrio._wire.body import Body


class ListedWorker(Body):
    """A worker in the list of them.

    Fields:
        worker_id: Names the process.
        runtime: Name of its Runtime; empty before its first heartbeat.
        phase: As it said last; ``starting`` before that.
        live: It was heard of within the last minute, and did not say that it stopped.
        asked_to_drain: It was, and has not begun yet.
        workers: How many states it runs at once; 0 if it does not say.
        busy, buffered: States that ran, and that waited in it, at its last heartbeat.
        holds: States that it holds, as the database knows.
        heard_ms: Since it was heard of.
        polled_ms: Since it last asked for states; None if it has not yet.
        nodes: Those it asks for.
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
    heard_ms: int
    polled_ms: int | None
    nodes: list[str]
    shows_tasks: bool


class V0Asker(Body):
    """Somebody who asks for states through v0, which does not say who.

    Fields:
        nodes: What is asked for.
        polled_ms: Since it was asked for last.
    """

    nodes: list[str]
    polled_ms: int


class WorkersReply(Body):
    """Who was heard of in the last ten minutes, or stopped in the last one.

    Fields:
        workers: The live ones first, by runtime and id.
        v0: Those whose last question was latest first.
    """

    workers: list[ListedWorker]
    v0: list[V0Asker]


class CommandReply(Body):
    """A worker was asked for something, and hears of it with its next heartbeat."""

    worker_id: str
    command: str


class TasksReply(Body):
    """The task tree that a worker sent last.

    Fields:
        asked: It was asked for another one, which has not come yet.
        tasks: None before the first one.
        age_ms: Since it came.
    """

    worker_id: str
    asked: bool
    tasks: str | None
    age_ms: int | None
