"""A run that failed, waited to be retried, and went on: its duration, its first failure, how it counts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from exotrio._wire.overview import Overview
from exotrio._wire.runs import Run
from exotrio.cli.top.screen import Screen, screen_lines
from exotrio.manager.queries.run_detail import spans_of
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.support.helpers import FAST_RETRY, NO_RETRY, SettableClock, ok, place
from tests.support.manager import tallied
from tests.support.web import Site, open_site, text_of

HOUR = 3_600_000


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def site(clock: SettableClock) -> AsyncIterator[Site]:
    async with open_site(clock=clock) as opened:
        yield opened


@pytest.fixture
async def flow(site: Site, clock: SettableClock) -> Flow:
    """A run that failed after 5 s, was retried an hour later, and failed again after 4 s."""
    flow = await Flow.deploy(
        site.api, place("first", "second"), place("second"), graph="orders", retry_policy=NO_RETRY
    )
    await flow.trigger()
    clock.advance(3_000)
    await flow.run("first")
    clock.advance(2_000)
    await flow.fail("second", times=1, error="it broke")
    await tallied(site.service, clock)
    clock.advance(HOUR - 1_000)
    ok(await site.api.retry_run(flow.run_id))
    clock.advance(4_000)
    await flow.fail("second", times=1, error="it broke")
    await tallied(site.service, clock)
    return flow


async def test_the_time_until_the_retry_is_no_part_of_its_duration(
    site: Site, clock: SettableClock, flow: Flow
) -> None:
    clock.advance(60_000)
    shown = ok(await site.api.native("GET", f"run/{flow.run_id}"))
    (listed,) = ok(await site.api.native("GET", "runs"))["runs"]
    for body in (shown, listed):
        assert (body["idle_ms"], body["duration_ms"]) == (HOUR, 9_000)
    assert Run.model_validate(shown).duration == 9
    for path in (f"runs/{flow.run_id}", f"runs/{flow.run_id}/export", "runs", ""):
        page = (await site.browser.get(f"/ns/shop/{path}".rstrip("/"))).text
        assert re.search(r"took 9\.0 s|<td data-label=\"Took\" class=\"num\">9\.0 s<", page), path
    ok(await site.api.retry_run(flow.run_id))
    clock.advance(2_500)
    shown = ok(await site.api.native("GET", f"run/{flow.run_id}"))
    assert (shown["idle_ms"], shown["duration_ms"]) == (HOUR + 61_000, None)
    assert "has taken 11.5 s so far" in await site.browser.page(f"/ns/shop/runs/{flow.run_id}")


async def test_no_time_is_below_zero_after_the_clock_was_set_back(
    site: Site, clock: SettableClock, flow: Flow
) -> None:
    ok(await site.api.retry_run(flow.run_id))
    clock.advance(-HOUR)
    await flow.run("second")
    shown = ok(await site.api.native("GET", f"run/{flow.run_id}"))
    assert (shown["status"], shown["duration_ms"], Run.model_validate(shown).duration) == ("SUCCESS", 0, 0)

    def moments(view: View) -> list[int]:
        spans = spans_of(view, view.one("SELECT * FROM runs")).spans
        return [
            at
            for span in spans
            for at in (span.at.waits, span.at.claimed, span.at.finished)
            if at is not None
        ]

    assert min(await site.service.store.read(moments)) >= 0


async def test_its_first_failure_is_the_one_before_the_retry(
    site: Site, clock: SettableClock, flow: Flow
) -> None:
    clock.advance(60_000)
    faults = text_of(await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "faults"))
    assert re.findall(r">([^<>]* ago)<", faults) == ["1 h ago", "1 min ago", "1 h ago", "1 min ago"]
    fails = await site.browser.fragments("/ns/shop", "failing")
    assert re.findall(r'data-label="(Since|Last)"><time[^>]*>([^<]*)<', fails) == [
        ("Since", "1 h ago"),
        ("Last", "1 min ago"),
    ]


async def test_its_first_failure_is_that_of_the_first_attempt_also_after_automatic_retries(
    site: Site, clock: SettableClock
) -> None:
    flow = await Flow.start(site.api, place("flaky"), graph="flaky")
    attempts = []
    for by_hand in (False, False, False, True):
        if by_hand:
            ok(await site.api.retry_run(flow.run_id))
        attempts.append(await flow.fail("flaky", times=1))
        clock.advance(600_000)
    faults = text_of(await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "faults"))
    assert "40 min ago" not in faults, "the last attempt is retried"
    for _ in range(2):
        await flow.fail("flaky", times=1)
        clock.advance(600_000)
    faults = text_of(await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "faults"))
    assert "Of what failed for good, the first to fail was flaky " in faults
    assert "1 h ago" in faults
    assert re.findall(r'title="(\w+)" id="first-failed"', faults) == attempts[:1], "not the last attempt"


async def test_a_run_that_is_retried_counts_once_as_it_ended_last(
    site: Site, clock: SettableClock, flow: Flow
) -> None:
    async def trend(span: str = "24h") -> str:
        await tallied(site.service, clock)
        shown = text_of(await site.browser.fragments(f"/ns/shop?range={span}", "trend"))
        return " ".join(re.sub(r"<[^>]*>", "", shown[shown.rindex('class="lead"') :]).split())

    async def agreed(*, ended: int, failed: int) -> None:
        """Check that the API and ``top`` count what the page does."""
        overview = Overview.model_validate(ok(await site.api.overview()))
        assert overview.run_throughput is not None
        assert (sum(overview.run_throughput.ended), sum(overview.run_throughput.failed)) == (ended, failed)
        screen = "\n".join(line.plain for line in screen_lines(Screen(overview, "here"), 200, None))
        assert f"{ended} {'run' if ended == 1 else 'runs'} ended   {failed} failed" in screen

    assert "1 run ended, 1 failed: median about 9" in await trend()
    await agreed(ended=1, failed=1)
    await site.api.retry_run(flow.run_id)
    assert "0 runs ended, 0 failed" in await trend()
    await agreed(ended=0, failed=0)
    await flow.run("second")
    assert "1 run ended, 0 failed" in await trend()
    assert "1 run ended, 0 failed" in await trend("1h")


async def test_a_retry_that_runs_no_state_counts_the_run_as_it_ended_then(
    site: Site, clock: SettableClock
) -> None:
    """What follows the state cannot be created, which is tried again, in vain."""
    flow = await Flow.start(
        site.api, place("a", "b"), place("b", inputs={"v": "${{ a.outputs.v }}"}), retry_policy=NO_RETRY
    )
    await flow.run("a", {"w": "no v"})
    await tallied(site.service, clock)
    reply = await site.api.retry_run(flow.run_id)
    await tallied(site.service, clock)
    assert ok(reply)["retried"][0]["status"] == "NEXT_CREATED_ERROR"
    trend = await site.browser.fragments("/ns/shop", "trend")
    assert '<strong>1</strong> run ended, <strong class="bad">1</strong> failed' in trend


async def test_a_retry_breaks_the_axis_of_the_timeline(site: Site, flow: Flow) -> None:
    def spans(view: View) -> tuple[list[tuple[int, int | None]], int, list[tuple[int, int]]]:
        (run,) = view.execute("SELECT * FROM runs").fetchall()
        shown = spans_of(view, run)
        return [(span.at.waits, span.at.finished) for span in shown.spans], shown.until, list(shown.breaks)

    assert await site.service.store.read(spans) == (
        [(0, 3_000), (3_000, 5_000), (5_000, 9_000)],
        9_000,
        [(5_000, HOUR)],
    )
    for path in (f"runs/{flow.run_id}", f"runs/{flow.run_id}/export"):
        page = (await site.browser.get(f"/ns/shop/{path}")).text
        assert re.findall(r'class="break" x1="([^"]*)"', page) == ["55.56%"], path
        assert "1 h left out" in page
        assert "the run had ended and was then retried: that time is left out" in page


async def test_a_retry_by_hand_is_not_shown_as_the_first_attempt(site: Site, flow: Flow) -> None:
    page = await site.browser.page(f"/ns/shop/runs/{flow.run_id}")
    assert re.findall('data-label="Retries" class="num[^"]*">([^<]+)<', page) == ["by hand", "0", "0"]
    exported = await site.api.native("GET", f"run/{flow.run_id}/export")
    assert exported.text.count(">retried by hand · ") == 1


async def test_retries_after_a_retry_by_hand_say_from_where_they_count(
    site: Site, clock: SettableClock
) -> None:
    flow = await Flow.start(site.api, place("a"), retry_policy=FAST_RETRY | {"max_retries": 1})

    async def fail_twice() -> str:
        await flow.fail("a", times=1)
        clock.advance(1_000)
        return await flow.fail("a", times=1)

    ok(await site.api.manual_retry(await fail_twice()))
    last = await fail_twice()
    page = await site.browser.page(f"/ns/shop/runs/{flow.run_id}?sort=oldest")
    shown = re.findall('data-label="Retries" class="num[^"]*">([^<]+)<', page)
    assert shown == ["0", "1", "by hand", "by hand + 1"]
    page = await site.browser.page(f"/ns/shop/states/{last}")
    assert "· attempt 4: 2 of 2 since it was retried by hand</span>" in page
    exported = await site.api.native("GET", f"run/{flow.run_id}/export")
    assert ">retry 1 since it was retried by hand · " in exported.text


async def test_a_united_node_that_runs_again_was_not_retried_by_hand(site: Site) -> None:
    flow = await Flow.start(
        site.api,
        place("t", "c"),
        place("c", "u"),
        place("u", unites="t", strategy="ALL_DONE"),
        retry_policy=NO_RETRY,
    )
    await flow.run("t")
    failed = await flow.fail("c", times=1)
    await flow.run("u")
    ok(await site.api.manual_retry(failed))
    await flow.run("c")
    united = await flow.run("u")
    page = await site.browser.page(f"/ns/shop/runs/{flow.run_id}?sort=newest")
    shown = re.findall('data-label="Retries" class="num[^"]*">([^<]+)<', page)
    assert shown == ["rerun", "by hand", "0", "0", "0"]
    assert re.findall(r">[^<>]*\d retried", page) == []
    assert "2 replaced" in page
    page = await site.browser.page(f"/ns/shop/states/{united}")
    assert ("rerun: a state before it was retried" in page, "retried by hand" in page) == (True, False)
    exported = await site.api.native("GET", f"run/{flow.run_id}/export")
    assert (exported.text.count(">rerun · "), exported.text.count(">retried by hand · ")) == (1, 1)
