"""A slow, obvious model of the state manager: a list of states, and everything else recomputed from it.

Written from design section 5 and protocol sections 7 to 9 and 16, without a look at the real one. It
keeps no counters and no indexes: whether a united node may run is found by scanning every state, for
every group, after every transition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

PENDING = {"CREATED", "QUEUED", "EXECUTED"}
FAILED = {"ERRORED", "NEXT_CREATED_ERROR"}
Outputs = dict[str, object]


@dataclass(frozen=True)
class Ref:
    """``${{ identifier.outputs.field }}``."""

    identifier: str
    field: str


Template = tuple["str | Ref", ...]


@dataclass(frozen=True)
class When:
    """A condition: the text of ``ref`` is one of these, or as a number it is below a limit."""

    ref: Ref
    texts: tuple[str, ...] = ()
    below: int | None = None


@dataclass(frozen=True)
class Place:
    """One node of a graph."""

    identifier: str
    next_nodes: tuple[str, ...] = ()
    unites: str | None = None
    strategy: str = "ALL_SUCCESS"
    inputs: Mapping[str, Template] = field(default_factory=dict)
    when: When | None = None
    otherwise: bool = False
    event: Template = ()
    """The name of the event that it waits for; empty if it runs a node."""
    on_timeout: str = "error"
    runs_graph: bool = False
    """Whether it runs another graph, and no node."""

    @property
    def runs_node(self) -> bool:
        return not self.event and not self.runs_graph


TIMEOUT_MS = 10_000
"""Of each wait."""
GIVEN: dict[str, object] = {"v": "given", "n": "given", "b": "1"}
"""The outputs of a place at its deadline, if its graph gives some."""
VERSIONS = "1", "2"
"""Of the code."""
DEFAULTS: dict[str, object] = {"b": "0"}
"""Outputs that an event may lack."""


@dataclass(frozen=True)
class Plan:
    """A graph, with its retry policy (strategy FIXED)."""

    places: tuple[Place, ...]
    max_retries: int = 0
    backoff_ms: int = 1

    def __getitem__(self, identifier: str) -> Place:
        (place,) = (place for place in self.places if place.identifier == identifier)
        return place

    @property
    def root(self) -> Place:
        followers = {name for place in self.places for name in place.next_nodes}
        (root,) = (place for place in self.places if place.identifier not in followers)
        return root

    def descendants(self, identifier: str) -> set[str]:
        """Everything that can be reached from ``identifier`` along ``next_nodes``."""
        matching: set[str] = set()
        waiting = list(self[identifier].next_nodes)
        while waiting:
            name = waiting.pop()
            if name not in matching:
                matching.add(name)
                waiting += self[name].next_nodes
        return matching

    def predecessors(self, identifier: str) -> set[str]:
        return {place.identifier for place in self.places if identifier in place.next_nodes}

    def region(self, united: Place) -> set[str]:
        """The identifiers whose states ``united`` waits for."""
        assert united.unites is not None
        region = self.descendants(united.unites)
        region -= {united.identifier} | self.descendants(united.identifier)
        for other in self.places:
            precedes = united.identifier in self.descendants(other.identifier)
            if other != united and other.unites == united.unites and not precedes:
                region -= {other.identifier} | self.descendants(other.identifier)
        return {name for name in region if united.unites in self.above(name)}

    def above(self, identifier: str) -> set[str]:
        """Every place of which a state can be above one of ``identifier``. A state of a united place is below
        one of its target, and not below the branches."""
        unites = self[identifier].unites
        nearest = {unites} if unites is not None else self.predecessors(identifier)
        return nearest.union(*map(self.above, nearest))

    def waits_for(self, united: Place) -> set[str]:
        """The identifiers of which no state may be pending: also what united nodes of the region wait for."""
        found = self.region(united)
        while True:
            more = found.union(*(self.region(self[name]) for name in found if self[name].unites is not None))
            if more == found:
                return found
            found = more

    def topological(self) -> list[str]:
        order: list[str] = []
        while len(order) < len(self.places):
            for place in self.places:
                name = place.identifier
                if name not in order and self.predecessors(name) <= set(order):
                    order.append(name)
        return order


@dataclass(frozen=True)
class Aggregate:
    """The JSON array that an aggregated reference becomes.

    Attributes:
        values: One for each SUCCESS state of the group, in fan-out order.
        ordered: Whether that order is fixed; it is not between the states that several paths lead to.
    """

    values: tuple[str, ...]
    ordered: bool = True


Inputs = dict[str, "str | Aggregate"]


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A value that a node set. Those of a later claim are newer; of one claim, those of a higher number."""

    claim: int
    number: int
    value: str = field(compare=False)


@dataclass(eq=False)
class State:
    """One execution of a node; equal to nothing but itself."""

    identifier: str
    parents: dict[str, State]
    inputs: Inputs
    due_ms: int
    status: str = "CREATED"
    outputs: Outputs = field(default_factory=dict)
    retry_count: int = 0
    index: int = 0
    unbuilt: bool = False
    claims: int = 0
    checkpoint: Checkpoint | None = None
    event: str | None = None
    waits: bool = False

    def chain(self) -> tuple[str, ...]:
        return (*self.parents, self.identifier)

    def path(self) -> tuple[int, ...]:
        return (*(parent.index for parent in self.parents.values()), self.index)

    def __repr__(self) -> str:
        steps = (f"{name}[{parent.index}]" for name, parent in self.parents.items())
        values = f"{self.inputs} -> {self.outputs} {self.checkpoint or ''}"
        return f"<{' '.join((*steps, self.identifier))} {self.status} {values}>"


Retried = tuple[list[tuple[State, State]], list[State], list[State]]
"""(old, new) of the states that were retried by hand; those that could not be; what is replaced with them."""


class Unbuildable(Exception):
    """An input cannot be built from what is there."""


class Refused(Exception):
    """The manual retry is a conflict: nothing changed."""


class Model:
    """One run of one plan.

    Attributes:
        states: Every state there is, in no special order.
        version: To which the run is pinned; None for any.
        inputs_of: (Identifier, version) to the inputs that its registered schema has. Others are built too,
            if they can be.
        paused: Identifiers of nodes of which nothing is claimed.
    """

    def __init__(self, plan: Plan, now_ms: int = 0, version: str | None = None) -> None:
        self.plan = plan
        self.now_ms = now_ms
        self.version = version
        self.inputs_of = {
            (place.identifier, each): set(place.inputs) for place in plan.places for each in (None, *VERSIONS)
        }
        self.paused: set[str] = set()
        self.states: list[State] = []
        self.fired: set[tuple[State, str]] = set()
        self.mailbox: dict[str, Outputs] = {}
        root = plan.root
        self.states.append(State(root.identifier, {}, self._inputs(root, {}, None), now_ms))

    # -- what a runtime does

    def claim(self, version: str | None = None) -> list[State]:
        """Queue every state that is due, and whose node is not paused; none of another version."""
        if self.version not in (None, version):
            return []
        due = [state for state in self.waiting() if state.due_ms <= self.now_ms]
        for state in due:
            state.status = "QUEUED"
            state.claims += 1
        return due

    def saved(self, state: State, number: int, value: str) -> None:
        """Record a checkpoint of the present holder, unless there is a newer one."""
        new = Checkpoint(state.claims, number, value)
        if state.checkpoint is None or new > state.checkpoint:
            state.checkpoint = new

    def released(self, state: State) -> None:
        state.status = "CREATED"

    def executed(self, state: State, outputs: list[Outputs]) -> None:
        state.outputs = outputs[0] if outputs else {}
        state.checkpoint = None
        batch = [state]
        for index, output in enumerate(outputs[1:], start=1):
            sibling = State(
                state.identifier, state.parents, state.inputs, self.now_ms, outputs=output, index=index
            )
            self.states.append(sibling)
            batch.append(sibling)
        for member in batch:
            self._follow(member)
        self._settle()

    def errored(self, state: State) -> bool:
        """Record the failure; return whether a retry follows."""
        if state.retry_count < self.plan.max_retries:
            retry = self._copy(state, self.now_ms + self.plan.backoff_ms)
            retry.retry_count = state.retry_count + 1
            self._move_checkpoint(state, retry)
            state.status = "RETRY_CREATED"
        else:
            state.status = "ERRORED"
        self._settle()
        return state.status == "RETRY_CREATED"

    def pruned(self, state: State) -> None:
        state.status = "PRUNED"
        state.checkpoint = None
        self._settle()

    def requeued(self, state: State, delay_ms: int) -> None:
        state.status = "CREATED"
        state.due_ms = self.now_ms + delay_ms
        state.event = None

    def waited(self, state: State, event: str) -> None:
        """The node of a state waits for an event."""
        state.status = "CREATED"
        self._wait([state], event)

    # -- what happens to those that wait

    def sent(self, name: str, value: Outputs) -> int:
        """Send an event; return how many states it wakes."""
        if name in self.mailbox:
            if self.mailbox[name] != value:
                raise Refused
            return 0
        if self.run_status() != "PENDING":
            raise Refused
        self.mailbox[name] = value
        woken = [state for state in self.states if state.waits and state.event == name]
        for state in woken:
            self._wake(state, value)
        self._settle()
        return len(woken)

    def expired(self) -> int:
        """End the waits whose deadlines have passed; return how many those were."""
        over = [state for state in self.states if state.waits and state.event and state.due_ms <= self.now_ms]
        for state in over:
            self._wake(state, None)
        self._settle()
        return len(over)

    def for_runs(self) -> list[State]:
        """Return the states that wait for runs of another graph."""
        return [state for state in self.states if state.waits and state.event is None]

    def run_ended(self, state: State, outputs: Outputs | None) -> None:
        """The run that a state waits for has ended; None: not with these outputs."""
        state.waits = False
        if outputs is None:
            state.status = "ERRORED"
        else:
            state.outputs = outputs
            self._follow(state)
        self._settle()

    def _wait(self, states: list[State], event: str | None = None) -> None:
        """Let states wait, each for this event or for its own; those whose event is there go on."""
        for state in states:
            state.event = event or state.event
            state.waits, state.due_ms = True, self.now_ms + TIMEOUT_MS
        for state in states:
            if state.event in self.mailbox:
                self._wake(state, self.mailbox[state.event])

    def _wake(self, state: State, value: Outputs | None) -> None:
        place = self.plan[state.identifier]
        state.waits, state.due_ms = False, self.now_ms
        if not place.event:
            return
        if value is None and place.on_timeout in ("error", "prune"):
            state.status = "ERRORED" if place.on_timeout == "error" else "PRUNED"
            return
        state.outputs = GIVEN if value is None else {**DEFAULTS, **value}
        self._follow(state)

    # -- what an operator does

    def retried(self, state: State, from_beginning: bool = False) -> State:
        """Retry by hand; return the state that takes the place of ``state``."""
        if state.status not in {*FAILED, "PRUNED"}:
            raise Refused
        retried, refused, _ = self._retry([state], from_beginning)
        if refused:
            raise Refused
        return retried[0][1]

    def retried_run(
        self, from_beginning: bool = False
    ) -> tuple[list[tuple[State, State]], list[State], list[State]]:
        """Retry every failed state."""
        return self._retry([state for state in self.states if state.status in FAILED], from_beginning)

    def _retry(self, states: list[State], from_beginning: bool) -> Retried:
        replaced = self.out_of_date([state for state in states if not self._is_unbuilt(state)])
        inputs: dict[State, Inputs] = {}
        refused: list[State] = []
        for state in states:
            if self._is_unbuilt(state) and state not in replaced:
                (target,) = list(state.parents.values())[-1:]
                try:
                    inputs[state] = self._inputs(self.plan[state.identifier], self._reach(target), target)
                except Unbuildable:
                    refused.append(state)
        replaced |= self.out_of_date(list(inputs))
        for state in replaced:
            state.status, state.waits = "RETRY_CREATED", False
            # What it united is open again.
            self.fired -= {(target, state.identifier) for target in state.parents.values()}
        refused = [state for state in refused if state not in replaced]
        retried = [
            (state, self._again(state, inputs)) for state in states if state not in {*replaced, *refused}
        ]
        for state, again in retried:
            state.status = "RETRY_CREATED"
            self._move_checkpoint(state, again)
            if from_beginning:
                again.checkpoint = None
                again.event = again.event if self.plan[again.identifier].event else None
        waiting = [again for _, again in retried if self.plan[again.identifier].event]
        self._wait([again for again in waiting if again.status == "CREATED"])
        for _, again in retried:
            again.waits |= self.plan[again.identifier].runs_graph and again.status == "CREATED"
        self._settle()
        return retried, refused, list(replaced)

    @staticmethod
    def _is_unbuilt(state: State) -> bool:
        return state.unbuilt and state.status == "ERRORED"

    def out_of_date(self, states: list[State]) -> set[State]:
        """Return the united states whose groups have one of these states, or may get one of another such
        united node, with all below them."""
        found: set[State] = set()
        open_groups: set[tuple[State, str]] = set()
        waiting = [(state.identifier, state.parents) for state in states]
        while waiting:
            identifier, parents = waiting.pop()
            for target in parents.values():
                for united in self.plan.places:
                    group = target, united.identifier
                    if united.unites != target.identifier or group in open_groups:
                        continue
                    if identifier in self.plan.region(united):
                        open_groups.add(group)
                        waiting.append((united.identifier, self._reach(target)))
        for target, name in open_groups:
            for other in self.states:
                reach = self._reach(other)
                if reach.get(target.identifier) is target and name in reach:
                    found.add(other)
        return {state for state in found if state.status != "RETRY_CREATED"}

    def stale(self) -> list[State]:
        """Return the united states that were given other lists than their groups have now."""
        found = []
        for state in self.states:
            place = self.plan[state.identifier]
            target = state.parents.get(place.unites or "")
            if target is None or state.unbuilt or state.status == "RETRY_CREATED":
                continue
            try:
                now = self._inputs(place, dict(state.parents), target)
            except Unbuildable:
                continue  # the version that it was built for, before the run moved, did not ask for all
            lists = {name: value for name, value in now.items() if isinstance(value, Aggregate)}
            if any(value != state.inputs.get(name, value) for name, value in lists.items()):
                found.append(state)
        return found

    def _again(self, state: State, inputs: dict[State, Inputs]) -> State:
        again = self._copy(state, self.now_ms)
        if state.status == "NEXT_CREATED_ERROR":
            again.outputs, again.index = state.outputs, state.index
            self._follow(again)
        again.inputs = inputs.get(state, state.inputs)
        return again

    def forget_inputs(self, identifier: str, version: str | None) -> None:
        """A runtime of a version registers the node again, with a schema that asks for nothing."""
        self.inputs_of[identifier, None] = self.inputs_of[identifier, version] = set()

    def repinned(self, version: str) -> None:
        """The run goes on with a version. All of them take what its graph gives."""
        self.version = version

    # -- what can be seen of a run

    def waiting(self) -> list[State]:
        """Return what waits for its time, and for nothing else."""
        created = [state for state in self.states if state.status == "CREATED" and not state.waits]
        return [state for state in created if state.identifier not in self.paused]

    def run_status(self) -> str:
        statuses = {state.status for state in self.states}
        if statuses & PENDING:
            return "PENDING"
        return "FAILED" if statuses & FAILED else "SUCCESS"

    # -- next states

    def _copy(self, state: State, due_ms: int) -> State:
        copy = State(state.identifier, state.parents, state.inputs, due_ms, event=state.event)
        self.states.append(copy)
        return copy

    @staticmethod
    def _move_checkpoint(state: State, again: State) -> None:
        if state.checkpoint is not None:
            # Older than any that is set from now on.
            again.checkpoint, state.checkpoint = replace(state.checkpoint, claim=0), None

    def _follow(self, state: State) -> None:
        """Create the next states of ``state``, all or none."""
        reach = self._reach(state)
        children = []
        following = [self.plan[name] for name in self.plan[state.identifier].next_nodes]
        try:
            met = [place for place in following if place.when is not None and _is_met(place.when, reach)]
            for place in following:
                is_taken = (place in met) if place.when is not None else not (place.otherwise and met)
                if place.unites is None and is_taken:
                    inputs = self._inputs(place, reach, None)
                    event = "".join(self._piece(piece, reach) for piece in place.event)
                    children.append(
                        State(place.identifier, dict(reach), inputs, self.now_ms, event=event or None)
                    )
        except Unbuildable:
            state.status = "NEXT_CREATED_ERROR"
            return
        self.states += children
        state.status = "SUCCESS"
        self._wait([child for child in children if child.event is not None])
        for child in children:
            child.waits |= self.plan[child.identifier].runs_graph

    @staticmethod
    def _reach(state: State) -> dict[str, State]:
        return {**state.parents, state.identifier: state}

    def _inputs(self, place: Place, reach: dict[str, State], target: State | None) -> Inputs:
        inputs: Inputs = {}
        for name, template in place.inputs.items():
            first = template[0] if len(template) == 1 else None
            try:
                if isinstance(first, Ref) and first.identifier not in reach:
                    assert target is not None
                    inputs[name] = self._aggregate(place, target, first)
                else:
                    inputs[name] = "".join(self._piece(piece, reach) for piece in template)
            except Unbuildable:
                if name in self.inputs_of[place.identifier, self.version]:
                    raise
        return inputs

    @staticmethod
    def _piece(piece: str | Ref, reach: dict[str, State]) -> str:
        if isinstance(piece, str):
            return piece
        return _field(reach[piece.identifier], piece)

    def _aggregate(self, place: Place, target: State, ref: Ref) -> Aggregate:
        matching = [
            state
            for state in self._group(target, place)
            if state.identifier == ref.identifier and state.status == "SUCCESS"
        ]
        matching.sort(key=State.path)
        one_way = len({state.chain() for state in matching}) <= 1
        distinct = len({state.path() for state in matching}) == len(matching)
        return Aggregate(tuple(_field(state, ref) for state in matching), one_way and distinct)

    # -- unites

    def _group(self, target: State, united: Place) -> Iterator[State]:
        region = self.plan.region(united)
        for state in self.states:
            if state.identifier in region and state.parents.get(target.identifier) is target:
                yield state

    def _ready(self, target: State, united: Place) -> bool:
        group = list(self._group(target, united))
        statuses = {state.status for state in group}
        waits_for = self.plan.waits_for(united)
        for state in self.states:
            below = state.parents.get(target.identifier) is target
            if below and state.identifier in waits_for and state.status in PENDING:
                return False
        if united.strategy == "ALL_DONE":
            return True
        before = self.plan.predecessors(united.identifier)
        reached = any(state.identifier in before and state.status == "SUCCESS" for state in group)
        return reached and not statuses & FAILED

    def _settle(self) -> None:
        """Fire one united node after the other, the inner ones first, until none is ready."""
        order = self.plan.topological()
        while True:
            ready = [
                (target, united)
                for target in self.states
                for united in self.plan.places
                if united.unites == target.identifier
                and target.status == "SUCCESS"
                and (target, united.identifier) not in self.fired
                and self._ready(target, united)
            ]
            if not ready:
                return
            self._fire(*min(ready, key=lambda pair: (-len(pair[0].parents), order.index(pair[1].identifier))))

    def _fire(self, target: State, united: Place) -> None:
        self.fired.add((target, united.identifier))
        reach = self._reach(target)
        state = State(united.identifier, reach, {}, self.now_ms)
        try:
            state.inputs = self._inputs(united, reach, target)
        except Unbuildable:
            state.status, state.unbuilt = "ERRORED", True
        self.states.append(state)


def _is_met(when: When, reach: dict[str, State]) -> bool:
    text = _field(reach[when.ref.identifier], when.ref)
    if when.below is None:
        return text in when.texts
    if not text.isdigit():
        raise Unbuildable
    return int(text) < when.below


def _field(state: State, ref: Ref) -> str:
    value = state.outputs.get(ref.field)
    if not isinstance(value, str):
        raise Unbuildable
    return value
