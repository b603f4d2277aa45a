"""Building the inputs of a state from the placeholders of its place.

Values are inserted as they are; placeholders in them are not replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from functools import cache
from typing import Any

from pydantic_core import from_json, to_json

from exotrio.manager.engine.states import RunScope, chain
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import OutputRef, Piece, Place, StoreRef, Unite
from exotrio.manager.store.port import View

Outputs = Mapping[str, Any]


class InputsError(Exception):
    """An input cannot be built; the text says which and why."""


class Sources:
    """Where the placeholders of states created below one state take their values from.

    ``above`` is the number of the nearest state of the chain above that one.
    """

    def __init__(self, view: View, run: RunScope, above: int | None) -> None:
        self.max_inputs = view.max_inputs
        self._view = view
        self._run = run
        self._unread = chain(view, above)
        self._ancestors: dict[str, Outputs] = {}
        self._stored: dict[str, str] = {}

    def store(self, key: str) -> str:
        """Return the value of a store key in this run, or its default."""
        if key not in self._stored:
            row = self._view.row("SELECT value FROM store WHERE run = ? AND key = ?", (self._run.id, key))
            if row is not None:
                self._stored[key] = row["value"]
            elif key in (defaults := self._run.template.body.store_config.default_values):
                self._stored[key] = defaults[key]
            else:
                raise InputsError(
                    f"the store of this run has no key {key!r}, and the graph no default for it"
                )
        return self._stored[key]

    def ancestor(self, identifier: str) -> Outputs:
        """Return the outputs of the ancestor with this identifier."""
        # Read only as far up as needed: outputs may be large, and chains long.
        while identifier not in self._ancestors:
            row = next(self._unread, None)
            if row is None:
                raise InputsError(f"{identifier!r} is not among the ancestors of this state")
            self._ancestors[self._run.template.places[row["place"]].identifier] = from_json(row["outputs"])
        return self._ancestors[identifier]


def build_for(
    node: Registered,
    place: Place,
    sources: Sources,
    current: str,
    outputs: Outputs,
    lists: Mapping[str, Lister] | None = None,
) -> dict[str, str]:
    """Return the inputs of a new state of a registered node; arguments and errors as of ``build``.

    They are those that the run's graph names, whatever is registered by now: runtimes of several versions may
    run the node. An input that was registered since is left out if the node has a default for it. One that is
    not registered (any more) is left out if it cannot be built; the stock server leaves all of these out.
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
    lists: Mapping[str, Lister] | None = None,
    optional: Collection[str] = (),
) -> dict[str, str]:
    """Return the inputs of these names of a new state.

    It follows the state with the identifier ``current`` and these outputs. ``lists`` is for the references of
    a united node into its group: identifier to a function that returns a field's values over the group.
    Inputs that are ``optional`` are left out if they cannot be built.

    Raises:
        InputsError: an input is not given, a value is missing or not a string, or they are too large.
    """

    def resolve(piece: Piece) -> str:
        if isinstance(piece, str):
            return piece
        if isinstance(piece, StoreRef):
            return sources.store(piece.key)
        if lists and piece.identifier in lists:
            return lists[piece.identifier](piece.field)
        found = outputs if piece.identifier == current else sources.ancestor(piece.identifier)
        return field_of(found, piece)

    inputs: dict[str, str] = {}
    left = sources.max_inputs

    def joined(pieces: Iterable[Piece]) -> str:
        # Sizes are summed before joining: a value that is inserted often takes memory only then.
        nonlocal left
        texts = []
        for piece in pieces:
            texts.append(resolve(piece))
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


def size_of(text: str) -> int:
    """Return how many bytes a text takes."""
    return len(text) if text.isascii() else len(text.encode())


def _too_large(most: int) -> str:
    return f"with it the inputs take more than {most} bytes, the limit on what a state may be given"


Lister = Callable[[str], str]


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


def group_lists(view: View, run: RunScope, target_state: int, unite: Unite) -> dict[str, Lister]:
    """Return, for each place the united node reads, a function from a field to a JSON array of its
    values over the group's successes, in fan-out order."""

    def lister(place: int) -> Lister:
        @cache
        def values(field: str) -> str:
            ref = OutputRef(run.template.places[place].identifier, field)
            texts, left = [], view.max_inputs
            # One by one: all of them together may not fit into memory.
            with closing(
                view.execute(
                    "SELECT outputs FROM unite_members JOIN states ON states.seq = state"
                    " WHERE target_state = ? AND unite_members.place = ? ORDER BY unite_members.path",
                    (target_state, place),
                )
            ) as members:
                for row in members:
                    texts.append(field_of(from_json(row["outputs"]), ref))
                    left -= size_of(texts[-1])
                    if left < 0:
                        raise InputsError(_too_large(view.max_inputs))
            return to_json(texts).decode()

        return values

    return {run.template.places[place].identifier: lister(place) for place in unite.aggregated}
