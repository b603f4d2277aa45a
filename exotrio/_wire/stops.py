"""Bodies about the stops of runtimes: what a runtime reports of its stop, and the receipts of stops."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, computed_field

from exotrio._util.times import format_duration
from exotrio._util.words import plural
from exotrio._wire.body import Body, Moment, Seconds

MAX_WHY = 200
"""Maximum number of characters of the source of a stop: programs may give any."""

MAX_MS = 2**45
"""Maximum of the durations of a stop: a thousand years. Nodes that run side by side are added up."""

MIN_REST = 0.01
"""Seconds of a stop outside its phases that are shown: less may come from rounding."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
Duration = Annotated[Seconds, Field(ge=0, le=MAX_MS / 1000)]
Reason = Annotated[str, Field(max_length=MAX_WHY)]


def work_lost_text(seconds: float, *, at_least: bool = False) -> str:
    """Return the work lost, in words; ``at_least`` if more may have been lost."""
    if at_least:
        lost = f"at least {format_duration(seconds)} of work lost"
        return lost if seconds else "how much work was lost is not known"
    return f"{format_duration(seconds)} of work lost" if seconds else "no work lost"


def cut_text(cut: int, perhaps_cut: int) -> str:
    """Return how many nodes were cut, such as ``2``, or ``2 to 5`` if it is not known of all."""
    return f"{cut:,} to {cut + perhaps_cut:,}" if perhaps_cut else f"{cut:,}"


class StopReport(Body):
    """How the stop of a runtime went, by its last heartbeat; in one before that, how far it is.

    Fields:
        why: What asked for the stop: a signal, ``stop()``, ...; empty if that is not known.
        shortened_by: What asked later, and shortened the grace, or ended the process; empty if nothing did.
        took: Seconds from the first request to the last heartbeat; None if no stop had begun.
        drain, clean_up, flush: Seconds of each phase; None for one that was skipped.
        finished: Nodes that ran when the stop began, and whose outcomes were accepted.
        handed_over: Those that gave their state back.
        cut: Those that were cancelled or killed, or whose outcomes were not accepted.
        work_lost: Seconds for which these had run, without what checkpoints keep.
        unknown, abandoned, kept: States whose fate is unknown, which are abandoned, and whose outcome is in
            the outbox, in the whole life of the runtime.
        exit_code: Of a process that ends with its runtime; None for others.
    """

    why: Reason = ""
    shortened_by: Reason = ""
    took: Duration | None = Field(default=None, alias="took_ms")
    drain: Duration | None = Field(default=None, alias="drain_ms")
    clean_up: Duration | None = Field(default=None, alias="clean_up_ms")
    flush: Duration | None = Field(default=None, alias="flush_ms")
    finished: Count = 0
    handed_over: Count = 0
    cut: Count = 0
    work_lost: Duration = Field(default=0.0, alias="work_lost_ms")
    unknown: Count = 0
    abandoned: Count = 0
    kept: Count = 0
    exit_code: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    @property
    def undelivered(self) -> int:
        """How many states are unknown, abandoned or in the outbox."""
        return self.unknown + self.abandoned + self.kept

    def text(self) -> str:
        """Return how the stop went, as one line."""
        about = "; ".join(filter(None, (self.reason, self.phases)))
        undelivered = [(self.abandoned, "abandoned, to run again"), (self.unknown, "unknown, may run again")]
        lost = [f"{plural(count, 'state')} {text}" for count, text in undelivered if count]
        if self.work_lost or not lost:
            lost.insert(0, work_lost_text(self.work_lost))
        return (
            f"after {format_duration(self.took)} ({about}): {plural(self.finished, 'node')} finished,"
            f" {self.handed_over:,} handed over, {self.cut:,} cut, {', '.join(lost)}"
        )

    @property
    def phases(self) -> str:
        """The time of each phase and of the rest, in words; empty if no stop had begun."""
        named = [("drain", self.drain), ("clean-up", self.clean_up), ("flush", self.flush)]
        rest = (self.took or 0.0) - sum(seconds or 0.0 for _, seconds in named)
        named.append(("rest", rest if rest >= MIN_REST else None))
        return ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in named if seconds)

    @property
    def reason(self) -> str:
        """What asked for the stop, and what shortened it, in words."""
        return ", then ".join(filter(None, (self.why, self.shortened_by)))


class StopReceipt(StopReport):
    """How a runtime ended.

    Fields:
        worker_id: Id of the process.
        began_at: When the stop began; None if that is not known.
        ended_at: When the last heartbeat came, by the clock of the state manager. A runtime that vanished
            ended later.
        vanished: The heartbeats ended without one that said that the runtime stopped. Then the last of them
            says the rest, the nodes that ran at that time are cut, and what they did later is not in
            ``work_lost``.
        perhaps_cut: Nodes that such a runtime may have run, too, of states that it claimed after its last
            heartbeat, or shortly before, or whose processes were starting then.
    """

    worker_id: str
    runtime: str
    ended_at: Moment
    vanished: bool = False
    perhaps_cut: Count = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def began_at(self) -> Moment | None:
        """When the stop began; None if that is not known."""
        return None if self.took is None else self.ended_at - timedelta(seconds=self.took)

    @property
    def cut_in_words(self) -> str:
        """How many nodes were cut, as ``cut_text`` says it."""
        return cut_text(self.cut, self.perhaps_cut)

    @property
    def lost(self) -> str:
        """The work lost, such as ``4.2 s``, or ``≥4.2 s`` of a runtime that vanished;
        empty if none was."""
        if self.vanished and (self.cut or self.perhaps_cut):
            return f"≥{format_duration(self.work_lost)}" if self.cut else "not known"
        return format_duration(self.work_lost) if self.work_lost else ""

    @property
    def reason(self) -> str:
        return ", then ".join(filter(None, (super().reason, "vanished" if self.vanished else "")))


class StopTotal(Body):
    """What several stops cost together: the sums of ``StopReceipt``.

    Fields:
        stops, vanished: How many receipts there are, and those of them of runtimes that vanished.
        longest: Seconds of the longest one.
    """

    stops: int
    vanished: int
    took: Seconds = Field(alias="took_ms")
    longest: Seconds = Field(alias="longest_ms")
    finished: int
    handed_over: int
    cut: int
    perhaps_cut: int = 0
    work_lost: Seconds = Field(alias="work_lost_ms")
    undelivered: int

    def text(self) -> str:
        """Return it as one line."""
        if not self.stops:
            return "0 stops"
        vanished = f", {self.vanished:,} vanished" if self.vanished else ""
        is_part = bool(self.vanished and (self.cut or self.perhaps_cut))
        lost = f"{work_lost_text(self.work_lost, at_least=is_part)}; "
        if is_part and not self.cut:
            lost = "work lost not known; "
        elif self.undelivered and not self.work_lost and not is_part:
            lost = ""  # what was not delivered may be lost
        took = f"{format_duration(self.took)} in all, {format_duration(self.longest)} at most; "
        return (
            f"{plural(self.stops, 'stop')}{vanished}: {took if self.took else ''}"
            f"{plural(self.finished, 'node')} finished, {self.handed_over:,} handed over,"
            f" {cut_text(self.cut, self.perhaps_cut)} cut; {lost}"
            f"{plural(self.undelivered, 'state')} undelivered"
        )


class StopList(Body):
    """Receipts of stops, the latest first."""

    receipts: list[StopReceipt]

    @property
    def total(self) -> StopTotal:
        """What these stops cost together."""
        of = self.receipts
        took = [each.took for each in of if each.took is not None]
        return StopTotal(
            stops=len(of),
            vanished=sum(each.vanished for each in of),
            took_ms=sum(took) * 1000,
            longest_ms=max(took, default=0.0) * 1000,
            finished=sum(each.finished for each in of),
            handed_over=sum(each.handed_over for each in of),
            cut=sum(each.cut for each in of),
            perhaps_cut=sum(each.perhaps_cut for each in of),
            work_lost_ms=sum(each.work_lost for each in of) * 1000,
            undelivered=sum(each.undelivered for each in of),
        )


class StopsQuery(Body):
    """Query of the route that lists receipts: how long ago the last of these stops may have ended."""

    within_ms: Annotated[int, Field(gt=0, le=MAX_MS)] = 86_400_000
