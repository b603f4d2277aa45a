"""Outcomes of states: what each does to the state, and which states follow.

Outcomes come through v0 one by one (``record_v0``) and natively in batches (``record_batch``). An outcome for
a state that ended otherwise changes nothing. Secrets of the graph are masked in errors before those are
stored: stock runtimes report errors as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._util.backoff import MAX_DELAY_MS, Uniform
from exotrio._util.redaction import Redactor
from exotrio._wire.native import ErroredItem, ExecutedItem, ItemReply, OutcomeItem, PrunedItem, RequeuedItem
from exotrio._wire.vocabulary import ItemResult
from exotrio.graph import RetryPolicyModel
from exotrio.manager.engine.inputs import InputsError, Sources, build_for
from exotrio.manager.engine.states import (
    CREATED,
    ERRORED,
    NEXT_CREATED_ERROR,
    PRUNED,
    QUEUED,
    RETRY_CREATED,
    SUCCESS,
    Changes,
    NewState,
    RunScope,
    child_path,
    extend_groups,
    find_state,
    output_path,
)
from exotrio.manager.engine.unites import decide
from exotrio.manager.store.cipher import Cipher, open_secrets
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import Transaction, View

MAX_FOLLOWING = 16
"""The inputs of all states that follow one outcome may take as many times the limit of one state: a fan-out
can give each of its siblings the same large value, all in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The result of recording an outcome, and why it was not accepted."""

    result: ItemResult
    detail: str | None = None
    retry_created: bool = False
    enqueue_after: int = 0
    """When the state may be claimed, Unix ms (prune, re-enqueue)."""


def record_v0(tx: Transaction, namespace: str, item: OutcomeItem, cipher: Cipher) -> Recorded:
    """Record an outcome that came through v0, which knows no tokens."""
    changes = Changes(tx)
    recorded = _record(changes, namespace, None, item, partial(_redactor, tx, cipher))
    decide(changes)
    return recorded


def record_batch(
    tx: Transaction, namespace: str, items: Sequence[OutcomeItem], cipher: Cipher
) -> list[ItemReply]:
    """Record outcomes together; one that is refused does not affect the others."""
    changes = Changes(tx)
    redactor_of = cache(partial(_redactor, tx, cipher))  # many states of one graph may fail together
    replies = []
    for item in items:
        recorded = _record(changes, namespace, item.token, item, redactor_of)
        replies.append(ItemReply(state_id=item.state_id, result=recorded.result, detail=recorded.detail))
    decide(changes)
    return replies


def _record(
    changes: Changes,
    namespace: str,
    token: str | None,
    item: OutcomeItem,
    redactor_of: Callable[[int], Redactor],
) -> Recorded:
    state = find_state(changes.tx, namespace, item.state_id)
    if state is None:
        detail = f"there is no state {item.state_id!r} in namespace {namespace!r}"
        return Recorded(result=ItemResult.UNKNOWN, detail=detail)
    if isinstance(item, ErroredItem):
        item = item.model_copy(update={"error": redactor_of(state["graph"]).redact(item.error)})
    if not _is_open(state, token):
        same = _is_recorded(state, item) and (token is None or token == state["token"])
        return Recorded(
            result=ItemResult.DUPLICATE if same else ItemResult.STALE,
            detail=None if same else _why_closed(state, token),
            retry_created=state["status"] == RETRY_CREATED,
            enqueue_after=state["enqueue_after"],
        )
    run = RunScope(state["run"], changes.tx.template(state["template"]))
    match item:
        case ExecutedItem():
            return _executed(changes, run, state, item.outputs)
        case ErroredItem():
            return _errored(changes, run, state, item.error)
        case PrunedItem():
            _finish(changes, run, state, PRUNED, data=to_json(item.data).decode())
            return Recorded(result=ItemResult.OK, enqueue_after=state["enqueue_after"])
        case RequeuedItem():
            return _requeued(changes, run, state, item.delay_ms)


def _redactor(view: View, cipher: Cipher, graph: int) -> Redactor:
    """Return what masks the secrets of a graph that can be decrypted."""
    return Redactor(open_secrets(view, graph, cipher)[0])


def _is_open(state: Row, token: str | None) -> bool:
    """Whether an outcome of the holder of ``token`` still counts.

    A holder whose lease ended may report as long as nobody has claimed the state since: its token is then
    still the last one of the state.
    """
    if state["token"] != token:
        return False
    if state["status"] == QUEUED:
        return True
    return token is not None and state["status"] == CREATED and not state["requeued"]


def _is_recorded(state: Row, item: OutcomeItem) -> bool:
    match item:
        case ExecutedItem():
            return state["status"] in (SUCCESS, NEXT_CREATED_ERROR)
        case ErroredItem():
            return state["status"] in (ERRORED, RETRY_CREATED) and state["error"] == item.error
        case PrunedItem():
            return state["status"] == PRUNED and bool(from_json(state["data"]) == item.data)
        case RequeuedItem():
            return state["status"] == CREATED and bool(state["requeued"])


def _why_closed(state: Row, token: str | None) -> str:
    if state["status"] != QUEUED:
        return f"the state is not QUEUED but {state['status']}"
    if token is None:
        return "the state is held under a lease; only its holder can report it"
    return "the state is held under another lease by now"


def _executed(changes: Changes, run: RunScope, state: Row, outputs: list[dict[str, Any]]) -> Recorded:
    """Give the state its first output and create a sibling for each further one; states follow each."""
    tx = changes.tx
    follow = Follow(changes, run, state)
    status = SUCCESS
    for index, output in enumerate(outputs or [{}]):
        seq = state["seq"] if index == 0 else tx.allocate()
        path = output_path(state["path"], index)
        error = follow.create(seq, output, path)
        status = NEXT_CREATED_ERROR if error else SUCCESS
        if index == 0:
            _finish(changes, run, state, status, error=error, outputs=to_json(output).decode(), path=path)
            if not error:
                changes.succeeded(run, seq, state["place"], state["groups"], path)
        else:
            changes.insert(
                run,
                NewState(
                    place=state["place"],
                    node_id=state["node_id"],
                    status=status,
                    inputs=state["inputs"],
                    outputs=to_json(output).decode(),
                    error=error,
                    parent=state["parent"],
                    groups=state["groups"],
                    path=path,
                    enqueue_after=tx.now_ms,
                ),
                seq=seq,
            )
    return Recorded(result=ItemResult.OK)


def _finish(
    changes: Changes,
    run: RunScope,
    state: Row,
    status: str,
    *,
    outputs: str = "{}",
    data: str | None = None,
    error: str | None = None,
    path: bytes | None = None,
) -> None:
    """End a state by an outcome of its node."""
    changes.tx.execute(
        "UPDATE states SET status = ?1, outputs = ?2, data = ?3, error = ?4, path = ?5, updated_at = ?6,"
        " finished_at = ?6 WHERE seq = ?7",
        (status, outputs, data, error, path or state["path"], changes.tx.now_ms, state["seq"]),
    )
    changes.finish(run, state, status)


class Follow:
    """Creates the next states, united ones excepted, of one state and its siblings, which share a chain."""

    def __init__(self, changes: Changes, run: RunScope, state: Row) -> None:
        self._changes = changes
        self._run = run
        self._groups: str = state["groups"]
        self._place = run.template.places[state["place"]]
        self._sources = Sources(changes.tx, run, state["parent"])
        self._left = MAX_FOLLOWING * changes.tx.max_inputs

    def create(self, seq: int, output: dict[str, Any], path: bytes) -> str | None:
        """Create all states that follow one output of the finished state ``seq``, or none and return why.

        ``path`` is that of the state, which includes the output's index.
        """
        tx = self._changes.tx
        children: list[NewState] = []
        groups = extend_groups(self._groups, seq, self._place.index) if self._place.target else self._groups
        for index in self._place.next:
            place = self._run.template.places[index]
            node = tx.registered(place.namespace, place.node_name)
            assert node is not None, "a run starts only with registered nodes, which are never removed"
            try:
                inputs = build_for(node, place, self._sources, self._place.identifier, output)
            except InputsError as problem:
                return f"cannot create the next state: {problem}"
            text = to_json(inputs)
            self._left -= len(text)
            if self._left < 0:
                most = f"{MAX_FOLLOWING * tx.max_inputs} bytes"
                return f"cannot create the next state: all that follow one outcome take more than {most}"
            children.append(
                NewState(
                    place=index,
                    node_id=node.id,
                    status=CREATED,
                    inputs=text.decode(),
                    parent=seq,
                    groups=groups,
                    path=child_path(path, index),
                    enqueue_after=tx.now_ms,
                )
            )
        for child in children:
            self._changes.insert(self._run, child)
        return None


def _errored(changes: Changes, run: RunScope, state: Row, error: str) -> Recorded:
    tx = changes.tx
    policy = run.template.body.retry_policy
    retry = state["retry_count"] + 1
    status = ERRORED
    if retry <= policy.max_retries:
        status = RETRY_CREATED
        copy = copy_of(state, enqueue_after=tx.now_ms + retry_delay_ms(policy, retry))
        copy.retry_count = retry
        copy.manual_fanout_id = state["manual_fanout_id"]
        changes.insert(run, copy)
    _finish(changes, run, state, status, error=error)
    return Recorded(result=ItemResult.OK, retry_created=status == RETRY_CREATED)


def retry_delay_ms(policy: RetryPolicyModel, retry: int, *, uniform: Uniform = random.uniform) -> int:
    """Return the delay before retry number ``retry`` (1, 2, ...) in milliseconds. Pure.

    The cap ``max_delay`` applies after jitter; jittered delays are truncated to whole
    milliseconds. Without a cap the delay still ends at ten years, far below 64 bits.
    """
    shape, _, jitter = policy.strategy.value.partition("_")
    if shape == "EXPONENTIAL":
        # Integers throughout: exponent ** retry leaves the range of floats long before it matters.
        factor = policy.exponent ** min(retry - 1, 64)
    elif shape == "LINEAR":
        factor = retry
    else:
        factor = 1
    base = min(policy.backoff_factor * factor, MAX_DELAY_MS)
    if jitter == "FULL_JITTER":
        delay = int(uniform(0.0, base))
    elif jitter == "EQUAL_JITTER":
        delay = int(base / 2 + uniform(0.0, base / 2))
    else:
        delay = base
    return delay if policy.max_delay is None else min(delay, policy.max_delay)


def copy_of(state: Row, *, enqueue_after: int) -> NewState:
    """Return a new attempt at a state: same inputs, same chain, same place in the fan-outs."""
    return NewState(
        place=state["place"],
        node_id=state["node_id"],
        status=CREATED,
        inputs=state["inputs"],
        parent=state["parent"],
        united=bool(state["united"]),
        groups=state["groups"],
        path=state["path"],
        enqueue_after=enqueue_after,
        retry_of=state["seq"],
    )


def _requeued(changes: Changes, run: RunScope, state: Row, delay_ms: int) -> Recorded:
    tx = changes.tx
    enqueue_after = tx.now_ms + delay_ms
    tx.execute(
        "UPDATE states SET status = ?, enqueue_after = ?, requeued = 1, deliveries = 0, suspect = 0,"
        " lease_until = NULL, updated_at = ? WHERE seq = ?",
        (CREATED, enqueue_after, tx.now_ms, state["seq"]),
    )
    changes.transition(run, state["place"], state["groups"], state["status"], CREATED)
    tx.announce(state["run"], state["node_id"])
    return Recorded(result=ItemResult.OK, enqueue_after=enqueue_after)
