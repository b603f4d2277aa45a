"""The picture of a graph: one box for each node of the graph, for any number of states. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from markupsafe import Markup

from exotrio.manager.rules.template import Place, Template
from exotrio.manager.rules.unreached import Unreached
from exotrio.manager.web.format import CANCELLED, CLASS_WORDS, FOR_EVENT
from exotrio.manager.web.svg.bars import HEIGHT, pieces, summary
from exotrio.manager.web.svg.elements import element, fit, join
from exotrio.manager.web.svg.graph_layout import Layout, lay_out

WIDTH = 180
LOW, HIGH = 52, 78
"""Heights of a box without counts, and with them."""
GAP_X, GAP_Y = 36, 18
EDGE = 8
"""Margin of the picture, for lines and focus rings."""
MAX_NAME, MAX_LINE = 20, 26
"""Characters that fit into a box: of its name, and of each other line."""
URGENT = (
    *("errored", "cancelled", "running", "reporting", "buffered", FOR_EVENT, "waiting", "replaced", "pruned"),
    "success",
)

URGENT_WORDS = {**CLASS_WORDS, CANCELLED: "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One node of a graph.

    Attributes:
        followers: Identifiers of its next nodes.
        unites: Identifier of the node that it unites, if any.
        counts: Class of statuses to number of states, in the order of the bar; None for no bar.
        further: How many of the successes are further outputs of other states.
        chosen: Whether its states are listed now.
        note: Shown in place of the counts, such as a problem.
        reason: Why it has no states.
        condition: Under which it runs, as users write it; empty if it always does.
        is_untaken: It has no states since that was not met.
    """

    name: str
    node: str
    followers: Sequence[str] = ()
    unites: str | None = None
    counts: Mapping[str, int] | None = None
    further: int = 0
    href: str | None = None
    chosen: bool = False
    note: str | None = None
    reason: str | None = None
    condition: str = ""
    is_untaken: bool = False


def boxes_of(
    template: Template,
    *,
    href: Callable[[Place], str | None],
    note: Callable[[Place], str | None] = lambda place: None,
    counts: Sequence[Mapping[str, int]] | None = None,
    further: Mapping[int, int] = MappingProxyType({}),
    unreached: Mapping[int, Unreached] = MappingProxyType({}),
    chosen: str = "",
) -> list[Box]:
    """Return the boxes of a graph. ``counts`` are by place and class, ``further`` by place; ``chosen`` is an
    identifier."""
    return [
        Box(
            name=place.identifier,
            node=place.node_name,
            followers=declared.next_nodes or (),
            unites=declared.unites.identifier if declared.unites else None,
            counts=None if counts is None else counts[place.index],
            further=further.get(place.index, 0),
            note=note(place),
            reason=unreached[place.index].text if place.index in unreached else None,
            is_untaken=place.index in unreached and unreached[place.index].is_untaken,
            href=href(place),
            chosen=place.identifier == chosen,
            condition=str(declared.when) if declared.when else "otherwise" * declared.otherwise,
        )
        for place, declared in zip(template.places, template.body.nodes, strict=True)
    ]


def draw_graph(boxes: Sequence[Box], *, title: str) -> Markup:
    """Return the picture of a graph. Edges to names that are not among its boxes are left out."""
    names = {box.name for box in boxes}
    kinds = {box.name: "united" if box.unites else "branch" for box in boxes if box.unites or box.condition}
    kinds.update((box.name, "branch untaken") for box in boxes if box.is_untaken)
    layout = _layout(
        tuple((box.name, tuple(name for name in box.followers if name in names)) for box in boxes)
    )
    high = HIGH if any(box.counts is not None for box in boxes) else LOW
    width = max(1, layout.columns * (WIDTH + GAP_X) - GAP_X + 2 * EDGE)
    height = max(1, round(layout.rows * (high + GAP_Y) - GAP_Y + 2 * EDGE))
    edges = [
        element(
            "path",
            class_=f"edge {kinds[end]}" if end in kinds else "edge",
            d=_path(layout.boxes[start], points, layout.boxes[end], high),
        )
        for (start, end), points in layout.edges.items()
    ]
    return element(
        "svg",
        element("title", title),
        join(edges),
        join([_draw(box, *_corner(layout.boxes[box.name], high), high) for box in boxes]),
        class_="graph",
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="group",
        aria_label=title,
    )


@lru_cache(maxsize=128)
def _layout(shape: tuple[tuple[str, tuple[str, ...]], ...]) -> Layout:
    """Lay out a graph once: its counts may change four times a second, its shape does not."""
    return lay_out(dict(shape))


def _corner(place: tuple[int, float], high: int) -> tuple[float, float]:
    column, row = place
    return EDGE + column * (WIDTH + GAP_X), EDGE + row * (high + GAP_Y)


def _path(
    start: tuple[int, float], points: Sequence[tuple[int, float]], end: tuple[int, float], high: int
) -> str:
    """Return a line that is horizontal where it leaves and enters boxes and where it passes points."""
    x, y = _corner(start, high)
    x, y = x + WIDTH, y + high / 2
    path = f"M{x:g} {y:g}"
    for place in [*points, end]:
        to_x, to_y = _corner(place, high)
        to_y += high / 2
        half = (x + to_x) / 2
        path += f"C{half:g} {y:g} {half:g} {to_y:g} {to_x:g} {to_y:g}"
        if place is not end:
            to_x += WIDTH
            path += f"H{to_x:g}"
        x, y = to_x, to_y
    return path


def _draw(box: Box, x: float, y: float, high: int) -> Markup:
    counts = dict(box.counts or {})
    outputs = None
    if box.further:
        outputs = f"{counts['success']:,} outputs"
        counts["success"] -= box.further
    total = sum(counts.values())
    condition = f"if {box.condition}" if box.condition not in ("", "otherwise") else box.condition
    facts = [condition, None if box.counts is None else summary(counts), outputs, box.note, box.reason]
    about = "; ".join(fact for fact in facts if fact) or box.node
    second = box.note if box.note and box.counts is None else None
    parts = [
        element("title", f"{box.name} ({box.node}): {about}"),
        element("rect", class_="face", width=WIDTH, height=high, rx=6),
        element("text", fit(box.name, 15 if total else MAX_NAME), class_="name", x=12, y=22),
        _line(second or condition or box.node, "bad" if second else "node", 38),
    ]
    if box.counts is not None:
        track = element("rect", class_="track", width="100%", height=HEIGHT)
        parts.append(element("svg", track, pieces(counts), x=12, y=47, width=WIDTH - 24, height=HEIGHT))
        parts.append(_line(box.note, "bad", 68) if box.note else _urgent_counts(box, counts, outputs))
    if total:
        parts.append(element("text", f"{total:,}", class_="count", x=WIDTH - 12, y=22, text_anchor="end"))
    if box.unites:
        parts.append(element("path", class_="gate", d=f"M0 14V{high - 14}"))
    drawn = join(parts)
    if box.href:
        drawn = element(
            "a",
            drawn,
            href=box.href,
            id=f"box-{box.name}",
            aria_label=f"{box.name}: {about}",
            aria_current="true" if box.chosen else None,
        )
    tone = (
        "errored" if box.note else next((name for name in ("errored", "running") if counts.get(name)), None)
    )
    classes = ["box", *(["chosen"] if box.chosen else []), *([f"is-{tone}"] if tone else [])]
    return element("g", drawn, class_=" ".join(classes), transform=f"translate({x:g} {y:g})")


def _urgent_counts(box: Box, counts: Mapping[str, int], outputs: str | None) -> Markup:
    """Return the line below the bar: the most urgent counts that fit, and an ellipsis if there are more."""
    facts = [f"{counts[name]:,} {URGENT_WORDS.get(name, name)}" for name in URGENT if counts.get(name)]
    facts += [outputs] if outputs else []
    text = " · ".join(facts) or ("not taken" if box.is_untaken else "not reached")
    while len(text) > MAX_LINE and len(facts) > 1:
        facts.pop()
        text = " · ".join([*facts, "…"])
    return _line(text, "standing c-errored" if counts.get("errored") else "standing", 68)


def _line(text: str, kind: str, y: int) -> Markup:
    return element("text", fit(text, MAX_LINE), class_=kind, x=12, y=y)
