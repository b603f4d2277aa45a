"""Bodies of the calls that operators make: the lists of both APIs, and the native routes that
retry runs and look into them. As in ``_wire``, both sides use them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from exotrio._wire.body import Body
from exotrio._wire.native import NativeRunSummary, Uuid
from exotrio._wire.v0 import StateDetail, StateNode
from exotrio._wire.vocabulary import NATIVE_ROOT, RunStatus, StateStatus

MAX_PAGE = 1_000
"""Most entries of one page of a list."""
BACKUP_PATH = f"{NATIVE_ROOT}/backup"
BACKUP_TYPE = "application/vnd.sqlite3"

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str, Field(max_length=64)]


# -- native: lists


class StatesQuery(Body):
    """Which states to list, newest first.

    Fields:
        run: Of this run.
        graph: Of this graph.
        node: Of this registered node.
        identifier: Of this place; needs ``run`` or ``graph``.
        status: In any of these statuses.
        limit: Most states of the page.
        before: ``next`` of the page before.
    """

    run: str | None = None
    graph: str | None = None
    node: str | None = None
    identifier: str | None = None
    status: list[StateStatus] = Field(default_factory=list)
    limit: Limit = 100
    before: Cursor | None = None


class ListedState(StateNode):
    """A state in a list.

    Fields:
        error: What its error says, in one line of at most 500 characters.
        retry_count: Automatic retries before it.
        created_at: Empty if a v0 server was asked.
        finished_at: When it ended; None while it has not, or if a v0 server was asked.
        worker: Who claimed it last, natively.
    """

    graph_name: str
    run_id: str
    retry_count: int | None = None
    created_at: str = ""
    finished_at: str | None = None
    worker: str | None = None


class StatesReply(Body):
    """A page of states; ``next`` is None on the last one. One before that may be short, or empty."""

    states: list[ListedState]
    next: str | None


class RunsQuery(Body):
    """Which runs to list, newest first.

    Fields:
        graph: Of this graph.
        status: With this status.
        since: Begun then or later; with an offset to UTC.
        limit: Most runs of the page.
        before: ``next`` of the page before.
    """

    graph: str | None = None
    status: RunStatus | None = None
    since: AwareDatetime | None = None
    limit: Limit = 100
    before: Cursor | None = None


class RunsFound(Body):
    """A page of runs; ``next`` is None on the last one."""

    runs: list[NativeRunSummary]
    next: str | None


# -- native: one state


class StateEvent(Body):
    """Something that happened to a state beside being claimed and finished.

    Fields:
        kind: ``released``, ``lease lost``, ``lease regained``, ``poison``, ``cancelled``,
            ``retried by hand``.
        worker: Who held it then, if anybody.
    """

    at: str
    kind: str
    worker: str | None


class Attempt(Body):
    """One of the states that took each other's place.

    Fields:
        retry_count: Automatic retries before it.
        by_hand: Whether somebody asked for it, and not the retry policy.
    """

    id: str
    status: StateStatus
    retry_count: int
    by_hand: bool
    created_at: str


class Holder(Body):
    """Who has a QUEUED state.

    Fields:
        native: Under a lease; else through v0.
        worker: Names it, natively.
        local: It lives in the process of the state manager.
        ttl_ms: Time left unless it is renewed, or None for ever.
    """

    native: bool
    worker: str | None
    local: bool
    ttl_ms: int | None


class StateHistory(StateDetail):
    """One state in full, with all that happened to it.

    Fields:
        data: What its node pruned it with.
        retry_count: Automatic retries before it.
        deliveries: How many workers in a row ended, or lost their lease, while they ran it.
        requeued: Waits because its node asked for it.
        enqueue_after: When it may be claimed.
        claimed_at, worker: The last claim, and who made it (natively).
        holder: Who has it now, if it is QUEUED.
        events: What happened beside, oldest first.
        attempts: It and the states that it took, or that took its, place; oldest first.
    """

    data: dict[str, Any] | None
    retry_count: int
    deliveries: int
    requeued: bool
    enqueue_after: str
    claimed_at: str | None
    finished_at: str | None
    worker: str | None
    holder: Holder | None
    events: list[StateEvent]
    attempts: list[Attempt]


# -- native: retrying a run


class RetryRunRequest(Body):
    """Retry all failed states of a run. The same ``request_id`` again retries nothing more."""

    request_id: Uuid


class RetriedState(Body):
    """A failed state, the one in its place, and that one's status."""

    state_id: str
    new_state_id: str
    status: StateStatus


class RefusedState(Body):
    """A failed state that cannot be retried, and why."""

    state_id: str
    reason: str


class RetryRunReply(Body):
    retried: list[RetriedState]
    refused: list[RefusedState]
