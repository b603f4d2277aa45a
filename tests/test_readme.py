"""The code in the README does what the text beside it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from trio.testing import MockClock

from exotrio import BaseNode, Graph, GraphInvalid, GraphNodeModel, RequestRefused, RetryPolicyModel
from exotrio._util.cron import next_occurrence_ms
from exotrio._util.times import moment_ms
from exotrio._wire.graphs import GraphBody
from exotrio.manager.rules.template import Template
from exotrio.testing import CheckFailed, Errored, Executed, run_node
from tests.support.helpers import declare
from tests.support.processes import ROOT, ended, environment, server

PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)


def block(name: str) -> str:
    """Return the only piece of code that defines this class."""
    (found,) = [code for code in PYTHON if f"class {name}(" in code]
    return found


def test_the_first_node_greets(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(block("Greet"), "utf-8")
    end = ended("run", "hello.py", "-i", "name=Ada", cwd=tmp_path)
    assert end.code == 0, end
    assert end.out.splitlines()[-1].strip() == "text: Hello, Ada!"


def test_the_test_of_the_whole_graph_passes(tmp_path: Path) -> None:
    (test,) = [code for code in PYTHON if "await run_graph(" in code]
    (tmp_path / "hello.py").write_text(block("Greet"), "utf-8")
    (tmp_path / "test_hello.py").write_text(test, "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    end = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert end.returncode == 0, end.stdout
    assert "1 passed" in end.stdout


async def test_the_rehearsed_crash_finds_what_is_printed_and_then_nothing(
    autojump_clock: MockClock,
) -> None:
    (wrong,) = [code for code in PYTHON if "await explore(" in code]
    charge = "        charges.append("
    right = wrong.replace(charge, f'        if "order 1" not in charges:\n    {charge}')

    async def run(code: str) -> None:
        names: dict[str, Any] = {"__name__": "test_shop"}
        exec(compile(code, "test_shop.py", "exec", dont_inherit=True), names)
        await names["test_a_crash_charges_nobody_twice"](autojump_clock)

    with pytest.raises(CheckFailed) as caught:
        await run(wrong)
    printed = (ROOT / "README.md").read_text("utf-8").partition("\nCheckFailed: ")[2].partition("\n```")[0]
    assert str(caught.value) == printed
    await run(right)


def test_the_test_that_the_page_on_tests_shows_passes(tmp_path: Path) -> None:
    page = (ROOT / "tests" / "README.md").read_text("utf-8")
    (test,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "test_greet.py").write_text(test, "utf-8")
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntrio_mode = true\npythonpath = {ROOT}\n", "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    end = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert end.returncode == 0, end.stdout


async def test_an_order_that_is_billed_twice_has_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(tmp_path) as running:
        running.ask("PUT", "/v0/namespace/shop/nodes/", {"runtime_name": "r", "nodes": [declare("A")]})
        inputs = {"order": "", "amount": ""}
        node = {"node_name": "A", "namespace": "shop", "identifier": "a", "inputs": inputs}
        running.ask("PUT", "/v0/namespace/shop/graph/bill", {"secrets": {}, "nodes": [node]})
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        (code,) = [code for code in PYTHON if "async def bill(" in code]
        names: dict[str, Any] = {}
        exec(compile(f"from exotrio import StateManager\n{code}", "README.md", "exec"), names)
        assert await names["bill"]("17", "9.50") == await names["bill"]("17", "9.50")
        with pytest.raises(RequestRefused, match="'order-17' belongs to the run"):
            await names["bill"]("17", "9.51")


def test_the_graph_is_valid_and_its_errors_are_those_that_are_quoted() -> None:
    names: dict[str, Any] = {"Graph": Graph, "RetryPolicyModel": RetryPolicyModel}
    for node, inputs, outputs in (
        ("Plan", ["root"], ["root"]),
        ("Scan", ["root"], ["path"]),
        ("Digest", ["path", "title"], ["line"]),
        ("Report", ["lines"], []),
    ):
        models = {
            part: create_model(part, **dict.fromkeys(fields, (str, ...)))
            for part, fields in (("Inputs", inputs), ("Outputs", outputs))
        }
        names[node] = type(node, (BaseNode,), models)
    (code,) = [code for code in PYTHON if "graph.add(Report" in code]
    exec(compile(code, "README.md", "exec", dont_inherit=True), names)
    template = Template(GraphBody.of(names["graph"]))
    edges = {place.identifier: place.next for place in template.places}
    assert edges == {"plan": (1,), "scan": (2,), "digest": (3,), "notify": (), "report": ()}
    quoted = "Scan has no input 'rot'; did you mean 'root'?"
    assert quoted in (ROOT / "README.md").read_text("utf-8")
    with pytest.raises(GraphInvalid, match=re.escape(quoted)):
        names["graph"].add(names["Scan"], identifier="again", rot=names["plan"].root)


def test_the_node_in_a_process_is_stopped_in_time(tmp_path: Path) -> None:
    solver = "import re\ndef solve(model):\n    re.match('(a+)+$', 'a' * 60 + 'b')\n"
    imports = "import trio\nfrom pydantic import BaseModel\nfrom exotrio import BaseNode\n"
    imports += "from exotrio.testing import run_node\nimport solver\n"
    start = "if __name__ == '__main__':\n    print(trio.run(run_node, Solve, {'model': 'x'}).error)\n"
    (tmp_path / "solver.py").write_text(solver, "utf-8")
    (tmp_path / "solve.py").write_text(imports + block("Solve").replace("= 60", "= 1") + start, "utf-8")
    end = subprocess.run(
        [sys.executable, "solve.py"], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert end.stdout == "timed out after 1 s (timeout of Solve)\n", end.stderr


EXECUTE = """
    async def execute(self):
        assert self.inputs.due == date(2024, 1, 31)
        return self.Outputs(total=self.inputs.count * sum(self.inputs.rates))
"""


async def test_the_typed_node_takes_and_gives_text() -> None:
    names: dict[str, Any] = {}
    imports = (
        "from datetime import date\nfrom decimal import Decimal\n"
        "from pydantic import BaseModel\nfrom exotrio import BaseNode\n"
    )
    code = compile(imports + block("Price") + EXECUTE, "README.md", "exec", dont_inherit=True)
    exec(code, names)
    inputs = {"count": "3", "due": "2024-01-31", "rates": '["1.10","2.00"]'}
    assert await run_node(names["Price"], inputs) == Executed([{"total": "9.30"}])


def test_the_schedule_of_a_graph_is_in_its_time_zone() -> None:
    names: dict[str, Any] = {
        "graph": Graph("g", [GraphNodeModel(node_name="N", namespace="n", identifier="n")])
    }
    exec(compile(next(code for code in PYTHON if "CronTrigger(" in code), "README.md", "exec"), names)
    (schedule,) = GraphBody.of(names["graph"]).schedules
    due = next_occurrence_ms(schedule, moment_ms("2026-07-03T12:00:00Z"))
    assert due == moment_ms("2026-07-06T09:00:00+02:00"), "on Monday"


async def test_the_node_that_pays_says_what_is_not_to_be_retried() -> None:
    async def charge(card: str) -> None:
        raise {"locked": PermissionError, "offline": ConnectionError}[card]()

    names: dict[str, Any] = {"charge": charge}
    imports = "from pydantic import BaseModel\nfrom exotrio import BaseNode, NoRetry\n"
    exec(compile(imports + block("Pay"), "README.md", "exec", dont_inherit=True), names)
    retried = {}
    for card in ("stolen", "locked", "offline"):
        outcome = await run_node(names["Pay"], {"card": card})
        assert isinstance(outcome, Errored)
        retried[card] = outcome.retry
    assert retried == {"stolen": False, "locked": False, "offline": True}


def test_the_provider_of_tracers_gets_one_trace_of_a_run(tmp_path: Path) -> None:
    (traces,) = [code for code in PYTHON if "set_tracer_provider" in code]
    (tmp_path / "hello.py").write_text(traces + block("Greet"), "utf-8")
    end = ended("run", "hello.py", "-i", "name=Ada", cwd=tmp_path)
    assert end.code == 0, end
    for name in ("trigger greeting", "execute Greet"):
        assert f'"name": "{name}"' in end.err  # where the file was loaded, what it prints is no result
    assert len(set(re.findall(r'"trace_id": "(\w+)"', end.err))) == 1
