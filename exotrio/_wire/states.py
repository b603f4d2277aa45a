"""Bodies of the native route for one state with its history."""

from typing import Any

from pydantic import Field

from exotrio._util.times import format_duration
from exotrio._wire.body import Body, Moment, Seconds
from exotrio._wire.native import LogLine
from exotrio._wire.runs import RelatedRun, StateTimes, WaitReason
from exotrio._wire.v0 import StateDetail
from exotrio._wire.vocabulary import StateStatus


class StateEvent(Body):
    """An event of a state, other than its last claim and its end.

    Fields:
        kind: ``released``, ``handed over``, ``lease lost``, ``lease regained``, ``poison``, ``cancelled``,
            ``retried by hand``.
        worker: Id of the process that held it then, if any.
    """

    at: Moment
    kind: str
    worker: str | None


class StateAttempt(Body):
    """One attempt at the work of a state, which is a state itself.

    Fields:
        retry_count: Automatic retries before it, since the last retry by hand or rerun if there was one.
        by_hand: An operator requested it.
        rerun: It is of a united node, or follows one, and replaces one that ran without a state which was
            retried then.
        worker: The runtime that claimed it; None if none did, or through v0, and from an older server.
        error: The line of its error that says what was raised; None from an older server, too.
    """

    id: str
    status: StateStatus
    retry_count: int
    by_hand: bool
    rerun: bool = False
    created_at: Moment
    worker: str | None = None
    error: str | None = None

    @property
    def how(self) -> str:
        """How it came about, in words."""
        if self.rerun:
            return "rerun: a state before it was retried"
        if self.by_hand:
            return "retried by hand"
        return f"retry {self.retry_count}" if self.retry_count else "first"


class StateHolder(Body):
    """The process that holds a QUEUED state.

    Fields:
        native: Whether it claimed under a lease; otherwise through v0.
        worker: Its id, if it claimed under a lease.
        local: Whether it is the process of the state manager.
        ttl: Seconds until the lease ends unless it is renewed; None: it does not end.
    """

    native: bool
    worker: str | None
    local: bool
    ttl: Seconds | None = Field(alias="ttl_ms")


class StateCheckpoint(Body):
    """The last stored checkpoint of a state.

    Fields:
        number: Counts the values that its node set, over all executions.
        value: Its fields.
        age: Seconds since then.
    """

    number: int
    value: dict[str, Any]
    stored_at: Moment
    age: Seconds = Field(alias="age_ms")


class StateBranch(Body):
    """An edge that is taken under a condition, after one state.

    Fields:
        identifier: The node that it leads to.
        condition: As users write it, such as ``check.kind == "book"``; or ``otherwise``.
        value: The beginning of the text that was compared; None for ``otherwise``.
    """

    identifier: str
    taken: bool
    condition: str
    value: str | None

    @property
    def reason(self) -> str:
        """The condition with the value, in words."""
        if self.value is None:
            return "no other branch was taken" if self.taken else "another branch was taken"
        return f"{self.condition}, and it was {self.value!r}"


class StateHistory(StateDetail, StateTimes):
    """One state in full, with its history.

    Fields:
        data: The data of the signal that pruned it.
        retry_count: Automatic retries before it, since the last retry by hand or rerun if there was one.
        deliveries: How many processes in a row ended, or lost their lease, while they ran it.
        requeued: Whether it waits because its node requeued it.
        enqueue_after: When it may be claimed.
        claimed_at, worker: The last claim, and the process that made it, if under a lease.
        begun_at: When ``execute`` began under that claim, if that was reported.
        holder: The process that holds it, if it is QUEUED.
        stage: Then ``running``, ``buffered`` or ``reporting``, counted as in ``Overview``.
        paused_at: Since when its node is paused, if it waits for that.
        waits_for: Why it waits, unless it does not, or is about to be claimed.
        events: The last 1,000, oldest first.
        attempts: This state and all others that are attempts at the same work, oldest first: those that it
            replaces, which were retried or ran before a rerun, and those that replace it.
        deadline: If its wait for an event ended by its deadline: when that was. It ended once that was seen.
        late: If the event that it waited for was not sent in time: how many seconds after the deadline it
            was sent; None if it was not.
        max_attempts: How many its retry policy allows, from the last retry by hand or rerun on; None from a
            state manager of an earlier version.
        logs: Captured lines of its last execution that logged or printed something.
        checkpoint: The one with which it would continue, if there is one.
        runs_again: If it ended badly: identifiers of the united nodes that ran without it. They run again,
            with all that follows them, when it is retried.
        condition: The branch that led to it, if that was taken under a condition.
        branches: The branches after it, if it succeeded.
        children: Runs that it started, and for whose end it waits or waited; a hundred of them. None
            of them in the namespace of its node, if its run is in another one.
    """

    data: dict[str, Any] | None
    retry_count: int
    deliveries: int
    requeued: bool
    enqueue_after: Moment
    claimed_at: Moment | None
    begun_at: Moment | None = None
    finished_at: Moment | None
    worker: str | None
    holder: StateHolder | None
    stage: str | None = None
    paused_at: Moment | None = None
    waits_for: WaitReason | None = None
    events: list[StateEvent]
    attempts: list[StateAttempt]
    deadline: Moment | None = None
    late: Seconds | None = Field(default=None, alias="late_ms")
    max_attempts: int | None = None
    logs: list[LogLine] = Field(default_factory=list)
    checkpoint: StateCheckpoint | None = None
    runs_again: list[str] = Field(default_factory=list)
    condition: StateBranch | None = None
    branches: list[StateBranch] = Field(default_factory=list)
    children: list[RelatedRun] = Field(default_factory=list)

    @property
    def spent_text(self) -> str:
        """How long it waited and ran, in words; empty for a further output of an execution."""
        late = "" if self.late is None else f"; it was sent {format_duration(self.late)} after the deadline"
        return self.times_text(ended=self.finished_at is not None or self.stage == "reporting") + late

    def attempt_text(self) -> str:
        """Return which attempt it is, in words, such as ``6: 3 of 3 since it was retried by hand``, or
        ``3 of 3``; empty if there is only one, and no other is allowed."""
        if len(self.attempts) == 1 and (self.max_attempts or 1) == 1:
            return ""
        number, allowed = self.retry_count + 1, self.max_attempts
        among = f"{number:,}" if allowed is None else f"{number:,} of {allowed:,}"
        index = [attempt.id for attempt in self.attempts].index(self.id)
        # Earlier attempts may be left out, as there are too many.
        began = max(0, index - self.retry_count)
        if self.attempts[began].rerun:
            return f"{index + 1:,}: {among} since a state before it was retried"
        if self.attempts[began].by_hand:
            return f"{index + 1:,}: {among} since it was retried by hand"
        return among
