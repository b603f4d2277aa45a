"""Where placeholders of new states get their values: stores of runs, and outputs of the states above.

Values for a whole batch are read together, with a few statements; long ones only when an input needs them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from pydantic_core import from_json

from exotrio.manager.engine.states import RunScope
from exotrio.manager.rules.template import Place
from exotrio.manager.store.view import View

Outputs = Mapping[str, Any]

MAX_SHARED = 64 * 1024
"""Characters. A longer value is read only when an input is built from it: the values that are read for a
whole batch have to fit into memory."""
MAX_CHAINS = 1_024
"""Chains that one statement reads: engines accept a limited number of parameters, and a retry by hand may
concern any number of states."""


class InputsError(ValueError):
    """An input cannot be built; the text says which and why."""


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
        shared.outputs = read_outputs(view, sorted({*shared.ancestors.values()}))
    if stored:
        shared.stored = read_stored(view, stored)
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


def read_outputs(view: View, seqs: list[int]) -> dict[int, Outputs]:
    rows = view.execute(
        f"SELECT seq, CASE WHEN length(outputs) <= ? THEN outputs END FROM states WHERE {view.any_of('seq')}",
        (MAX_SHARED, view.items(seqs)),
    )
    return {seq: from_json(outputs) for seq, outputs in rows if outputs is not None}


def read_stored(view: View, keys: set[tuple[int, str]]) -> dict[tuple[int, str], str | None]:
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
    row = view.row("SELECT outputs FROM states WHERE seq = ?", (seq,))
    assert row is not None, "a state is not deleted before the states below it"
    outputs: Outputs = from_json(row["outputs"])
    return outputs
