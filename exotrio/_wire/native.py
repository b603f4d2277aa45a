"""Bodies of native routes for runtimes: claims, outcomes, releases."""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import from_json

from exotrio._util.backoff import MAX_DELAY_MS
from exotrio._wire.body import Body, DelayMs, Moment, TraceContext, Uuid
from exotrio._wire.children import CalledChildren, EndedChild
from exotrio._wire.events import ClaimedEvent, EventName
from exotrio._wire.v0 import ErroredRequest, ExecutedRequest, PruneRequest
from exotrio._wire.vocabulary import (
    MAX_BATCH,
    MAX_CHECKPOINT,
    MAX_LOG_LINES,
    MAX_WAIT_MS,
    ItemResult,
)
from exotrio.graph import PartByPart

Id = Annotated[str, Field(min_length=1, max_length=256)]


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
        run_id: Only states of this run, which may be triggered later, and of its children. None: of any run.
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


def _checkpoint_text(text: str) -> str:
    if (size := len(text.encode())) > MAX_CHECKPOINT:
        raise ValueError(f"has {size:,} bytes; at most {MAX_CHECKPOINT:,} are allowed")
    if not isinstance(from_json(text, allow_inf_nan=False), dict):
        raise ValueError("is not a JSON object")
    return text


class Checkpoint(Body):
    """The newest value that the node of a state set as its checkpoint.

    Fields:
        number: Counts the values that were set, over all executions of the state and its earlier attempts: an
            execution continues from the number in its claim.
        value: JSON text, of an object.
    """

    number: Annotated[int, Field(ge=1, lt=2**53)]
    value: Annotated[str, AfterValidator(_checkpoint_text)]


class NativeState(Body):
    """A claimed state.

    Fields:
        timeout_ms: Maximum time for one execution, by the graph.
        timeout_overrides: It replaces the timeout of the node's class; otherwise the smaller one counts.
        waited_ms: How long it waited for this claim, as ``waited`` of ``StateTimes``.
        trace: W3C trace contexts, if the run is traced: the parent of its execution, and after spaces
            those of executions to link to.
        checkpoint: The one that is stored for it, if any.
        event: If its last execution, or that of the attempt before, ended by waiting for one.
        children: Those that it called, by their ids, if it called any.
    """

    state_id: str
    node_name: str
    identifier: str
    graph_name: str
    run_id: str
    inputs: dict[str, Any]
    created_at: str
    timeout_ms: Annotated[int, Field(gt=0)] | None = None
    timeout_overrides: bool = False
    lease: Lease
    waited_ms: Annotated[int, Field(ge=0)] | None = None
    trace: str | None = None
    checkpoint: Checkpoint | None = None
    event: ClaimedEvent | None = None
    children: dict[str, EndedChild] | None = None


class HeldState(Body):
    """A state and the token it is held under."""

    state_id: str
    token: str


class EndedState(HeldState):
    """A held state whose execution ended.

    Fields:
        trace: Of that execution, if it was traced.
        checkpoint: Stored with what ends the execution, if it is newer than the stored one. An outcome that
            is executed or pruned erases the stored one instead.
    """

    trace: TraceContext | None = None
    checkpoint: Checkpoint | None = None


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


Invalid = Annotated[None, BeforeValidator(lambda invalid: None)]
"""Last in a union: what is invalid is None, and nothing is refused because of it. A validator around the
others would be Python code for each value, which takes seven times as long."""
TookMs = Annotated[Annotated[int, Field(ge=0, le=MAX_DELAY_MS)] | Invalid, Field(union_mode="left_to_right")]


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
    """An error.

    Fields:
        retry: False if the graph's retry policy is not to be applied.
        stuck: Code of its node goes on after its timeout: until it has ended, the state keeps the slots of
            its limits.
    """

    outcome: Literal["errored"] = "errored"
    retry: bool = True
    stuck: bool = False


class PrunedItem(ReportedState, PruneRequest):
    outcome: Literal["pruned"] = "pruned"


class RequeuedItem(ReportedState):
    outcome: Literal["requeued"] = "requeued"
    delay_ms: Annotated[int, Field(gt=0, le=MAX_DELAY_MS)]


class WaitingItem(ReportedState):
    """The state runs again when ``event`` was sent to its run, or when ``timeout_ms`` have passed; None:
    without a limit."""

    outcome: Literal["waiting"] = "waiting"
    event: EventName
    timeout_ms: Annotated[int, Field(gt=0, le=MAX_DELAY_MS)] | None = None


class CallingItem(ReportedState):
    """The state runs again when these children, started with this outcome, have ended."""

    outcome: Literal["calling"] = "calling"
    calls: CalledChildren


OutcomeItem = Annotated[
    ExecutedItem | ErroredItem | PrunedItem | RequeuedItem | WaitingItem | CallingItem,
    Field(discriminator="outcome"),
]
"""One item of ``POST .../outcomes``, whose body is a bare list of them; the last may be a ``ClaimItem``."""

outcome_item: TypeAdapter[OutcomeItem] = TypeAdapter(OutcomeItem, config=ConfigDict(defer_build=True))
outcome_items: TypeAdapter[list[OutcomeItem]] = TypeAdapter(
    Annotated[list[OutcomeItem], FailFast()], config=ConfigDict(defer_build=True)
)


class AfterError(Body):
    """What follows an attempt that ended with an error.

    Fields:
        retried: Another attempt was created.
        attempts: How many the graph's retry policy allows; None from v0, which does not say.
        delay_ms: When the next one is due; None if there is none, or if this was recorded before.
        release: It was ``stuck``, and keeps slots of limits until it is released: heartbeats name it until
            then.
    """

    retried: bool
    attempts: int | None = None
    delay_ms: int | None = None
    release: bool = False


class ItemReply(Body):
    """``after_error``: for an error that is recorded."""

    state_id: str
    result: ItemResult
    detail: str | None = None
    after_error: AfterError | None = None


class ItemAnswer(TypedDict):
    """An ``ItemReply`` as a server makes it: a model takes 3 us longer to make and to write."""

    state_id: str
    result: ItemResult
    detail: NotRequired[str | None]
    after_error: NotRequired[AfterError]


class ItemsReply(Body):
    """Reply to a native batch: one entry per item, in the order of the request."""

    items: list[ItemReply]


class ReleasedState(EndedState):
    """A held state that is given back. ``handed_over``: its node gave it back, by ``HandOver``."""

    handed_over: bool = False


class ReleaseRequest(Body):
    """Release states: either ``states``, or all that are held under ``claim_id``. That also voids the id: a
    claim that arrives later takes nothing."""

    states: Annotated[list[ReleasedState], Field(max_length=MAX_BATCH)] | None = None
    claim_id: Id | None = None
    delay_ms: DelayMs = 0
