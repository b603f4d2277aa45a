"""Runs that started others, and those that were started: on pages, in the API and in exports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from exotrio._wire.runs import RelatedRun
from exotrio._wire.v0 import RunSummary
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, eventually, ok, place, run_place, wait_place
from tests.support.web import NAMESPACE, Site, open_site, text_of

BASE = f"/ns/{NAMESPACE}"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


async def failed(site: Site) -> tuple[Flow, str]:
    """Return a run that failed and is to start one of ``alert``, and the state that failed."""
    await Flow.deploy(site.api, place("tell", inputs={"error": ""}), graph="alert", retry_policy=NO_RETRY)
    work = await Flow.deploy(site.api, place("ship"), graph="work", on_failure="alert", retry_policy=NO_RETRY)
    await work.trigger()
    return work, await work.fail("ship", times=1, error="no stock")


async def shown(site: Site, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = ok(await site.api.native_run(run_id))
    return run


async def alert_of(site: Site, work: Flow) -> dict[str, Any]:
    async def started() -> dict[str, Any]:
        children = (await shown(site, work.run_id))["children"]
        assert len(children) == 1
        (child,) = children
        assert child["status"] or child["problem"], "it is about to be started"
        return dict(child)

    return await eventually(started)


async def test_each_of_the_two_runs_names_the_other_one(site: Site) -> None:
    work, state = await failed(site)
    child = await alert_of(site, work)
    assert {name: value for name, value in child.items() if not name.endswith("_at")} == {
        "run_id": child["run_id"],
        "graph_name": "alert",
        "status": "PENDING",
        "origin": "failure",
        "state_id": state,
        "identifier": "ship",
        "waits": False,
        "problem": None,
    }
    alert = await shown(site, child["run_id"])
    assert (alert["origin"], alert["parent_run_id"], alert["children"]) == ("failure", work.run_id, [])
    parent = alert["parent"]
    assert (parent["run_id"], parent["graph_name"], parent["status"]) == (work.run_id, "work", "FAILED")
    assert (parent["state_id"], parent["identifier"]) == (state, "ship")
    assert [run["parent_run_id"] for run in ok(await site.api.native("GET", "runs"))["runs"]] == [
        work.run_id,
        None,
    ]
    assert "parent_run_id" not in ok(await site.api.runs())["runs"][0], "v0 has no such field"


async def test_pages_link_the_two_runs(site: Site) -> None:
    work, state = await failed(site)
    child = await alert_of(site, work)
    page = await site.browser.page(f"{BASE}/runs/{work.run_id}")
    assert f'href="{BASE}/runs/{child["run_id"]}"' in page
    assert "Runs that it started" in page
    page = await site.browser.page(f"{BASE}/runs?parent={work.run_id}")
    assert f'href="{BASE}/runs/{child["run_id"]}"' in page
    assert f'data-key="{work.run_id}"' not in page
    page = await site.browser.page(f"{BASE}/runs/{child['run_id']}")
    assert "since this run failed:" in page
    assert f'href="{BASE}/runs/{work.run_id}"' in page
    assert f'href="{BASE}/states/{state}"' in page
    assert "Runs that it started" not in page
    page = await site.browser.page(f"{BASE}/runs")
    assert "after failure of" in page
    for run_id, text in ((work.run_id, child["run_id"]), (child["run_id"], work.run_id)):
        export = text_of((await site.browser.get(f"{BASE}/runs/{run_id}/export")).text)
        assert f"<code>{text}</code>" in export


async def test_the_page_of_the_failed_run_says_why_none_was_started(site: Site) -> None:
    await Flow.deploy(site.api, place("tell"), graph="alert")
    work = await Flow.deploy(site.api, place("ship"), graph="work", on_failure="alert", retry_policy=NO_RETRY)
    ok(await site.api.native("DELETE", "graph/alert"))
    await work.trigger()
    await work.fail("ship", times=1)
    child = await alert_of(site, work)
    problem = f"there is no graph 'alert' in namespace '{NAMESPACE}'"
    assert (child["run_id"], child["status"], child["problem"]) == (None, None, problem)
    page = text_of(await site.browser.page(f"{BASE}/runs/{work.run_id}"))
    assert "not started" in page
    assert problem in page
    findings = text_of(await site.browser.page(f"{BASE}/system"))
    assert (
        f"run {work.run_id} of graph work failed, and no run of alert could be started: {problem}" in findings
    )
    assert "a run of graph work that fails starts no run of alert: there is no graph 'alert'" in findings


async def test_the_pages_of_two_graphs_name_each_other(site: Site) -> None:
    await failed(site)
    page = await site.browser.page(f"{BASE}/graphs/work")
    assert f'starts a run of <a href="{BASE}/graphs/alert">alert</a>' in page
    page = await site.browser.page(f"{BASE}/graphs/alert")
    assert f'Started by failures of</dt><dd><a href="{BASE}/graphs/work">work</a>' in page
    assert "work names it, and will not find it." in page
    assert "Started by failures" not in await site.browser.page(f"{BASE}/graphs/work")
    await composed(site)
    page = await site.browser.page(f"{BASE}/graphs/parent")
    assert f'Runs graphs</dt><dd><a href="{BASE}/graphs/child">child</a>' in page
    page = await site.browser.page(f"{BASE}/graphs/child")
    assert f'Is run by</dt><dd><a href="{BASE}/graphs/parent">parent</a>' in page


async def test_a_run_whose_parent_was_deleted_is_still_shown(site: Site) -> None:
    work, _ = await failed(site)
    child = await alert_of(site, work)
    ok(await site.api.native("DELETE", "graph/work"))
    page = await site.browser.page(f"{BASE}/runs/{child['run_id']}")
    assert "since a run failed, which was deleted" in page
    assert (await shown(site, child["run_id"]))["parent"] is None


# -- runs of states


async def composed(site: Site) -> tuple[Flow, dict[str, Any], str]:
    """Return a run that waits for a run of another graph, that one, and the state that waits."""
    await Flow.deploy(site.api, place("c"), graph="child", retry_policy=NO_RETRY)
    parent = await Flow.deploy(
        site.api, place("a", "g"), run_place("g", graph="child"), graph="parent", retry_policy=NO_RETRY
    )
    await parent.trigger()
    await parent.run("a")
    child = await alert_of(site, parent)
    (state,) = ok(await site.api.states(run=parent.run_id, status="WAITING"))["states"]
    return parent, child, state["id"]


async def test_a_run_that_waits_for_a_run_that_waits_is_called_waiting_everywhere(site: Site) -> None:
    await Flow.put(site.api, "child", site.api.body([wait_place("w", event="approved")]))
    parent = await Flow.put(site.api, "parent", site.api.body([run_place("g", graph="child")]))
    await parent.trigger()
    child = await alert_of(site, parent)
    assert (child["status"], child["waits"]) == ("PENDING", True)
    runs = [RunSummary.model_validate(run) for run in ok(await site.api.native("GET", "runs"))["runs"]]
    assert [run.word for run in runs] == ["waiting", "waiting"]
    assert RelatedRun.model_validate(child).word == "waiting"
    (state,) = ok(await site.api.states(run=parent.run_id))["states"]
    page = await site.browser.page(f"{BASE}/states/{state['id']}")
    assert "of graph child:</span> waiting" in page
    for path in (f"/runs/{parent.run_id}", f"/runs/{child['run_id']}", "/runs"):
        page = await site.browser.page(BASE + path)
        assert '<span class="chip c-event">waiting</span>' in page
        assert '<span class="chip c-running">' not in page


async def test_a_state_that_waits_for_a_run_says_for_which_and_since_when(site: Site) -> None:
    parent, child, state = await composed(site)
    (listed,) = ok(await site.api.states(run=parent.run_id, status="WAITING"))["states"]
    reason = listed["waits_for"]
    text = f"waits for run {child['run_id']} of graph child since {reason['since']}"
    assert (reason["kind"], reason["run_id"], reason["graph"], reason["runs"], reason["text"]) == (
        "run",
        child["run_id"],
        "child",
        1,
        text,
    )
    history = ok(await site.api.history(state))
    assert history["waits_for"] == reason
    assert [each["run_id"] for each in history["children"]] == [child["run_id"]]
    run = await shown(site, parent.run_id)
    assert run["nodes"][1]["waits_for"] == reason
    assert (run["pending_count"], run["for_event_count"], run["for_run_count"]) == (1, 0, 1)
    link = f'href="{BASE}/runs/{child["run_id"]}"'
    for page in (f"{BASE}/runs/{parent.run_id}", f"{BASE}/states/{state}"):
        html = await site.browser.page(page)
        assert link in html
        assert "of graph child since" in html
    html = await site.browser.page(f"{BASE}/runs/{child['run_id']}")
    assert "by a state of" in html
    assert f'href="{BASE}/states/{state}"' in html


async def test_a_state_that_waited_for_a_run_says_for_how_long(site: Site) -> None:
    parent, child, state = await composed(site)
    await parent.run("c")

    async def ended() -> None:
        assert (await shown(site, parent.run_id))["status"] == "SUCCESS"

    await eventually(ended)
    history = ok(await site.api.history(state))
    assert history["for_run_ms"] is not None
    assert (history["for_event_ms"], history["waited_ms"], history["no_event"]) == (None, None, False)
    assert [(each["run_id"], each["status"]) for each in history["children"]] == [
        (child["run_id"], "SUCCESS")
    ]
    html = await site.browser.page(f"{BASE}/states/{state}")
    assert "none: it waited for a run" in html
    assert " for a run</span>" in await site.browser.page(f"{BASE}/runs/{parent.run_id}")


async def test_failed_runs_are_listed_before_others(site: Site) -> None:
    await Flow.deploy(site.api, place("c"), graph="child", retry_policy=NO_RETRY)
    places = place("a", "g"), run_place("g", graph="child")
    parent = await Flow.deploy(site.api, *places, graph="parent", retry_policy=NO_RETRY)
    await parent.trigger()
    await parent.run("a", *[{"v": str(number), "w": ""} for number in range(3)])

    async def children() -> list[dict[str, Any]]:
        run = await shown(site, parent.run_id)
        assert run["children_count"] == 3
        return list(run["children"])

    first, *_ = await eventually(children)
    second, third, _ = await parent.take("c", 3)
    ok(await site.api.executed(second["state_id"], {"v": "", "w": ""}))
    ok(await site.api.errored(third["state_id"], "failed"))
    assert [each["status"] for each in await children()] == ["FAILED", "PENDING", "SUCCESS"]
    assert first["identifier"] == "g"
