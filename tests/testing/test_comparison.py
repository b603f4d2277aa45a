"""How runs ended, compared with undisturbed runs of the old code and of the new code."""

from __future__ import annotations

import pytest

from exotrio.testing import RunStatus
from exotrio.testing._comparison import Ending, Usual, Version, differing_fields


def ending(
    status: RunStatus = RunStatus.SUCCESS, /, error: str = "", **outputs: list[dict[str, str]]
) -> Ending:
    return Ending(status=status, outputs=outputs, error=error)


USUAL = ending(a=[{"n": "1", "id": "5"}, {"n": "2", "id": "6"}])
UNSTEADY = differing_fields(USUAL, ending(a=[{"n": "2", "id": "7"}, {"n": "1", "id": "8"}]))


@pytest.mark.parametrize(
    ("run", "problems"),
    [
        (ending(a=[{"n": "2", "id": "9"}, {"n": "1", "id": "8"}]), []),
        (ending(RunStatus.FAILED, "a: no disk", a=[]), ["the run ended as FAILED: a: no disk"]),
        (ending(a=[{"n": "1", "id": "9"}]), ["a has 1 outputs instead of 2"]),
        (ending(a=[{"n": "1", "id": "9"}, {"n": "1", "id": "8"}]), ["a.n is '1' instead of '2'"]),
        (ending(), ["a has 0 outputs instead of 2"]),
    ],
)
def test_a_run_has_to_end_like_the_one_without_a_fault(run: Ending, problems: list[str]) -> None:
    assert {("a", "id")} == UNSTEADY
    version = None if problems else Version.OLD
    assert Usual(ending=USUAL, unsteady=UNSTEADY).compare(run) == (version, problems)


def test_fields_that_belong_together_are_compared_together() -> None:
    usual = Usual(ending=ending(a=[{"n": "1", "m": "1"}, {"n": "2", "m": "2"}]))
    _, problems = usual.compare(ending(a=[{"n": "1", "m": "2"}, {"n": "2", "m": "1"}]))
    assert problems == ["an output of a is {'m': '2', 'n': '1'} instead of {'m': '1', 'n': '1'}"]


OLD = ending(a=[{"n": "1"}, {"n": "2"}], sum=[{"total": "3"}])
# Runs have the graph of the old code, and so no outputs of a node that only the new one has.
NEW = ending(a=[{"n": "2"}, {"n": "4"}], sum=[{"total": "6"}], more=[{}])


@pytest.mark.parametrize(
    ("run", "version", "problems"),
    [
        (ending(a=[{"n": "2"}, {"n": "1"}], sum=[{"total": "3"}]), Version.OLD, []),
        (ending(a=[{"n": "4"}, {"n": "2"}], sum=[{"total": "6"}]), Version.NEW, []),
        (ending(a=[{"n": "1"}, {"n": "4"}], sum=[{"total": "3"}]), Version.MIXED, []),
        (ending(a=[{"n": "2"}, {"n": "2"}], sum=[{"total": "3"}]), Version.MIXED, []),
        (
            ending(a=[{"n": "1"}, {"n": "4"}], sum=[{"total": "5"}]),
            None,
            ["sum.total is '5' instead of '3' (old code) or '6' (new code)"],
        ),
        (ending(a=[{"n": "1"}, {"n": "1"}], sum=[{"total": "3"}]), None, ["a.n is '1' instead of '2'"]),
        (ending(a=[{"n": "1"}], sum=[{"total": "3"}]), None, ["a has 1 outputs instead of 2"]),
        (ending(RunStatus.FAILED, a=[], sum=[]), None, ["the run ended as FAILED"]),
    ],
)
def test_an_update_may_mix_the_outputs_of_both_versions_but_make_no_others(
    run: Ending, version: Version | None, problems: list[str]
) -> None:
    usual = Usual(ending=OLD, successor=NEW)
    assert usual.changed == {("a", "n"), ("sum", "total")}
    got, found = usual.compare(run)
    assert (got, [each.partition(" (old code);")[0] for each in found]) == (version, problems)
