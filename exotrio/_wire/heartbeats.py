"""Bodies of the native route for heartbeats."""

from typing import Annotated

from pydantic import Field

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._wire.body import Body
from exotrio._wire.native import Checkpoint, HeldState, Id, Invalid, TookMs
from exotrio._wire.stops import StopReport
from exotrio._wire.vocabulary import MAX_BATCH, MAX_TASK_TREE, HeartbeatResult
from exotrio.graph import Version

MAX_WORKERS = 2**31 - 1
"""Of one runtime: a larger number is a mistake, and the database could not store every one."""
MAX_FIELDS = 1_000
"""Maximum number of characters that a heartbeat sends of the inputs and outputs of one node."""


class HeartbeatProgress(Body):
    """The progress of a running node; ``fraction`` is None if the node does not know."""

    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    text: Annotated[str, Field(max_length=200)] = ""


class HeartbeatState(HeldState):
    """A held state in a heartbeat: a worker has it (``running``), or it waits for one, or its node has ended.

    ``buffered_ms`` is as in ``ReportedState``; None before ``execute`` began. So is ``ran_ms``, which is None
    until the node has ended, and 0 if ``execute`` did not begin. ``checkpoint`` is stored if it is newer than
    the stored one.
    """

    running: bool = False
    buffered_ms: TookMs = None
    ran_ms: TookMs = None
    progress: HeartbeatProgress | None = None
    checkpoint: Checkpoint | None = None


class HeartbeatRequest(Body):
    """A sign of life of a runtime, which renews the leases of all states it holds.

    Fields:
        version: That of its code, if it has one.
        busy: Workers that run a node.
        buffered: States that wait for a worker.
        reporting: States whose node has ended and whose outcome is not yet accepted.
        workers: Number of its workers; 0 if unknown.
        shows_tasks: Whether it answers the command ``tasks``.
        tasks: Its task tree, in the heartbeat after that command.
        nodes: Its nodes, with the names of their inputs and outputs as ``NodeDeclaration.fields`` gives
            them, cut to ``MAX_FIELDS`` characters.
        registered: The nodes that it registered, with ``NodeDeclaration.digest`` of each.
        registered_ms: How long ago that was.
        stop: How its stop went, if ``phase`` is ``stopped``; how far it is, once it was asked to stop.
        until_drained: Whether it stops on the command ``drained``, once nothing needs its version any more.
    """

    worker_id: Id
    runtime: Annotated[str, Field(max_length=256)] = ""
    version: Version | None = None
    phase: Annotated[str, Field(max_length=32)] = ""
    busy: Annotated[int, Field(ge=0)] = 0
    buffered: Annotated[int, Field(ge=0)] = 0
    reporting: Annotated[int, Field(ge=0)] = 0
    states: Annotated[list[HeartbeatState], Field(max_length=MAX_BATCH)] = Field(default_factory=list)
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0
    shows_tasks: bool = False
    tasks: Annotated[str, Field(max_length=MAX_TASK_TREE)] | None = None
    nodes: Annotated[
        dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=MAX_FIELDS)]],
        Field(max_length=MAX_BATCH),
    ] = Field(default_factory=dict)
    registered: Annotated[
        dict[Annotated[str, Field(max_length=256)], Annotated[str, Field(max_length=64)]],
        Field(max_length=MAX_BATCH),
    ] = Field(default_factory=dict)
    registered_ms: Annotated[int, Field(ge=0, le=MAX_DELAY_MS)] = 0
    stop: Annotated[StopReport | Invalid, Field(union_mode="left_to_right")] = None
    until_drained: bool = False


class HeartbeatStateReply(Body):
    """``checkpoint``: the number of the stored one, if the heartbeat had one and the state is held.
    ``release``: whether a state that is no longer held keeps slots of limits until it is released."""

    state_id: str
    result: HeartbeatResult
    checkpoint: int | None = None
    release: bool = False


class HeartbeatReply(Body):
    """Reply to a heartbeat.

    Fields:
        items: One per state, in the order of the request.
        ttl_ms: How long the renewed leases last, or None if they never end.
        commands: Requests of operators: ``drain``, ``tasks``. And ``register``, if the state manager does not
            know what the runtime registered, or only something older.
    """

    items: list[HeartbeatStateReply]
    ttl_ms: Annotated[int, Field(ge=1)] | None = None
    commands: list[str] = Field(default_factory=list)
