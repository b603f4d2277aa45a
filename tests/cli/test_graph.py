"""``graph check`` without a state manager, and ``graph apply``, ``ls`` and ``show`` with one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from exotrio._wire.graphs import GraphBody
from tests.support.commands import NODES, Cli, fails, with_worker
from tests.support.processes import Server


def node(identifier: str, name: str = "Lock", *following: str, **more: Any) -> dict[str, Any]:
    inputs = more.pop("inputs", {})
    fields = {"node_name": name, "namespace": "n", "identifier": identifier, "inputs": inputs}
    return {**fields, "next_nodes": list(following), **more}


FAN: dict[str, Any] = {
    "secrets": {},
    "nodes": [
        node("split", "Split", "work", inputs={"count": "2"}),
        node("work", "Work", inputs={"n": "${{ split.outputs.n }}", "bad": "none"}),
    ],
    "retry_policy": {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 10},
    "triggers": [{"type": "CRON", "value": {"expression": "0 9 * * 1-5"}}],
}


def fan(**changes: Any) -> dict[str, Any]:
    """Return the documented form of a graph, with changes."""
    return {**json.loads(json.dumps(FAN)), **changes}


@pytest.fixture
def cli(bare: Cli) -> Cli:
    bare.write("nodes.py", NODES)
    return bare


# -- check


def test_a_valid_graph_is_reported(cli: Cli) -> None:
    end = cli("graph", "check", cli.write("fan.json", fan(name="fan")), "nodes.py", code=0)
    assert end.out == "fan.json: graph fan is valid\nnodes.py: graph fan is valid\n"
    assert end.err == ""


def test_every_problem_of_a_file_is_named(cli: Cli) -> None:
    text = """{
  "name": "g",
  "nodes": [
    {"node_name": "Split", "namespace": "n", "identifier": "a",
     "inputs": {"count": "1"}, "next_nodes": ["b"]},
    {"node_name": "Wrok", "namespace": "n", "identifier": "b",
     "inputs": {
       "n": "${{ a.outputs.m }}"
     },
     "next_nodes": ["c"]},
    {"node_name": "Lock", "namespace": "n", "identifier": "c",
     "inputs": {}}
  ]
}"""
    end = cli("graph", "check", cli.write("g.json", text), "nodes.py", code=3)
    assert end.out.splitlines() == [
        "g.json: node 'b': 'Wrok' is not registered in namespace 'n'; did you mean 'Work'?",
        "g.json: secrets: 'token', which node 'Lock' needs, is missing",
        "g.json: node 'b', input 'n': 'a' has no output 'm'",
        "g.json: graph g is invalid",
        "nodes.py: graph fan is valid",
    ]
    problems = cli.json("graph", "check", "g.json", "nodes.py", code=3)["problems"]
    assert problems[2] == {
        "file": "g.json",
        "line": None,
        "graph": "g",
        "node": "b",
        "field": "inputs.n",
        "severity": "error",
        "message": "node 'b', input 'n': 'a' has no output 'm'",
    }
    assert "secret" not in cli("graph", "check", "g.json", "nodes.py", "--secret", "token=@file").out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "g.json:1: not JSON: expecting value"),
        ('{\n "nodes": [,]}', "g.json:2: not JSON: expecting value"),
        ("[NaN]", "g.json: not JSON: "),
        ('["\\ud800"]', "g.json: not JSON: "),
        ("[" * 100_000, "g.json: not JSON: "),
        ("1" * 5000, "g.json: not JSON: "),
        ("[]", "g.json:1: a graph is a JSON object"),
        ("{}", "g.json: nodes: Field required"),
        ('{"nodes": []}', "g.json: a graph has one root"),
        ('{"nodes": [], "nodes": []}', "g.json: nodes: is given twice"),
        ('{\n"name": 5,\n "nodes": []}', "g.json: name: must be a name in quotes"),
        ('{"nodes":\n[{"identifier": "a"}]}', "g.json: node 'a', node_name: Field required"),
        ('{"nodes":\n[{"identifier": 1}]}', "g.json: nodes[0], identifier: Input should be a valid string"),
        ('{"nodes":\n[5]}', "g.json: nodes[0]: must be an object, with the fields node_name, "),
        ('{"nodes": [],\n"triggers": [{"type": "CRON",\n"value": {"expression": "x"}}]}', "g.json: trig"),
        ('{"nodes": [],\n"retry_policy": {\n"max_retries": -1}}', "g.json: retry_policy.max_retries"),
        ('{"nodes": [], "store_config": {\n"default_values": {\n"a.b": "x"}}}', "g.json: store_config"),
        ('{"nodes": [], "secrets": {\n"a": 5}}', "g.json: secrets.a: Input should be a valid string"),
    ],
)  # fmt: skip
def test_a_problem_in_a_json_file_is_named_by_its_path(cli: Cli, text: str, message: str) -> None:
    end = cli("graph", "check", cli.write("g.json", text), code=3)
    assert message in end.out


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("a"), node("a")], "g.json: node 'a': its identifier is used 2 times"),
        ([node("a", "Lock", "b")], "g.json: node 'a': next node 'b' is not an identifier of this graph"),
        ([node("a"), node("b")], "g.json: a graph has one root"),
        ([node("a", "Lock", "b"), node("b", "Lock", "b")], "g.json: node 'b': is on a cycle: b -> b"),
        (
            [node("a", "Lock", "b", "c"), node("b", "Lock", "c"), node("c", "Lock", "a")],
            "node 'b': is on a cycle: b -> c -> a -> b",
        ),
        ([node("a", unites={"identifier": "x"})], "g.json: node 'a': unites 'x', which this graph lacks"),
        ([node("a", inputs={"x": "${{ y"}), node("b")], "g.json: node 'a', input 'x': '${{' is not closed"),
        ([node("a", inputs={"x": 5})], "g.json: node 'a', input 'x': must be a string, not int"),
        ([node("a", inputs={"x": "${{ store.k }}"})], "g.json: node 'a', input 'x': store key 'k'"),
        ([node("store")], "g.json: node 'store', identifier: 'store' is reserved"),
    ],
)
def test_the_rules_of_the_state_manager_are_applied(cli: Cli, nodes: list[Any], message: str) -> None:
    lines = ",\n".join(map(json.dumps, nodes))
    end = cli("graph", "check", cli.write("g.json", f'{{"nodes":\n[\n{lines}\n]}}'), code=3)
    assert message in end.out


@pytest.mark.parametrize(
    ("limits", "named", "message"),
    [
        ([{"name": "l", "at_msot": 5}], [], "g.json: limits.0.at_msot: "),
        ([{"name": "l", "starts": 5}], [], "g.json: limits.0: starts and the period belong together"),
        ([], ["l"], "g.json: node 'a', limits.0: must be an object, with the fields name, key"),
        ([], [{"name": "l", "kye": "x"}], "g.json: node 'a', limits.0.kye: "),
        ([], [{"name": "l"}, {"name": "l"}], "g.json: node 'a', limits: repeated: l"),
        ([], [{"name": "l", "key": "${{ x"}], "g.json: node 'a', limit 'l': '${{' is not closed"),
        ([], [{"name": "l", "key": 5}], "g.json: node 'a', limit 'l': must be a string, not int"),
        ([], [{"name": "l", "key": ""}], "g.json: node 'a', limits.0.key: it is empty: leave it out"),
        ([], [{"name": "l", "key": "{{ x }}"}], "g.json: node 'a', limit 'l': the key has '{{' without '$'"),
        (
            [{"name": "calls", "at_most": 1}],
            [{"name": "other"}, {"name": "cals"}],
            "g.json: warning: node 'a', limit 'cals': the graph does not declare it, so it has to exist in"
            " the namespace; did you mean 'calls'?",
        ),
    ],
)
def test_mistakes_in_limits_are_named_by_their_path(cli: Cli, limits: Any, named: Any, message: str) -> None:
    text = f'{{"limits":\n{json.dumps(limits)},\n"nodes":\n[\n{json.dumps(node("a", limits=named))}\n]}}'
    end = cli("graph", "check", cli.write("g.json", text))
    assert message in end.out
    assert end.code == (0 if "warning" in message else 3)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"operator": "=="}, "g.json: node 'b', when.value: Field required"),
        ({"operator": "=", "value": 1}, "g.json: node 'b', when.operator: Input should be '=='"),
        ({"operator": "<", "value": "x"}, "g.json: node 'b', when: the operator < compares with a number"),
        ({"operator": "==", "value": 1, "vlaue": 2}, "warning: node 'b', when.vlaue: unknown field, ignored"),
        ({"operator": "==", "value": "x"}, "node 'b', when: ${{ a.outputs.n }} is int, which is never 'x'"),
        ({"operator": "==", "value": 1, "of": "n"}, "g.json: node 'b', when: 'n' is not one reference"),
    ],
)  # fmt: skip
def test_mistakes_in_conditions_are_named_by_their_path(cli: Cli, when: Any, message: str) -> None:
    condition = {"of": "${{ a.outputs.n }}", **when}
    nodes = [node("a", "Split", "b", inputs={"count": "2"}), node("b", "Lock", when=condition)]
    cli.write("nodes.py", NODES.replace("        n: str\n", "        n: int\n", 1))
    end = cli("graph", "check", cli.write("g.json", fan(nodes=nodes)), "nodes.py", "--secret", "token")
    assert message in end.out


def test_a_mistyped_field_is_a_warning(cli: Cli) -> None:
    graph = fan(
        nodes=[{**node("a"), "next_node": ["b"]}], retry_polcy={}, name="g", validation_status="VALID"
    )
    end = cli("graph", "check", cli.write("g.json", graph), code=0)
    assert "warning: node 'a', next_node: unknown field, ignored; did you mean 'next_nodes'?" in (end.out)
    assert "warning: retry_polcy: unknown field" in end.out
    assert "validation_status" not in end.out


BUILT = """{future}
from pydantic import BaseModel
from exotrio import BaseNode, Graph, Runtime

class Plan(BaseNode):
    class Outputs(BaseModel):
        root: str
    async def execute(self) -> Outputs: ...

class Scan(BaseNode):
    class Inputs(BaseModel):
        root: str
    class Outputs(BaseModel):
        path: str
    async def execute(self) -> list[Outputs]: ...

class Report(BaseNode):
    class Inputs(BaseModel):
        paths: list[str]
    async def execute(self): ...

graph = Graph("built", namespace="n")
plan = graph.add(Plan)
scan = graph.add(Scan, {root})
digest = graph.add(Scan, identifier="digest", root=scan.path)
graph.add(Report, unites={unites}, paths=digest.every.path)
runtime = Runtime("n", "r", [Plan, Scan, Report])
"""


@pytest.mark.parametrize("future", ["", "from __future__ import annotations"])
def test_a_node_that_unites_one_that_returns_a_list_is_a_warning(cli: Cli, future: str) -> None:
    def check(unites: str) -> Any:
        text = BUILT.format(future=future, root="root=plan.root", unites=unites)
        # Not the same file again: within a second, with as many bytes, Python would take it for unchanged.
        end = cli("graph", "check", cli.write(f"unites_{unites}.py", text), "-o", "json", code=0)
        return json.loads(end.out)["problems"]

    assert check("plan") == []
    (problem,) = check("scan")
    assert (problem["severity"], problem["node"]) == ("warning", "report")
    assert problem["message"].startswith(
        "node 'report': it unites 'scan', which returns a list, so it runs once for each of these outputs"
    )


def test_a_text_where_a_list_is_read_is_a_warning_before_a_run_and_in_a_check(cli: Cli) -> None:
    cli.write(
        "app.py",
        NODES.replace("        n: str\n        bad: str\n", "        n: list[str]\n        bad: str\n"),
    )
    warning = "warning: node 'work', input 'n': output 'n' of 'split' is str, and the input is list[str], "
    (problem,) = cli.json("graph", "check", "app.py")["problems"]
    assert (problem["severity"], problem["node"], problem["field"]) == ("warning", "work", "inputs.n")
    end = cli("run", "app.py", code=1)
    assert end.err.startswith(warning)
    assert "\nfailed: work, 2 states (" in end.out
    assert cli("graph", "apply", "app.py", code=0).err.startswith(f"app.py: {warning}")


@pytest.mark.parametrize("wrong", ["rot=plan.root", "root=plan.rot"])
def test_a_mistake_in_a_built_graph_has_its_line(cli: Cli, wrong: str) -> None:
    text = BUILT.format(future="", root=wrong, unites="plan")
    end = cli("graph", "check", cli.write("built.py", text), code=3)
    assert end.out.startswith("built.py:24: ")
    assert "'rot'; did you mean 'root'?" in end.out
    assert "built.py, line 24\n" in cli("run", "built.py").err


def test_nodes_of_unknown_namespaces_are_reported_as_not_checked(cli: Cli) -> None:
    graph = fan(nodes=[node("a", "Split", "b", inputs={"count": "1"}), {**node("b", "X"), "namespace": "m"}])
    graph["nodes"][1]["inputs"] = {"any": "${{ a.outputs.n }}"}
    end = cli("graph", "check", cli.write("g.json", graph), "nodes.py", code=0)
    assert end.err.startswith("not checked: the nodes of namespace 'm'")
    assert "namespace 'm', 'n'" in cli("graph", "check", "g.json").err


@pytest.mark.parametrize("mistyped", ["Runtime", "Graph"])
def test_a_mistyped_namespace_is_an_error(cli: Cli, mistyped: str) -> None:
    """Otherwise no node of the graph would be checked, and the result would be 0."""
    given = {"Graph": "n", "Runtime": "n", mistyped: "nn"}
    text = NODES.replace('"fan", namespace="n"', f'"fan", namespace="{given["Graph"]}"')
    text = text.replace('Runtime(namespace="n"', f'Runtime(namespace="{given["Runtime"]}"')
    end = cli("graph", "check", cli.write("app.py", text), code=3)
    graph, runtime = given["Graph"], given["Runtime"]
    problem = f"is not of namespace '{graph}', but of '{runtime}', where a Runtime has it"
    assert end.out.startswith(f"app.py: node 'split': 'Split' {problem}\n")
    assert end.out.endswith("app.py: graph fan is invalid\n")
    assert end.err == ""


def test_a_node_of_the_same_name_in_another_namespace_may_be_meant(cli: Cli) -> None:
    graph = fan(
        nodes=[node("a", "Split", "b", inputs={"count": "1"}), {**node("b", "Lock"), "namespace": "m"}]
    )
    end = cli("graph", "check", cli.write("g.json", graph), "nodes.py", code=0)
    assert end.err.startswith("not checked: the nodes of namespace 'm'")


def test_several_files_are_checked_although_some_cannot_be_read(cli: Cli) -> None:
    cli.write("fan.json", fan())
    cli.write("broken.py", "x = 1\nraise ValueError('not today')\n")
    cli.write("invalid.py", NODES + 'Graph("", namespace="n")\n')
    cli.write("empty.py", "print('loaded')\n")
    (cli.folder / "binary.json").write_bytes(b"\xff")
    cli.write("other.yaml", "nodes: []")
    files = "fan.jsn fna.json broken.py invalid.py empty.py other.yaml binary.json fan.json"
    end = cli("graph", "check", *files.split(), code=3)
    for message in (
        "fan.jsn: there is no module 'fan.jsn'",
        "fna.json: there is no such file; did you mean 'fan.json'?",
        "broken.py:2: failed while it was loaded: ValueError: not today",
        f"invalid.py:{NODES.count(chr(10)) + 1}: declares a Graph that breaks rules: name: cannot be blank",
        "other.yaml:1: not JSON: expecting value",
        "empty.py: no graph",
        "binary.json: is not UTF-8 text",
        "fan.json: the graph is valid",
    ):
        assert message in end.out, end
    assert end.err.startswith("loaded\n")
    report = cli.json("graph", "check", "fan.json", "fna.json", code=3)
    assert report["valid"] is False
    assert report["graphs"] == [{"file": "fan.json", "graph": None, "valid": True}]


def test_a_graph_is_checked_from_standard_input(cli: Cli) -> None:
    end = cli("graph", "check", "-", "nodes.py", stdin=json.dumps(fan()), code=0)
    assert end.out.startswith("standard input: the graph is valid\n")
    assert "standard input: is read twice" in cli("graph", "check", "-", "-", stdin=json.dumps(fan())).out


def test_secrets_in_a_file_are_never_shown(cli: Cli) -> None:
    graph = fan(secrets={"token": {"a": "hunter22"}, "other": "hunter22"})
    end = cli("graph", "check", cli.write("g.json", graph), code=3)
    fails(cli.at_no_server()("graph", "apply", "g.json"), 3, "g.json:", "secrets.token")
    for shown in (end, cli("graph", "apply", "g.json"), cli("graph", "check", "g.json", "-o", "json")):
        assert "hunter22" not in shown.out + shown.err


# -- apply, ls, show


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with with_worker(tmp_path_factory.mktemp("graphs")) as running:
        yield running


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", "node 'a', limits.0.key: it is empty: leave it out"),
        ("{{ x }}", "node 'a', limit 'l': the key has '{{' without '$'"),
    ],
)
def test_a_key_for_all_by_mistake_is_refused_when_it_is_applied_too(
    cli: Cli, running: Server, key: str, message: str
) -> None:
    nodes = [node("a", limits=[{"name": "l", "key": key}])]
    cli.at(running).write("g.json", {"secrets": {}, "nodes": nodes, "limits": [{"name": "l", "at_most": 1}]})
    fails(cli("graph", "apply", "g.json", "--name", "g"), 3, f"  - g.json: {message}")


def test_a_json_graph_is_applied_and_shown(cli: Cli, running: Server) -> None:
    cli.at(running)
    end = cli("graph", "apply", cli.write("fan.json", fan(name="from-json")), code=0)
    assert end.out.startswith("graph from-json of namespace n: VALID, 2 nodes\ncron: 0 9 * * 1-5  next ")

    shown = cli("graph", "show", "from-json", code=0)
    for line in (
        "  split (Split) -> work",
        "    n = ${{ split.outputs.n }}",
        "secrets: none",
        "retry policy: FIXED, 1 retries, backoff 10 ms",
    ):
        assert f"\n{line}\n" in shown.out

    graph = cli.json("graph", "show", "from-json")
    assert graph["name"] == "from-json"
    assert graph["validation_status"] == "VALID"
    assert [each["identifier"] for each in graph["nodes"]] == ["split", "work"]
    times = [datetime.fromisoformat(each) for each in graph["next_runs"]["0 9 * * 1-5"]]
    assert len(times) == 3
    assert times == sorted(times)
    assert all(each > datetime.now(UTC) and each.hour == 9 and each.weekday() < 5 for each in times)


def test_times_of_a_trigger_are_shown_in_utc_and_in_its_zone_until_it_is_cancelled(
    cli: Cli, running: Server
) -> None:
    cli.at(running)
    value = {"type": "CRON", "expression": "0 9 * * *", "timezone": "Asia/Kolkata", "priority": "low"}
    trigger = {"value": value}
    declared = fan(name="zone", triggers=[trigger])
    declared["nodes"][0]["timeout_minutes"] = 5
    condition = {"of": "${{ split.outputs.n }}", "operator": "in", "value": [1, 2]}
    declared["nodes"][1] |= {"when": condition, "timeout": 90, "retry_policy": {"max_retries": 0}}
    cli.write("zone.json", declared)
    shown = cli("graph", "apply", "zone.json")
    assert re.search(
        r"\ncron: 0 9 \* \* \* Asia/Kolkata, priority low  next \S+T03:30:00Z \(\S+T09:00:00\+05:30\), ",
        shown.out,
    )
    shown_as_json = cli.json("graph", "show", "zone")
    assert shown_as_json["triggers"][0]["value"]["priority"] == "low"
    (times,) = shown_as_json["next_runs"].values()
    assert [each[11:] for each in times] == ["03:30:00Z"] * 3
    assert "\nzone   " in (listed := cli("graph", "ls")).out
    assert "0 9 * * * Asia/Kolkata" in listed.out

    shown = cli("graph", "show", "zone")
    assert "\n  split (Split) within 5 min -> work\n" in shown.out
    assert "\n  work (Work) within 90 s retried: no retries; when split.n in [1,2]\n" in shown.out
    assert cli.json("graph", "show", "zone")["nodes"][1]["when"] == condition
    running.ask("DELETE", "/v0/namespace/n/graph/zone/triggers")  # as a client of v0 may do
    assert (
        "\ncron: 0 9 * * * Asia/Kolkata, priority low  cancelled; `graph apply` begins"
        in cli("graph", "show", "zone").out
    )

    trigger["value"]["timezone"] = "Asia/Kolkatta"
    end = cli("graph", "check", cli.write("zone.json", fan(triggers=[trigger])), code=3)
    assert "triggers.0.value.timezone: there is no time zone 'Asia/Kolkatta'; did you mean" in end.out


def test_a_graph_is_deleted_with_its_runs_after_confirmation(cli: Cli, running: Server) -> None:
    cli.at(running)
    cli.write("old.json", fan(name="old", triggers=[]))
    assert cli("graph", "apply", "old.json").code == 0
    assert cli("trigger", "old", "--follow").code == 0
    cli.set(EXOSPHERE_NAMESPACE="")
    fails(cli("graph", "delete", "old"), 2, "graph old of namespace n would be deleted", "give --yes")
    fails(cli("graph", "delete", "odl", "--yes"), 6, "did you mean 'old'?")
    run_id = cli("trigger", "old", "--start-delay", "3600").out.strip()
    fails(cli("graph", "delete", "old", "--yes"), 3, "have not ended", run_id)
    end = cli("graph", "delete", "old", "--yes", "--cancel-runs")
    assert end.out == "graph old of namespace n deleted with 2 runs, 1 of them cancelled\n", end
    fails(cli("graph", "show", "old"), 6, "there is no graph 'old'")
    fails(cli("runs", "show", run_id), 6, "there is no run")


def test_a_python_graph_is_applied(cli: Cli, running: Server) -> None:
    cli.at(running)
    graph = cli.json("graph", "apply", "nodes.py")
    assert graph["name"] == "fan"
    assert graph["store_config"]["default_values"] == {"bad": "none"}
    assert cli("graph", "apply", "nodes").code == 0
    listed = cli("graph", "ls")
    assert "\nfan  " in listed.out
    assert "fan" in [each["name"] for each in cli.json("graph", "ls")["graphs"]]
    fails(cli("graph", "apply", "nodes.py", "--name", "fam"), 3, "no Graph 'fam'; did you mean 'fan'?")


def test_all_graphs_of_a_python_file_are_applied_unless_one_is_named(cli: Cli, running: Server) -> None:
    cli.at(running)
    cli.write("two.py", NODES + "first = Graph('one', nodes=graph.nodes, store_config=graph.store_config)\n")
    assert [each["name"] for each in cli.json("graph", "apply", "two.py")["graphs"]] == ["fan", "one"]
    assert cli.json("graph", "apply", "two.py", "--name", "one")["name"] == "one"
    assert cli.json("graph", "apply", "two.py:first")["name"] == "one"
    cli.set(token="t")
    fails(
        cli("graph", "apply", "two.py", "--secret", "token"), 2, "two.py has fan, one: name one with --name"
    )
    assert cli("graph", "apply", "two.py", "--name", "one", "--secret", "token").code == 0
    fails(cli("graph", "apply", "two.py", "--name", "oen"), 3, "did you mean 'one'?", "named with --name")
    cli.write("none.py", "")
    fails(cli("graph", "apply", "none.py"), 3, "none.py has no Graph at its top level")
    cli.write("bad.py", NODES + "bad = Graph('bad', namespace='n')\nbad.add('Unknown')\n")
    end = cli("graph", "apply", "bad.py")
    assert (end.code, "applied before that: fan\n" in end.err, "graph 'bad' is invalid" in end.err) == (
        3,
        True,
        True,
    )


def test_a_graph_that_is_named_by_another_one_of_its_file_is_applied_before_that(
    cli: Cli, running: Server
) -> None:
    cli.at(running)
    cli.write(
        "alerts.py",
        NODES + "told = Graph('told', nodes=graph.nodes, store_config=graph.store_config)\n"
        "graph.on_failure = None\nfirst = Graph('first', nodes=graph.nodes, store_config=graph.store_config,"
        " on_failure=told)\ndel graph\nlast, told = told, None\n",
    )
    graphs = cli.json("graph", "apply", "alerts.py")["graphs"]
    assert [(each["name"], each.get("on_failure")) for each in graphs] == [("told", None), ("first", "told")]
    assert "when a run ends with errors: starts a run of graph told" in cli("graph", "show", "first").out
    cli.write("one.json", json.dumps({**cli.json("graph", "show", "first"), "on_failure": "tolt"}))
    fails(cli("graph", "apply", "one.json"), 3, "there is no graph 'tolt' in namespace", "store it first")


def test_a_limit_that_a_graph_changes_is_said_with_its_values(cli: Cli, running: Server) -> None:
    cli.at(running)

    def apply(name: str, at_most: int) -> str:
        limits = [{"name": "shared-by-two", "at_most": at_most}]
        return cli("graph", "apply", cli.write("l.json", fan(name=name, limits=limits)), code=0).err

    made = "limit shared-by-two is made by graph one-limit: 3 at once\n"
    assert made in apply("one-limit", 3)
    assert "shared-by-two" not in apply("other-limit", 3)
    changed = "limit shared-by-two is changed by graph other-limit: from 3 at once to 5 at once"
    assert changed in apply("other-limit", 5)
    kept = "limit shared-by-two stays as it was set: 5 at once; graph one-limit declares 3 at once, as before"
    assert kept in apply("one-limit", 3)
    shown = "\nlimit shared-by-two: set to 5 at once; 3 at once is declared here\n"
    assert shown in cli("graph", "show", "one-limit").out
    assert "\nlimit shared-by-two: 5 at once, as declared here\n" in cli("graph", "show", "other-limit").out
    cli("limits", "rm", "shared-by-two", "--force", code=0)
    gone = "limit shared-by-two: 3 at once declared here, but it was deleted: nothing limits the states"
    assert gone in cli("graph", "show", "one-limit").out
    assert made in apply("one-limit", 3)


def test_graphs_that_are_checked_together_and_declare_a_limit_differently_are_named(cli: Cli) -> None:
    for name, at_most in (("one", 2), ("same", 2), ("other", 5)):
        limits = [{"name": "shared", "at_most": at_most}]
        cli.write(f"{name}.json", fan(name=name, limits=limits))
    assert "limits.shared" not in cli("graph", "check", "one.json", "same.json", code=0).out
    end = cli("graph", "check", "one.json", "same.json", "other.json", code=0)
    differs = "5 at once, and graph one declares 2 at once: the one that is applied last counts"
    assert differs in end.out + end.err


def test_nothing_of_a_graph_is_left_out_when_it_is_applied(cli: Cli, running: Server) -> None:
    cli.at(running)
    cli("graph", "apply", cli.write("told.json", fan(name="told-all")), code=0)
    whole: dict[str, Any] = {
        **fan(secrets={"token": "t"}),
        "store_config": {"required_keys": ["a"], "default_values": {"b": "2"}},
        "limits": [{"name": "all", "at_most": 3}],
        "outputs": {"n": ["${{ split.outputs.n }}"]},
        "on_failure": "told-all",
    }
    assert {*whole, "version"} == GraphBody.model_fields.keys(), "a version needs a runtime that has it"
    cli("graph", "apply", cli.write("whole.json", {"name": "whole", **whole}), code=0)
    shown = cli.json("graph", "show", "whole")
    for name in whole.keys() - {"nodes", "secrets", "retry_policy", "triggers"}:
        assert shown[name] == whole[name], name
    assert [*shown["secrets"]] == ["token"]
    assert shown["retry_policy"]["backoff_factor"] == 10
    assert shown["triggers"][0]["value"]["expression"] == "0 9 * * 1-5"


def test_a_python_graph_is_applied_in_its_own_namespace_unless_one_is_given(
    bare: Cli, running: Server
) -> None:
    bare.set(**running.env)
    bare.write("nodes.py", NODES)
    node = 'N(node_name="Split", namespace="n", identifier="a", inputs={"count": "1"})'
    head = "from exotrio import Graph, GraphNodeModel as N\n"
    bare.write("own.py", f'{head}graph = Graph("own", [{node}], namespace="mine")\n')
    assert "graph own of namespace mine: VALID" in bare("graph", "apply", "own.py", code=0).out
    assert "graph own of namespace n: VALID" in bare("graph", "apply", "own.py", "-n", "n", code=0).out
    bare.write("two.py", "from own import graph\nfrom nodes import graph as other\n")
    fails(bare("graph", "apply", "two.py"), 2, "the graphs have the namespaces mine, n: give one with -n")


def test_without_a_namespace_the_only_one_of_a_server_is_used(cli: Cli, running: Server) -> None:
    cli.at(running, "")
    assert "graph fan of namespace n: VALID" in cli("graph", "show", "fan", code=0).out
    assert "in namespace n\n" in cli("graph", "ls", code=0).out


def test_a_graph_that_was_shown_can_be_applied_again_with_its_secrets(
    cli: Cli, running: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.at(running)
    monkeypatch.setenv("token", "hunter22")
    cli.write("lock.json", fan(nodes=[node("lock")], secrets={"token": True}, graph_name="lock"))
    fails(cli("graph", "apply", "lock.json"), 2, "names secrets without their values: give --secret token")
    assert cli("graph", "apply", "lock.json", "--secret", "token").code == 0
    shown = cli.json("graph", "show", "lock")
    assert shown["secrets"] == {"token": True}
    cli.write("again.json", shown)
    end = cli("graph", "apply", "again.json", "--secrets-file", "-", stdin='{"token": "hunter22"}', code=0)
    assert end.err == ""
    assert (
        cli("graph", "apply", "-", "--secret", "token", "--name", "piped", stdin=json.dumps(shown)).code == 0
    )
    assert cli.json("graph", "show", "piped")["secrets"] == {"token": True}
    assert "hunter22" not in "".join(map(str, (end, cli("graph", "ls"), cli("graph", "show", "lock"))))
    fails(
        cli(
            "graph", "apply", "lock.json", "--secret", "token", "--secrets-file", "-", stdin='{"token": "x"}'
        ),
        2,
        "'token' is given with --secret and with --secrets-file",
    )


def test_problems_that_the_state_manager_reports_name_the_file(cli: Cli, running: Server) -> None:
    cli.at(running)
    graph = fan(name="bad")
    graph["nodes"][1]["node_name"] = "Gone"
    file = cli.write("bad.json", graph)
    fails(
        cli("graph", "apply", file),
        3,
        "graph 'bad' is invalid",
        "  - bad.json: node 'work': 'Gone' is not registered in namespace 'n'",
    )
    shown = cli("graph", "show", "bad", code=0)
    assert "graph bad of namespace n: INVALID" in shown.out
    assert "\nproblems:\n  - node 'work': 'Gone' is not registered" in shown.out
    fails(
        cli("trigger", "bad"),
        3,
        "graph 'bad' is invalid, so it cannot be triggered",
        "'Gone' is not registered",
    )


def test_a_mistyped_name_gets_a_suggestion(cli: Cli, running: Server) -> None:
    cli.at(running)
    assert cli("graph", "apply", "nodes.py").code == 0
    fails(cli("graph", "show", "Fna"), 6, "there is no graph 'Fna'; did you mean 'fan'?")
    fails(cli("graph", "sho", "fan"), 2, "No such command 'sho'. Did you mean 'show'?")
    fails(cli("grahp", "show"), 2, "No such command 'grahp'. Did you mean 'graph'?")
    fails(cli("graph", "show", "fan", "--namespce", "n"), 2, "--namespace")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["graph", "apply", "gone.json"], 3, "gone.json: there is no such file"),
        (["graph", "apply", "gone.py"], 3, "there is no file gone.py"),
        (["graph", "apply", "unnamed.json"], 2, "unnamed.json does not name its graph: give --name NAME"),
        (["graph", "apply", "nodes.py", "--timeout", "nan"], 2, "'nan' is not a number of seconds"),
        (["graph", "apply", "nodes.py", "--secret", "token=hunter22"], 2, "other users can read it"),
        (["graph", "show", "fan", "--key-file", "gone.key"], 2, "gone.key cannot be read: No such file"),
        (["graph", "ls", "--uri", "localhost:8000"], 2, "must start with http://"),
        (["graph", "ls", "-n", "a/b"], 2, "the namespace cannot stand in a URL path"),
    ],
)
def test_a_request_that_cannot_be_done_is_an_error(
    cli: Cli, running: Server, arguments: list[str], code: int, message: str
) -> None:
    cli.at(running)
    cli.write("unnamed.json", fan())
    fails(cli(*arguments), code, message)


def test_a_refused_key_names_the_option_for_another_one(cli: Cli, running: Server) -> None:
    cli.at(running).set(EXOSPHERE_API_KEY="another")
    fails(cli("graph", "ls"), 5, "answered 401", "--key-file FILE")
    cli.write("right.key", f"{running.env['EXOSPHERE_API_KEY']}\n")
    assert cli("graph", "ls", "--key-file", "right.key").code == 0


def test_settings_that_are_missing_are_all_named(cli: Cli, running: Server) -> None:
    fails(cli("graph", "ls"), 2, "no state manager is given", "--uri", "--key-file", "--db")
    fails(cli("graph", "ls", "--uri", running.uri), 2, "the state manager cannot be addressed", "--key-file")
    cli.set(EXOSPHERE_STATE_MANAGER_URI="")
    fails(cli("graph", "ls", "--key-file", cli.write("a.key", "k")), 2, "no state manager: give --uri")
    env = {**running.env, "EXOSPHERE_NAMESPACE": "n"}
    cli.write(".env", "".join(f"{name}={value}\n" for name, value in env.items()))
    assert cli("graph", "ls").code == 0
