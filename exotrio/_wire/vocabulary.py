"""Paths, headers, limits and statuses of the two HTTP APIs, v0 and native (``/exotrio/v1``).

Separate from the bodies, since most of exotrio needs only these, and the classes of the bodies cost every
program that loads them 10 ms.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote

NATIVE_ROOT = "/exotrio/v1"
NATIVE_VERSION = "1"
KEY_HEADER = "x-api-key"
REQUEST_ID_HEADER = "X-Exosphere-Request-ID"
LEASE_HEADER = "x-exotrio-lease"
"""Token of the lease under which secrets are fetched."""
NATIVE_HEADER = "x-exotrio-native"
"""The version of the native API, in the answer that lists nodes: a proxy may hide that API and pass on v0."""
MAX_WAIT_MS = 15_000
"""Maximum of a long poll. A client adds the time to its timeout."""
MAX_BATCH = 1_000
"""Maximum number of states in the answer to a claim, and of items in a native batch."""
MAX_OUTPUTS = 200_000
"""Maximum number of outputs of one outcome, and of all outcomes in one transaction. Each output becomes a
state that others follow, and meanwhile no other transaction writes."""
MAX_TASK_TREE = 64 * 1024
"""Maximum number of characters of a task tree."""
MAX_LOG_LINES = 256
"""Maximum number of kept lines that one execution logged and printed; a runtime sends fewer."""
MAX_LOG_BYTES = 32 * 1024
"""Maximum number of bytes of their texts."""
MAX_CHECKPOINT = 64 * 1024
"""Maximum number of bytes of a checkpoint, as text."""
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
"""Bounds of the weight of a run."""
MAX_CALLS = 1_000
"""Maximum number of children that one state calls."""
MAX_CALL_BYTES = 1024 * 1024
"""Maximum number of bytes of the inputs of these, and of their outputs."""
MAX_EVENT = 16 * 1024
"""Maximum number of bytes of the value of an event, as JSON."""
DRAIN_COMMAND = "the state manager"
"""What asked a runtime to stop, by its own account, if the answer to a heartbeat did."""
MAX_KEY = 256
"""Maximum number of characters of the key of a run."""


class Capability(StrEnum):
    """What a state manager says that it can do (``GET /exotrio/v1``)."""

    LEASES = "leases"
    BATCH = "batch"
    LONG_POLL = "long_poll"
    HEARTBEAT = "heartbeat"
    BRANCHES = "branches"  # conditions of nodes
    CHECKPOINTS = "checkpoints"
    CHILDREN = "children"  # graphs that run graphs
    EVENTS = "events"  # runs that wait for them
    LIMITS = "limits"
    NODE_POLICIES = "node_policies"  # retry policies and timeouts of the nodes of a graph
    ON_FAILURE = "on_failure"  # a run that ends with errors starts one of another graph
    ORDER = "order"  # priorities, weights and fairness keys of runs
    VERSIONS = "versions"  # runs that stay on one version of the code


class StateStatus(StrEnum):
    """Status of a state: the eight of v0, and ``WAITING``, which v0 shows as ``CREATED``."""

    CREATED = "CREATED"
    WAITING = "WAITING"
    """It waits for an event or a run."""
    QUEUED = "QUEUED"
    EXECUTED = "EXECUTED"
    SUCCESS = "SUCCESS"
    ERRORED = "ERRORED"
    NEXT_CREATED_ERROR = "NEXT_CREATED_ERROR"
    RETRY_CREATED = "RETRY_CREATED"
    PRUNED = "PRUNED"


PENDING = (StateStatus.CREATED, StateStatus.WAITING, StateStatus.QUEUED, StateStatus.EXECUTED)
SUCCESS = (StateStatus.SUCCESS, StateStatus.PRUNED)
ERRORED = (StateStatus.ERRORED, StateStatus.NEXT_CREATED_ERROR)
RETRIED = (StateStatus.RETRY_CREATED,)
"""With the three above: the statuses that v0 counts together for a run."""
FAILED: tuple[str, ...] = (*ERRORED, "TIMEDOUT", "CANCELLED")
"""Those that count as errored in an answer: the last two were proposed for the stock server. Any other status
of a newer one counts as pending, so that no run seems to have ended."""


class Priority(StrEnum):
    """Priority of a run: its states are claimed before, or after, those of other runs."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class RunStatus(StrEnum):
    """Status of a run, derived from its states."""

    PENDING = "PENDING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


def run_status(*, pending: int, errored: int, ended: int) -> RunStatus:
    """Return the status of a run from its numbers of states: pending, errored, and all others."""
    if pending:
        return RunStatus.PENDING
    return RunStatus.FAILED if errored or not ended else RunStatus.SUCCESS


def run_word(status: RunStatus, *, is_cancelled: bool, waits: bool) -> str:
    """Return the word for the status of a run; ``waits``: what has not ended waits for events or runs."""
    if is_cancelled:
        return "cancelling" if status is RunStatus.PENDING else "cancelled"
    pending = "waiting" if waits else "running"
    return pending if status is RunStatus.PENDING else status.value.lower()


class ValidationStatus(StrEnum):
    """Whether a graph can be triggered."""

    PENDING = "PENDING"
    VALID = "VALID"
    INVALID = "INVALID"


class ItemResult(StrEnum):
    """The result of one item of a native batch."""

    OK = "ok"
    """Recorded."""
    DUPLICATE = "duplicate"
    """The same was recorded before under this token; nothing changed."""
    STALE = "stale"
    """The token is no longer the state's, or the state ended with another outcome."""
    UNKNOWN = "unknown"
    """There is no such state in this namespace."""
    INVALID = "invalid"
    """The item cannot be accepted, now or later."""


class HeartbeatResult(StrEnum):
    """The result of a heartbeat for one state."""

    OK = "ok"
    """Its lease is renewed."""
    LOST = "lost"
    """It is no longer held under this token: stop working on it."""
    CANCELLED = "cancelled"
    """Its run was cancelled, or a state before it was retried: stop working on it."""


def check_key(key: str) -> str:
    """Return the key of a run, or the name of an event; raise ValueError if it is invalid."""
    if not key or key != key.strip():
        raise ValueError("is empty, or has blanks at its ends")
    if len(key) > MAX_KEY:
        raise ValueError(f"has {len(key):,} characters; at most {MAX_KEY} are allowed")
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        raise ValueError("contains a control character")
    return key


def short_id(state_id: str) -> str:
    """Return the last digits of a state's id, which identify it in its database."""
    return state_id[8:].lstrip("0").rjust(4, "0")


def is_state_id(text: str) -> bool:
    """Whether ``text`` has the form that ids of states have on every server: 24 hex digits."""
    return re.fullmatch("[0-9a-f]{24}", text) is not None


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of the id of a run, and not only that of a key."""
    return re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def to_ms(seconds: float) -> int:
    """Return ``seconds`` in whole milliseconds, rounded up so that no delay becomes zero."""
    return math.ceil(round(seconds * 1000, 6))


def from_ms(ms: int) -> float:
    return ms / 1000


def v0_path(namespace: str, *segments: str | int) -> str:
    """Return ``/v0/namespace/{namespace}/...`` with every segment percent-encoded."""
    return "/".join(("/v0/namespace", *(quote(str(part), safe="") for part in (namespace, *segments))))


@lru_cache(maxsize=64)  # a runtime uses few, for each batch
def native_path(namespace: str, *segments: str | int) -> str:
    """Return ``/exotrio/v1/namespace/{namespace}/...`` with every segment percent-encoded."""
    parts = (quote(str(part), safe="") for part in (namespace, *segments))
    return "/".join((f"{NATIVE_ROOT}/namespace", *parts))
