"""The port through which a runtime works with a state manager: the protocol and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from exotrio._nodes.outcome import AwaitedEvent, CheckpointText, ChildResult, Outcome, Report
from exotrio._wire.vocabulary import HeartbeatResult

if TYPE_CHECKING:
    from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
    from exotrio._wire.native import AfterError
    from exotrio._wire.v0 import NodeDeclaration

LinkKind = Literal["auto", "v0", "native"]
"""Which API a runtime uses; ``"auto"`` asks the server."""


@dataclass(slots=True)
class Claim:
    """A state this runtime holds, until it is reported or released.

    Attributes:
        graph_name, run_id: None on v0, which does not say.
        token: Lease token, None on v0.
        attempt: 1 for the first attempt; None on v0, which does not say.
        announce: A heartbeat has to say that it runs before it begins.
        alone: It is to run while nothing else runs in this process.
        lease: Seconds the lease lasts from when the claim was sent, None without a lease.
        timeout: Maximum seconds of one execution, by the graph. None if it has no limit, and on v0, which
            does not say.
        timeout_overrides: It replaces the timeout of the node's class; otherwise the smaller counts.
        waited: Seconds for which it waited to be claimed; None if the state manager does not say.
        trace: Trace contexts for its execution: the parent, and after spaces those to link to. None on v0.
        checkpoint: The one that is stored for it; None if there is none, and on v0.
        event: The one that it waited for; None if it waited for none, and on v0.
        children: What came of those that it called, by their ids; None if it called none, and on v0.
    """

    state_id: str
    node_name: str
    identifier: str
    inputs: Mapping[str, object]
    _: KW_ONLY
    graph_name: str | None = None
    run_id: str | None = None
    token: str | None = None
    attempt: int | None = None
    announce: bool = False
    alone: bool = False
    lease: float | None = None
    timeout: float | None = None
    timeout_overrides: bool = False
    waited: float | None = None
    trace: str | None = None
    checkpoint: CheckpointText | None = None
    event: AwaitedEvent | None = None
    children: Mapping[str, ChildResult] | None = None

    def timeout_of(self, of_class: float | None) -> float | None:
        """Return the seconds that one execution may take, if the class of its node allows ``of_class``."""
        if of_class is None or self.timeout_overrides:
            return self.timeout
        return of_class if self.timeout is None else min(self.timeout, of_class)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many states a runtime has room for.

    Attributes:
        limits: Maximum number of states of each node. There is no room for nodes that are not named.
        limit: Maximum number of states in all.
        at_once: How many of them could begin at once.
    """

    limits: Mapping[str, int]
    limit: int
    at_once: int


class Fate(Enum):
    """The fate of one report or release after an attempt, as far as it is known."""

    SETTLED = "settled"
    """The state manager has it (now, or already had it)."""
    DROPPED = "dropped"
    """The state is no longer ours, or the state manager does not know it (404, 409, stale)."""
    REFUSED = "refused"
    """This body will never be accepted (413, 422, invalid)."""
    RETRY = "retry"
    """It is not delivered; repeating it does no harm."""
    FAILED = "failed"
    """As RETRY, but the state manager itself failed with it (500), sent alone: perhaps it always will."""
    UNKNOWN = "unknown"
    """It may have arrived, and repeating it could do harm (a v0 release or requeue)."""
    KEY_REFUSED = "key refused"
    """401 or 403: it is not delivered, and nothing more should be claimed."""


@dataclass(slots=True)
class Settlement:
    """The fate of one item, a text for the log, how long the server asked to wait before a retry, and what
    follows an error that is recorded, if the state manager says it."""

    fate: Fate
    detail: str = ""
    _: KW_ONLY
    retry_after: float | None = None
    status: int | None = None
    after_error: AfterError | None = None


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The result of reporting outcomes and claiming states in one request.

    ``settlements`` are of the outcomes, in their order. ``too_slow`` says that the answer had begun to arrive
    when its time was up.
    """

    settlements: list[Settlement]
    claims: list[Claim] = field(default_factory=list)
    _: KW_ONLY
    too_slow: bool = False


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer:
    """The answer to a heartbeat.

    Attributes:
        results: One per state of the heartbeat, in order.
        ttl: Seconds the renewed leases last from when the heartbeat was sent; None: without a limit.
        commands: Commands to this runtime, as ``_wire.heartbeats.HeartbeatReply`` has them.
        checkpoints: The number of the stored checkpoint of each state, in order. None if the heartbeat had no
            checkpoint of it, if it is no longer held, and from a state manager that stores none.
        to_release: Ids of states that are no longer held, but keep slots of limits until they are released.
    """

    results: tuple[HeartbeatResult, ...]
    ttl: float | None
    commands: frozenset[str]
    checkpoints: tuple[int | None, ...] = ()
    to_release: frozenset[str] = frozenset()


class ClaimLost(Exception):
    """A claim was sent and no usable answer came: up to ``limit`` states may be claimed unknown to us.

    Only a v0 link raises it; a native link releases by claim id instead.

    ``too_slow`` says that the answer had begun to arrive.
    """

    def __init__(self, limit: int, *, too_slow: bool = False) -> None:
        super().__init__(f"up to {limit} states may have been claimed by a request whose answer was lost")
        self.too_slow = too_slow


class Link(Protocol):
    """Operations of a runtime on its state manager. Every call is bounded in time by the link."""

    @property
    def is_native(self) -> bool:
        """Whether claims carry leases, outcomes travel in batches, a claim waits at the server, and that
        stores checkpoints.

        It may change when the server is replaced.
        """

    @property
    def lost_claims(self) -> int:
        """Maximum number of states that may be claimed unknown to us, since answers to claims were lost."""

    def settle_by(self, deadline: float) -> None:
        """Settle claims in flight, and later ones, by ``deadline`` on Trio's clock.

        May be called again; only an earlier deadline changes anything.
        """

    async def register(self, runtime_name: str, nodes: Sequence[NodeDeclaration]) -> None:
        """Register node classes.

        Raises:
            ManagerUnavailable: no usable answer; may be repeated.
            KeyRefused: the key is wrong.
            RequestRefused: the server refuses this registration for good.
        """

    @property
    def registered_for(self) -> float:
        """Seconds since the nodes were registered last. From any thread."""

    def register_again(self) -> None:
        """Register the same nodes before the next call, since the state manager lacks some of them.

        Does nothing if it was called just before.
        """

    async def claim(self, limits: Mapping[str, int], limit: int, *, wait: float = 0.0) -> list[Claim]:
        """Claim up to ``limit`` states, and of each node no more than its entry in ``limits``.

        All of these numbers are 1 or more.

        Raises:
            ManagerUnavailable: nothing is known to be claimed.
            ClaimLost: v0 only: the claim was sent, and the states that it took will never be known.
            KeyRefused, NotFound, RequestRefused: the server refuses; nothing is claimed.

        Cancellation:
            Settled, never just dropped: before ``trio.Cancelled`` leaves this call, what the
            claim took is released (bounded by a deadline), or logged as unknown.
        """

    async def report(self, items: Sequence[tuple[Claim, Report]]) -> list[Settlement]:
        """Report outcomes, and release states, once.

        One settlement per item, in order. Never raises ManagerError.
        """

    async def exchange(self, items: Sequence[tuple[Claim, Outcome]], room: Room) -> Exchanged:
        """Report outcomes once, as ``report``, and claim in the same request what can be claimed then.

        It does not wait for states, and brings none over v0.

        Cancellation:
            As in ``claim``; outcomes may have arrived.
        """

    async def probe(self) -> Settlement:
        """Find out whether outcomes can be delivered at all now, without touching any state.

        SETTLED if so; else RETRY or KEY_REFUSED. May be repeated. Never raises ManagerError.
        """

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer | None:
        """Announce that this runtime lives, and renew its leases. May be repeated.

        Args:
            states: The states that it holds under leases; those of ``heartbeat`` itself are ignored.
            timeout: Seconds for each request; there are several only for very many states.

        Returns:
            The answer; None if the state manager has no leases (v0).

        Raises:
            ManagerError: some leases may be renewed all the same; so they may after a cancellation.
        """

    async def secrets(self, claim: Claim) -> dict[str, str]:
        """Fetch the secrets of the claim's node, or raise a ManagerError."""

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
