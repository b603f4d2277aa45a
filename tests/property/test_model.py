"""The model itself, against examples worked out by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.property.model import Aggregate, Model, Outputs, Place, Plan, Ref, Refused, State

V: Outputs = {"v": "x"}


def _v(*values: str) -> list[Outputs]:
    return [{"v": value} for value in values]


def _take(model: Model, identifier: str) -> list[State]:
    model.claim()
    return [s for s in model.states if s.identifier == identifier and s.status == "QUEUED"]


def _run(model: Model, identifier: str, *values: str) -> State:
    (state,) = _take(model, identifier)
    model.executed(state, _v(*(values or ("x",))))
    return state


def _count(model: Model) -> Counter[tuple[str, str]]:
    return Counter((state.identifier, state.status) for state in model.states)


def _united(strategy: str = "ALL_SUCCESS", **inputs: tuple[str | Ref, ...]) -> Plan:
    """t fans out to b, which leads to c, a side branch, and to u."""
    return Plan(
        (
            Place("t", ("b",)),
            Place("b", ("c", "u")),
            Place("c"),
            Place("u", ("z",), "t", strategy, inputs),
            Place("z"),
        )
    )


NESTED = Plan(
    (
        Place("s", ("t",)),
        Place("t", ("b",)),
        Place("b", ("v",)),
        Place("v", ("u",), "t"),
        Place("u", (), "s"),
    )
)
BESIDE = Plan(
    (
        Place("t", ("b",)),
        Place("b", ("u", "v")),
        Place("u", ("x",), "t"),
        Place("v", ("y",), "t"),
        Place("x", ("w",)),
        Place("y"),
        Place("w", (), "t"),
    )
)


def test_regions_leave_out_other_uniters_unless_they_precede() -> None:
    assert _united().region(_united()["u"]) == {"b", "c"}
    assert NESTED.region(NESTED["u"]) == {"t", "b", "v"}
    assert NESTED.region(NESTED["v"]) == {"b"}
    assert BESIDE.region(BESIDE["u"]) == {"b"}
    assert BESIDE.region(BESIDE["v"]) == {"b"}
    assert BESIDE.region(BESIDE["w"]) == {"b", "u", "x"}
    assert BESIDE.topological()[0] == "t"


def test_a_united_node_waits_for_every_branch_and_runs_once() -> None:
    model = Model(_united())
    _run(model, "t")
    (b,) = _take(model, "b")
    model.executed(b, _v("0", "1"))
    first, second = _take(model, "c")
    model.executed(first, [V])
    assert _count(model)[("u", "CREATED")] == 0
    model.executed(second, [V])
    assert _count(model)[("u", "CREATED")] == 1
    (u,) = _take(model, "u")
    assert list(u.parents) == ["t"]
    _run(model, "u")
    _run(model, "z")
    assert model.run_status() == "SUCCESS"
    assert len(model.states) == 7


def test_each_sibling_of_the_target_is_a_group_of_its_own() -> None:
    model = Model(_united())
    _run(model, "t", "0", "1")
    one, two = _take(model, "b")
    model.executed(one, [V])
    (c,) = _take(model, "c")
    model.executed(c, [V])
    (u,) = _take(model, "u")
    assert u.parents["t"] is one.parents["t"] is not two.parents["t"]


@pytest.mark.parametrize(("strategy", "fired"), [("ALL_SUCCESS", 0), ("ALL_DONE", 1)])
def test_a_failure_blocks_only_all_success(strategy: str, fired: int) -> None:
    model = Model(_united(strategy))
    _run(model, "t")
    _run(model, "b")
    (c,) = _take(model, "c")
    assert model.errored(c) is False
    assert _count(model)[("u", "CREATED")] == fired
    again = model.retried(c)
    assert _count(model)[("u", "CREATED")] == fired
    model.claim()
    model.executed(again, [V])
    assert sum(state.identifier == "u" for state in model.states) == 1


@pytest.mark.parametrize(("strategy", "fired"), [("ALL_SUCCESS", 0), ("ALL_DONE", 1)])
def test_all_pruned_reaches_only_all_done(strategy: str, fired: int) -> None:
    model = Model(_united(strategy))
    _run(model, "t")
    (b,) = _take(model, "b")
    model.pruned(b)
    assert _count(model)[("u", "CREATED")] == fired
    assert model.run_status() == ("PENDING" if fired else "SUCCESS")


def test_a_pruned_side_branch_blocks_nothing() -> None:
    model = Model(_united())
    _run(model, "t")
    _run(model, "b")
    (c,) = _take(model, "c")
    model.pruned(c)
    assert _count(model)[("u", "CREATED")] == 1


def test_an_inner_unite_fires_first_and_holds_the_outer_one() -> None:
    model = Model(NESTED)
    _run(model, "s")
    _run(model, "t", "0", "1")
    for b in _take(model, "b"):
        model.executed(b, [V])
    first, second = _take(model, "v")
    assert _count(model)[("u", "CREATED")] == 0
    model.executed(first, [V])
    assert _count(model)[("u", "CREATED")] == 0
    model.executed(second, [V])
    assert _count(model)[("u", "CREATED")] == 1


def test_uniters_of_one_target_do_not_wait_for_each_other() -> None:
    model = Model(BESIDE)
    _run(model, "t")
    _run(model, "b")
    assert _count(model)[("u", "CREATED")] == _count(model)[("v", "CREATED")] == 1
    _run(model, "u")
    _run(model, "x")
    assert _count(model)[("w", "CREATED")] == 1, "w waits for u and x, not for v"


def test_aggregates_are_in_fan_out_order_whatever_finished_first() -> None:
    model = Model(_united(g=(Ref("c", "v"),)))
    _run(model, "t")
    _run(model, "b", "0", "1", "2")
    by_value = {state.parents["b"].outputs["v"]: state for state in _take(model, "c")}
    for value in ("2", "0", "1"):
        model.executed(by_value[value], _v(f"c{value}"))
    (u,) = _take(model, "u")
    assert u.inputs == {"g": Aggregate(("c0", "c1", "c2"))}


def test_an_aggregate_lacks_what_did_not_succeed() -> None:
    model = Model(_united("ALL_DONE", g=(Ref("c", "v"),)))
    _run(model, "t")
    _run(model, "b", "0", "1", "2")
    first, second, third = _take(model, "c")
    model.pruned(first)
    model.errored(second)
    model.executed(third, _v("c2"))
    (u,) = _take(model, "u")
    assert u.inputs == {"g": Aggregate(("c2",))}


def test_inputs_that_cannot_be_built_leave_the_united_state_errored() -> None:
    model = Model(_united(g=(Ref("c", "v"),)))
    _run(model, "t")
    _run(model, "b")
    (c,) = _take(model, "c")
    model.executed(c, [{}])
    assert _count(model)[("u", "ERRORED")] == 1
    (u,) = (state for state in model.states if state.identifier == "u")
    with pytest.raises(Refused):
        model.retried(u)
    assert u.status == "ERRORED"
    model.forget_inputs("u")
    assert model.retried(u).status == "CREATED"
    assert u.status == "RETRY_CREATED"


def test_one_bad_sibling_fails_alone_and_is_redone_from_its_outputs() -> None:
    model = Model(Plan((Place("a", ("b",)), Place("b", inputs={"p": ("<", Ref("a", "v"), ">")}))))
    (a,) = _take(model, "a")
    model.executed(a, [{"v": "0"}, {"w": "bad"}])
    assert _count(model) == {("a", "SUCCESS"): 1, ("a", "NEXT_CREATED_ERROR"): 1, ("b", "CREATED"): 1}
    (b,) = _take(model, "b")
    assert b.inputs == {"p": "<0>"}
    (bad,) = (state for state in model.states if state.status == "NEXT_CREATED_ERROR")
    still_bad = model.retried(bad)
    assert (still_bad.status, bad.status) == ("NEXT_CREATED_ERROR", "RETRY_CREATED")
    model.forget_inputs("b")
    again = model.retried(still_bad)
    assert (again.status, again.outputs, still_bad.status) == ("SUCCESS", {"w": "bad"}, "RETRY_CREATED")


def test_retries_are_counted_and_wait() -> None:
    model = Model(Plan((Place("a"),), max_retries=1, backoff_ms=10))
    (a,) = _take(model, "a")
    assert model.errored(a) is True
    assert model.claim() == []
    model.now_ms += 10
    (again,) = model.claim()
    assert model.errored(again) is False
    assert model.run_status() == "FAILED"


def test_a_run_is_retried_wherever_it_failed_and_can_go_on() -> None:
    model = Model(_united("ALL_DONE", g=(Ref("c", "v"),)))
    _run(model, "t", "0", "1")
    for b in _take(model, "b"):
        model.executed(b, [V])
    good, bad = _take(model, "c")
    model.executed(good, [{}])
    model.errored(bad)
    assert _count(model)[("u", "ERRORED")] == 1, "its inputs cannot be built from what c gave"
    retried, refused = model.retried_run()
    assert [(old, new.status) for old, new in retried] == [(bad, "CREATED")]
    assert [state.unbuilt for state in refused] == [True]
    model.forget_inputs("u")
    ((old, new),), refused = model.retried_run()
    assert (old.unbuilt, new.status, refused) == (True, "CREATED", [])
