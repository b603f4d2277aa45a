"""The table of ``points`` is true of the code as it is now."""

from __future__ import annotations

from pathlib import Path

import exotrio
from tests.security.points import POINTS
from tests.support.facts import named_tests

PACKAGE = Path(exotrio.__file__).parent
TESTS = Path(__file__).parents[1]


def test_every_promise_has_tests_that_exist() -> None:
    for point in POINTS:
        assert point.tests, point.promise
        for name in point.tests:
            module, _, test = name.partition("::")
            assert test in named_tests(TESTS / f"{module}.py"), f"{name}, for: {point.promise}"


def test_every_safeguard_stands_where_it_is_taken_out() -> None:
    for change in (point.without for point in POINTS if point.without):
        assert (PACKAGE / change.file).read_text("utf-8").count(change.old) == 1, change
