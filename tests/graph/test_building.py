"""``Graph.add``: what it makes of a node, and what it refuses at the line where it is written."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field, ValidationError
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    Graph,
    GraphInvalid,
    GraphNodeModel,
    RetryPolicyModel,
    StoreConfigModel,
    UnitesModel,
    UnitesStrategyEnum,
)
from exotrio.graph.references import AddedNode
from exotrio.testing import run_graph


class Plan(BaseNode):
    class Inputs(BaseModel):
        root: str
        algorithm: str = "sha256"

    class Outputs(BaseModel):
        root: str
        algorithm: str
        limit: int | None

    async def execute(self) -> Outputs:
        return self.Outputs(root=self.inputs.root, algorithm=self.inputs.algorithm, limit=None)


class Scan(BaseNode):
    class Inputs(BaseModel):
        root: str

    class Outputs(BaseModel):
        path: str
        every: str = ""

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(path=f"{self.inputs.root}/{name}") for name in "abc"]


class Digest(BaseNode):
    class Inputs(BaseModel):
        path: str
        limit: Annotated[int, Field(gt=0)] = 4096

    class Outputs(BaseModel):
        line: str
        size: int

    async def execute(self) -> Outputs:
        return self.Outputs(line=self.inputs.path.upper(), size=len(self.inputs.path))


class Again(Digest):
    """The same in a separate place."""


class Collect(BaseNode):
    class Inputs(BaseModel):
        lines: list[str]
        counts: dict[str, int] = {}
        digest: Digest.Outputs | None = None
        title: str = ""
        size: int = 0

    async def execute(self) -> None:
        return None


class WriteReport(BaseNode):
    class Inputs(BaseModel):
        sizes: list[int]
        lines: str = ""

    class Outputs(BaseModel):
        total: int

    async def execute(self) -> Outputs:
        return self.Outputs(total=sum(self.inputs.sizes))


class Unusable(BaseNode):
    class Inputs(BaseModel):
        raw: bytes

    async def execute(self) -> None: ...


class Options(BaseNode):
    """Its inputs have the names of arguments, and one of each kind of default."""

    class Inputs(BaseModel):
        after: str
        due: date = date(2024, 1, 31)
        run: UUID = Field(default_factory=uuid4)

    async def execute(self) -> None: ...


Nodes = tuple[Graph, AddedNode, AddedNode, AddedNode]


def audit(root: object = "/usr") -> Nodes:
    graph = Graph("audit", namespace="examples")
    plan = graph.add(Plan, root=graph.store("root", root))
    scan = graph.add(Scan, root=plan.root)
    digest = graph.add(Digest, path=f"{plan.root}: {scan.path}")
    return graph, plan, scan, digest


def test_what_is_built_is_what_could_be_declared_by_hand() -> None:
    graph, plan, _, digest = audit()
    sizes, lines = digest.every.size, digest.every["line"]
    graph.add(WriteReport, unites=plan, strategy="ALL_DONE", timeout_minutes=5, sizes=sizes, lines=f"{lines}")
    graph.add("Mail", after=digest, timeout=2.5, retry_policy=RetryPolicyModel.fixed(1))
    place: dict[str, Any] = {"namespace": "examples"}
    assert graph.nodes == [
        GraphNodeModel(
            **place,
            node_name="Plan",
            identifier="plan",
            inputs={"root": "${{ store.root }}", "algorithm": "sha256"},
            next_nodes=["scan"],
        ),
        GraphNodeModel(
            **place,
            node_name="Scan",
            identifier="scan",
            inputs={"root": "${{ plan.outputs.root }}"},
            next_nodes=["digest"],
        ),
        GraphNodeModel(
            **place,
            node_name="Digest",
            identifier="digest",
            inputs={"path": "${{ plan.outputs.root }}: ${{ scan.outputs.path }}", "limit": "4096"},
            next_nodes=["write_report", "mail"],
        ),
        GraphNodeModel(
            **place,
            node_name="WriteReport",
            identifier="write_report",
            inputs={"sizes": "${{ digest.outputs.size }}", "lines": "${{ digest.outputs.line }}"},
            unites=UnitesModel(identifier="plan", strategy=UnitesStrategyEnum.ALL_DONE),
            timeout_minutes=5,
        ),
        GraphNodeModel(
            **place,
            node_name="Mail",
            identifier="mail",
            timeout=2.5,
            retry_policy=RetryPolicyModel.fixed(1),
        ),
    ]
    assert graph.store_config == StoreConfigModel(default_values={"root": "/usr"})


async def test_a_built_graph_runs_with_its_lists_and_defaults(autojump_clock: MockClock) -> None:
    graph, plan, _, digest = audit()
    graph.add(WriteReport, unites=plan, sizes=digest.every.size)
    run = await run_graph(graph, [Plan, Scan, Digest, WriteReport], store={"root": "/etc"})
    assert (run.errors, run.outputs("write_report")) == ([], [{"total": str(3 * len("/etc: /etc/a"))}])


async def test_a_graph_without_nodes_is_invalid() -> None:
    with pytest.raises(GraphInvalid, match="has 0"):
        await run_graph(Graph("g", namespace="ns"), [Plan])
    with pytest.raises(ValidationError, match="at least one node"):
        Graph("g", nodes=[])


class Rate(StrEnum):
    FULL = "full"


@pytest.mark.parametrize(
    ("value", "text"),
    [(Rate.FULL, "full"), (5, "5"), (None, "null"), (date(2024, 1, 31), "2024-01-31"), ([1, "a"], '[1,"a"]')],
)
def test_a_node_that_is_only_named_takes_any_value(value: object, text: str) -> None:
    graph, _, _, digest = audit()
    other = graph.add("SendMail", namespace="theirs", after=digest, subject=value, to=graph.store("to"))
    graph.add(Scan, identifier="again", root=other.anything, after=other)
    mail, again = graph.nodes[-2:]
    assert (mail.node_name, mail.namespace, mail.identifier) == ("SendMail", "theirs", "send_mail")
    assert (mail.inputs, mail.next_nodes) == ({"subject": text, "to": "${{ store.to }}"}, ["again"])
    assert again.inputs == {"root": "${{ send_mail.outputs.anything }}"}
    assert graph.store_config.required_keys == ["to"]


def test_a_node_without_references_names_what_it_follows() -> None:
    graph, _, scan, digest = audit()
    graph.add(Options, after=[scan, digest], inputs={"after": "x", "run": UUID(int=1)}, due="2024-02-29")
    assert graph.nodes[1].next_nodes == ["digest", "options"]
    assert graph.nodes[-1].inputs == {
        "after": "x",
        "run": "00000000-0000-0000-0000-000000000001",
        "due": "2024-02-29",
    }


def test_a_store_key_is_declared_once_and_shared_with_no_other_graph() -> None:
    config = StoreConfigModel(required_keys=["who"])
    first, second = (Graph(name, namespace="ns", store_config=config) for name in "ab")
    assert [str(first.store("who")), str(first.store("n", 5)), str(first.store("n", "5"))] == [
        "${{ store.who }}",
        *["${{ store.n }}"] * 2,
    ]
    assert first.store_config.default_values == {"n": "5"}
    assert second.store_config == config == StoreConfigModel(required_keys=["who"])


OTHER = audit()[1]


@pytest.mark.parametrize(
    ("add", "problem"),
    [
        (
            lambda g, p, s, d: g.add(Plan, identifier="b", rot=s.path),
            "Plan has no input 'rot'; did you mean 'root'?",
        ),
        (lambda g, p, s, d: g.add(Plan, identifier="b", after=s), "input 'root' is missing"),
        (lambda g, p, s, d: g.add(Digest, identifer="b", path=s.path), "did you mean 'identifier'?"),
        (lambda g, p, s, d: g.add(Digest, path=s.path), "there is another 'digest': give this one another"),
        (lambda g, p, s, d: g.add(Digest, identifier="store", path=s.path), "'store' is reserved"),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=d.siez),
            "Digest has no output 'siez'; did you mean 'size'?",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=d[5]),
            "Digest has no output 5: its outputs are line, size",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=d),
            "<Digest as 'digest'> is a node, not one of its outputs",
        ),
        (lambda g, p, s, d: f"{d}", "<Digest as 'digest'> is a node, not one of its outputs"),
        (lambda g, p, s, d: f"{d.line:>9}", "${{ digest.outputs.line }} cannot be formatted with '>9'"),
        (lambda g, p, s, d: g.add(WriteReport, sizes=d.size), "is int, which does not always fit list[int]"),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=d.every.line, unites=d, after=d),
            "unites 'digest', but follows",
        ),
        (lambda g, p, s, d: g.add(Again, path=s.path, limit=p.limit), "is int | None, which does not"),
        (
            lambda g, p, s, d: g.add(Again, path=d.every.line, unites=p, limit=d.every.size),
            "as a list or str",
        ),
        (lambda g, p, s, d: g.add(Again, path=s.path, limit=0), "'limit': Input should be greater than 0"),
        (lambda g, p, s, d: g.add(Again, path=5, after=s), "'path': Input should be a valid string"),
        (
            lambda g, p, s, d: g.add(Again, path=s.path, limit=g.store("n", "x")),
            "default of store key 'n' does not fit",
        ),
        (
            lambda g, p, s, d: g.add(Again, path="${{ store.rot }}", after=s),
            "no store key 'rot'; did you mean 'root'?",
        ),
        (
            lambda g, p, s, d: g.add(Again, path="${{ scn.outputs.path }}"),
            "no node 'scn' yet; did you mean 'scan'?",
        ),
        (
            lambda g, p, s, d: g.add(Again, path="${{ scan.outputs.pat }}"),
            "Scan has no output 'pat'; did you mean",
        ),
        (lambda g, p, s, d: g.add(Again, path="${{ scan.path }}"), "is neither '${{ identifier.outputs"),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1]),
            "it follows no node, as only the first one, 'plan', may",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], unites=p),
            "it unites 'plan', but follows no node: give after=",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=d.size, unites=p),
            "a value for each state of 'digest' that it unites: write .every",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], lines=p.every.root, unites=p, after=d),
            "once for each state of 'plan', so it gets one value, not a list: leave out .every",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], lines=d.every.line),
            "to run once for all of them, give unites= a node before the fan-out",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], lines=d.line, after=s),
            "'digest' is not before it on every path",
        ),
        (
            lambda g, p, s, d: g.add("B", a="${{ side.outputs.v }}", b=d.line),
            "it follows side too, and runs once after each",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], after=d, strategy="ALL_DONE"),
            "strategy= is only for a node with unites=",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], after=d, unites=p, strategy="DONE"),
            "should be 'ALL_SUCCESS' or 'ALL_DONE'",
        ),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], after="digest"),
            "take what add() returned, not a str",
        ),
        (lambda g, p, s, d: g.add(WriteReport, sizes=[1], after=OTHER), "'plan' is a node of another graph"),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[1], lines=OTHER.root),
            "'plan' is a node of another graph",
        ),
        (
            lambda g, p, s, d: g.add(Options, inputs={"run": UUID(int=1)}, after=d, due=5.5),
            "input 'after' is missing: give it by inputs=",
        ),
        (
            lambda g, p, s, d: g.add(Options, inputs={"after": "x"}),
            "input 'run' is missing: its default_factory",
        ),
        (lambda g, p, s, d: g.add(Options(), after=d), "a Options object cannot be added to graph 'audit'"),
        (lambda g, p, s, d: g.add(int, after=d), "int is not a node class"),
        (
            lambda g, p, s, d: g.add(Unusable, after=d, raw=b""),
            "Unusable.Inputs.raw: bytes cannot be restored",
        ),
        (lambda g, p, s, d: g.add("B", after=d, a=object()), "input 'a': object has no form as text"),
        (lambda g, p, s, d: g.add("B", after=d, a=[d.line]), "input 'a': list has no form as text"),
        (lambda g, p, s, d: g.add("B", after=d, a=[f"{d.line}"]), "cannot stand within a value"),
        (
            lambda g, p, s, d: g.add(WriteReport, sizes=[d.size]),
            "'sizes': 0: Input should be a valid integer",
        ),
        (
            lambda g, p, s, d: Graph("g").add(Plan, root="/"),
            "it has no namespace: give namespace= to Graph(...)",
        ),
        (lambda g, p, s, d: Graph("g", g.nodes).add("B", namespace="n"), "nodes were given as a list"),
        (
            lambda g, p, s, d: g.store("root", "/etc"),
            "store key 'root' of graph 'audit' cannot be declared:\n  - it was declared before",
        ),
        (lambda g, p, s, d: g.store("a.b"), "cannot contain '.'"),
        (
            lambda g, p, s, d: g.add("B", a=f"{d.line!r}", after=d),
            "<the line of 'digest'> is how Python shows a reference",
        ),
        (lambda g, p, s, d: g.add("B", a=f"{[s.path]}"), "<the path of 'scan'> is how Python shows"),
        (lambda g, p, s, d: g.add("B", a=str(s), after=s), "<Scan as 'scan'> is how Python shows"),
        (lambda g, p, s, d: g.add("B", a="%r" % g.store("root"), after=s), "<store key 'root'> is how"),  # noqa: UP031
        (lambda g, p, s, d: g.add("B", a=not d.size), "${{ digest.outputs.size }} is neither true nor false"),
        (
            lambda g, p, s, d: g.add("B", a=d.size == 5, after=d),
            "digest.size == 5 is a condition, not a value",
        ),
        (lambda g, p, s, d: g.add("B", a=g.store("}}"), after=d), "names in one have no '.', no '}}'"),
        (lambda g, p, s, d: g.add("B", after=Digest), "what add() returned, not a class Digest"),
        (lambda g, p, s, d: g.add("B", after=d.line), "what add() returned, not a OutputReference"),
    ],
)
def test_a_mistake_is_refused_at_its_line_and_changes_nothing(
    add: Callable[[Graph, AddedNode, AddedNode, AddedNode], object], problem: str
) -> None:
    graph, plan, scan, digest = audit()
    graph.add("Side", after=plan)
    before = graph.model_dump(include={"nodes"})
    with pytest.raises(GraphInvalid) as caught:
        add(graph, plan, scan, digest)
    assert problem in str(caught.value)
    assert graph.model_dump(include={"nodes"}) == before
    # Python's own traceback: the caller's line, and one of ours below it.
    frames = traceback.extract_tb(caught.tb)
    assert [frame.filename == __file__ for frame in frames[-2:]] == [True, False]


def test_a_text_is_doubted_where_a_list_a_dict_or_a_model_is_read() -> None:
    graph, plan, _, digest = audit()
    text = digest.line
    graph.add(Collect, lines=text, counts=text, digest=text, title=text, size=text)
    graph.add(Collect, identifier="lines", unites=plan, lines=digest.every.line)
    graph.add(Collect, identifier="written", lines=f"{text}", title="[]")
    of_list, of_dict, of_model = graph.warnings()
    assert of_list == (
        "node 'collect', input 'lines': output 'line' of 'digest' is str, and the input is list[str], read"
        " from JSON: declare the output as list[str], or, for a list of those of all states, give unites= a"
        ' node before them and write .every; f"{digest.line}" is not checked'
    )
    assert of_dict.endswith(': declare the output as dict[str, int]; f"{digest.line}" is not checked')
    assert of_model.startswith("node 'collect', input 'digest': output 'line' of 'digest' is str, and ")


@pytest.mark.parametrize("united", [1, 2], ids=["the same", "one below"])
def test_outputs_of_another_united_node_are_not_among_the_united_values(united: int) -> None:
    graph, plan, scan, digest = audit()
    other = graph.add(WriteReport, identifier="other", unites=plan, sizes=digest.every.size)
    with pytest.raises(GraphInvalid, match="'other' is neither before nor among what it unites"):
        graph.add(WriteReport, unites=(plan, scan)[united - 1], after=digest, sizes=other.every.total)


@pytest.mark.parametrize(
    ("identifier", "output"), [("a.b", "x"), ("a }} b", "x"), ("a", "x.y"), ("a", "${{")]
)
def test_names_that_would_make_another_text_of_a_reference_are_refused(identifier: str, output: str) -> None:
    graph = Graph("g", namespace="n")
    first = graph.add("A", identifier=identifier)
    with pytest.raises(GraphInvalid, match="is not a reference: names in one have no"):
        graph.add("B", after=first, a=first[output])


def test_every_problem_of_a_node_is_named() -> None:
    graph, _, scan, _ = audit()
    with pytest.raises(GraphInvalid) as caught:
        graph.add(Digest, identifier="b", pth=scan.path, limit="many")
    assert len(caught.value.problems) == 3


def test_an_added_node_is_an_ordinary_object_to_pythons_tools() -> None:
    _, plan, scan, _ = audit()
    assert (hasattr(plan, "root"), hasattr(plan, "rot"), hasattr(plan, "__len__")) == (True, False, False)
    assert str(copy.copy(plan).root) == "${{ plan.outputs.root }}"
    assert {"root", "algorithm", "every"} <= {*dir(plan)}
    assert repr([plan, plan.root]) == "[<Plan as 'plan'>, <the root of 'plan'>]"
    assert str(scan["every"]) == "${{ scan.outputs.every }}"
    with pytest.raises(AttributeError) as caught:
        plan.algoritm  # noqa: B018
    assert "".join(traceback.format_exception(caught.value)).lower().count("did you mean") == 1
    with pytest.raises(TypeError):
        list(plan)  # type: ignore[call-overload]
