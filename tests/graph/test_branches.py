"""Branches in Python: conditions from references, what is wrong with them at their line, and how they run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ConditionModel, Graph, GraphInvalid
from exotrio.graph.conditions import Fact, contradiction, type_problem
from exotrio.graph.references import AddedNode
from exotrio.testing import explore, run_graph


class Kind(Enum):
    BOOK = "book"
    MAP = "map"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Check(BaseNode):
    class Inputs(BaseModel):
        item: str

    class Outputs(BaseModel):
        ok: bool
        kind: Kind
        size: Size
        color: Literal["red", "blue"]
        count: int
        price: float
        total: Decimal
        name: str
        note: str | None
        maybe: bool | None
        stock: int | None
        mark: Literal["null", "red"] | None
        tags: list[str]

    async def execute(self) -> Outputs:
        is_book = self.inputs.item == "book"
        return self.Outputs(
            ok=is_book,
            kind=Kind(self.inputs.item),
            size=Size.LARGE,
            color="red",
            count=3,
            price=0.5,
            total=Decimal("10.1"),
            name=self.inputs.item,
            note="null" if is_book else None,
            maybe=None,
            stock=None if is_book else 5,
            mark="null" if is_book else None,
            tags=[],
        )


class Step(BaseNode):
    class Inputs(BaseModel):
        text: str = ""

    class Outputs(BaseModel):
        text: str

    async def execute(self) -> Outputs:
        return self.Outputs(text=self.inputs.text)


class Join(BaseNode):
    class Inputs(BaseModel):
        texts: list[str]

    async def execute(self) -> None: ...


def checked() -> tuple[Graph, AddedNode[Any]]:
    graph = Graph("g", namespace="shop")
    return graph, graph.add(Check, item=graph.store("item"))


Case = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("condition", "operator", "value", "taken"),
    [
        (lambda c: c.ok, "==", True, "book"),
        (lambda c: c.ok == False, "==", False, "map"),  # noqa: E712
        (lambda c: c.kind == Kind.BOOK, "==", "book", "book"),
        (lambda c: c.kind == "book", "==", "book", "book"),
        (lambda c: c.kind != Kind.BOOK, "!=", "book", "map"),
        (lambda c: c.kind.is_in(Kind.BOOK, "map"), "in", ["book", "map"], "book map"),
        (lambda c: c.size == Size.LARGE, "==", "2", "book map"),
        (lambda c: c.size == 1, "==", "1", ""),
        (lambda c: c.color != "red", "!=", "red", ""),
        (lambda c: c.count == 3, "==", 3, "book map"),
        (lambda c: c.count < 3.5, "<", 3.5, "book map"),
        (lambda c: c.count >= 4, ">=", 4, ""),
        (lambda c: c.count > 2, ">", 2, "book map"),
        (lambda c: c.price <= 0.5, "<=", 0.5, "book map"),
        (lambda c: c.total == Decimal("10.1"), "==", 10.1, "book map"),
        (lambda c: c.total > Decimal(10), ">", 10, "book map"),
        (lambda c: c.total < 10, "<", 10, ""),
        (lambda c: c.name == "map", "==", "map", "map"),
        (lambda c: c.note == None, "==", None, "map"),  # noqa: E711
        (lambda c: c.note == "null", "==", '"null"', "book"),
        (lambda c: c.note.is_in("null", None), "in", ['"null"', None], "book map"),
        (lambda c: c.maybe, "==", True, ""),
        (lambda c: c.maybe != True, "!=", True, "book map"),  # noqa: E712
        (lambda c: c.stock == None, "==", None, "book"),  # noqa: E711
        (lambda c: c.stock != None, "!=", None, "map"),  # noqa: E711
        (lambda c: c.mark == "null", "==", '"null"', "book"),
        (lambda c: c.mark == None, "==", None, "map"),  # noqa: E711
        (lambda c: c["name"].is_in("book"), "in", ["book"], "book"),
    ],
)
async def test_a_condition_is_true_of_the_values_that_it_is_true_of_in_python(
    autojump_clock: MockClock, condition: Case, operator: str, value: Any, taken: str
) -> None:
    graph, check = checked()
    graph.add(Step, when=condition(check))
    model = graph.nodes[1].when
    assert model == ConditionModel(of=model.of if model else "", operator=operator, value=value)  # type: ignore[arg-type]
    assert graph.nodes[0].next_nodes == ["step"], "the reference makes the edge"
    for item in ("book", "map"):
        run = await run_graph(graph, [Check, Step], store={"item": item})
        assert run.errors == []
        assert len(run.of("step")) == (item in taken.split())


@pytest.mark.parametrize(
    ("mistake", "problem"),
    [
        (lambda c: c.kind == "bok", "is never 'bok': it is one of book, map; did you mean 'book'?"),
        (lambda c: c.color.is_in("red", "green"), "is never 'green': it is one of red, blue"),
        (lambda c: c.color == None, "is never None: it is one of"),  # noqa: E711
        (lambda c: c.ok == 1, "is bool, which is never 1"),
        (lambda c: c.ok == None, "is bool, which is never None"),  # noqa: E711
        (lambda c: c.count == "3", "is int, which is never '3'"),
        (lambda c: c.count == True, "is int, which is never True"),  # noqa: E712
        (lambda c: c.count == 2.5, "is int, which is never 2.5"),
        (lambda c: c.count < "3", "is int, which is never '3'"),
        (lambda c: c.price == float("nan"), "compare it with a finite number"),
        (lambda c: c.price < 10**400, "a number is compared with one that a float can be"),
        (lambda c: c.count < 10**5000, "a number is compared with one that a float can be"),
        (lambda c: c.total < Decimal("1e400"), "a number is compared with one that a float can be"),
        (lambda c: c.name == 5, "is str, which is never 5"),
        (lambda c: c.name < "b", "is str, which has no order: < is for numbers"),
        (lambda c: c.kind >= Kind.MAP, "is Kind, which has no order"),
        (lambda c: c.maybe > 1, "has no order"),
        (lambda c: c.tags == [], r"is list\[str\], which cannot be compared: declare it as a str, bool"),
        (lambda c: c.kind.is_in(), "is in nothing"),
        (lambda c: c.kind.is_in(["book", "map"]), "give is_in the values separately"),
        (lambda c: c.count == (3, 4), r"is int, which is never \(3, 4\)"),
        (lambda c: c.kind != (Kind.BOOK,), "is never "),
        (lambda c: Graph("h", namespace="shop").add("Theirs").x == float("nan"), "with nan: compare it with"),
        (lambda c: c.name == c.name, "compare it with a value"),
        (lambda c: c.every.name == "x", "is a list, which cannot be compared"),
        (bool, None),
        (lambda c: bool(c.ok), "is neither true nor false yet"),
        (lambda c: not c.ok, "is neither true nor false yet"),
        (lambda c: c.kind in ("book", "map"), "is neither true nor false yet"),
        (lambda c: 0 < c.count < 5, "is neither true nor false yet"),
        (lambda c: c.ok and c.maybe, "is neither true nor false yet"),
    ],
)
def test_a_comparison_that_cannot_be_meant_is_an_error_at_its_line(
    mistake: Case, problem: str | None
) -> None:
    _, check = checked()
    if problem is None:
        assert mistake(check), "a node is no reference"
        return
    with pytest.raises(GraphInvalid, match=problem):
        mistake(check)


@pytest.mark.parametrize(
    ("add", "problem"),
    [
        (lambda g, c: g.add(Step, when=c.count), "when=: <the count of 'check'> is int, not bool"),
        (lambda g, c: g.add(Step, after=c, when=True), "when=: it takes one output of type bool"),
        (lambda g, c: g.add(Step, after=c, when=c), "when=: it takes one output"),
        (lambda g, c: g.add(Step, when=checked()[1].ok), "'check' is a node of another graph"),
        (lambda g, c: g.add(Step, after=c, otherwise=True), "otherwise= needs another node after 'check'"),
        (lambda g, c: [g.add(Step, when=c.ok), g.add("B",  when=c.ok, otherwise=True)], "give"),
        (lambda g, c: g.wait("e", after=c, when=c.ok, otherwise=True), "give one of them"),
        (lambda g, c: branches(g, c, c.ok, None, None), "'s1' follows 'check' otherwise, and only one"),
        (lambda g, c: branches(g, c, c.ok, None, c.ok), "'s1' follows 'check' otherwise: add it after"),
        (
            lambda g, c: branches(g, c, c.ok, c.ok == False, None),  # noqa: E712
            r"it never runs after 'check': there is no value with not \(check.ok == false\), not \(",
        ),
        (
            lambda g, c: branches(g, c, c.kind == "book", c.kind != "book", None),
            "it never runs after 'check'",
        ),
        (lambda g, c: branches(g, c, c.count < 5, c.count > 4, None), "it never runs after 'check'"),
        (
            lambda g, c: g.add(Step, identifier="b", after=g.add(Step, when=c.ok), when=c.ok == False),  # noqa: E712
            "it never runs after 'step'",
        ),
        (
            lambda g, c: g.add("B", after=branches(g, c, c.count > 5, None)[1], when=c.count == 6),
            r"it never runs after 's1': there is no value with .*not \(check.count > 5\)",
        ),
        (
            lambda g, c: g.add(Join, unites=c, texts=g.add(Step, when=c.ok).every.text, when=c.ok),
            "a node that unites others runs if one of its branches arrives",
        ),
    ],
)  # fmt: skip
def test_a_branch_that_cannot_be_is_an_error_at_its_line(add: Callable[..., Any], problem: str) -> None:
    graph, check = checked()
    with pytest.raises(GraphInvalid, match=problem):
        add(graph, check)


def branches(graph: Graph, check: AddedNode[Any], *conditions: Any) -> list[AddedNode[Any]]:
    """Add a node for each condition, and for None one that is taken otherwise."""
    return [
        graph.add(Step, identifier=f"s{number}", after=check, when=condition, otherwise=condition is None)
        for number, condition in enumerate(conditions)
    ]


def test_branches_that_may_be_taken_are_no_errors() -> None:
    graph, check = checked()
    branches(graph, check, check.count < 5, check.count > 5, None)
    graph, check = checked()
    branches(graph, check, check.price < 5, check.price >= 5, None)  # it may be NaN
    graph, check = checked()
    branches(graph, check, check.maybe, check.maybe == False, None)  # noqa: E712
    graph, check = checked()
    _, other = branches(graph, check, check.count > 5, check.ok)
    graph.add(Step, after=other, when=check.count <= 5)
    graph, check = checked()
    branches(graph, check, check.stock == None, None)  # noqa: E711
    graph = Graph("g", namespace="shop")
    first = graph.add("Theirs")
    branches(graph, first, first.x == "a", first.x == 5, first.x == True, None)  # noqa: E712
    graph = Graph("g", namespace="shop")
    first = graph.add("Theirs")
    _, other = branches(graph, first, first.x == "5", None)
    graph.add(Step, after=other, when=first.x == 5)  # it may be 5.0


def test_the_work_of_checking_conditions_grows_with_their_values_and_not_with_pairs_of_them() -> None:
    colors = Literal[tuple(f"color-{number}" for number in range(400))]  # type: ignore[valid-type]

    def calls(values: int, nodes: int) -> int:
        number = 0

        def count(*_: object) -> None:
            nonlocal number
            number += 1

        models = [
            ConditionModel(of="x", operator="in", value=[f"color-{each}" for each in range(values)])
            for _ in range(nodes)
        ]
        sys.setprofile(count)
        try:
            assert not any(type_problem(model, colors) for model in models)
            for end in range(1, nodes):  # as along a path
                assert contradiction(Fact(model, colors, True) for model in models[:end]) is None
        finally:
            sys.setprofile(None)
        return number

    calls(1, 1)  # what happens once
    assert calls(400, 5) < 100 * 400 * 5
    assert calls(400, 40) < 10 * calls(400, 5)


def test_an_input_with_the_name_of_a_new_argument_is_not_mixed_up_with_it() -> None:
    class Call(BaseNode):
        class Inputs(BaseModel):
            timeout: float = 1.0

        async def execute(self) -> None: ...

    graph = Graph("g", namespace="shop")
    with pytest.raises(GraphInvalid, match="timeout= is about the node, and Call has an input of this name"):
        graph.add(Call, timeout=5)
    graph.add(Call, timeout=5, inputs={"timeout": 2})
    assert (graph.nodes[0].timeout, graph.nodes[0].inputs) == (5, {"timeout": "2.0"})


def test_the_first_node_has_no_condition() -> None:
    graph = Graph("g", namespace="shop")
    with pytest.raises(GraphInvalid, match="the first node always runs"):
        graph.add(Step, when=graph.store("mode") == "fast")


def test_a_reference_is_found_by_its_identity_in_dicts_and_sets() -> None:
    _, check = checked()
    ok, count = check.ok, check.count
    assert {ok: 1, count: 2}[ok] == 1
    assert ok in [ok, count]
    assert len({ok, count, check.ok}) == 3


class Approval(BaseModel):
    ok: bool


@pytest.mark.parametrize(
    ("item", "ok", "ran"),
    [
        ("map", True, ["check", "step"]),
        ("book", True, ["check", "approved", "ship"]),
        ("book", False, ["check", "approved"]),
    ],
)
async def test_a_run_waits_for_an_event_on_one_branch_and_the_event_decides(
    autojump_clock: MockClock, item: str, ok: bool, ran: list[str]
) -> None:
    graph, check = checked()
    approved = graph.wait("approved", Approval, after=check, when=check.kind == Kind.BOOK)
    graph.add(Step, identifier="ship", when=approved.ok)
    graph.add(Step, after=check, otherwise=True)
    run = await run_graph(graph, [Check, Step], store={"item": item}, events={"approved": Approval(ok=ok)})
    assert [state.identifier for state in run.states] == ran
    assert run.status == "SUCCESS"


async def test_explore_finds_nothing_wrong_with_a_graph_with_branches(autojump_clock: MockClock) -> None:
    graph = Graph("g", namespace="shop")
    start = graph.add(Step, identifier="start", text="map")
    check = graph.add(Check, item=start.text)
    book = graph.add(Step, identifier="book", when=check.kind == "book")
    other = graph.add(Step, identifier="other", after=check, otherwise=True)
    graph.add(Join, unites=start, after=[book, other], texts=other.every.text)
    await explore(graph, [Check, Step, Join])
