"""Random graphs that the rules of section 4 accept, and their bodies on the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from exotrio._wire.graphs import GraphBody
from exotrio.manager.rules.branches import never_taken
from exotrio.manager.rules.template import Template
from tests.property.model import DEFAULTS, GIVEN, TIMEOUT_MS, Place, Plan, Ref, When
from tests.property.model import Template as Text
from tests.support.helpers import declare, node_name, place

FIELD = "v"
BELOW = "below"
"""The graph that places run, and its only node."""
BRANCH = "b"
"""The output by which branches are taken."""
BRANCH_TEXTS = ["0", "1", "2", "x"]
STRATEGIES = ["ALL_SUCCESS", "ALL_DONE", "ALL_DONE"]
"""More happens after a failure with ALL_DONE, so it stands twice."""


@st.composite
def plans(draw: st.DrawFn, max_nodes: int = 8) -> Plan:
    """Draw a graph node by node, each after some of those before it."""
    count = draw(st.integers(2, max_nodes), label="nodes")
    names = [f"n{number}" for number in range(count)]
    following: dict[str, list[str]] = {name: [] for name in names}
    # What every path to a node has in common: what a unite may target and a placeholder may reference.
    ancestors: dict[str, set[str]] = {names[0]: set()}
    places = [Place(names[0], inputs={"p": ("root",)})]
    for number, name in enumerate(names[1:], start=1):
        earlier = names[:number][::-1]
        before = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=2, unique=True), label="after")
        for predecessor in before:
            following[predecessor].append(name)
        targets = sorted(set.intersection(*(ancestors[predecessor] for predecessor in before)))
        target = draw(st.sampled_from([*targets, *([None] if len(targets) < 2 else [])])) if targets else None
        if target is None:
            ancestors[name] = set.intersection(*({*ancestors[p], p} for p in before))
        else:
            ancestors[name] = {*ancestors[target], target}
        strategy = draw(st.sampled_from(STRATEGIES)) if target else "ALL_SUCCESS"
        referenced = draw(
            st.lists(st.sampled_from(sorted(ancestors[name])), max_size=2, unique=True), label="references"
        )
        template: Text = (f"{name}:", *(Ref(other, FIELD) for other in referenced))
        places.append(Place(name, (), target, strategy, {"p": template}))
    skeleton = Plan(tuple(_following(place, following) for place in places))
    for united in skeleton.places:
        if united.unites is not None:
            assert united.identifier not in skeleton.waits_for(united), "none of them wait for each other"
    return Plan(
        tuple(draw(_waiting(draw(_aggregating(skeleton, place, ancestors)))) for place in skeleton.places),
        max_retries=draw(st.integers(0, 2), label="max_retries"),
        backoff_ms=draw(st.sampled_from([1, 1000]), label="backoff"),
    )


@st.composite
def branching_plans(draw: st.DrawFn) -> Plan:
    """Draw one of the plans above or below, in which some edges are taken under conditions."""
    plan = draw(plans() | familiar_plans())
    places = {place.identifier: place for place in plan.places}
    for name in plan.topological():
        certain = sorted(each for each in _certain(plan, name) if not plan[each].event)
        before = plan.predecessors(name)
        if places[name].unites is not None or not before:
            continue
        kind = draw(st.sampled_from(["always", "text", "number", "otherwise"]), label="kind of edge")
        ref = Ref(draw(st.sampled_from(certain)), BRANCH)
        if kind == "text":
            texts = draw(st.lists(st.sampled_from(BRANCH_TEXTS), min_size=1, max_size=3, unique=True))
            places[name] = replace(places[name], when=When(ref, texts=tuple(texts)))
        elif kind == "number":
            places[name] = replace(places[name], when=When(ref, below=draw(st.integers(1, 2))))
        elif kind == "otherwise":
            siblings = [[places[other] for other in plan[each].next_nodes] for each in before]
            if all(any(s.when for s in each) and not any(s.otherwise for s in each) for each in siblings):
                places[name] = replace(places[name], otherwise=True)
    plan = replace(plan, places=tuple(places[place.identifier] for place in plan.places))
    nodes = [{"namespace": "n", **each} for each in wire_places(plan)]
    body = GraphBody.model_validate({"secrets": {}, "nodes": nodes})
    template = Template(body)
    assume(not list(never_taken(body.nodes, template.refs, lambda _: None)))
    return plan


def _certain(plan: Plan, name: str) -> set[str]:
    """Return the places that every chain to a place has."""
    unites = plan[name].unites
    chains = [unites] if unites is not None else sorted(plan.predecessors(name))
    return set.intersection(*({each, *_certain(plan, each)} for each in chains)) if chains else set()


# (identifier, next nodes, unites, aggregates): the shapes that unites go wrong in.
FAMILIAR: dict[str, list[tuple[str, str, str, str]]] = {
    "side branch": [
        ("n0", "n1", "", ""),
        ("n1", "n2 n3 n4", "", ""),
        ("n2", "", "", ""),
        ("n3", "n4", "", ""),
        ("n4", "n5", "n0", "n3"),
        ("n5", "", "", ""),
    ],
    "fan-out below fan-out": [
        ("n0", "n1", "", ""),
        ("n1", "n2", "", ""),
        ("n2", "n3", "", ""),
        ("n3", "n4", "", ""),
        ("n4", "n5", "n1", "n3"),
        ("n5", "n6", "", ""),
        ("n6", "", "n0", "n5"),
    ],
    "two uniters, one after the other": [
        ("n0", "n1", "", ""),
        ("n1", "n2", "", ""),
        ("n2", "n3", "n0", "n1"),
        ("n3", "n4", "", ""),
        ("n4", "", "n0", "n2"),
    ],
    "two uniters side by side": [
        ("n0", "n1", "", ""),
        ("n1", "n2 n3", "", ""),
        ("n2", "n4", "n0", "n1"),
        ("n3", "n5", "n0", "n1"),
        ("n4", "n6", "", ""),
        ("n5", "n6", "", ""),
        ("n6", "", "n0", "n1"),
    ],
    "an inner unite on a branch": [
        ("n0", "n1 n2", "", ""),
        ("n1", "n3", "", ""),
        ("n3", "n4", "", ""),
        ("n4", "n5", "n1", "n3"),
        ("n2", "n5", "", ""),
        ("n5", "", "n0", "n4"),
    ],
    "a diamond": [
        ("n0", "n1", "", ""),
        ("n1", "n2 n3", "", ""),
        ("n2", "n4", "", ""),
        ("n3", "n4", "", ""),
        ("n4", "n5", "", ""),
        ("n5", "n6", "n1", "n4"),
        ("n6", "", "n0", "n5"),
    ],
    "a uniter of the root below the target": [
        ("n0", "n1", "", ""),
        ("n1", "n2", "", ""),
        ("n2", "n3 n4", "", ""),
        ("n3", "n5", "n0", "n2"),
        ("n4", "n6", "n1", "n2"),
        ("n5", "", "", ""),
        ("n6", "n3", "", ""),
    ],
    "a member that waits for the inner of two unites only": [
        ("n0", "n1 n2", "", ""),
        ("n1", "n3", "", ""),
        ("n3", "n4 n5", "", ""),
        ("n2", "n6", "", ""),
        ("n6", "n5", "n0", "n4"),
        ("n5", "", "", ""),
        ("n4", "n7", "n1", "n5"),
        ("n7", "", "n0", "n4"),
    ],
    # n4 unites less than n2, which is behind a branch of it: n2 waits for n4, and not the other way round.
    "a uniter of the outer target on a branch of the inner one": [
        ("n0", "n1", "", ""),
        ("n1", "n2 n3", "", ""),
        ("n2", "n5", "n0", "n4"),
        ("n3", "n4", "", ""),
        ("n4", "n5", "n1", "n3"),
        ("n5", "", "", ""),
    ],
    "a united target": [
        ("n0", "n1", "", ""),
        ("n1", "n2", "", ""),
        ("n2", "n3", "n0", "n1"),
        ("n3", "n4", "", ""),
        ("n4", "n5", "", ""),
        ("n5", "", "n2", "n4"),
    ],
}


@st.composite
def familiar_plans(draw: st.DrawFn) -> Plan:
    """Draw one of the known shapes, with other strategies and references."""
    shape = FAMILIAR[draw(st.sampled_from(sorted(FAMILIAR)), label="shape")]
    places = []
    for name, following, target, aggregated in shape:
        strategy = draw(st.sampled_from(STRATEGIES)) if target else "ALL_SUCCESS"
        referenced = [*([target or "n0"] if name != "n0" and draw(st.booleans()) else [])]
        inputs: dict[str, Text] = {"p": (f"{name}:", *(Ref(other, FIELD) for other in referenced))}
        if aggregated and draw(st.booleans()):
            inputs["g"] = (Ref(aggregated, FIELD),)
        place = Place(name, tuple(following.split()), target or None, strategy, inputs)
        places.append(draw(_waiting(place)))
    max_retries = draw(st.integers(0, 2), label="max_retries")
    return Plan(tuple(places), max_retries, draw(st.sampled_from([1, 1000]), label="backoff"))


@st.composite
def _waiting(draw: st.DrawFn, place: Place) -> Place:
    """Let a place wait for an event, seldom, of each output of the root for another one, or all for one; or
    let it run another graph."""
    if place.identifier == "n0" or place.unites is not None:
        return place
    drawn = draw(st.integers(0, 5), label="waits")
    if drawn == 1:
        return replace(place, inputs={}, runs_graph=True)
    if drawn:
        return place
    name: Text = (f"{place.identifier}-", *([Ref("n0", FIELD)] if draw(st.booleans()) else []))
    on_timeout = draw(st.sampled_from(["error", "prune", "given"]), label="on timeout")
    return replace(place, inputs={}, event=name, on_timeout=on_timeout)


def _following(place: Place, following: dict[str, list[str]]) -> Place:
    names = tuple(following[place.identifier])
    return Place(place.identifier, names, place.unites, place.strategy, place.inputs)


@st.composite
def _aggregating(draw: st.DrawFn, plan: Plan, place: Place, ancestors: dict[str, set[str]]) -> Place:
    """Let a united place reference a place of its region."""
    if place.unites is None:
        return place
    region = sorted(name for name in plan.region(place) if place.unites in ancestors[name])
    name = draw(st.sampled_from([None, *region]), label="aggregates")
    if name is None:
        return place
    inputs = {**place.inputs, "g": (Ref(name, FIELD),)}
    return Place(place.identifier, place.next_nodes, place.unites, place.strategy, inputs)


def text(template: Text) -> str:
    return "".join(
        piece if isinstance(piece, str) else f"${{{{{piece.identifier}.outputs.{piece.field}}}}}"
        for piece in template
    )


def wire_places(plan: Plan) -> list[dict[str, Any]]:
    """Return the nodes of the graph body."""
    return [
        place(
            each.identifier,
            *each.next_nodes,
            inputs={name: text(template) for name, template in each.inputs.items()},
            unites=each.unites,
            strategy=each.strategy,
            **_conditions(each),
            **(_wait_of(each) if each.event else {}),
            **({"node_name": "run graph", "graph": {"name": BELOW}} if each.runs_graph else {}),
        )
        for each in plan.places
    ]


def _conditions(place: Place) -> dict[str, Any]:
    if place.when is None:
        return {"otherwise": True} if place.otherwise else {}
    of, below = text((place.when.ref,)), place.when.below
    if below is not None:
        return {"when": {"of": of, "operator": "<", "value": below}}
    return {"when": {"of": of, "operator": "in", "value": list(place.when.texts)}}


def _wait_of(each: Place) -> dict[str, Any]:
    wait = {
        "event": text(each.event),
        "outputs": {name: {"type": "string"} for name in GIVEN.keys() - DEFAULTS}
        | {name: {"type": "string", "default": text} for name, text in DEFAULTS.items()},
        "timeout_ms": TIMEOUT_MS,
        "on_timeout": GIVEN if each.on_timeout == "given" else each.on_timeout,
    }
    return {"node_name": "wait for event", "wait": wait}


def declaration(identifier: str, inputs: set[str]) -> dict[str, Any]:
    """Return the node that runs at ``identifier`` and asks for ``inputs``."""
    return declare(node_name(identifier), sorted(inputs), [FIELD, BRANCH, "n"])
