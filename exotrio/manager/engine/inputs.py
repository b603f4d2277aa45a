"""Building the inputs of a state from the placeholders of its place.

Values are inserted as they are; placeholders in them are not replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from itertools import chain

from pydantic_core import from_json, to_json

from exotrio._wire.vocabulary import check_key
from exotrio.graph import MAX_LIMIT_KEY
from exotrio.graph.placeholders import OutputRef, Piece, StoreRef
from exotrio.manager.engine.sources import InputsError, Outputs, Sources, outputs_of
from exotrio.manager.engine.states import RunScope, size_of
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Place, Unite, Wait
from exotrio.manager.store.view import View

MAX_OF_MEMBER = 4 * 1024
"""Characters of the outputs of a member of a group, which may have any number of members: longer ones are
read one by one."""


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
    it out. A graph that a place runs registers nothing: it gets all of its inputs.
    """
    if place.graph is not None:
        return build(place, place.inputs, sources, current, outputs, lists)
    names = dict.fromkeys(chain(place.inputs, node.required))
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
    given: Mapping[str, str] = {},
) -> dict[str, str]:
    """Return the inputs of these names of a new state.

    It follows the state with the identifier ``current`` and these outputs. ``lists`` has the values of the
    group of a united node. ``optional`` inputs are left out if they cannot be built. ``given`` values
    replace those of the graph.

    Raises:
        InputsError: the graph lacks an input, a value is missing or not a string, or they are too large.
    """

    inputs: dict[str, str] = {}
    left = sources.max_inputs
    for name in names:
        pieces = (given[name],) if name in given else place.inputs.get(name)
        if pieces is None:
            raise InputsError(f"input {name!r} of {place.identifier!r} is not given by the graph")
        try:
            texts = [resolve(piece, sources, current, outputs, lists) for piece in pieces]
            # Before joining: until then a value that is inserted many times is in memory once.
            size = sum(map(size_of, texts))
            if size > left:
                raise InputsError(_too_large(sources.max_inputs))
        except InputsError as error:
            if name not in optional:
                raise InputsError(f"input {name!r} of {place.identifier!r}: {error}") from None
        else:
            left -= size
            inputs[name] = "".join(texts)
    return inputs


def limit_keys(place: Place, sources: Sources, current: str, outputs: Outputs) -> dict[str, str]:
    """Return the key of each limit that a new state takes part in; arguments as in ``build``.

    Raises:
        InputsError: a value is missing or not a string, or a key is empty or too long.
    """
    keys: dict[str, str] = {}
    for name, pieces in place.limits.items() if place.limits else ():
        try:
            key = "".join(resolve(piece, sources, current, outputs) for piece in pieces)
            if pieces and not key:  # those without a key have the key ''
                why = "it is empty, so the state would share the limit with those that have no key"
                raise InputsError(f"{why}: give it a text")
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
        return check_key("".join(resolve(piece, sources, current, outputs) for piece in wait.event))
    except ValueError as error:
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
