"""The states that follow a finished state, one for each edge to the next nodes of the graph that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from exotrio.manager.engine.changes import Changes
from exotrio.manager.engine.inputs import build_for, event_name, limit_keys, resolve
from exotrio.manager.engine.order import begins_at
from exotrio.manager.engine.sources import InputsError, Need, Shared, Sources
from exotrio.manager.engine.states import CREATED, NewState, RunScope, State
from exotrio.manager.rules.branches import Branches, ConditionError
from exotrio.manager.rules.lineage import child_path, extend_groups

MAX_FOLLOWING = 16
"""Limit of the inputs of all states that follow one outcome, as a multiple of the limit of one state. A
fan-out could otherwise give each sibling the same large value, all in one transaction."""

MAX_COMPARED = 1_000_000
"""Values with which the conditions after all outputs of one outcome compare: nothing else writes then."""


def is_followed(run: RunScope, state: State) -> bool:
    """Whether there is something for ``Follow`` to do after a state."""
    place = run.template.places[state.place]
    return bool(place.next) or place.target


def max_created(run: RunScope, state: State, outputs: int) -> int:
    """Return how many states the outputs of a state create at most: its siblings, and those that follow."""
    outputs = outputs or 1
    return outputs - 1 + outputs * len(run.template.places[state.place].next)


def need_to_follow(run: RunScope, state: State) -> Need:
    """Return what ``Follow`` reads to create the next states of a state."""
    place = run.template.places[state.place]
    following = tuple(run.template.places[index] for index in place.next)
    return Need(run=run, above=state.parent, places=following, known=(place.identifier,))


class Follow:
    """Creates the next states, except united ones, of one state and its siblings, which share a chain.

    ``shared`` has been read for the needs that ``need_to_follow`` returns.
    """

    def __init__(self, changes: Changes, run: RunScope, state: State, shared: Shared) -> None:
        self._changes = changes
        self._run = run
        self._groups = state.groups
        self._trace = state.parent_trace
        self._place = run.template.places[state.place]
        self._sources = Sources(changes.tx, run, state.parent, shared)
        self._left = MAX_FOLLOWING * changes.tx.max_inputs
        self._compared = 0

    def create(self, seq: int, output: dict[str, Any], path: bytes) -> str | None:
        """Create all states that follow one output of the finished state ``seq``, or none and return why.

        ``path`` is that of the state, which includes the output's index.
        """
        tx = self._changes.tx
        children: list[NewState] = []
        groups = extend_groups(self._groups, seq, self._place.index) if self._place.target else self._groups
        taken: Sequence[int] = self._place.next
        if self._place.branches is not None:
            self._compared += self._place.branches.values
            if self._compared > MAX_COMPARED:
                limit = f"{MAX_COMPARED:,} values"
                return f"cannot create the next state: the conditions of one outcome take more than {limit}"
            try:
                taken = self._taken(self._place.branches, output)
            except ConditionError as problem:
                return f"cannot create the next state: {problem}"
        for index in taken:
            place = self._run.template.places[index]
            node = tx.registered(place.namespace, place.node_name)
            assert node is not None, "a run starts only with registered nodes, which are never removed"
            try:
                inputs = build_for(node, place, self._sources, self._place.identifier, output)
                keys = limit_keys(place, self._sources, self._place.identifier, output)
                event = None
                if place.wait is not None:
                    event = event_name(place.wait, self._sources, self._place.identifier, output)
            except InputsError as problem:
                return f"cannot create the next state: {problem}"
            text = to_json(inputs)
            self._left -= len(text)
            if self._left < 0:
                limit = f"{MAX_FOLLOWING * tx.max_inputs} bytes"
                return f"cannot create the next state: all that follow one outcome take more than {limit}"
            children.append(
                NewState(
                    place=index,
                    node_id=node.id,
                    status=CREATED,
                    inputs=text.decode(),
                    parent=seq,
                    groups=groups,
                    path=child_path(path, index),
                    enqueue_after=begins_at(place, tx.now_ms),
                    trace=self._trace,
                    limit_keys=keys,
                    event=event,
                    waits=event is not None or place.graph is not None,
                )
            )
        for child in children:
            self._changes.insert(self._run, child)
        if self._place.target and not children:
            # No branch was taken, so nothing else completes the group.
            self._changes.touch(self._run, seq, self._place.index)
        return None

    def _taken(self, branches: Branches, output: dict[str, Any]) -> Sequence[int]:
        """Return the places to which edges are taken after this output.

        Raises:
            ConditionError: a condition cannot be evaluated.
        """
        current = self._place.identifier
        decisions = branches.decide(lambda ref: resolve(ref, self._sources, current, output))
        left = {each.place for each in decisions if not each.is_taken}
        return [index for index in self._place.next if index not in left]
