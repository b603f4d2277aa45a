"""How many states a retry may replace, and the counters after it."""

from __future__ import annotations

import pytest

from exotrio.manager.engine import unites
from tests.contract.flow import OK, fanned
from tests.support.helpers import ok, refused
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
