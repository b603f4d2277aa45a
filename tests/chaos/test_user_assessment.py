"""Each promise about the runs of ``users``, broken once: the assessment names it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exotrio._wire.runs import NodeCounts, Run
from exotrio._wire.vocabulary import RunStatus
from exotrio.client import StateStatus, StateSummary
from tests.chaos.journal import Execution, Reading
from tests.chaos.user_assessment import UserFigures, assess_users
from tests.chaos.user_graphs import CLASSES, ITEMS, LIMITED, TOTAL, work_of
from tests.chaos.users import Ending, Reduced, Shown, Users

PID = 7
LEASE = 3.0
BEATS = {PID: [(at / 2, at / 2 + 0.01) for at in range(200)]}
"""Of a runtime that is heard of twice a second."""


class Case:
    """A run that ended well, and what the journal has of it; tests change some of it."""

    def __init__(self) -> None:
        async def ask(call: Any, namespace: str) -> None:
            raise AssertionError

        self.users = Users(ask, random.Random(0), runs=0)
        self.reading = Reading(Path("none"))
        self.lost: list[tuple[str, int]] = []
        self.blocked: list[tuple[int, float, float]] = []
        self.states = [self.state("begin", "0")]
        self.states += [self.state("order", str(number)) for number in range(ITEMS)]
        for place, name in enumerate(CLASSES):
            for index in range(ITEMS):
                by = self.execute(name, index + 1, begins=1.0 + place)
                self.states.append(self.state(LIMITED[place], str(index), by=by, value="1"))
        by = self.execute("Total", 0, begins=9.0)
        self.states.append(self.state("total", "0", by=by, total=str(TOTAL)))
        self.ends(RunStatus.SUCCESS)

    def execute(self, name: str, index: int, begins: float, *, run: str = "run", seconds: float = 0.2) -> str:
        """Enter an execution, and return its id."""
        key = work_of(run, name, {"index": str(index), "customer": str(index)})
        each = Execution(
            f"e{len(self.reading.executions)}", key, PID, begins, ended=begins + seconds, end="done"
        )
        self.reading.executions[each.id] = each
        return each.id

    def state(self, identifier: str, number: str, status: str = "SUCCESS", **outputs: str) -> StateSummary:
        return StateSummary.model_construct(
            id=f"{identifier} {number}", identifier=identifier, status=StateStatus(status), outputs=outputs
        )

    def ends(self, status: RunStatus, *, cancelled: bool = False) -> None:
        """Let the API show the run with its present states."""
        identifiers = dict.fromkeys(state.identifier for state in self.states)
        nodes = [
            NodeCounts.model_construct(
                identifier=identifier, node_name=identifier, counts=_counts(self.states, identifier)
            )
            for identifier in identifiers
        ]
        run = Run.model_construct(
            graph_name="orders",
            status=status,
            cancelled_at="then" if cancelled else None,
            nodes=nodes,
            parent=None,
        )
        self.users.shown["run"] = Shown(run, list(self.states), str(TOTAL))

    def cancel(self, at: float) -> None:
        self.users.ended["run"] = Ending(at, frozenset(state.id for state in self.states))
        self.ends(RunStatus.FAILED, cancelled=True)

    def assess(self) -> UserFigures:
        return assess_users(self.users, self.reading, BEATS, self.lost, self.blocked, LEASE)

    def problem(self) -> str:
        """Return the only problem there is."""
        (problem,) = self.assess().problems
        return problem


def _counts(states: Sequence[StateSummary], identifier: str) -> dict[StateStatus, int]:
    counts = dict.fromkeys(StateStatus, 0)
    for state in states:
        counts[StateStatus(state.status)] += state.identifier == identifier
    return counts


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_run_that_ended_well_has_no_problem(case: Case) -> None:
    assert case.assess().problems == []


def test_a_run_that_no_user_cancelled_has_to_succeed(case: Case) -> None:
    case.ends(RunStatus.FAILED)
    case.users.shown["run"].run.__dict__["missing"] = []
    assert "is FAILED" in case.problem()


def test_its_total_has_to_be_right(case: Case) -> None:
    case.users.shown["run"].total = "1"
    assert "returned 1" in case.problem()


def test_it_has_each_state_once(case: Case) -> None:
    case.states.append(case.state("order", "again"))
    case.ends(RunStatus.SUCCESS)
    assert "other states than its graph" in case.problem()


def test_no_run_is_cancelled_that_no_user_cancelled(case: Case) -> None:
    case.ends(RunStatus.FAILED, cancelled=True)
    assert "no user did that" in case.problem()


def test_a_cancelled_run_gets_no_states(case: Case) -> None:
    case.cancel(at=20.0)
    case.states.append(case.state("order", "again"))
    case.ends(RunStatus.FAILED, cancelled=True)
    assert "got or lost states" in case.problem()


@pytest.mark.parametrize("status", [StateStatus.CREATED, StateStatus.QUEUED, StateStatus.WAITING])
def test_a_cancelled_run_has_no_states_that_go_on(case: Case, status: StateStatus) -> None:
    case.states.append(case.state("order", "again", status))
    case.cancel(at=20.0)
    assert "have not ended" in case.problem()


def test_a_cancelled_run_is_not_pending(case: Case) -> None:
    case.cancel(at=20.0)
    case.ends(RunStatus.PENDING, cancelled=True)
    assert "is PENDING" in case.problem()


def test_a_node_may_begin_before_its_runtime_learns_of_the_cancellation(case: Case) -> None:
    case.cancel(at=20.0)
    case.execute("Order", 0, begins=20.6)
    figures = case.assess()
    assert not figures.problems
    assert (figures.late, round(figures.latest, 1)) == (1, 0.6)


@pytest.mark.parametrize("name", ["Order", *CLASSES])
def test_no_node_begins_after_its_runtime_learned_of_the_cancellation(case: Case, name: str) -> None:
    case.cancel(at=20.0)
    case.execute(name, 3, begins=21.1)
    assert "1.10 s after its run was cancelled" in case.problem()


def test_it_may_begin_while_the_loop_of_its_runtime_is_blocked(case: Case) -> None:
    case.cancel(at=20.0)
    case.execute("InProcess", 3, begins=21.1)
    case.blocked.append((PID, 19.9, 25.0))
    assert not case.assess().problems


def test_no_more_run_at_once_than_the_limit_says(case: Case) -> None:
    case.cancel(at=30.0)  # a node that goes on occupies its slot
    for index in range(5):
        case.execute("OnThread", index, begins=28.0, seconds=4.0)
    assert "5 ran at once" in case.problem()


def test_no_more_run_at_once_for_a_customer(case: Case) -> None:
    for _ in range(3):
        case.execute("OnThread", 1, begins=28.0)
    assert "limit customer is 2" in case.problem()


def test_what_may_have_lost_its_lease_does_not_count(case: Case) -> None:
    for index in range(5):
        case.execute("OnThread", index, begins=28.0)
    each = next(each for each in case.reading.executions.values() if each.began == 28.0)
    case.lost.append((each.key, PID))
    figures = case.assess()
    assert not figures.problems
    assert figures.unheld == 1


def test_what_runs_while_nothing_is_heard_of_its_runtime_does_not_count(case: Case) -> None:
    for index in range(5):
        case.execute("OnThread", index, begins=100.0, seconds=3.0)
    figures = case.assess()
    assert not figures.problems
    assert figures.unheld == 5


def test_a_reduced_limit_holds_once_it_was_reached(case: Case) -> None:
    case.users.reduced.append(Reduced("hands", 1, since=27.0, until=29.0))
    for index in range(2):
        case.execute("InProcess", index, begins=28.0)
    assert "limit hands is 1" in case.problem()


def test_a_retried_state_ends_once(case: Case) -> None:
    case.users.retried.add("run")
    case.states += [case.state("on_trio", f"old {number}", "RETRY_CREATED") for number in range(2)]
    case.ends(RunStatus.SUCCESS)
    assert "2 are replaced" in case.problem()


def test_the_numbers_of_the_api_are_those_of_its_states(case: Case) -> None:
    case.users.shown["run"].run.nodes[0].counts[StateStatus.SUCCESS] += 1
    assert "the run run counts" in case.problem()


@pytest.mark.parametrize("end", ["cancelled", "errored"])
def test_what_succeeded_has_an_execution_that_did(case: Case, end: str) -> None:
    next(each for each in case.reading.executions.values() if "/total/" in each.key).end = end
    assert "its execution did not" in case.problem()


def test_a_state_has_the_outcome_of_the_same_work(case: Case) -> None:
    by = case.execute("Total", 0, begins=9.0, run="other")
    case.states[-1] = case.state("total", "0", by=by, total=str(TOTAL))
    case.ends(RunStatus.SUCCESS)
    assert "has the outcome of other/total//" in case.problem()


def test_two_states_do_not_have_the_outcome_of_one_execution(case: Case) -> None:
    first, second = (each for each in case.states if each.identifier == "on_thread")
    assert second.outputs is not None
    second.outputs["by"] = (first.outputs or {})["by"]
    assert "of the same execution" in case.problem()
