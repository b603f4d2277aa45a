"""Bodies of native routes about the limits of a namespace, and why a state waits for one."""

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from exotrio._util.times import format_duration
from exotrio._util.words import listed, one_line
from exotrio._wire.body import Body, Moment, Seconds
from exotrio._wire.vocabulary import short_id
from exotrio.graph import AtMost, LimitModel, PeriodMs

MAX_SHOWN = 100
"""Keys of a limit, and states that hold it, that are shown."""
MAX_COUNTED = 100_000
"""States that wait for a limit, or for a key of it, that are counted."""
MAX_HOLDERS = 3
"""States that hold a limit, and are named where another one waits for it."""


class LimitChange(Body):
    """Body of ``PUT .../limit/{limit}``: what it is to be.

    Fields:
        at_most, starts, period_ms: As of ``LimitModel``. One that is left out stays as it is; null takes it
            away.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    at_most: AtMost | None = None
    starts: AtMost | None = None
    period_ms: PeriodMs | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at_most, or starts with a period")
        return self

    def of(self, name: str, present: LimitModel | None) -> LimitModel:
        """Return the limit after the change of ``present``, None if it is a new one.

        Raises:
            pydantic.ValidationError: it would limit nothing, or lack its period.
        """
        values = {"name": name} if present is None else present.model_dump()
        return LimitModel.model_validate({**values, **self.model_dump(exclude_unset=True)})


class LimitValues(Body):
    """What a limit limits; ``LimitInfo`` says what its fields are."""

    at_most: int | None = None
    starts: int | None = None
    period: Seconds | None = Field(None, alias="period_ms")

    @property
    def stops(self) -> bool:
        """Whether it stops all that names it, as a pause does."""
        return 0 in (self.at_most, self.starts)


class LimitInfo(LimitValues):
    """A limit of a namespace.

    Fields:
        at_most: Maximum number of states at once for each key; None if that is not limited.
        starts: Maximum number of starts within ``period`` seconds for each key; None if that is not limited.
        held: How many states hold it: those that are claimed, and those that ended before their nodes, until
            these have stopped.
        waiting: How many states wait for it: at most 100,000 are counted, and at most 10,000 of one node that
            no claim has tried to take yet. States that wait for something else, such as a paused node, a
            runtime or a time, are not counted.
        graphs: The graphs whose next runs name it.
        keyed: Whether one of these gives it a key, so that it applies to each key separately.
        stopping: How many of those that hold it ended otherwise, and have not stopped as far as is known.
        created_at: When it was made; None if the server does not say that.
    """

    name: str
    updated_at: Moment
    held: int
    waiting: int
    graphs: list[str]
    keyed: bool = False
    stopping: int = 0
    created_at: Moment | None = None

    def text(self) -> str:
        """Return what it limits, in a few words."""
        return limit_text(self) + " for each key" * self.keyed

    def held_text(self) -> str:
        """Return how many states hold it, and how many of these are stopping."""
        return f"{self.held:,}{f', {self.stopping:,} stopping' if self.stopping else ''}"


class LimitList(Body):
    """The limits of a namespace, by name."""

    limits: list[LimitInfo]


class LimitKey(Body):
    """A key of a limit that is in use.

    Fields:
        held: How many states with this key hold the limit.
        started: Starts within the last period that count; None if they are not limited.
        room_at: When the next start is possible, if those of the period are used up.
    """

    key: str
    held: int
    waiting: int
    started: int | None = None
    room_at: Moment | None = None


class LimitHolder(Body):
    """A state that holds a limit.

    Fields:
        held_for: Seconds since its claim.
        worker: Id of the process that claimed it, if that was through the native API.
        stopping: Whether it has ended, and its node has not stopped as far as is known.
        stage: ``buffered`` or ``reporting``, as in ``Overview``, if it is claimed and does not run.
    """

    state_id: str
    run_id: str
    key: str
    held_for: Seconds = Field(alias="held_ms")
    worker: str | None
    stopping: bool = False
    stage: str | None = None


class LimitDetail(LimitInfo):
    """A limit with its keys in use, those with the most waiting states first, and with the states that hold
    it, the longest first: at most 100 of each. ``set_by`` is who set it last, as far as that is recorded."""

    keys: list[LimitKey]
    holders: list[LimitHolder]
    set_by: str | None = None


class DeletionOfLimit(Body):
    """Query of the deletion of a limit, as in ``StateManager.remove_limit``."""

    force: bool = False


class RemovedLimit(Body):
    """A limit that was deleted, and the graphs that still name it, which it does not limit any more."""

    name: str
    graphs: list[str]


class LimitWait(LimitValues):
    """The limit that a state waits for.

    Fields:
        held: How many states hold it with this key.
        stopping: How many of these have ended, while their nodes have not stopped as far as is known.
        holders: Ids of some of them, those that hold it longest first.
        stages: The ``stage`` of those that have one, by id, as in ``LimitHolder``.
        held_for: Seconds since the claim of the first of them.
        started: Starts within the last period that count.
        room_in: Seconds until the next start is possible, if those of the period are used up.
        before: How many states are before it; at most 100,000 are counted.
    """

    limit: str
    key: str
    held: int
    stopping: int = 0
    holders: list[str] = Field(default_factory=list)
    stages: dict[str, str] = Field(default_factory=dict)
    held_for: Seconds | None = Field(None, alias="held_ms")
    started: int | None = None
    room_in: Seconds | None = Field(None, alias="room_in_ms")
    before: int

    @property
    def name(self) -> str:
        """The limit with its key."""
        return f"{self.limit} ({one_line(self.key)})" if self.key else self.limit

    def text(self) -> str:
        """Return why the state waits, in one line."""
        return f"waits for limit {self.name}: {self.why()}"

    def why(self) -> str:
        """Return why the limit has no room, and how many states are before."""
        if self.stops:
            why = "it is 0, which stops all"
        elif self.at_most is not None and self.held >= self.at_most:
            why = f"{self.held:,} of {self.at_most:,} held"
            if self.holders:
                longest = ", the longest" if self.held > 1 else ""
                why += f" by {listed(map(self._holder, self.holders))}"
                why += f" and {self.held - len(self.holders):,} more" if self.held > len(self.holders) else ""
                why += f"{longest} for {format_duration(self.held_for)}"
            if self.stopping:
                have = "1 has" if self.stopping == 1 else f"{self.stopping:,} have"
                why += f", of which {have} ended, but not yet stopped"
        elif self.room_in is not None:
            why = f"{self.started:,} of {_starts_text(self)} used, "
            why += f"the next in {format_duration(self.room_in)}"
        else:
            why = "it has room for states before it"
        return f"{why}; {self.before:,} before it"

    def _holder(self, state_id: str) -> str:
        stage = self.stages.get(state_id)
        return f"{short_id(state_id)} ({stage})" if stage else short_id(state_id)


def limit_text(limit: LimitValues | LimitModel) -> str:
    """Return what a limit limits, in a few words."""
    parts = [] if limit.at_most is None else [f"{limit.at_most:,} at once"]
    parts += [] if limit.starts is None else [_starts_text(limit)]
    return ", ".join(parts)


def _starts_text(limit: LimitValues | LimitModel) -> str:
    return f"{limit.starts:,} starts in {format_duration(limit.period)}"
