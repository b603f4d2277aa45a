"""Bodies of native routes about runs: their start, their counts and what their results lack, their times."""

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, computed_field

from exotrio._util.times import format_duration
from exotrio._wire.body import Body, Moment, Seconds, TraceContext, Uuid
from exotrio._wire.limits import LimitWait
from exotrio._wire.v0 import AnyStatus, RunKey, RunSummary, TriggerRequest
from exotrio._wire.vocabulary import (
    FAILED,
    MAX_WAIT_MS,
    MAX_WEIGHT,
    MIN_WEIGHT,
    RETRIED,
    Priority,
    RunStatus,
    StateStatus,
    run_word,
)


def _id_or_key(run_id: str | None, info: ValidationInfo) -> str | None:
    if "key" in info.data and (run_id is None) == (info.data["key"] is None):
        raise ValueError("give a run_id or a key, and not both")
    return run_id


class NativeTriggerRequest(TriggerRequest):
    """As v0, but with a run id or a key, chosen by the client: each makes the request repeatable.
    ``trace`` is the context of the trigger, if it is traced. ``priority``, ``weight`` and ``fair_key`` say in
    which order its states are claimed: at a state manager with the capability ``order``.

    Also one entry of ``POST .../graph/{graph}/runs``, whose body is ``{"runs": [...]}`` with at most
    ``MAX_BATCH`` of them: all start, or none.
    """

    run_id: Annotated[Uuid | None, AfterValidator(_id_or_key), Field(validate_default=True)] = None
    trace: TraceContext | None = None
    priority: Priority = Priority.NORMAL
    weight: Annotated[float, Field(ge=MIN_WEIGHT, le=MAX_WEIGHT)] = 1.0
    fair_key: RunKey | None = None


class PriorityRequest(Body):
    """The new priority of a run."""

    priority: Priority


class TriggerManyReply(Body):
    """Reply to a list of runs, in its order: ``created`` is False for those that existed already."""

    run_ids: list[str]
    created: list[bool]


class RunQuery(Body):
    """Query of a run: how long to wait for its end."""

    wait_ms: Annotated[int, Field(ge=0, le=MAX_WAIT_MS)] = 0


class WaitReason(Body):
    """Why states wait.

    Fields:
        kind: ``paused``: the node is; ``not offered``: no live runtime has the node; ``no version``: no live
            runtime has the version that they are pinned to; ``other runs``: the runtimes that have the node
            only work on other runs; ``later``: they are not due yet; ``limit``: a limit has no room;
            ``draining``: all runtimes that have the node drain; ``busy``: all their workers run nodes;
            ``event``: it was not sent yet; ``run``: a run that they started has not ended.
        namespace, node: Of what they wait for.
        at: Since when it is paused, when they are due, or until when they wait for the event.
        event, since: The event that the first of them waits for, and since when it waits for it or for runs.
        run_id, graph, runs: The first run that it waits for, and how many; none if they have not begun. Where
            they are in another namespace than the reader, only how many.
        workers: How many are busy.
        limit: The limit that has no room for the first of them.
        text: The same as a sentence.
    """

    kind: str
    namespace: str
    node: str
    at: Moment | None = None
    event: str | None = None
    since: Moment | None = None
    run_id: str | None = None
    graph: str | None = None
    runs: int = 0
    workers: int = 0
    limit: LimitWait | None = None
    text: str


class NodeCounts(Body):
    """The numbers of states of one place of a graph, by status.

    Fields:
        paused_at: Since when its node is paused, if states wait for that; None from v0.
        waits_for: Why its states wait, unless none does, or the first is about to be claimed. Only of a
            request that does not wait for the end of the run; None from v0.
        not_reached: Why it has no state, and gets none unless what failed is retried; None otherwise.
        further: How many of the SUCCESS states did not run: a node that ran once and returned six outputs has
            six states, of which five are further ones. 0 from v0.
        is_last: No node follows it, so that its outputs are the result of the run.
    """

    identifier: str
    node_name: str
    counts: dict[AnyStatus, int]
    paused_at: Moment | None = None
    waits_for: WaitReason | None = None
    not_reached: str | None = None
    further: int = 0
    is_last: bool = True


def missing_of(
    nodes: Iterable[tuple[str, Mapping[str, int], int]], *, is_cancelled: bool = False
) -> list[str]:
    """Return what the result of a run lacks: ``1 of 6 measure failed``, or that the run was cancelled.

    Args:
        nodes: Identifier, counts by status, and ``NodeCounts.further``.
    """
    if is_cancelled:
        return ["the run was cancelled"]
    missing = []
    for identifier, counts, further in nodes:
        if failed := sum(counts.get(status, 0) for status in FAILED):
            total = sum(counts.values()) - sum(counts.get(status, 0) for status in RETRIED) - further
            missing.append(f"{failed:,} of {total:,} {identifier} failed")
    return missing


NO_EVENT = "none was sent in time"
MIN_REPORTING = 1.0
"""The time from the end of ``execute`` until its outcome was accepted is shown from so many seconds on."""


class StateTimes(Body):
    """How long a state waited and ran, in seconds; so far, if it has not ended.

    Fields:
        waited: Until a runtime claimed it, from when it could: from its creation or, if it was delayed or
            held before, from the end of the delay, or from when it was given back. None of one that waits for
            an event or a run, or did until it ended, and of a further output of an execution.
        buffered: From its claim until ``execute`` of its node began; of a state that ``Overview.buffered``
            counts, from its claim until now.
        ran: Of ``execute``. Both are None if that did not begin, or its runtime did not report it: a claim
            through v0 tells nothing, and a state that runs is reported by the next heartbeat.
        held: From its claim to its outcome; None if it is not claimed.
        for_event: For events, in all; None if it never did. State managers of earlier versions did not keep
            how long the state of a node had waited for one that came.
        for_run: The same for the ends of runs that it started.
        earlier: Of one that was held before: from its creation until it was given back, or went on, with its
            delays until then, and without ``for_event`` and ``for_run``.
        no_event: It waited for an event until it ended, by the deadline: none was sent in time.
    """

    waited: Seconds | None = Field(default=None, alias="waited_ms")
    buffered: Seconds | None = Field(default=None, alias="buffered_ms")
    ran: Seconds | None = Field(default=None, alias="ran_ms")
    held: Seconds | None = Field(default=None, alias="held_ms")
    for_event: Seconds | None = Field(default=None, alias="for_event_ms")
    for_run: Seconds | None = Field(default=None, alias="for_run_ms")
    earlier: Seconds | None = Field(default=None, alias="earlier_ms")
    no_event: bool = False

    def times_text(self, *, ended: bool) -> str:
        """Return these times in words, as pages and commands show them; empty if there are none."""
        begin, ends = ("waited", "ran") if ended else ("has waited", "running for")
        others = [("an event", self.for_event), ("a run", self.for_run)]
        waits = [f"{format_duration(seconds)} for {what}" for what, seconds in others if seconds is not None]
        now, before = [], []
        if self.waited is None:
            now = [f"{begin} {text}" for text in waits]
        else:
            now.append(f"waited {format_duration(self.waited)}")
            before = [f"waited {text}" for text in waits]
        if self.buffered is not None:
            now.append(f"buffered {'for ' if self.ran is None else ''}{format_duration(self.buffered)}")
        if self.ran is not None:
            now.append(f"{ends} {format_duration(self.ran)}")
            reporting = (self.held or 0) - (self.buffered or 0) - self.ran
            if ended and reporting >= MIN_REPORTING:
                now.append(f"reporting {format_duration(reporting)}")
        elif self.held is not None and self.buffered is None:
            now.append(f"{'from claim to end' if ended else 'claimed for'} {format_duration(self.held)}")
        if self.earlier is not None:
            before.append(f"waited, was held or delayed {format_duration(self.earlier)}")
        text = ", ".join(now) + (f": {NO_EVENT}" if self.no_event else "")
        return f"{text}; before that, {', '.join(before)}" if before else text


class RelatedRun(Body):
    """A run that started another one, or that another one started.

    Fields:
        run_id, graph_name, status: Those of the run; only the graph of one that could not be started, or is
            about to be.
        origin: ``graph`` (a state started it, and waits for its end) or ``failure`` (the failure of a run).
        state_id, identifier: The state that started the other one, or the first that had failed.
        created_at, finished_at, cancelled_at: When it was created, when it ended, and when it was cancelled.
        waits: All of its states that have not ended wait for events or runs.
        problem: Why it could not be started.
    """

    run_id: str | None = None
    graph_name: str
    status: RunStatus | None = None
    origin: str
    state_id: str | None = None
    identifier: str | None = None
    created_at: Moment | None = None
    finished_at: Moment | None = None
    cancelled_at: Moment | None = None
    waits: bool = False
    problem: str | None = None

    @property
    def word(self) -> str:
        """Its status, as pages and commands show it."""
        if self.status is None:
            return "not started" if self.problem else "about to start"
        return run_word(self.status, is_cancelled=self.cancelled_at is not None, waits=self.waits)

    @property
    def cause(self) -> str:
        """What started the later one of the two runs, in words."""
        place = f"{self.identifier} ({self.state_id})" if self.state_id else "a state"
        return f"failed: {place}" if self.origin == FAILURE else place


FAILURE = "failure"
"""The origin of a run that another one started by failing."""


class Run(RunSummary, StateTimes):
    """One run with its counts per place, in the order of the graph's nodes.

    Fields:
        missing: What its result lacks because states failed, a text for each node, or that it was cancelled;
            empty if neither.
        parent: The run that started it, if it exists.
        children: Runs that it started: failed ones first, then those that have not ended; a hundred of them.
        children_count: How many it started.
        to_move: Of a change of its priority: how many states follow, since they are many.
        changing: What goes on in portions, since its states are many: a text for each, such as ``being
            cancelled``, ``being retried`` or ``moving to another priority``.

    Its times are the averages of its executions, without places that wait. They are None while it goes on,
    from v0, if a begin was not reported, and if it has more than 20,000 states.
    """

    nodes: list[NodeCounts]
    parent: RelatedRun | None = None
    children: list[RelatedRun] = Field(default_factory=list)
    children_count: int = 0
    to_move: int = 0
    changing: list[str] = Field(default_factory=list)

    @property
    def has_result(self) -> bool:
        """Whether a node at the end of the graph has succeeded."""
        return any(node.is_last and node.counts.get(StateStatus.SUCCESS) for node in self.nodes)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def missing(self) -> list[str]:
        """What its result lacks: see the class."""
        return missing_of(
            ((node.identifier, node.counts, node.further) for node in self.nodes),
            is_cancelled=self.cancelled_at is not None,
        )
