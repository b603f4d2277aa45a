"""What new code breaks in runs that old code began: found by its models, and named."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from exotrio import BaseNode, Graph
from exotrio._nodes.checks import models_of
from exotrio.graph.breaking import Models, breaking_changes
from exotrio.graph.limits import Limit


def node(
    name: str, inputs: dict[str, Any] | None = None, outputs: dict[str, Any] | None = None
) -> type[BaseNode]:
    """Return a node class with these fields: a type, or a type and a default."""

    def model(of: str, fields: dict[str, Any] | None) -> type[BaseModel]:
        given = {
            key: each if isinstance(each, tuple) else (each, ...) for key, each in (fields or {}).items()
        }
        return create_model(of, **given)  # type: ignore[call-overload]

    async def execute(self: BaseNode) -> None: ...

    body = {"Inputs": model("Inputs", inputs), "Outputs": model("Outputs", outputs), "execute": execute}
    return type(name, (BaseNode,), body)


def changes(old: list[type[BaseNode]], new: list[type[BaseNode]]) -> list[str]:
    """Return the changes that break runs of a graph in which each old node has the outputs of the one before
    it."""
    graph = Graph("g", namespace="ns")
    before: Any = None
    for each in old:
        given: dict[str, Any] = {
            name: getattr(before, name) if before else "1" for name in each.Inputs.model_fields
        }
        if not given and before:
            given["after"] = before
        before = graph.add(each, **given)
    models: list[dict[str, Models]] = [{cls.__name__: models_of(cls) for cls in code} for code in (old, new)]
    found = breaking_changes(graph.nodes, *models)
    return [f"{'' if each.certain else 'perhaps '}{each}" for each in found]


SPLIT = node("Split", outputs={"n": int})
WORK = node("Work", {"n": int})
UNTIL = "until the runs of the old code have ended"


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([SPLIT, WORK], []),
        (
            [SPLIT],
            [
                "Work: the new code has no such class, so states of 'work' wait without a limit;"
                f" keep it {UNTIL}"
            ],
        ),
        (
            [SPLIT, node("Work", {"number": int})],
            [
                "Work.Inputs.number (old code: n: a whole number; new code: a whole number): runs of the old"
                " code have no 'number', and it has no default, while 'n' is not read any more; give it"
                f" a default {UNTIL}, or keep the name 'n'"
            ],
        ),
        (
            [SPLIT, node("Work", {"n": int, "unit": str})],
            [
                "Work.Inputs.unit (old code: no such field; new code: a text): runs of the old code have no"
                f" 'unit', and it has no default; give it a default {UNTIL}"
            ],
        ),
        ([SPLIT, node("Work", {"n": int, "unit": (str, "m")})], []),
        (
            [node("Split", outputs={"m": int}), WORK],
            [
                "Split.Outputs.n (old code: a whole number; new code: no such field): in runs of the old"
                f" code, input 'n' of 'work' reads it; return it, too, {UNTIL}"
            ],
        ),
        (
            [node("Split", outputs={"n": float}), WORK],
            [
                "perhaps Split.Outputs.n (old code: a whole number; new code: a number): in runs of the old"
                " code, input 'n' of 'work' reads it, and does not accept every value; return the old form"
                f" {UNTIL}, or have the reader accept both"
            ],
        ),
        # What the new node does not read may be missing.
        ([node("Split"), node("Work")], []),
        ([SPLIT, node("Work", {"n": float})], []),
        (
            [SPLIT, node("Work", {"n": date})],
            [
                "perhaps Work.Inputs.n (old code: a whole number; new code: a date such as 2026-01-31): not"
                f" every value of the old code is accepted; accept both {UNTIL}"
            ],
        ),
        (
            [SPLIT, node("Work", {"n": Annotated[int, Field(ge=1)]})],
            [
                "perhaps Work.Inputs.n (old code: a whole number; new code: a whole number, at least 1): not"
                f" every value of the old code is accepted; accept both {UNTIL}"
            ],
        ),
    ],
)
def test_each_change_that_breaks_runs_in_progress_is_named(
    new: list[type[BaseNode]], expected: list[str]
) -> None:
    assert changes([SPLIT, WORK], new) == expected


def with_checkpoint(**fields: Any) -> type[BaseNode]:
    cls = node("Work", {"n": int})
    config = fields.pop("config", {})
    given: dict[str, Any] = {name: (of, ...) for name, of in fields.items()}
    model = create_model("Checkpoint", __config__=config, **given)
    return type("Work", (cls,), {"Checkpoint": model})


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (with_checkpoint(row=int), []),
        (
            with_checkpoint(row=int, line=str),
            [
                "Work.Checkpoint.line (old code: no such field; new code: a text): checkpoints of the old"
                " code lack it, and it has no default; give it a default, or retry such states with"
                " --from-beginning"
            ],
        ),
        (with_checkpoint(line=int), ["Work.Checkpoint.line", "Work.Checkpoint.row"]),
        (with_checkpoint(config={"extra": "ignore"}), []),
        (WORK, ["Work.Checkpoint.row"]),
        (with_checkpoint(row=date), ["perhaps Work.Checkpoint.row"]),
    ],
)
def test_changes_of_checkpoints_are_named(new: type[BaseNode], expected: list[str]) -> None:
    found = changes([SPLIT, with_checkpoint(row=int)], [SPLIT, new])
    assert [each if each in expected else each.partition(" (")[0] for each in found] == expected


class Item(BaseModel):
    name: str
    size: Literal["s", "m", "l"] = "s"


class Item2(BaseModel):
    title: str
    size: Literal["s", "m"] = "s"


class Tree(BaseModel):
    children: list[Tree] = []
    label: str | None = None


class Tree2(BaseModel):
    children: list[Tree2] = []
    label: str


def names(found: list[str]) -> list[str]:
    return [each.partition(" (")[0] for each in found]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Item, Item2, ["Work.Inputs.x.title", "perhaps Work.Inputs.x.size"]),
        (list[Item], list[Item2], ["Work.Inputs.x[].title", "perhaps Work.Inputs.x[].size"]),
        (list[int], list[float], []),
        (list[int], list[date], ["perhaps Work.Inputs.x[]"]),
        (int | None, int, ["perhaps Work.Inputs.x"]),
        (int, int | None, []),
        (Item | None, Item, ["perhaps Work.Inputs.x"]),
        (Annotated[int, Field(ge=1, le=5)], Annotated[int, Field(ge=0, le=6)], []),
        (Annotated[int, Field(ge=1, le=5)], Annotated[int, Field(ge=1, le=4)], ["perhaps Work.Inputs.x"]),
        (str, date, []),  # whether a text is a date depends on the text
        (Tree, Tree2, ["perhaps Work.Inputs.x.label"]),
    ],
    ids=str,
)
def test_changes_within_models_and_lists_are_named(old: Any, new: Any, expected: list[str]) -> None:
    found = changes(
        [node("Split", outputs={"x": old}), node("Work", {"x": old})],
        [node("Split", outputs={"x": old}), node("Work", {"x": new})],
    )
    assert names(found) == expected


def test_a_change_names_the_places_of_the_graph_that_it_breaks() -> None:
    graph = Graph("g", namespace="ns")
    split = graph.add(SPLIT)
    for name in ("first", "second"):
        graph.add(WORK, identifier=name, n=split.n)
    graph.add(node("Other", {"n": int}), namespace="elsewhere", n=split.n)
    old = {cls.__name__: models_of(cls) for cls in (SPLIT, WORK)}
    new = {
        cls.__name__: models_of(cls) for cls in (node("Split", outputs={"m": int}), node("Work", {"m": int}))
    }
    found = breaking_changes(graph.nodes, old, new, namespace="ns")
    assert [(each.node, each.field, each.places) for each in found] == [
        ("Work", "Inputs.m", ("first", "second"))
    ]
    (lost,) = breaking_changes(graph.nodes, old, {**new, "Work": old["Work"]}, namespace="ns")
    assert (lost.field, lost.places) == ("Outputs.n", ("split",)), "the state that lacks it is that of split"


@pytest.mark.parametrize("reader", ["condition", "key of limit 'api'"])
def test_outputs_that_conditions_and_keys_of_limits_read_are_found_to_be_missing(reader: str) -> None:
    graph = Graph("g", namespace="ns")
    split = graph.add(SPLIT)
    options: Any = (
        {"when": split.n == 1} if reader == "condition" else {"limits": Limit("api").for_key(split.n)}
    )
    old = {cls.__name__: models_of(cls) for cls in (SPLIT, node("Work"))}
    new = {**old, "Split": models_of(node("Split"))}
    graph.add(node("Work"), after=split, **options)
    (lost,) = breaking_changes(graph.nodes, old, new)
    assert lost.what == f"in runs of the old code, the {reader} of 'work' reads it"
