"""Which tests there are, for the tables that name them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def named_tests(file: Path) -> frozenset[str]:
    """Return the tests of a module."""
    return frozenset(re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE))
