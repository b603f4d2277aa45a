"""Bodies of native routes for operators: lists, and changes of runs in flight."""

from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from exotrio._util.words import listed, plural
from exotrio._wire.body import Body, Moment, Uuid
from exotrio._wire.runs import StateTimes, WaitReason
from exotrio._wire.v0 import RunSummary, StateNode
from exotrio._wire.vocabulary import NATIVE_ROOT, RunStatus, StateStatus
from exotrio.graph import Version

MAX_PAGE = 1_000
"""Maximum number of entries in one page of a list."""
BACKUP_PATH = f"{NATIVE_ROOT}/backup"
BACKUP_TYPE = "application/vnd.sqlite3"
SIGN_IN_PATH = f"{NATIVE_ROOT}/sign-in-link"

Limit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
Cursor = Annotated[str, Field(max_length=64)]


class DeletionQuery(Body):
    """Query of the deletion of a graph, as in ``StateManager.delete_graph``."""

    cancel_runs: bool = False


class DeletedGraph(Body):
    """A graph that was deleted with its runs; those that were cancelled first are among the deleted ones."""

    namespace: str
    graph_name: str
    deleted_runs: int
    cancelled_runs: int


class SignInLink(Body):
    """The path at the state manager that signs one browser in, once, within ten minutes."""

    path: str


class RepinRequest(Body):
    """The version of the code that a run is to need."""

    version: Version


class Repinned(Body):
    """A run that needs another version of the code now.

    Fields:
        before: The version that it needed; None for any.
        may_not_fit: What of the rest of the run may not fit the new version, for values that it does not have
            yet.
    """

    run_id: str
    version: str
    before: str | None
    may_not_fit: list[str] = Field(default_factory=list)


class RepinAllRequest(RepinRequest):
    """Move the runs in flight of a version; ``after`` is ``next`` of the reply before."""

    after: int = 0


class RefusedRun(Body):
    """A run that was not moved, and why."""

    run_id: str
    reason: str


class RepinnedRuns(Body):
    """Runs that were moved, in part: ``next`` is where to go on, None after the last one."""

    repinned: list[Repinned]
    refused: list[RefusedRun]
    next: int | None = None


# -- lists


class PageQuery(Body):
    """Which page of a list; ``before`` is ``next`` of the page before."""

    limit: Limit = 100
    before: Cursor | None = None


class StatesQuery(PageQuery):
    """Which states to list, newest first, as in ``StateManager.states``."""

    run: str | None = None
    graph: str | None = None
    node: str | None = None
    identifier: str | None = None
    status: list[StateStatus] = Field(default_factory=list)
    outputs: bool = False


class StateSummary(StateNode, StateTimes):
    """A state in a list.

    Fields:
        error: One line of its error, of at most 500 characters.
        retry_count: Automatic retries before it, since the last retry by hand or rerun if there was one.
        by_hand: It was retried by hand, or is one of the automatic retries after that.
        worker: Id of the process that claimed it last, through the native API.
        outputs: What it returned, if the query has ``outputs``.
        waits_for: Why it waits, unless it does not, or is about to be claimed.

    From a v0 server all but the error are None.
    """

    graph_name: str
    run_id: str
    retry_count: int | None = None
    by_hand: bool | None = None
    created_at: Moment | None = None
    finished_at: Moment | None = None
    worker: str | None = None
    outputs: dict[str, Any] | None = None
    waits_for: WaitReason | None = None

    @property
    def retries_by_hand(self) -> str:
        """The retry by hand and the automatic ones after it, such as ``by hand + 2``; empty without one."""
        return "" if not self.by_hand else f"by hand + {self.retry_count}" if self.retry_count else "by hand"


class StatePage(Body):
    """A page of states; ``next`` is None on the last one. Earlier ones may be short, or empty."""

    states: list[StateSummary]
    next: str | None


class RunsQuery(PageQuery):
    """Which runs to list, newest first, as in ``StateManager.find_runs``."""

    graph: str | None = None
    status: RunStatus | None = None
    since: AwareDatetime | None = None
    key: str | None = None
    parent: str | None = None


class RunPage(Body):
    """A page of runs; ``next`` is None on the last one."""

    runs: list[RunSummary]
    next: str | None


# -- pausing


class PauseReply(Body):
    """Since when a node, or the schedule of a graph, is paused; None if it is not."""

    paused_at: Moment | None


# -- retrying a run


class RetryRunRequest(Body):
    """Retry all failed states of a run. The same ``request_id`` again retries nothing more.

    Each continues from its checkpoint, unless they are to run ``from_beginning``.
    """

    request_id: Uuid
    from_beginning: bool = False


class RetriedState(Body):
    """A failed state, the new state that replaces it, and the status of the new one.

    ``from_checkpoint``: the new one continues from the checkpoint of the failed one.
    """

    state_id: str
    new_state_id: str
    status: StateStatus
    from_checkpoint: bool = False


class RefusedState(Body):
    """A failed state that cannot be retried."""

    state_id: str
    reason: str


class RunRetry(Body):
    """The result of the retry of a run.

    Fields:
        runs_again: What else runs again, since it ran without a state that is retried now: united nodes and
            all that follow them. By identifier, how many states are replaced.
        others: Of more than 500 failed states, how many follow these in portions. What of them is refused
            keeps its error, and what runs again with them is not named.
    """

    retried: list[RetriedState]
    refused: list[RefusedState]
    runs_again: dict[str, int] = Field(default_factory=dict)
    others: int = 0

    def text(self, where: str = "", *, verb: str = "will run") -> str:
        """Return what will run, as a sentence without a full stop.

        Args:
            where: What follows the number of states, such as ``" of run 7"``.
            verb: Another verb, for a text that is read when the states run already.
        """
        text = f"{plural(len(self.retried) + self.others, 'state')}{where} {verb} again"
        if self.others:
            text += f", the first {len(self.retried):,} now, the others soon"
        elif from_checkpoint := sum(state.from_checkpoint for state in self.retried):
            text += f" ({from_checkpoint:,} from a checkpoint)"
        if self.runs_again:
            replaced = plural(sum(self.runs_again.values()), "state")
            text += f"; then, with the new values: {listed(self.runs_again)} ({replaced} replaced)"
        return text
