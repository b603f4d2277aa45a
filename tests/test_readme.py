"""The code in the README does what the text beside it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from exotrio.testing import Executed, run_graph, run_node
from tests.processes import ROOT, ended

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


async def test_the_test_of_the_whole_graph_passes(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setenv("EXOSPHERE_STATE_MANAGER_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("EXOSPHERE_API_KEY", "k")
    names: dict[str, Any] = {"run_graph": run_graph}
    (test,) = [code for code in PYTHON if "async def test_" in code]
    for code in (block("Greet"), test):
        exec(code, names)
    await names["test_everybody_is_greeted"](autojump_clock)


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
