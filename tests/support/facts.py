"""Which tests there are, for the tables that name them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def named_tests(file: Path) -> frozenset[str]:
    """Return the tests of a module."""
    return frozenset(
        node.name
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )
