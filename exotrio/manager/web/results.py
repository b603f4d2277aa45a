"""The inputs and results of a run: for its page and for its export."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exotrio.manager.engine.states import SUCCESS
from exotrio.manager.queries.related import parent_of
from exotrio.manager.queries.run import missing_in
from exotrio.manager.queries.run_detail import first_state, last_successes, read_states, store_of
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data
from exotrio.manager.web.texts import ShownTexts

MAX_LEAVES = 5
"""Nodes whose outputs are shown."""
MAX_STATES = 3
"""States of each of them."""


def beginning_of(
    view: View, run: Row, template: Template, texts: ShownTexts, *, values: bool, linked: bool
) -> Data:
    """Return what triggered a run, and its inputs and store; without ``values`` only names in the store."""
    (state,) = read_states(view, [first_state(view, run)])
    store = store_of(view, run, template)
    return {
        "origin": run["origin"],
        "parent": parent_of(view, run),
        "linked": linked,
        "started_by": run["started_by"],
        "root": template.root.identifier,
        "inputs": texts.values(state["inputs"], state["inputs_size"]) if values else [],
        "store": texts.pairs(store) if values else [],
        "store_names": [] if values else [texts.begin(key) for key, _ in store],
    }


def results_of(
    view: View,
    run: Row,
    template: Template,
    counts: Mapping[int, Mapping[str, int]],
    texts: ShownTexts,
    href: Callable[[str], str | None],
) -> Data:
    """Return the outputs of the last successes of each node without a next node.

    ``more`` counts the other successes of a node; ``left_out`` further nodes; ``missing`` says what failed,
    so that the result is partial. ``href`` returns the link to a state, by its id.
    """
    ended = [
        place
        for place, declared in zip(template.places, template.body.nodes, strict=True)
        if not declared.next_nodes and SUCCESS in counts.get(place.index, {})
    ]
    leaves = []
    for place in ended[:MAX_LEAVES]:
        states = [
            {
                "id": view.state_id(row["seq"]),
                "href": href(view.state_id(row["seq"])),
                "outputs": texts.values(row["outputs"], row["outputs_size"]),
            }
            for row in read_states(view, last_successes(view, run, place.index, MAX_STATES))
        ]
        more = counts[place.index][SUCCESS] - len(states)
        leaves.append({"identifier": place.identifier, "states": states, "more": more})
    return {
        "leaves": leaves,
        "left_out": len(ended) - len(leaves),
        "missing": missing_in(view, run, counts),
    }
