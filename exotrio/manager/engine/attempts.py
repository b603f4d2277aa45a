"""Further attempts at states that failed."""

from __future__ import annotations

from exotrio.graph import RetryPolicyModel
from exotrio.manager.engine.states import CREATED, NewState, RunScope, State
from exotrio.manager.rules.lineage import linked
from exotrio.manager.rules.retry_delay import retry_delay_ms


def policy_of(run: RunScope, state: State) -> RetryPolicyModel:
    return run.template.places[state.place].retry_policy


def next_attempt(run: RunScope, state: State, now_ms: int) -> NewState:
    """Return the automatic retry of a state that failed, whose inputs were read."""
    retry = state.retry_count + 1
    copy = copy_of(state, enqueue_after=now_ms + retry_delay_ms(policy_of(run, state), retry))
    copy.retry_count = retry
    copy.manual_fanout_id = state.manual_fanout_id
    copy.failed_since = state.failed_since or now_ms
    return copy


def copy_of(state: State, *, enqueue_after: int) -> NewState:
    """Return a new attempt at a state, whose inputs were read: same inputs, same chain, same place in the
    fan-outs, same turn."""
    return NewState(
        place=state.place,
        node_id=state.node_id,
        status=CREATED,
        inputs=state.inputs,
        parent=state.parent,
        united=bool(state.united),
        groups=state.groups,
        path=state.path,
        enqueue_after=enqueue_after,
        retry_of=state.seq,
        limits=state.limits,
        trace=linked(state.trace, [state.execution]),
        turn=state.turn_again,
        event=state.event,
        calls_size=state.calls_size,
    )
