"""Building the inputs of a state from the placeholders of its place.

Values are inserted as they are; placeholders in them are not replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from pydantic_core import from_json, to_json

from exotrio._wire.vocabulary import check_key as check_event
from exotrio.graph import MAX_LIMIT_KEY
from exotrio.graph.placeholders import OutputRef, Piece, StoreRef
from exotrio.manager.engine.states import RunScope, size_of
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Place, Unite, Wait
from exotrio.manager.store.view import View

Outputs = Mapping[str, Any]


class InputsError(Exception):
    """An input cannot be built; the text says which and why."""


MAX_SHARED = 64 * 1024
"""Characters. A longer value is read only when an input is built from it: the values that are read for a
whole batch have to fit into memory."""
MAX_OF_MEMBER = 4 * 1024
"""The same for a member of a group, which may have any number of members."""
MAX_CHAINS = 1_024
"""Chains that one statement reads: engines accept a limited number of parameters, and a retry by hand may
concern any number of states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What has to be read for new states below one state: the values that placeholders of ``places`` name,
    except outputs of the identifiers in ``known``. ``above`` is the state nearest above them."""

    run: RunScope
    above: int | None
    places: Sequence[Place]
    known: Collection[str]


@dataclass(slots=True)
class Shared:
    """The values for many new states, read together by ``read_shared``.

    Attributes:
        ancestors: Number of the state of a place, by (nearest state of the chain, place).
        outputs: Of ancestors, unless they are long.
        stored: Values of store keys by (run, key), unless they are long; None if the run has none.
    """

    ancestors: dict[tuple[int, int], int] = field(default_factory=dict)
    outputs: dict[int, Outputs] = field(default_factory=dict)
    stored: dict[tuple[int, str], str | None] = field(default_factory=dict)


def read_shared(view: View, needs: Iterable[Need]) -> Shared:
    """Read these needs with three statements, or a few more for thousands of states. Each long value
    takes one more, later."""
    shared = Shared()
    chains: set[tuple[int, int]] = set()
    ancestors: set[tuple[int, int]] = set()
    stored: set[tuple[int, str]] = set()
    for need in needs:
        template = need.run.template
        named = frozenset().union(*(place.names for place in need.places)) - {*need.known}
        if named and need.above is not None:
            ancestors.update((need.above, template[name].index) for name in named)
            # Of ancestors, the one with the fewest above it is the farthest one.
            farthest = min(named, key=lambda name: len(template[name].ancestors))
            chains.add((need.above, template[farthest].index))
        stored.update((need.run.id, key) for place in need.places for key in place.keys)
    if chains:
        shared.ancestors = {key: seq for key, seq in _ancestors(view, sorted(chains)) if key in ancestors}
        shared.outputs = _outputs(view, sorted({*shared.ancestors.values()}))
    if stored:
        shared.stored = _stored(view, stored)
    return shared


def _ancestors(view: View, chains: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield the states of chains as ((nearest state, place), state).

    Each chain is (nearest state, place of the last state to read).
    """
    for start in range(0, len(chains), MAX_CHAINS):
        yield from _some_ancestors(view, chains[start : start + MAX_CHAINS])


def _some_ancestors(view: View, chains: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], int]]:
    # Engines cache statements by their text: with powers of two there are few texts.
    missing = (1 << (len(chains) - 1).bit_length()) - len(chains)
    chains = [*chains, *repeat(chains[-1], missing)]
    for start, place, seq in view.execute(
        f"WITH RECURSIVE chains(start, last) AS (VALUES {', '.join(['(?, ?)'] * len(chains))}),"
        " above(start, last, seq, place, parent) AS ("
        "SELECT start, last, seq, place, parent FROM chains CROSS JOIN states ON states.seq = start"
        " UNION ALL SELECT start, last, states.seq, states.place, states.parent"
        " FROM above CROSS JOIN states ON states.seq = above.parent WHERE above.place <> last"
        ") SELECT start, place, seq FROM above",
        tuple(chain.from_iterable(chains)),
    ):
        yield (start, place), seq


def _outputs(view: View, seqs: list[int]) -> dict[int, Outputs]:
    rows = view.execute(
        f"SELECT seq, CASE WHEN length(outputs) <= ? THEN outputs END FROM states WHERE {view.any_of('seq')}",
        (MAX_SHARED, view.items(seqs)),
    )
    return {seq: from_json(outputs) for seq, outputs in rows if outputs is not None}


def _stored(view: View, keys: set[tuple[int, str]]) -> dict[tuple[int, str], str | None]:
    stored: dict[tuple[int, str], str | None] = dict.fromkeys(keys)
    for run, key, value in view.execute(
        "SELECT run, key, CASE WHEN length(value) <= ? THEN value END FROM store"
        f" WHERE {view.any_of('run')} AND {view.any_of('key')}",
        (
            MAX_SHARED,
            view.items(sorted({run for run, _ in keys})),
            view.items(sorted({key for _, key in keys})),
        ),
    ):
        if value is None:
            del stored[run, key]
        else:
            stored[run, key] = from_json(value)
    return stored


class Sources:
    """Where the placeholders of new states below one state get their values.

    ``above`` is the number of the nearest state of their chain. Ancestors have to be in ``shared``; store
    keys that are not in it are read when they are needed.
    """

    def __init__(self, view: View, run: RunScope, above: int | None, shared: Shared | None = None) -> None:
        self.max_inputs = view.max_inputs
        self._view = view
        self._run = run
        self._above = above
        self._shared = shared or Shared()
        self._ancestors: dict[str, Outputs] = {}
        self._stored: dict[str, str] = {}

    def store(self, key: str) -> str:
        """Return the value of a store key in this run, or its default."""
        if key not in self._stored:
            value = self._store(key)
            if value is None:
                value = self._run.template.body.store_config.default_values.get(key)
            if value is None:
                raise InputsError(
                    f"the store of this run has no key {key!r}, and the graph no default for it"
                )
            self._stored[key] = value
        return self._stored[key]

    def _store(self, key: str) -> str | None:
        run = self._run.id
        if (run, key) in self._shared.stored:
            return self._shared.stored[run, key]
        row = self._view.row("SELECT value FROM store WHERE run = ? AND key = ?", (run, key))
        return None if row is None else str(from_json(row["value"]))

    def ancestor(self, identifier: str) -> Outputs:
        """Return the outputs of the ancestor with this identifier."""
        if identifier not in self._ancestors:
            place = self._run.template[identifier].index
            seq = None if self._above is None else self._shared.ancestors.get((self._above, place))
            if seq is None:
                raise InputsError(f"{identifier!r} is not among the ancestors of this state")
            read = self._shared.outputs
            self._ancestors[identifier] = read[seq] if seq in read else outputs_of(self._view, seq)
        return self._ancestors[identifier]


def outputs_of(view: View, seq: int) -> Outputs:
    """Return the outputs of one state."""
    row = view.row("SELECT outputs FROM states WHERE seq = ?", (seq,))
    assert row is not None, "a state is not deleted before the states below it"
    outputs: Outputs = from_json(row["outputs"])
    return outputs


def build_for(
    node: Registered,
    place: Place,
    sources: Sources,
    current: str,
    outputs: Outputs,
    lists: Lists | None = None,
) -> dict[str, str]:
    """Return the inputs of a new state of a registered node; arguments and errors as in ``build``.

    They are the inputs that the run's graph names, whatever is registered now: runtimes of several versions
    may run the node. An input that was registered since is left out if the node has a default for it. An
    input that is not registered (any more) is left out if it cannot be built; the stock server always leaves
    it out.
    """
    names = (*place.inputs, *(name for name in node.required if name not in place.inputs))
    optional = place.inputs.keys() - node.inputs.keys()
    return build(place, names, sources, current, outputs, lists, optional)


def build(
    place: Place,
    names: Iterable[str],
    sources: Sources,
    current: str,
    outputs: Outputs,
    lists: Lists | None = None,
    optional: Collection[str] = (),
) -> dict[str, str]:
    """Return the inputs of these names of a new state.

    It follows the state with the identifier ``current`` and these outputs. ``lists`` has the values of the
    group of a united node. ``optional`` inputs are left out if they cannot be built.

    Raises:
        InputsError: the graph lacks an input, a value is missing or not a string, or they are too large.
    """

    inputs: dict[str, str] = {}
    left = sources.max_inputs

    def joined(pieces: Iterable[Piece]) -> str:
        # Sizes are added before joining: until then a value that is inserted many times is in memory once.
        nonlocal left
        texts = []
        for piece in pieces:
            texts.append(resolve(piece, sources, current, outputs, lists))
            left -= size_of(texts[-1])
            if left < 0:
                raise InputsError(_too_large(sources.max_inputs))
        return "".join(texts)

    for name in names:
        pieces = place.inputs.get(name)
        if pieces is None:
            raise InputsError(f"input {name!r} of {place.identifier!r} is not given by the graph")
        before = left
        try:
            inputs[name] = joined(pieces)
        except InputsError as error:
            left = before
            if name not in optional:
                raise InputsError(f"input {name!r} of {place.identifier!r}: {error}") from None
    return inputs


def limit_keys(place: Place, sources: Sources, current: str, outputs: Outputs) -> dict[str, str]:
    """Return the key of each limit that a new state takes part in; arguments as in ``build``.

    Raises:
        InputsError: a value is missing or not a string, or a key is too long.
    """
    keys: dict[str, str] = {}
    for name, pieces in place.limits.items() if place.limits else ():
        try:
            key = "".join(resolve(piece, sources, current, outputs) for piece in pieces)
            if len(key) > MAX_LIMIT_KEY:
                raise InputsError(f"it has {len(key):,} characters; at most {MAX_LIMIT_KEY} are possible")
            if "\0" in key:
                raise InputsError("it contains the character NUL, which a database cannot hold")
        except InputsError as error:
            raise InputsError(f"the key of limit {name!r} of {place.identifier!r}: {error}") from None
        keys[name] = key
    return keys


def event_name(wait: Wait, sources: Sources, current: str, outputs: Outputs) -> str:
    """Return the name of the event that a new state waits for; arguments as in ``build``.

    Raises:
        InputsError: a value is missing or not a string, or the name is not one of an event.
    """
    try:
        return check_event("".join(resolve(piece, sources, current, outputs) for piece in wait.event))
    except (InputsError, ValueError) as error:
        raise InputsError(f"the name of the event: {error}") from None


def resolve(
    piece: Piece, sources: Sources, current: str, outputs: Outputs, lists: Lists | None = None
) -> str:
    """Return the text of a piece of an input; arguments and errors as in ``build``."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, StoreRef):
        return sources.store(piece.key)
    if lists and piece.identifier in lists:
        return lists[piece.identifier](piece.field)
    values = outputs if piece.identifier == current else sources.ancestor(piece.identifier)
    return field_of(values, piece)


def _too_large(max_bytes: int) -> str:
    return f"with it the inputs take more than {max_bytes} bytes, the limit on what a state may be given"


def field_of(outputs: Outputs, ref: OutputRef) -> str:
    """Return the field that ``ref`` names; raise InputsError if it is missing or not a string."""
    try:
        value = outputs[ref.field]
    except KeyError:
        raise InputsError(f"{ref.identifier!r} gave no output {ref.field!r}") from None
    if not isinstance(value, str):
        raise InputsError(
            f"output {ref.field!r} of {ref.identifier!r} is not a string but {type(value).__name__}"
        )
    return value


class GroupList:
    """The values of some fields over the successes of one place in a group, in fan-out order."""

    def __init__(self, place: Place, max_bytes: int) -> None:
        self._place = place
        self._max_bytes = max_bytes
        self._texts: dict[str, list[str]] = {}
        self._left: dict[str, int] = {}
        self._problems: dict[str, str] = {}
        self._made: dict[str, str] = {}

    def add_field(self, name: str) -> None:
        """Let ``add`` keep the values of this field."""
        self._texts.setdefault(name, [])
        self._left.setdefault(name, self._max_bytes)

    @property
    def is_done(self) -> bool:
        """Whether no more values can be added."""
        return len(self._problems) == len(self._left)

    def add(self, outputs: Outputs) -> None:
        """Add the outputs of the next state."""
        for name in self._left.keys() - self._problems.keys():
            try:
                text = field_of(outputs, OutputRef(self._place.identifier, name))
                self._left[name] -= size_of(text)
                if self._left[name] < 0:
                    raise InputsError(_too_large(self._max_bytes))
            except InputsError as problem:
                self._problems[name] = str(problem)
                self._texts[name] = []
            else:
                self._texts[name].append(text)

    def __call__(self, name: str) -> str:
        """Return a field's values as a JSON array."""
        if name in self._problems:
            raise InputsError(self._problems[name])
        if name not in self._made:
            self._made[name] = to_json(self._texts.pop(name)).decode()
        return self._made[name]


Lists = Mapping[str, GroupList]
"""What a united node reads of its group, by identifier."""


def group_lists(view: View, united: Iterable[tuple[RunScope, int, Unite]]) -> dict[int, Lists]:
    """Return what united nodes read of their groups, by the state of their target, with one statement and a
    further one for each long value.

    Each united node is (run, state of its target, unite).
    """
    lists: dict[tuple[int, int], GroupList] = {}
    by_target: defaultdict[int, dict[str, GroupList]] = defaultdict(dict)
    for run, target_state, unite in united:
        places = {place.identifier: place for place in map(run.template.places.__getitem__, unite.aggregated)}
        for ref in chain.from_iterable(run.template.places[unite.place].inputs.values()):
            if isinstance(ref, OutputRef) and (place := places.get(ref.identifier)):
                key = target_state, place.index
                if key not in lists:
                    lists[key] = GroupList(place, view.max_inputs)
                    by_target[target_state][place.identifier] = lists[key]
                lists[key].add_field(ref.field)
    if lists:
        # Long values one by one: all of them together may not fit into memory.
        with closing(
            view.execute(
                "SELECT target_state, unite_members.place, state, CASE WHEN length(outputs) <= ? THEN outputs"
                " END FROM unite_members CROSS JOIN states ON states.seq = state"
                f" WHERE {view.any_of('target_state')}"
                " ORDER BY target_state, unite_members.place, unite_members.path",
                (MAX_OF_MEMBER, view.items(sorted(by_target))),
            )
        ) as members:
            for target_state, index, seq, outputs in members:
                values = lists.get((target_state, index))
                if values is None or values.is_done:
                    continue
                values.add(outputs_of(view, seq) if outputs is None else from_json(outputs))
                if values.is_done and all(each.is_done for each in lists.values()):
                    break
    return dict(by_target)
