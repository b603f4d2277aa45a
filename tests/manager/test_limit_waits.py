"""Why a state waits, in each situation: all that says it, and all that counts it, say the same."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from exotrio._wire.overview import Overview
from exotrio.manager.queries.limits import load_of_limits
from exotrio.manager.rules.findings import overview_findings
from tests.contract.flow import Flow
from tests.contract.native import A, claim, executed_item, item_for, report
from tests.support import postgres
from tests.support.helpers import SettableClock, ok, place
from tests.support.web import Site, open_site, text_of

NAMES = ("service", "other")


@dataclass(frozen=True, slots=True)
class Case:
    """A state that waits: ``kind`` is why, and ``limit`` the limit, if that is one."""

    kind: str | None
    limit: str | None = None
    says: str = ""


CASES = {
    "full": Case("limit", "service", "1 of 1 held by "),
    "no claim has seen it": Case("limit", "service", "1 of 1 held by "),
    "came due": Case("limit", "service", "1 of 1 held by "),
    "0": Case("limit", "service", "it is 0, which stops all"),
    "starts used": Case("limit", "service", "1 of 1 starts in 1 h used, the next in "),
    "second is full": Case("limit", "other", "1 of 1 held by "),
    "second is full, the first has room again": Case("limit", "other", "1 of 1 held by "),
    "holder is stopping": Case("limit", "service", "of which 1 has ended, but not yet stopped"),
    "holder is buffered": Case("limit", "service", " (buffered) for "),
    "holder is reporting": Case("limit", "service", " (reporting) for "),
    "other key": Case(None),
    "room again": Case(None),
    "paused": Case("paused"),
    "no runtime": Case("not offered"),
    "draining": Case("draining"),
    "other runs": Case("other runs"),
    "delayed": Case("later"),
}
WITH_OTHER_STATEMENTS = "room again", "paused", "other runs"
"""Cases that between them execute each statement that any of them does."""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def site(engine: str, clock: SettableClock) -> AsyncIterator[Site]:
    if engine == "SQLite":
        async with open_site(clock=clock) as site:
            yield site
        return
    with postgres.database() as database:
        async with open_site(database.url, clock=clock) as site:
            yield site


async def set_to(site: Site, name: str, **values: int) -> None:
    ok(await site.api.native("PUT", f"limit/{name}", json=values))


async def beat(site: Site, phase: str = "running", **fields: Any) -> None:
    ok(await site.api.heartbeat("w", **{"runtime": "r", "phase": phase, "workers": 9} | fields))


async def reach(site: Site, clock: SettableClock, case: str) -> str:
    """Return the run whose state waits."""
    limits: list[dict[str, Any]] = [{"name": name, "at_most": 1} for name in NAMES]
    store = {"required_keys": ["key"], "default_values": {}}
    named = [{"name": "service", "key": "${{ store.key }}"}, {"name": "other"}]
    if case == "starts used":
        limits[0] = {"name": "service", "starts": 1, "period_ms": 3_600_000}
    if not case.startswith("second"):
        limits[1]["at_most"] = 9
    flow = await Flow.deploy(site.api, place("a", limits=named), limits=limits, store_config=store)
    first = await flow.trigger(store={"key": "1"})
    await beat(site)
    (held,) = await claim(site.api, worker_id="w")
    key = "1" if not case.startswith("second") or case.endswith("again") else "2"
    delay = {"start_delay": 3_600_000} if case in ("delayed", "came due") else {}
    run = await flow.trigger(store={"key": "3" if case == "other key" else key}, **delay)
    if case in ("no claim has seen it", "other key"):
        return run
    if case == "0":
        await set_to(site, "service", at_most=0)
    if case == "starts used":
        await report(site.api, executed_item(held))
    if case == "came due":
        clock.advance(3_600_001)
        await beat(site)
        return run
    assert await claim(site.api, worker_id="w") == []
    match case:
        case "second is full, the first has room again":
            await set_to(site, "service", at_most=2)
        case "room again":
            await report(site.api, executed_item(held))
        case "holder is stopping":
            ok(await site.api.native("POST", f"run/{first}/cancel"))
        case "holder is buffered":
            await beat(site, workers=0)
        case "holder is reporting":
            await beat(site, states=[item_for(held, running=True, buffered_ms=1, ran_ms=5)])
        case "paused":
            ok(await site.api.native("POST", f"node/{A}/pause"))
        case "no runtime":
            await beat(site, "stopped")
        case "draining":
            await beat(site, "draining")
        case "other runs":
            await beat(site, "stopped")
            await claim(site.api, worker_id="v", run_id=first)
    return run


@pytest.mark.parametrize(
    ("engine", "case"),
    [*(("SQLite", case) for case in CASES), *(("PostgreSQL", case) for case in WITH_OTHER_STATEMENTS)],
)
async def test_all_say_the_same_about_why_a_state_waits(site: Site, clock: SettableClock, case: str) -> None:
    run, expected = await reach(site, clock, case), CASES[case]
    (state,) = ok(await site.api.states(run=run))["states"]
    (of_run,) = ok(await site.api.native_run(run))["nodes"]
    of_state = ok(await site.api.history(state["id"]))["waits_for"]
    for said in (state["waits_for"], of_run["waits_for"], of_state):
        assert (said and said["kind"]) == expected.kind, said
        assert (said and (said["limit"] or {}).get("limit")) == expected.limit
        assert expected.says in (said["text"] if said else "")
    for page in (f"runs/{run}", f"states/{state['id']}"):
        html = text_of(await site.browser.page(f"/ns/{site.api.namespace}/{page}"))
        shown = " ".join(re.sub("<[^>]+>", "", html).split())
        assert ("waits for limit" in shown) == (expected.limit is not None)
        assert expected.limit is None or f"waits for limit {expected.limit}" in shown
        assert expected.says.rstrip() in shown
    waiting = {name: int(name == expected.limit) for name in NAMES}
    overview = ok(await site.api.overview())
    counts = await site.service.store.read(load_of_limits, 10)
    assert {name: number for (_, name), (_, number) in counts.items()} == waiting, "metrics"
    for listed in (ok(await site.api.native("GET", "limits"))["limits"], overview["limits"]):
        assert {limit["name"]: limit["waiting"] for limit in listed} == waiting
    for name in NAMES:
        shown = ok(await site.api.native("GET", f"limit/{name}"))
        assert (shown["waiting"], sum(key["waiting"] for key in shown["keys"])) == (waiting[name],) * 2
        stage = (
            case.removeprefix("holder is ") if case in ("holder is buffered", "holder is reporting") else None
        )
        page = text_of(await site.browser.page(f"/ns/{site.api.namespace}/limits/{name}"))
        for holder in shown["holders"]:
            assert holder["stage"] == stage
            assert stage is None or f"{stage}</span>" in page
    found = [each.what for each in overview_findings(Overview.model_validate(overview), 60.0)]
    assert any("1 state waits" in what and "limit " in what for what in found) == (expected.limit is not None)


async def test_a_list_says_how_many_are_before_each_also_where_no_claim_has_seen_it(
    site: Site, clock: SettableClock
) -> None:
    first = await reach(site, clock, "full")
    runs = [first]
    for seen in (True, False, False):
        runs.append(ok(await site.api.trigger("graph", store={"key": "1"}))["run_id"])
        if seen:
            assert await claim(site.api, worker_id="w") == []
    listed = ok(await site.api.states(status="CREATED"))["states"]
    before = {state["run_id"]: state["waits_for"]["limit"]["before"] for state in listed}
    assert [before[run] for run in runs] == [0, 1, 2, 3]
    (alone,) = ok(await site.api.states(run=runs[2]))["states"]
    assert alone["waits_for"]["limit"]["before"] == 2


async def test_the_overview_says_that_what_waits_waits_for_a_limit(site: Site, clock: SettableClock) -> None:
    await reach(site, clock, "full")
    for others, says in (
        ("", "1 waits for a limit"),
        ("delayed", "none of the others is due; 1 waits for a limit"),
    ):
        if others:
            ok(await site.api.trigger("graph", store={"key": "1"}, start_delay=3_600_000))
        now = text_of(await site.browser.fragments(f"/ns/{site.api.namespace}", "now"))
        assert f'<span class="more">{says}<' in re.sub(r"<a [^>]*>|</a>", "", now)
    shown = Overview.model_validate(ok(await site.api.overview()))
    (load,) = shown.nodes
    assert (load.waiting, load.eligible, load.limited) == (2, 0, 1)
    await beat(site, "stopped")
    now = text_of(await site.browser.fragments(f"/ns/{site.api.namespace}", "now"))
    assert "no runtime claims" in now
    assert "for a limit" not in now
    stopped = Overview.model_validate(ok(await site.api.overview()))
    found = [each.what for each in overview_findings(stopped, 60) if each.attention]
    assert any("1 state of Node_a is due, and waited for a limit: no live runtime" in each for each in found)
