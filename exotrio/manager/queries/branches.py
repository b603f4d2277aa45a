"""Which branches were taken after states that succeeded, and why, evaluated again from their outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice

from pydantic_core import from_json

from exotrio._util.words import shortened
from exotrio._wire.states import StateBranch
from exotrio.graph.conditions import MAX_SHOWN
from exotrio.manager.engine.inputs import resolve
from exotrio.manager.engine.sources import Need, Sources, read_shared
from exotrio.manager.engine.states import SUCCESS, RunScope
from exotrio.manager.rules.branches import ConditionError, Decision
from exotrio.manager.rules.template import Place, Template
from exotrio.manager.rules.unreached import Counts, Unreached
from exotrio.manager.store.driver import Row
from exotrio.manager.store.view import View

MAX_EXPLAINED = 20
"""Places of a run whose conditions are evaluated for one page."""
MAX_SEARCHED = 2_000
"""States of a run in which the one is searched that a condition read: no index has them by place."""
_STATE = "SELECT run, place, status, outputs, parent FROM states WHERE"


def branches_of(view: View, state: Row) -> list[StateBranch]:
    """Return the branches after a state that succeeded."""
    template = view.template(state["template"])
    return [_shown(template, each) for each in _decisions(view, template, state)]


def condition_of(view: View, state: Row) -> StateBranch | None:
    """Return the branch that led to a state, if it was taken under a condition."""
    template = view.template(state["template"])
    node = template.body.nodes[state["place"]]
    if state["parent"] is None or not (node.when or node.otherwise):
        return None
    before = view.one(f"{_STATE} seq = ?", (state["parent"],))
    decisions = _decisions(view, template, before)
    return next((_shown(template, each) for each in decisions if each.place == state["place"]), None)


def with_values(
    view: View, run: Row, counts: Counts, unreached: Mapping[int, Unreached]
) -> dict[int, Unreached]:
    """Return reasons with the value that kept a condition from being met, where a single state has it."""
    template = view.template(run["template"])
    explained = dict(unreached)
    if not template.refs or sum(sum(each.values()) for each in counts.values()) > MAX_SEARCHED:
        return explained
    for index, before in islice(_decided_by_one(template, counts, unreached), MAX_EXPLAINED):
        state = view.row(f"{_STATE} run = ? AND place = ? AND status = 'SUCCESS'", (run["id"], before))
        for each in () if state is None else _decisions(view, template, state):
            if each.place == index and each.value is not None:
                why = f"{unreached[index].text}: it was {shortened(repr(each.value), MAX_SHOWN)}"
                explained[index] = replace(unreached[index], text=why)
    return explained


def _decided_by_one(
    template: Template, counts: Counts, unreached: Iterable[int]
) -> Iterable[tuple[int, int]]:
    """Yield the places with a condition, and the only place before each, if that has a single success."""
    for index in unreached:
        if template.body.nodes[index].when is not None and len(template.before[index]) == 1:
            (only,) = template.before[index]
            if counts.get(only, {}).get(SUCCESS) == 1:
                yield index, only


def _shown(template: Template, decision: Decision) -> StateBranch:
    return StateBranch(
        identifier=template.places[decision.place].identifier,
        taken=decision.is_taken,
        condition=decision.condition,
        value=None if decision.value is None else shortened(decision.value, MAX_SHOWN),
    )


def _decisions(view: View, template: Template, state: Row) -> list[Decision]:
    """Return which edges were taken from a state, of those that are not always taken."""
    place: Place = template.places[state["place"]]
    if place.branches is None or state["status"] != SUCCESS:
        return []
    run = RunScope(state["run"], template)
    following = tuple(template.places[index] for index in place.next)
    need = Need(run=run, above=state["parent"], places=following, known=(place.identifier,))
    sources = Sources(view, run, state["parent"], read_shared(view, [need]))
    outputs = from_json(state["outputs"])
    try:
        return place.branches.decide(lambda ref: resolve(ref, sources, place.identifier, outputs))
    except ConditionError:  # its next states were created by hand, or before these conditions were known
        return []
