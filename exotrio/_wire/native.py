"""Bodies of native routes for runtimes: claims, outcomes, heartbeats, runs."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    computed_field,
)

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._util.times import format_duration
from exotrio._wire.body import Body, DelayMs, Moment, Seconds
from exotrio._wire.v0 import (
    AnyStatus,
    ErroredRequest,
    ExecutedRequest,
    PruneRequest,
    RunSummary,
    TriggerRequest,
)
from exotrio._wire.vocabulary import (
    FAILED,
    MAX_BATCH,
    MAX_LOG_LINES,
    MAX_TASK_TREE,
    MAX_WAIT_MS,
    RETRIED,
    HeartbeatResult,
    ItemResult,
)
from exotrio.graph import PartByPart

MAX_WORKERS = 2**31 - 1
"""Of one runtime: a larger number is a mistake, and the database could not store every one."""
MAX_FIELDS = 1_000
"""Maximum number of characters that a heartbeat sends of the inputs and outputs of one node."""

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _uuid(text: str) -> str:
    if _UUID.fullmatch(text):
        return text  # as most clients write it; UUID() takes five times as long
    from uuid import UUID

    return str(UUID(text))


Uuid = Annotated[str, AfterValidator(_uuid)]
Id = Annotated[str, Field(min_length=1, max_length=256)]
TraceContext = Annotated[str, Field(pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
"""A ``traceparent`` of W3C's Trace Context."""


class Discovery(Body):
    """Reply of ``GET /exotrio/v1``, by which clients recognize our server."""

    version: str
    capabilities: list[str]


class NativeClaimRequest(Body):
    """Claim states under a lease.

    The reply has ``register`` if nothing can be claimed and a node is not registered.

    Fields:
        worker_id: Id of the process that claims, shown to operators.
        limits: Node name to the maximum number of its states.
        limit: Maximum number of states in all.
        claim_id: Chosen by the client. The same id again returns the states still held under it.
        run_id: Only states of this run, which may be triggered later. None: of any run.
        announces: Whether the heartbeats of the process name the states that run, and name a state whose
            lease has ``announce`` before it begins. Otherwise every claimed state counts as running.
        wait_ms: How long to wait for the first state, unless the reply has ``register``.
    """

    worker_id: Id
    limits: Annotated[dict[str, Annotated[int, Field(ge=0)]], PartByPart, Field(max_length=MAX_BATCH)]
    limit: Annotated[int, Field(ge=0)]
    claim_id: Id
    run_id: Uuid | None = None
    announces: bool = False
    wait_ms: Annotated[int, Field(ge=0, le=MAX_WAIT_MS)] = 0


class PiggybackedClaim(NativeClaimRequest):
    """A claim in the request that delivers outcomes. It does not wait, and is not repeated. While other
    runtimes wait for states, it gets at most ``at_once`` states, which could begin at once."""

    at_once: Annotated[int, Field(ge=0)]


class ClaimItem(Body):
    """The last item of ``POST .../outcomes`` may be a claim: a busy runtime needs no other request for it."""

    claim: PiggybackedClaim


class Lease(Body):
    """The right to report a state.

    Fields:
        token: Sent back with the outcome; only the state's last token is accepted.
        ttl_ms: Time left before others can claim the state; None: never.
        attempt: 1 for the first attempt, then one more for each retry.
        deliveries: How many processes in a row ended, or lost their lease, while they ran the state.
        announce: Its last process was lost. A heartbeat has to say that the state runs before it begins.
        alone: One more process that is lost with it makes it an error. It has to run while no other state
            runs in the process, so that it is certain which state ends the process.
    """

    token: str
    ttl_ms: int | None
    attempt: int
    deliveries: int
    announce: bool = False
    alone: bool = False


class NativeState(Body):
    """A claimed state.

    Fields:
        timeout_ms: Maximum time for one execution, by the graph.
        waited_ms: How long it waited for this claim, as ``waited`` of ``StateTimes``.
        trace: W3C trace contexts, if the run is traced: the parent of its execution, and after spaces
            those of executions to link to.
    """

    state_id: str
    node_name: str
    identifier: str
    graph_name: str
    run_id: str
    inputs: dict[str, Any]
    created_at: str
    timeout_ms: Annotated[int, Field(gt=0)] | None = None
    lease: Lease
    waited_ms: Annotated[int, Field(ge=0)] | None = None
    trace: str | None = None


class HeldState(Body):
    """A state and the token it is held under."""

    state_id: str
    token: str


class EndedState(HeldState):
    """A held state whose execution ended. ``trace``: of that execution, if it was traced."""

    trace: TraceContext | None = None


class LogLine(Body):
    """A line that an execution logged or printed.

    Fields:
        at: When, by the clock of the runtime.
        level: Of a log record, such as ``INFO``; ``stdout`` or ``stderr`` if it was printed; None if it says
            what was left out here.
        text: It may have several lines, as a traceback has.
    """

    at: Moment
    level: str | None = None
    logger: str | None = None
    text: str


def _logs(lines: object, parse: ValidatorFunctionWrapHandler) -> object:
    # An outcome is never refused because of its log lines.
    try:
        return parse(lines[:MAX_LOG_LINES] if isinstance(lines, list) else lines)
    except (ValidationError, OverflowError):
        return []


def _if_valid(ms: object, parse: ValidatorFunctionWrapHandler) -> object:
    # Nothing is refused because of the times of an execution.
    try:
        return parse(ms)
    except ValidationError:
        return None


TookMs = Annotated[Annotated[int, Field(ge=0, le=MAX_DELAY_MS)] | None, WrapValidator(_if_valid)]


class ReportedState(EndedState):
    """A held state with an outcome.

    Fields:
        logs: In the order of time.
        buffered_ms: Time from the answer to its claim until ``execute`` of its node began; None if it did
            not, or the runtime does not report it. A duration, since the clocks of two machines differ.
        ran_ms: Time that ``execute`` took.
    """

    logs: Annotated[list[LogLine], WrapValidator(_logs)] = Field(default_factory=list)
    buffered_ms: TookMs = None
    ran_ms: TookMs = None


class ExecutedItem(ReportedState, ExecutedRequest):
    outcome: Literal["executed"] = "executed"


class ErroredItem(ReportedState, ErroredRequest):
    """``retry``: false if the graph's retry policy is not to be applied."""

    outcome: Literal["errored"] = "errored"
    retry: bool = True


class PrunedItem(ReportedState, PruneRequest):
    outcome: Literal["pruned"] = "pruned"


class RequeuedItem(ReportedState):
    outcome: Literal["requeued"] = "requeued"
    delay_ms: Annotated[int, Field(gt=0, le=MAX_DELAY_MS)]


OutcomeItem = Annotated[
    ExecutedItem | ErroredItem | PrunedItem | RequeuedItem, Field(discriminator="outcome")
]
"""One item of ``POST .../outcomes``, whose body is a bare list of them; the last may be a ``ClaimItem``."""

outcome_item: TypeAdapter[OutcomeItem] = TypeAdapter(OutcomeItem, config=ConfigDict(defer_build=True))


class AfterError(Body):
    """What follows an attempt that ended with an error.

    Fields:
        retried: Another attempt was created.
        attempts: How many the graph's retry policy allows; None from v0, which does not say.
        delay_ms: When the next one is due; None if there is none, or if this was recorded before.
    """

    retried: bool
    attempts: int | None = None
    delay_ms: int | None = None


class ItemReply(Body):
    """``after_error``: for an error that is recorded."""

    state_id: str
    result: ItemResult
    detail: str | None = None
    after_error: AfterError | None = None


class ItemsReply(Body):
    """Reply to a native batch: one entry per item, in the order of the request."""

    items: list[ItemReply]


class ReleaseRequest(Body):
    """Release states: either ``states``, or all that are held under ``claim_id``. That also voids the id: a
    claim that arrives later takes nothing."""

    states: Annotated[list[EndedState], Field(max_length=MAX_BATCH)] | None = None
    claim_id: Id | None = None
    delay_ms: DelayMs = 0


class HeartbeatProgress(Body):
    """The progress of a running node; ``fraction`` is None if the node does not know."""

    fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    text: Annotated[str, Field(max_length=200)] = ""


class HeartbeatState(HeldState):
    """A held state in a heartbeat: a worker has it (``running``), or it waits for one.

    ``buffered_ms`` is as in ``ReportedState``; None before ``execute`` began.
    """

    running: bool = False
    buffered_ms: TookMs = None
    progress: HeartbeatProgress | None = None


class HeartbeatRequest(Body):
    """A sign of life of a runtime, which renews the leases of all states it holds.

    Fields:
        worker_id: As in its claims.
        runtime: Name of the runtime.
        busy: Workers that run a node.
        buffered: States that wait for a worker.
        reporting: States whose node has ended and whose outcome is not yet accepted.
        states: All states that it holds.
        workers: Number of its workers; 0 if unknown.
        shows_tasks: Whether it answers the command ``tasks``.
        tasks: Its task tree, in the heartbeat after that command.
        nodes: Its nodes, with the names of their inputs and outputs as ``NodeDeclaration.fields`` gives
            them, cut to ``MAX_FIELDS`` characters.
        registered: The nodes that it registered, with ``NodeDeclaration.digest`` of each.
        registered_ms: How long ago that was.
    """

    worker_id: Id
    runtime: Annotated[str, Field(max_length=256)] = ""
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


class HeartbeatStateReply(Body):
    state_id: str
    result: HeartbeatResult


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


def _id_or_key(run_id: str | None, info: ValidationInfo) -> str | None:
    if "key" in info.data and (run_id is None) == (info.data["key"] is None):
        raise ValueError("give a run_id or a key, and not both")
    return run_id


class NativeTriggerRequest(TriggerRequest):
    """As v0, but with a run id or a key, chosen by the client: each makes the request repeatable.
    ``trace`` is the context of the trigger, if it is traced.

    Also one entry of ``POST .../graph/{graph}/runs``, whose body is ``{"runs": [...]}`` with at most
    ``MAX_BATCH`` of them: all start, or none.
    """

    run_id: Annotated[Uuid | None, AfterValidator(_id_or_key), Field(validate_default=True)] = None
    trace: TraceContext | None = None


class TriggerManyReply(Body):
    """Reply to a list of runs, in its order: ``created`` is False for those that existed already."""

    run_ids: list[str]
    created: list[bool]


class RunQuery(Body):
    """Query of a run: how long to wait for its end."""

    wait_ms: Annotated[int, Field(ge=0, le=MAX_WAIT_MS)] = 0


class NodeCounts(Body):
    """The numbers of states of one place of a graph, by status.

    Fields:
        paused_at: Since when its node is paused, if states wait for that; None from v0.
        not_reached: Why it has no state, and gets none unless what failed is retried; None otherwise.
        further: How many of the SUCCESS states did not run: a node that ran once and returned six outputs has
            six states, of which five are further ones. 0 from v0.
    """

    identifier: str
    node_name: str
    counts: dict[AnyStatus, int]
    paused_at: Moment | None = None
    not_reached: str | None = None
    further: int = 0


def missing_of(
    nodes: Iterable[tuple[str, Mapping[str, int], int]], *, is_cancelled: bool = False
) -> list[str]:
    """Return what the result of a run lacks: ``1 of 6 measure failed``.

    Args:
        nodes: Identifier, counts by status, and ``NodeCounts.further``.
    """
    missing = []
    for identifier, counts, further in nodes:
        if failed := sum(counts.get(status, 0) for status in FAILED):
            total = sum(counts.values()) - sum(counts.get(status, 0) for status in RETRIED) - further
            how = "failed or ended when the run was cancelled" if is_cancelled else "failed"
            missing.append(f"{failed:,} of {total:,} {identifier} {how}")
    return missing


class StateTimes(Body):
    """How long a state waited and ran, in seconds; so far, if it has not ended.

    Fields:
        waited: Until a runtime claimed it, from when it could: from its creation or, if it was delayed, from
            the end of the delay.
        buffered: From its claim until ``execute`` of its node began; of a state that ``Overview.buffered``
            counts, from its claim until now.
        ran: Of ``execute``. Both are None if that did not begin, or its runtime did not report it: a claim
            through v0 tells nothing, and a state that runs is reported by the next heartbeat.
        held: From its claim to its outcome; None if it is not claimed.
    """

    waited: Seconds | None = Field(default=None, alias="waited_ms")
    buffered: Seconds | None = Field(default=None, alias="buffered_ms")
    ran: Seconds | None = Field(default=None, alias="ran_ms")
    held: Seconds | None = Field(default=None, alias="held_ms")


def times_text(
    waited: float, buffered: float | None, ran: float | None, held: float | None, *, ended: bool
) -> str:
    """Return the times of a state in words, as pages and commands show them."""
    parts = [("waited", waited)]
    if buffered is not None and ran is not None:
        parts += [("buffered", buffered), ("ran" if ended else "running for", ran)]
    elif buffered is not None:
        parts.append(("buffered for", buffered))
    elif held is not None:
        parts.append(("from claim to outcome" if ended else "claimed for", held))
    return ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in parts)


class Run(RunSummary, StateTimes):
    """One run with its counts per place, in the order of the graph's nodes.

    Fields:
        missing: What its result lacks because states failed, a text for each node; empty if none did.

    Its times are the averages of its executions. They are None while it goes on, from v0, if a begin was not
    reported, and if it has more than 20,000 states.
    """

    nodes: list[NodeCounts]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def missing(self) -> list[str]:
        """What its result lacks because states failed, a text for each node; empty if none did."""
        return missing_of(
            ((node.identifier, node.counts, node.further) for node in self.nodes),
            is_cancelled=self.cancelled_at is not None,
        )
