"""How many states a retry may replace, the counters after it, and the times of what it replaces."""

from __future__ import annotations

from uuid import uuid4

import pytest

from exotrio.manager.engine import unites
from tests.contract.flow import OK, Flow, fanned
from tests.contract.native import claim_one, report
from tests.support.helpers import SettableClock, node_name, ok, place, refused
from tests.support.manager import open_manager, recount


async def test_a_retry_that_replaces_too_many_states_is_refused_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_manager() as manager:
        api = manager.api
        flow, branches = await fanned(api, "ALL_DONE", size=2)
        ok(await api.errored(branches[0]))
        ok(await api.executed(branches[1], OK))
        await flow.run("u", OK, OK)
        before = await flow.statuses()
        monkeypatch.setattr(unites, "MAX_REPLACED", 3)
        text = (
            "4 states would run again with it, since they follow a united node that ran without it; at most 3"
        )
        assert text in refused(await api.retry_run(flow.run_id), 409)
        assert text in refused(await api.manual_retry(branches[0]), 409)
        assert await flow.statuses() == before
        monkeypatch.setattr(unites, "MAX_REPLACED", 4)
        assert ok(await api.retry_run(flow.run_id))["runs_again"] == {"u": 2, "z": 2}
        await manager.service.store.read(recount)


async def test_one_that_is_replaced_while_it_waits_was_not_held_until_then() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        api = manager.api
        flow, branches = await fanned(api, "ALL_DONE", size=2)
        ok(await api.errored(branches[0]))
        ok(await api.executed(branches[1], OK))
        requeued = await claim_one(api, limits={node_name("u"): 1})
        clock.advance(1_000)
        item = {"state_id": requeued["state_id"], "token": requeued["lease"]["token"]}
        await report(api, {**item, "outcome": "requeued", "delay_ms": 2_000})
        clock.advance(5_000)
        ok(await api.retry_run(flow.run_id))
        shown = ok(await api.history(requeued["state_id"]))
        assert (shown["waited_ms"], shown["held_ms"], shown["ran_ms"]) == (3_000, None, None)
        (event,) = shown["events"]
        assert (event["kind"], event["worker"]) == (unites.REPLACED, None), "no runtime held it"


async def test_a_repeated_reply_has_no_automatic_retries_of_the_same_moment() -> None:
    clock = SettableClock()
    policy = {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 1}
    async with open_manager(clock=clock) as manager:
        api = manager.api
        flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=policy)
        await flow.run("a", OK, OK)
        one, other = await flow.take("b", 2)
        ok(await api.errored(one["state_id"]))
        clock.advance(1)
        await flow.fail("b", times=1)
        ok(await api.errored(other["state_id"]))
        request_id = str(uuid4())
        reply = ok(await api.retry_run(flow.run_id, request_id))
        assert reply["runs_again"] == {}
        assert ok(await api.retry_run(flow.run_id, request_id)) == reply
