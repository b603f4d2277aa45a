"""Whether all went well with the runs of ``users``, by their nodes' own journal, what the API shows, and what
passed through the proxy."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from exotrio._wire.vocabulary import RunStatus
from exotrio.client import StateStatus, StateSummary
from tests.chaos.journal import Execution, Reading
from tests.chaos.user_graphs import CUSTOMER, HANDS, ITEMS, LIMITED, MAX_HANDS, MAX_OF_CUSTOMER, TOTAL
from tests.chaos.users import Shown, Users

ENDED = {StateStatus.SUCCESS, StateStatus.ERRORED, StateStatus.RETRY_CREATED}
PROVES = 500
"""Executions of limited nodes of which most are to be known to be held."""
LEARNED = 2
"""Heartbeats after a cancellation: once the second one is answered, the first answer was read."""
Beats = Mapping[int, Sequence[tuple[float, float]]]
"""When each heartbeat of a process was sent that was answered, and when its answer was delivered."""


@dataclass(slots=True)
class UserFigures:
    """What came of it.

    Attributes:
        done: What users did, by what that was.
        executions: Executions of their runs.
        late: Of how many a begin was entered after the cancellation of its run was confirmed.
        latest: Seconds from that to the last such begin.
        ran_on: Executions that ended after that.
        most: Maximum of each limit at once.
        unheld: Executions of limited nodes that are not counted, since their lease may have ended.
        limited: Executions of limited nodes.
        followed: Runs that were moved to another version and had executions there.
        problems: Broken invariants, one line each.
    """

    done: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    late: int = 0
    latest: float = 0.0
    ran_on: int = 0
    most: Counter[str] = field(default_factory=Counter)
    unheld: int = 0
    limited: int = 0
    followed: int = 0
    problems: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, str]:
        done = ", ".join(f"{number} {what}" for what, number in sorted(self.done.items()) if number)
        most = ", ".join(f"{number} {name}" for name, number in sorted(self.most.items()))
        return {
            "by users": f"{done or 'nothing'} ({self.executions} executions)",
            "after a cancellation": f"{self.late} began, by {self.latest:.2f} s; {self.ran_on} ended",
            "of users' limits": f"at most {most} ({self.unheld} of {self.limited} without a lease)",
        }


def assess_users(
    users: Users,
    reading: Reading,
    beats: Beats,
    lost: Iterable[tuple[str, int]],
    blocked: Sequence[tuple[int, float, float]],
    lease_ttl: float,
) -> UserFigures:
    """Check every invariant and return the figures.

    Args:
        lost: For each lease that ended without an outcome the key of the work and the process.
        blocked: When the event loop of a process was blocked. A thread sends its heartbeats then; what was
            given to a process, a thread or asyncio before cannot be told to stop.
    """
    return _UserAssessor(users, reading, beats, frozenset(lost), blocked, lease_ttl, UserFigures()).figures()


@dataclass(slots=True)
class _UserAssessor:
    users: Users
    reading: Reading
    beats: Beats
    lost: frozenset[tuple[str, int]]
    blocked: Sequence[tuple[int, float, float]]
    lease_ttl: float
    counts: UserFigures

    def figures(self) -> UserFigures:
        counts, users = self.counts, self.users
        counts.problems += users.problems
        counts.executions = len(self.reading.executions)
        cancelled = users.ended.keys() - users.deleted
        counts.done = Counter(
            {
                "runs cancelled": len(cancelled),
                "deleted": len(users.deleted),
                "retried": len(users.retried),
                "moved": len(users.moved),
                "with another priority": users.prioritized,
                "limits reduced": users.reductions,
            }
        )
        for run, shown in users.shown.items():
            if run in users.ended:
                self._check_ended(run, shown)
            else:
                self._check_whole(run, shown)
            self._check_numbers(run, shown)
            self._check_outcomes(run, shown.states)
        self._check_begins()
        self._check_limits()
        self._check_versions()
        return counts

    def _problem(self, text: str) -> None:
        self.counts.problems.append(text)

    # -- what was cancelled has ended and gets nothing more; all else is as if nothing had been

    def _check_ended(self, run: str, shown: Shown) -> None:
        ending = self.users.ended[run]
        if shown.run.status is RunStatus.PENDING:
            self._problem(f"the run {run} was cancelled and is {shown.run.status}")
        if shown.run.cancelled_at is None and shown.run.parent is None:
            self._problem(f"the run {run} was cancelled, and the API does not say so")
        now = frozenset(state.id for state in shown.states)
        if now != ending.states:
            self._problem(
                f"the run {run} was cancelled and got or lost states: {sorted(now ^ ending.states)}"
            )
        if going := [state.id for state in shown.states if state.status not in ENDED]:
            self._problem(f"the run {run} was cancelled and has states that have not ended: {going}")

    def _check_whole(self, run: str, shown: Shown) -> None:
        if shown.run.cancelled_at is not None:
            # Below a run that was cancelled, or of one whose state was retried.
            if shown.run.parent is None:
                self._problem(f"the run {run} is cancelled, and no user did that")
            return
        if shown.run.status is not RunStatus.SUCCESS:
            self._problem(
                f"the run {run} of {shown.run.graph_name} is {shown.run.status}: {shown.run.missing}"
            )
            return
        expected = str(2 * TOTAL if shown.run.graph_name == "calls" else TOTAL)
        if shown.total != expected:
            self._problem(f"the run {run} of {shown.run.graph_name} returned {shown.total}, not {expected}")
        if shown.run.graph_name not in ("asked", "calls"):
            once = Counter(state.identifier for state in shown.states if state.status is StateStatus.SUCCESS)
            if once != Counter({"begin": 1, "order": ITEMS, "total": 1, **dict.fromkeys(LIMITED, ITEMS)}):
                self._problem(f"the run {run} has other states than its graph: {dict(once)}")
        if run in self.users.retried:
            replaced = sum(
                state.identifier == "on_trio" and state.status is StateStatus.RETRY_CREATED
                for state in shown.states
            )
            if replaced != 1:
                self._problem(f"one state of {run} was retried, and {replaced} are replaced")

    # -- the numbers of the API are those of its states and of the journal

    def _check_numbers(self, run: str, shown: Shown) -> None:
        counted: dict[str, Counter[str]] = defaultdict(Counter)
        for state in shown.states:
            counted[state.identifier][state.status] += 1
        for node in shown.run.nodes:
            numbers = {status: number for status, number in node.counts.items() if number}
            if numbers != counted[node.identifier]:
                has = dict(counted[node.identifier])
                self._problem(f"the run {run} counts {numbers} of {node.identifier}, and has {has}")

    def _check_outcomes(self, run: str, states: Sequence[StateSummary]) -> None:
        """Each state that succeeded has the outcome of another execution that did, of its run and node."""
        used: Counter[str] = Counter()
        for state in states:
            if state.identifier not in (*LIMITED, "total") or state.status is not StateStatus.SUCCESS:
                continue
            by = (state.outputs or {}).get("by", "")
            used[by] += 1
            execution = self.reading.executions.get(by)
            if execution is None or execution.end != "done":
                self._problem(f"state {state.id} of {run} succeeded, and its execution did not: {by}")
            elif execution.key.split("/")[:2] != [run, state.identifier]:
                self._problem(f"state {state.id} of {run} has the outcome of {execution.key}")
        if twice := [by for by, number in used.items() if number > 1]:
            self._problem(f"states of {run} have the outcome of the same execution: {twice}")

    # -- nothing begins any more once its runtime has learned of the cancellation

    def _check_begins(self) -> None:
        for each in self.reading.executions.values():
            ending = self.users.ended.get(_run(each))
            if ending is None:
                continue
            if each.ended is not None and each.ended > ending.at:
                self.counts.ran_on += 1
            if each.began <= ending.at:
                continue
            self.counts.late += 1
            self.counts.latest = max(self.counts.latest, each.began - ending.at)
            if any(each.pid == pid and start < each.began < end for pid, start, end in self.blocked):
                continue
            told = [
                answered
                for sent, answered in self.beats.get(each.pid, ())
                if sent > ending.at and answered < each.began
            ]
            if len(told) >= LEARNED:
                self._problem(
                    f"{each.key} began {each.began - ending.at:.2f} s after its run was cancelled, and its"
                    f" runtime had {len(told)} answers to heartbeats since: {each.id}"
                )

    # -- no more run at once than limits say

    def _check_limits(self) -> None:
        held = []
        for each in self.reading.executions.values():
            if _node(each) not in LIMITED or each.ended is None:
                continue
            self.counts.limited += 1
            if self._may_have_lost_its_lease(each):
                self.counts.unheld += 1
            else:
                held.append(each)
        self._check_limit(HANDS, MAX_HANDS, held)
        by_customer: dict[str, list[Execution]] = defaultdict(list)
        for each in held:
            by_customer[each.key.rpartition("/")[2]].append(each)
        for executions in by_customer.values():
            self._check_limit(CUSTOMER, MAX_OF_CUSTOMER, executions)
        # The short form has few of them, and on a busy machine each heartbeat may be late.
        if 2 * self.counts.unheld > self.counts.limited > PROVES:
            self._problem("most executions may have lost their lease: nothing is proved of users' limits")

    def _check_limit(self, name: str, at_most: int, held: Sequence[Execution]) -> None:
        reduced = [each for each in self.users.reduced if each.name == name]
        for at, running, key in _numbers(held):
            self.counts.most[name] = max(self.counts.most[name], running)
            allowed = min([at_most, *(each.at_most for each in reduced if each.since < at < each.until)])
            if running > allowed:
                self._problem(
                    f"{running} ran at once when {key} began, at {at:.3f}: limit {name} is {allowed}"
                )

    def _may_have_lost_its_lease(self, execution: Execution) -> bool:
        """Whether its runtime was not heard of for half a lease, or its state was given to another one."""
        assert execution.ended is not None
        if (execution.key, execution.pid) in self.lost:
            return True
        sent = [sent for sent, _ in self.beats.get(execution.pid, ())]
        return not sent or any(
            later - earlier > self.lease_ttl / 2 and later > execution.began and earlier < execution.ended
            for earlier, later in pairwise([*sent, float("inf")])
        )

    # -- what was moved to another version goes on there

    def _check_versions(self) -> None:
        for run, (version, at) in self.users.moved.items():
            later = [
                each for each in self.reading.executions.values() if _run(each) == run and each.began > at
            ]
            self.counts.followed += any(each.version == version for each in later)


def _run(execution: Execution) -> str:
    return execution.key.partition("/")[0]


def _node(execution: Execution) -> str:
    return execution.key.split("/")[1]


def _numbers(executions: Iterable[Execution]) -> Iterator[tuple[float, int, str]]:
    """Yield how many ran at once when each of them began, with that one's key."""
    moments = []
    for each in executions:
        assert each.ended is not None
        # At the same moment, those that end come first.
        moments += [(each.began, 1, each.key), (each.ended, -1, each.key)]
    running = 0
    for at, change, key in sorted(moments):
        running += change
        if change > 0:
            yield at, running, key
