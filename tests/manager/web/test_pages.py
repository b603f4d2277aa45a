"""Every page: with nothing to show, with what users made hostile, and with what is not there."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from html import unescape
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
import trio
from starlette.types import Message

from exotrio._util.times import from_unix_ms
from exotrio._wire.keys import NewKey, make_key
from exotrio.cli.commands.runtimes import stop_row
from exotrio.client import StopReceipt
from exotrio.graph import pinned_name
from exotrio.manager.engine.keys import add_key
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.schedules import fire_schedules
from exotrio.manager.rules.access import Caller
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.web.page import Page, PageRequest
from exotrio.manager.web.pages import PAGES
from exotrio.manager.web.pages import run as run_pages
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for, report
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, UNKNOWN_RUN, SettableClock, declare, ok, place
from tests.support.manager import tallied
from tests.support.web import KEY, SCRIPT, Site, failed_run, open_site, text_of

LISTS = ("", "/runs", "/graphs", "/nodes", "/runtimes")
A_RUN, A_STATE = r'name="run" value="([^"]+)"', r'scope="row"><a href="/ns/shop/states/([^"]+)"'


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def site(clock: SettableClock) -> AsyncIterator[Site]:
    async with open_site(clock=clock) as opened:
        yield opened


async def matches_in(site: Site, link: str, what: str, fragment: str = "list") -> list[str]:
    """Return what is found in a list, and in all the pages that it leads on to."""
    matches = []
    while link:
        html = await site.browser.fragments(link.partition("#")[0], fragment)
        matches += re.findall(what, html)
        following = re.search(r'href="([^"]+)" rel="next"', html)
        link = text_of(following[1]) if following else ""
    return matches


async def fan_out(site: Site, count: int, **fields: Any) -> Flow:
    """Return a run in which so many leaves wait."""
    leaf = place("leaf", inputs={"v": "${{ fan.outputs.v }}"})
    flow = await Flow.start(site.api, place("fan", "leaf"), leaf, **fields)
    await flow.run("fan", *({"v": str(index), "w": ""} for index in range(count)))
    return flow


async def every_page(site: Site) -> dict[str, str]:
    """Return path to HTML of all pages about a failed run."""
    flow, state = await failed_run(site.api, error=f"Traceback\nValueError: {SCRIPT}")
    paths = [
        *(f"/ns/shop{path}" for path in LISTS),
        f"/ns/shop/runs/{flow.run_id}",
        f"/ns/shop/runs?text={KEY}",
        f"/ns/shop/states/{state}",
        "/ns/shop/graphs/orders",
        "/ns/shop/nodes/Node_second",
        "/ns/shop/system",
    ]
    return {path: await site.browser.page(path) for path in paths}


@pytest.mark.parametrize("path", LISTS)
async def test_an_empty_page_says_what_to_do(site: Site, path: str) -> None:
    html = await site.browser.page(f"/ns/unknown{path}")
    assert 'class="quiet empty"' in html


@pytest.mark.parametrize("path", [*LISTS, "/search?q=x", "/graphs/orders"])
async def test_an_empty_namespace_is_404(site: Site, path: str) -> None:
    await failed_run(site.api)
    ok(await site.api.elsewhere("<b>").register([declare("N")]))
    html = await site.browser.page(f"/ns/no<b>dy{path}", 404)
    assert "There is no namespace no&lt;b&gt;dy: " in html
    assert 'Namespaces: <a href="/ns/%3Cb%3E">&lt;b&gt;</a>, <a href="/ns/shop">shop</a>' in html
    assert '<a href="/ns/shop/runs">runs</a>' in html, "of one that there is"
    await site.api.elsewhere("no<b>dy").register([declare("N")])
    await site.browser.page(f"/ns/no<b>dy{path}", 404 if "orders" in path else 200)


async def test_the_start_page_redirects_to_the_namespace_of_the_newest_run(site: Site) -> None:
    assert (await site.browser.get("/")).headers["location"] == "/ns/default"
    ok(await site.api.elsewhere("a/b?c".replace("/", "-")).register([declare("N")]))
    assert (await site.browser.get("/")).headers["location"] == "/ns/a-b%3Fc"
    await failed_run(site.api)
    assert (await site.browser.get("/")).headers["location"] == "/ns/shop"
    assert 'href="/ns/a-b%3Fc"' in await site.browser.page("/ns/shop")


async def test_a_theme_applies_to_every_page_from_its_first_byte(site: Site) -> None:
    themed = re.compile(r'<html lang="en"(?: data-theme="(\w+)")?>')
    for theme, attribute in (("dark", "dark"), ("light", "light"), ("auto", None)):
        answer = await site.browser.post("/theme", {"theme": theme, "to": "/ns/shop/runs?status=failed"})
        assert answer.headers["location"] == "/ns/shop/runs?status=failed"
        for path in ("/ns/shop/runs", "/guide"):
            assert themed.findall(await site.browser.page(path)) == [attribute or ""], path
        absent = await site.browser.page("/ns/shop/runs/absent", 404)
        assert themed.findall(absent) == [attribute or ""]
    assert "aria-pressed" in absent
    assert (await site.browser.post("/theme", {"theme": '"><script>'})).status_code == 400
    html = await site.browser.page("/ns/shop/runs/50%2541%20x", 404)
    assert 'name="to" value="/ns/shop/runs/50%2541%20x"' in html, "as it was asked for"
    far = await site.browser.post("/theme", {"theme": "dark", "to": "//evil.example"})
    assert far.headers["location"] == "/"


async def test_nothing_of_users_becomes_markup_and_no_page_holds_the_key(site: Site) -> None:
    for path, html in (await every_page(site)).items():
        assert "<script>alert" not in html, path
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", html), f"{path}: inline code or style"
        assert html.count("<script") == 1, path
        if "text=" not in path:
            assert KEY not in html, path
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', html), f"{path}: another host"


async def test_every_page_can_be_used_by_keyboard_and_read_aloud(site: Site) -> None:
    for path, html in (await every_page(site)).items():
        assert '<html lang="en">' in html
        assert '<a class="skip" href="#main">' in html
        assert '<main id="main"' in html
        assert html.count("<h1") == 1, path
        assert '<nav aria-label="Pages">' in html
        assert 'id="live" class="live" role="status" aria-live="polite"' in html
        ids = re.findall(r'\sid="([^"]*)"', html)
        assert len(ids) == len(set(ids)), f"{path}: an id is used twice"
        for control in re.findall(r"<(?:input|select|textarea)\b[^>]*>", html):
            named = 'type="hidden"' in control or "aria-label" in control
            owner = re.search(r'\sid="([^"]*)"', control)
            labelled = owner is not None and f'for="{owner[1]}"' in html
            assert named or labelled or _is_within_label(html, control), f"{path}: {control}"


def _is_within_label(html: str, control: str) -> bool:
    before = html[: html.index(control)]
    return before.rfind("<label") > before.rfind("</label>")


@pytest.mark.parametrize(
    "path",
    [
        f"/runs/{UNKNOWN_RUN}",
        "/runs/%00",
        f"/states/{UNKNOWN_ID}",
        "/states/nonsense",
        "/graphs/absent",
        "/nodes/absent",
        "/absent",
    ],
)
async def test_an_unknown_object_is_a_404_page_with_navigation(site: Site, path: str) -> None:
    await failed_run(site.api)
    html = await site.browser.page(f"/ns/shop{path}", 404)
    assert "Not found" in html
    assert '<a href="/ns/shop/runs">Runs</a>' in html, "and leads to the other pages"
    live = await site.browser.get(f"/ns/shop{path}", headers={"x-fragments": "list"})
    assert live.status_code == 404


async def test_a_mistyped_address_is_a_page_with_links_for_a_browser_only(site: Site) -> None:
    await failed_run(site.api)
    for path in ("/nope", "/run/1", "/ns/shop/nope", "/%2e%2e"):
        answer = await site.browser.get(path, headers={"accept": "text/html,*/*;q=0.8"})
        assert answer.status_code == 404
        for name in ("", "/runs", "/graphs", "/nodes"):
            assert f'href="/ns/shop{name}"' in answer.text.partition("<main")[2], path
    anonymous = await site.anonymous.get("/nope", headers={"accept": "text/html"})
    assert anonymous.headers["location"] == "/sign-in?to=%2Fnope"
    messages: list[Message] = []

    async def keep(message: Message) -> None:
        messages.append(message)

    headers = [(b"host", b"localhost"), (b"accept", b"text/html")]
    scope = {"type": "http", "method": "GET", "path": "*", "query_string": b"", "headers": headers}
    await site.app(scope, trio.sleep_forever, keep)
    assert messages[0]["status"] == 401
    for path, accept in (("/nope", "*/*"), ("/v0/nope", "text/html")):
        answer = await site.browser.get(path, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/json")
        assert (await site.browser.client.post(path, headers={"accept": accept})).status_code == 401


async def test_objects_of_another_namespace_are_404(site: Site) -> None:
    flow, state = await failed_run(site.api)
    ok(await site.api.elsewhere("other").register([declare("N")]))
    await site.browser.page(f"/ns/other/runs/{flow.run_id}", 404)
    await site.browser.page(f"/ns/other/states/{state}", 404)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.folder)
async def test_a_fragment_is_the_same_alone_and_in_the_page(site: Site, page: object) -> None:
    flow, state = await failed_run(site.api)
    ok(await site.api.native("PUT", "limit/stripe", json={"at_most": 1}))
    path = page.path.format(  # type: ignore[attr-defined]
        namespace="shop",
        run_id=flow.run_id,
        state_id=state,
        graph="orders",
        node="Node_first",
        limit="stripe",
    )
    html = await site.browser.page(path)
    for name in page.fragments:  # type: ignore[attr-defined]
        alone = await site.browser.fragments(path, name, "no-such-fragment")
        assert alone.startswith(f'<div data-fragment="{name}">')
        assert alone in html


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.folder)
async def test_what_a_key_may_not_do_is_not_offered(site: Site, page: Page) -> None:
    flow, state = await failed_run(site.api)
    await flow.trigger(inputs={"note": "it waits, so that it can be cancelled"})
    ok(await site.api.native("PUT", "limit/stripe", json={"at_most": 1}))
    ok(await site.api.heartbeat(worker_id="w1"))
    key = make_key()
    new = NewKey(name="ada", digest=key.digest, scopes=["read:shop", "admin"])
    await site.service.store.write(add_key, key.id, new)
    await site.anonymous.sign_in(key.text)
    names = {"run_id": flow.run_id, "state_id": state, "graph": "orders", "node": "Node_first"}
    path = page.path.format(namespace="shop", limit="stripe", **names)
    forms = re.findall(r'method="post" action="([^"]*)"', await site.anonymous.page(path))
    assert set(forms) == {"/sign-out", "/theme"}


async def test_changes_of_one_run_do_not_change_the_page_of_another(site: Site, clock: SettableClock) -> None:
    flow, _ = await failed_run(site.api)
    request = PageRequest(
        service=site.service, namespace="shop", params={"run_id": flow.run_id}, query={}, caller=Caller()
    )

    async def versions() -> Mapping[str, object]:
        return await site.service.store.read(run_pages.PAGE.versions, request)

    before = await versions()
    other = await Flow.start(site.api, place("other"), graph="other")
    await other.run("other")
    clock.advance(10_000)
    assert await versions() == before
    await site.browser.do(f"/ns/shop/runs/{flow.run_id}/retry")
    after = await versions()
    same = [name for name in before if after[name] == before[name]]
    assert same == ["waits", "children"], "it waits for no event, and started no run"


# -- what the pages show


async def test_a_failure_is_three_clicks_away_from_the_start(site: Site, clock: SettableClock) -> None:
    error = "Traceback (most recent call last):\n  File x\nValueError: no items\na note at its end"
    flow, state = await failed_run(site.api, error=error)
    await tallied(site.service, clock)
    overview = await site.browser.page("/ns/shop")
    assert f'href="/ns/shop/states/{state}"' in overview, "one click, from the failing node"
    assert f'href="/ns/shop/runs/{flow.run_id}"' in overview
    run = await site.browser.page(f"/ns/shop/runs/{flow.run_id}?status=errored")
    assert f'href="/ns/shop/states/{state}"' in run
    assert "ValueError: no items" in overview
    listed = run[run.index('class="list states"') :]
    assert "ValueError: no items" in listed
    assert "a note at its end" not in listed
    shown = await site.browser.page(f"/ns/shop/states/{state}")
    assert error in shown


async def test_the_overview_shows_runs_that_have_not_ended_first_as_top_does(site: Site) -> None:
    waits = await Flow.start(site.api, place("slow"), graph="slow")
    for _ in range(13):
        run = (await Flow.start(site.api, place("quick"), graph="quick")).run_id
        ok(await site.api.native("POST", f"run/{run}/cancel"))
    first, *others = re.findall(r'data-key="(.*?)"', await site.browser.fragments("/ns/shop", "runs"))
    overview = ok(await site.api.native("GET", "overview?runs=12"))
    assert [first, *others] == [run["run_id"] for run in overview["runs"]]
    assert (first, len(others)) == (waits.run_id, 11)


async def test_the_overview_counts_waiting_running_and_failed_states(
    site: Site, clock: SettableClock
) -> None:
    await failed_run(site.api)
    await Flow.start(site.api, place("slow"), graph="slow", runs=2)
    await tallied(site.service, clock)
    ok(await site.api.claim(["Node_slow"], 1))
    clock.advance(90_000)
    now = text_of(await site.browser.fragments("/ns/shop", "now"))
    assert re.findall(r'class="figure">(\d+)', now) == ["1", "1", "1"]
    assert "the oldest is due for 1 min" in now
    for path, states in (("", 2), ("/graphs/orders", 2), ("/graphs/slow", 0), ("/nodes/Node_second", 1)):
        trend = await site.browser.fragments(f"/ns/shop{path}", "trend")
        attempts = "attempt" if states == 1 else "attempts"
        assert f"<strong>{states}</strong> {attempts} ended" in trend, path
    assert "<strong>1</strong> run ended, " in await site.browser.fragments("/ns/shop", "trend")
    assert "(50.0 %)" in await site.browser.fragments("/ns/shop", "trend")
    clock.advance(3_700_000)
    assert "no attempts ended" in await site.browser.fragments("/ns/shop", "trend")
    clock.advance(2 * 86_400_000)
    for path in ("", "/graphs/orders"):
        assert "no attempts ended" in await site.browser.fragments(f"/ns/shop{path}?range=24h", "trend")
        week = await site.browser.page(f"/ns/shop{path}?range=7d")
        assert "<strong>2</strong> attempts ended" in week
        assert 'range=7d" aria-current="true"' in week


async def test_the_overview_shows_failing_nodes_since_when_and_where_to_retry(
    site: Site, clock: SettableClock
) -> None:
    flow, _ = await failed_run(site.api, "gateway timed out")
    await tallied(site.service, clock)
    clock.advance(2 * 3_600_000)
    await flow.trigger(inputs={"note": ""})
    await flow.run("first")
    last = await flow.fail("second", times=1, error="gateway timed out")
    retried = await Flow.start(site.api, place("flaky"), graph="flaky")
    await retried.fail("flaky", times=1)
    await tallied(site.service, clock)
    page = await site.browser.page("/ns/shop")
    assert page.index("What fails") < page.index("Last runs")
    tile = re.findall(r'class="figure">(\d+)', await site.browser.fragments("/ns/shop", "now"))[-1]
    fails = text_of(await site.browser.fragments("/ns/shop", "failing"))
    second, flaky = fails.split("<tr")[2:]
    assert re.findall(r'data-label="Failed, 24 h" class="num[^"]*">(\d+)', fails) == [tile, "0"] == ["2", "0"]
    assert "/nodes/Node_second" in second
    assert "2 h ago" in second
    assert f'href="/ns/shop/states/{last}">gateway timed out' in second
    assert '1 <span class="quiet">of 1 failed' in second, "the other one was two hours ago"
    assert "all failures were retried" in flaky
    link = text_of(re.findall(r'href="([^"]*)">runs to retry', second)[0])
    assert len(re.findall(A_RUN, await site.browser.page(link))) == 2


async def test_the_overview_leads_to_runs_with_errored_states_also_while_they_run(
    site: Site, clock: SettableClock
) -> None:
    places = place("first", "slow", "bad"), place("slow"), place("bad")
    flow = await Flow.deploy(site.api, *places, retry_policy=NO_RETRY)
    for _ in range(2):
        await flow.trigger()
        await flow.run("first")
        await flow.fail("bad", times=1)
        clock.advance(3_600_000)
    await Flow.start(site.api, place("fine"), graph="fine")
    tile = text_of(await site.browser.fragments("/ns/shop", "now"))
    link = re.findall(r'href="([^"]*)">runs with errored states', tile)[0]
    assert len(re.findall(A_RUN, await site.browser.page(link))) == 2


async def test_buffered_states_are_not_shown_as_running(site: Site) -> None:
    await Flow.start(site.api, place("work"), runs=5)
    ok(await site.api.claim(["Node_work"], 1))
    ok(await site.api.native_claim({"Node_work": 3}, limit=3, worker_id="w-1"))
    ok(await site.api.heartbeat("w-1", runtime="r", workers=1))
    now = text_of(await site.browser.fragments("/ns/shop", "now"))
    assert re.findall(r'class="figure">(\d+)', now) == ["2", "1", "0"]
    assert "and 2 buffered" in now


async def test_filters_of_runs_are_kept_in_the_address_and_in_the_form(site: Site) -> None:
    flow, _ = await failed_run(site.api)
    other = await Flow.start(site.api, place("only"), graph="fine")
    for query, matches in (
        ("", {flow.run_id, other.run_id}),
        ("graph=orders", {flow.run_id}),
        ("status=running", {other.run_id}),
        ("status=pending", set()),
        ("status=failed&since=1h", {flow.run_id}),
        ("text=IT+BROKE", {flow.run_id}),
        ("text=%25", set()),
        ("text=" + "alert('x')".replace("'", "%27"), {flow.run_id}),
        ("graph=absent", set()),
    ):
        html = await site.browser.page(f"/ns/shop/runs?{query}")
        shown = set(re.findall(A_RUN, html))
        assert shown == matches, query
    html = await site.browser.page("/ns/shop/runs?graph=orders&text=%22%3E")
    assert "<option selected>orders</option>" in html
    assert 'name="text" value="&#34;&gt;"' in html


async def test_the_search_redirects_to_a_single_hit_or_lists_all(site: Site) -> None:
    flow, state = await failed_run(site.api)
    near = str(UUID(int=UUID(flow.run_id).int ^ 1))
    ok(await site.api.native_trigger("orders", near, inputs={"note": "x"}))
    request = {"inputs": {"note": "x"}, "key": "order-17/ä"}
    keyed = ok(await site.api.native("POST", "graph/orders/trigger", json=request))["run_id"]
    ok(await site.api.elsewhere("other").register([declare("N_of_others")]))

    async def leads_to(text: str) -> str | None:
        response = await site.browser.get(f"/ns/shop/search?{urlencode({'q': text})}")
        return response.headers.get("location")

    assert await leads_to(flow.run_id) == f"/ns/shop/runs/{flow.run_id}"
    assert await leads_to(f" {flow.run_id.upper()} ") == f"/ns/shop/runs/{flow.run_id}"
    for text in (state, state[-4:], state[-12:].upper()):
        assert await leads_to(text) == f"/ns/shop/states/{state}", text
    for text in ("order-17/ä", "order-1", "ORDER-17"):
        assert await leads_to(text) == f"/ns/shop/runs/{keyed}", text
    assert await leads_to("it broke") == f"/ns/shop/runs/{flow.run_id}"
    assert await leads_to("node_first") == "/ns/shop/nodes/Node_first"
    assert await leads_to("NODE_") is None
    html = await site.browser.page("/ns/shop/search?q=NODE_")
    assert html.count('href="/ns/shop/nodes/Node_') == 2
    html = await site.browser.page(f"/ns/shop/search?q={flow.run_id[:8]}")
    assert re.findall(r'href="/ns/shop/runs/([^"]+)"', html) == [near, flow.run_id]
    html = await site.browser.page("/ns/shop/search?q=order")
    assert 'href="/ns/shop/graphs/orders"' in html
    assert f'href="/ns/shop/runs/{keyed}"' in html
    assert 'value="order"' in html
    for text in ("N_of_others", flow.run_id[:5], state[:12], "f" * 16, "%", "a\0b", f"{SCRIPT}?"):
        html = await site.browser.page(f"/ns/shop/search?{urlencode({'q': text})}")
        assert "Nothing in this namespace" in html, text
    assert "Type an id" in await site.browser.page("/ns/shop/search")


async def test_a_search_shows_where_the_text_occurs(site: Site) -> None:
    flow, failed = await failed_run(site.api, error=f"{'x' * 90} the CARD <b> was refused")
    await flow.trigger(inputs={"note": json.dumps({"card": '"1"'})})
    (second,) = await flow.take("first")
    request = {"inputs": {"note": "x"}, "key": "card-17"}
    ok(await site.api.native("POST", "graph/orders/trigger", json=request))
    for path in ("search?q=card", "runs?text=card"):
        html = await site.browser.page(f"/ns/shop/{path}")
        found = r'(?s)class="second">([\w ]+) of <a href="/ns/shop/states/(\w+)">.*?</a>: <code>(.*?)</code>'
        where = re.findall(found, html)
        assert [(what, state, unescape(around)) for what, state, around in where] == [
            ("input note", second["state_id"], '{"<mark>card</mark>": "\\"1\\""}'),
            ("error", failed, f"…{'x' * 75} the <mark>CARD</mark> <b> was refused"),
        ], path
    html = await site.browser.page("/ns/shop/search?q=card")
    assert "<b>" not in html
    assert "<mark>card</mark>-17" in html
    html = await site.browser.page("/ns/shop/search?q=node")
    assert "<mark>Node</mark>_first" in html


async def test_states_of_a_run_are_filtered_by_node_and_status_and_come_in_pages(site: Site) -> None:
    flow = await fan_out(site, 120)
    (leaf,) = ok(await site.api.claim(["Node_leaf"], 1))["states"]
    ok(await site.api.errored(leaf["state_id"]))
    path = f"/ns/shop/runs/{flow.run_id}"
    html = await site.browser.fragments(path, "states")
    assert re.findall(r'class="c-(\w+)"', html) == ["success", "waiting", "replaced"]
    seen = await matches_in(site, f"{path}?node=leaf&status=waiting", A_STATE, "states")
    assert len(seen) == len(set(seen)) == 120
    for query in ("node=absent", "status=absent", "node=fan&status=errored"):
        assert "No states match" in await site.browser.page(f"{path}?{query}")


async def test_values_in_a_list_of_states_are_shown_as_they_are_and_not_as_json_in_json(site: Site) -> None:
    values = {"v": json.dumps({"sku": 'the "A"\n'}), "w": "x" * 200}
    flow = await Flow.deploy(site.api, place("root", "next", inputs={"note": 'say "hi"'}), place("next"))
    await flow.trigger()
    await flow.run("root", values)
    html = text_of(await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "states"))
    (shown,) = re.findall(r"<code>(v: .*?)</code>", html)
    assert shown.startswith(f"v: {values['v']}, w: xxx")
    assert shown.endswith("x…")
    await flow.trigger(inputs={"note": '{"a": [1]}'})
    html = text_of(await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "states"))
    assert '<code class="quiet">note: {"a": [1]}</code>' in html


async def test_states_are_listed_in_each_order_without_gaps(site: Site, clock: SettableClock) -> None:
    flow = await fan_out(site, 40, retry_policy=NO_RETRY)
    leaves = [state["state_id"] for state in await flow.take("leaf", 40)]
    clock.advance(1_000)
    for leaf in leaves[:28]:
        ok(await site.api.errored(leaf, "it broke"))
    clock.advance(60_000)
    ok(await site.api.executed(leaves[28]))

    async def pages(query: str) -> list[str]:
        return await matches_in(site, f"/ns/shop/runs/{flow.run_id}?{query}", A_STATE, "states")

    oldest = await pages("sort=oldest")
    assert oldest == sorted(oldest)
    assert len(oldest) == 80
    assert await pages("") == leaves[:28] + [each for each in oldest if each not in leaves[:28]]
    assert await pages("node=leaf&status=errored") == leaves[:28]
    assert await pages("sort=newest") == oldest[::-1]
    assert await pages("sort=newest&status=errored") == leaves[:28][::-1]
    slowest = await pages("sort=slowest")
    assert sorted(slowest) == oldest
    assert slowest[:40] == leaves[28:] + leaves[:28], "also those that still run"
    fans = [each for each in oldest if each in set(await pages("node=fan"))]
    assert await pages("sort=node") == fans + [each for each in oldest if each not in fans]
    assert await pages("sort=nonsense&after=nonsense") == await pages("")
    assert "sort=slowest" in await site.browser.page(f"/ns/shop/runs/{flow.run_id}?sort=slowest&node=leaf")
    ok(await site.api.native("POST", f"run/{flow.run_id}/cancel"))
    first = (await pages(""))[:28]
    assert first == leaves[:28], "what was cancelled has not failed"


async def test_the_page_of_a_run_shows_its_failures_first(site: Site, clock: SettableClock) -> None:
    flow = await Flow.start(
        site.api,
        place("fan", "leaf"),
        place("leaf", inputs={"v": "${{ fan.outputs.v }}"}),
        retry_policy=NO_RETRY,
    )
    path = f"/ns/shop/runs/{flow.run_id}"
    assert "What failed" not in await site.browser.page(path)
    await flow.run("fan", *({"v": str(index), "w": ""} for index in range(4)))
    leaves = [state["state_id"] for state in await flow.take("leaf", 4)]
    for leaf, error in zip(leaves[::-1], ("no 3", "gone", "gone", "gone"), strict=True):
        ok(await site.api.errored(leaf, error))
        clock.advance(90_000)
    html = await site.browser.page(path)
    assert html.index("What failed") < html.index(">Graph<")
    html = text_of(await site.browser.fragments(path, "faults"))
    first = re.search(r'href="/ns/shop/states/(\w+)" title="\w+" id="first-failed"', html)
    assert first is not None
    assert first[1] == leaves[3]
    matches = re.findall(r"(\d+).</strong> <strong>leaf</strong> <code>([^<]+)</code>", html)
    assert matches == [("3", "gone"), ("1", "no 3")]
    assert f'href="{path}?node=leaf&status=errored#states"' in html
    assert re.findall(r">(\d+ min) ago<", html) == ["6 min", "1 min", "4 min", "1 min", "6 min"]


async def test_the_picture_of_a_run_has_one_box_for_each_node(site: Site) -> None:
    flow = await fan_out(site, 3_000)
    path = f"/ns/shop/runs/{flow.run_id}"
    picture = await site.browser.fragments(path, "graph")
    assert picture.count('class="face"') == 2
    assert "3,000" in picture
    assert f'href="{path}?node=leaf#states"' in picture
    timeline = await site.browser.fragments(path, "timeline")
    assert len(timeline) < 60_000
    chosen = await site.browser.fragments(f"{path}?node=leaf", "graph")
    assert chosen.count('aria-current="true"') == 1


async def test_a_state_shows_its_attempts_and_what_happened_to_its_leases(site: Site) -> None:
    flow = await Flow.start(site.api, place("work", inputs={"v": "x"}))
    state = await claim_one(site.api, limits={"Node_work": 1})
    path = f"/ns/shop/states/{state['state_id']}"
    assert "has no end" in await site.browser.page(path)
    ok(await site.api.release(states=[{"state_id": state["state_id"], "token": state["lease"]["token"]}]))
    html = await site.browser.page(path)
    assert "released" in html
    assert "<dt>Last claimed</dt>" in html
    assert "<dt>Claimed by</dt><dd>contract-worker" in html, "no runtime has it"
    again = await claim_one(site.api, limits={"Node_work": 1})
    item = {"state_id": again["state_id"], "token": again["lease"]["token"]}
    await report(site.api, {**item, "outcome": "errored", "error": "first"})
    html = await site.browser.page(path)
    attempts = re.findall(r'href="/ns/shop/states/([0-9a-f]{24})"', html)
    assert len(set(attempts)) == 1
    assert '<span class="second"><span class="bad">first</span> · contract-worker</span>' in html
    await Flow.start(site.api, place("other"), graph="other", retry_policy=NO_RETRY)
    last = await claim_one(site.api, limits={"Node_other": 1}, worker_id="w-2")
    await report(site.api, item_for(last, outcome="errored", error="second"))
    failures = await site.browser.fragments("/ns/shop/nodes/Node_other", "failures")
    assert '<span class="second">w-2</span>' in failures, "which runtime it was"
    assert "retry 1" in html
    assert "attempt 1 of 3</span>" in html
    assert "first" in await site.browser.page(f"/ns/shop/states/{attempts[0]}")
    assert flow.run_id in html


async def test_the_newest_200_events_of_a_state_are_shown(site: Site) -> None:
    await Flow.start(site.api, place("work"))
    state_id = (await claim_one(site.api, limits={"Node_work": 1}))["state_id"]

    def add(tx: Transaction) -> None:
        rows = [(tx.seq(state_id), number, f"event {number}") for number in range(201)]
        tx.insert("events", ("state", "at", "kind"), rows)

    await site.service.store.write(add)
    shown = re.findall(r"<li>event (\d+)<", await site.browser.page(f"/ns/shop/states/{state_id}"))
    assert [int(number) for number in shown] == list(range(200, 0, -1))


async def test_a_state_shows_where_else_the_same_error_occurred(site: Site) -> None:
    frame = 'Traceback (most recent call last):\n  File "/srv/orders.py", line 88, in execute\n    charge()\n'
    failed = [
        (await failed_run(site.api, error=error))[1]
        for error in (
            f"{frame}ValueError: order 1",
            f"{frame}KeyError: 'order'",
            f"{frame}ValueError: order 27",
        )
    ]
    html = await site.browser.page(f"/ns/shop/states/{failed[0]}")
    link = f"/ns/shop/nodes/Node_second?like={failed[0]}"
    assert re.search(
        rf'The same error elsewhere: <a href="{re.escape(link)}#h-failures">1 state</a> in 1 run<', html
    )
    assert "The same error" not in await site.browser.page(f"/ns/shop/states/{failed[1]}")
    listed = re.findall(r'<li data-key="(\w+)">', await site.browser.fragments(link, "failures"))
    assert listed == [failed[2], failed[0]]
    for other in ("x", UNKNOWN_ID, failed[0][:-1] + "f"):
        html = await site.browser.fragments(f"/ns/shop/nodes/Node_second?like={other}", "failures")
        assert len(re.findall('<li data-key="', html)) == 3, (
            "what is not a failed state of the node is ignored"
        )


async def test_a_state_shows_its_log_folded_if_it_is_long(site: Site, clock: SettableClock) -> None:
    await Flow.start(site.api, place("work", inputs={"v": "x"}))
    for lines in (1, 41):
        clock.advance(1)
        state = await claim_one(site.api, limits={"Node_work": 1})
        path = f"/ns/shop/states/{state['state_id']}"
        line = {"at": "2026-01-31T12:00:00.123Z", "level": "ERROR", "logger": "a&b", "text": "<b>no\nprice"}
        item = item_for(state, outcome="requeued", delay_ms=1, logs=[line] * lines)
        assert ("Logged and printed" in await site.browser.page(path)) is (lines > 1)
        assert await report(site.api, item) == ["ok"]
        html = await site.browser.page(path)
        assert html.count("12:00:00.123</time>") == lines
        assert '<span class="bad" title="a&amp;b">ERROR</span><pre>&lt;b&gt;no\nprice</pre>' in html
        assert ("41 lines, the last at 12:00:00 UTC" in html) is (lines > 40)


async def test_an_invalid_graph_shows_each_problem_at_its_node(site: Site) -> None:
    ok(await site.api.register([declare("Node_a")]))
    body = site.api.body(
        [place("a", "b"), {**place("b"), "timeout_minutes": 90, "retry_policy": {"max_retries": 7}}],
        secrets={"token": "hidden-value"},
        triggers=[
            {"type": "CRON", "value": {"expression": "*/5 * * * *"}},
            {
                "type": "CRON",
                "value": {"expression": "0 9 * * *", "timezone": "Asia/Kolkata", "priority": "low"},
            },
        ],
    )
    ok(await site.api.put_graph("broken", body), 201)
    html = text_of(await site.browser.page("/ns/shop/graphs/broken"))
    assert "invalid: it cannot be triggered" in html
    assert html.count("is not registered in namespace") >= 2
    assert "<code>token</code>" in html
    assert re.search(r"<code>b</code> <span class=.quiet.>1 h 30 min</span>", html)
    assert re.search(r"<code>b</code> <span class=.quiet.>at most 7, exponential, from ", html)
    assert "hidden-value" not in html
    assert "Asia/Kolkata, low priority<" in html
    assert "UTC</span></h3>" in html, "nothing is said of a normal priority"
    assert html.count('<time class="at"') == 10, "the next five times of each of its schedules"
    assert len(re.findall(r" 09:00</span> .* 03:30:00 UTC</span></time>", html)) == 5, "there, and in UTC"
    assert "invalid" in await site.browser.page("/ns/shop/graphs")
    ok(await site.api.cancel_triggers("broken"))
    html = await site.browser.page("/ns/shop/graphs/broken")
    assert html.count("was cancelled until the graph is stored again") == 2


async def test_pages_show_which_branch_was_taken_and_why(site: Site) -> None:
    when = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "<x>"}
    flow = await Flow.start(site.api, place("a", "b", "c"), place("b", when=when), place("c", otherwise=True))
    html = unescape(await site.browser.page("/ns/shop/graphs/graph"))
    assert html.count('class="edge branch"') == 2
    assert 'if a.v == "<x>"' in html
    assert ">otherwise<" in html
    source = await flow.run("a", {"v": "<y>"})
    taken = await flow.one("c")
    page = await site.browser.page(f"/ns/shop/runs/{flow.run_id}")
    assert "<y>" not in page
    assert page.count('class="edge branch untaken"') == page.count(">not taken<") == 1
    assert "follows a, and a.v == \"<x>\" was not true: it was '<y>'" in unescape(page)
    html = unescape(await site.browser.page(f"/ns/shop/states/{source}"))
    assert re.search(r"<code>b</code> not taken: .*a.v == \"<x>\", and it was '<y>'", html)
    assert re.search(r"<code>c</code> taken: .*no other branch was taken", html)
    assert "no other branch was taken" in await site.browser.page(f"/ns/shop/states/{taken}")


async def test_a_node_without_a_runtime_is_marked(site: Site) -> None:
    await Flow.start(site.api, place("work"))
    assert "no runtime offers it" in await site.browser.page("/ns/shop/nodes")
    assert "no runtime offers this" in await site.browser.page("/ns/shop/nodes/Node_work")
    ok(await site.api.native_claim({"Node_work": 0}, worker_id="w-1"))
    assert "no runtime offers this" not in await site.browser.page("/ns/shop/nodes")
    assert "w-1" in await site.browser.page("/ns/shop/nodes")


async def test_nodes_show_how_long_they_take_and_how_often_they_fail(
    site: Site, clock: SettableClock
) -> None:
    flow = await Flow.start(site.api, place("work"))
    (claimed,) = await flow.take("work")
    clock.advance(4_000)
    ok(await site.api.errored(claimed["state_id"]))
    await tallied(site.service, clock)
    html = await site.browser.fragments("/ns/shop/nodes/Node_work", "now")
    assert html.count("100 %") == 2
    # The median, and two percentiles that one attempt cannot tell from the maximum; over an hour and a day.
    assert (html.count(">≤3.8 s<"), html.count(">max ≤3.8 s of 1<")) == (2, 4)
    shown = await site.browser.page("/ns/shop/nodes")
    assert (shown.count(">≤3.8 s<"), shown.count(">max ≤3.8 s of 1<")) == (1, 1)
    clock.advance(2 * 3_600_000)
    assert (await site.browser.fragments("/ns/shop/nodes/Node_work", "now")).count("100 %") == 1


def numbers_of(html: str) -> list[str]:
    """Return what a runtime holds and what of it is busy, buffered and reporting."""
    cells = re.findall(
        r'data-label="(?:Held|Busy|Buffered|Reporting)" class="num(?: zero)?">(.*?)</td>', html
    )
    return [re.sub(r"<[^>]*>", "", cell) for cell in cells]


async def test_a_runtime_shows_what_it_runs(site: Site, clock: SettableClock) -> None:
    flow = await Flow.start(site.api, place("work"))
    state = await claim_one(site.api, limits={"Node_work": 1}, worker_id="w-1")
    beat = {
        "worker_id": "w-1",
        "runtime": SCRIPT,
        "phase": "running",
        "busy": 1,
        "buffered": 2,
        "reporting": 3,
        "workers": 4,
        "states": [
            {
                "state_id": state["state_id"],
                "token": state["lease"]["token"],
                "running": True,
                "buffered_ms": 0,
                "progress": {"fraction": 0.4, "text": f"12 of 30 {SCRIPT}"},
            }
        ],
    }
    ok(await site.api.native("POST", "heartbeat", json=beat))
    clock.advance(5_000)
    html = await site.browser.page("/ns/shop/runtimes")
    assert '<td data-label="At risk" class="num">5.0 s</td>' in html
    assert f'href="/ns/shop/states/{state["state_id"]}"' in html
    assert numbers_of(html) == ["1", "1 of 4", "0", "0"], "all are counted in the database"
    assert "40 %" in html
    assert "12 of 30" in html
    assert 'class="name">running ' in html
    assert "Last poll" in html
    ok(await site.api.heartbeat("w-3", runtime="r", phase="draining", workers=9))
    page = await site.browser.page("/ns/shop")
    assert "1 of 4 workers are busy</p>" in re.sub("<(?!/p)[^>]*>", "", page)
    await Flow.start(site.api, place("work"))
    other = await claim_one(site.api, limits={"Node_work": 1}, worker_id="w-3")
    page = re.sub("<[^>]*>", "", await site.browser.page("/ns/shop"))
    assert "1 of 4 workers are busy, and 1 of runtimes that take no more work" in page
    assert flow.run_id in await site.browser.page("/ns/shop/runs?status=running")
    assert state["state_id"] in await site.browser.page("/ns/shop/runtimes?worker=w-1")
    assert state["state_id"] not in await site.browser.page("/ns/shop/runtimes?worker=w-2")
    for path in (f"/ns/shop/runs/{flow.run_id}", f"/ns/shop/states/{state['state_id']}"):
        shown = text_of(await site.browser.page(path))
        assert '<span class="num">40 %</span>: 12 of 30' in shown
    for held in (state, other):
        item = {"state_id": held["state_id"], "token": held["lease"]["token"]}
        await report(site.api, {**item, "outcome": "executed", "outputs": [{"v": "", "w": ""}]})
    idle = await site.browser.page("/ns/shop/runtimes")
    assert "No runtime holds a state now" in idle, "whatever its last heartbeat said"
    assert "different inputs" not in idle
    for worker_id, fields in (("new", f"(a, {SCRIPT}=) -> ()"), ("old", "(a) -> ()")):
        ok(await site.api.heartbeat(worker_id, runtime="r", nodes={"Mixed": fields}))
    mixed = text_of(await site.browser.page("/ns/shop/runtimes"))
    assert '<code>(a) -> ()</code> <span class="quiet">r (old)</span>' in mixed
    assert "r (new)" in mixed
    assert "<script>alert" not in html


async def test_versions_are_shown_with_what_needs_them(site: Site) -> None:
    assert "Live runtimes" not in await site.browser.page("/ns/shop/runtimes"), "nothing has a version"
    names = [pinned_name("Node_a", version) for version in ("1", "2")]
    ok(await site.api.register([declare(name) for name in names]))
    body = site.api.body([place("a")], version="1")
    await (await Flow.put(site.api, "graph", body)).trigger()
    ok(await site.api.native_claim({names[1]: 1}, limit=0, worker_id="w"))
    ok(await site.api.heartbeat("w", runtime="r", phase="running", version="2"))
    shown = re.sub("<[^>]*>", " ", await site.browser.page("/ns/shop/runtimes"))
    assert re.search(r"\b1 +0 +1 +graph +needed, and no live runtime has it", shown)
    assert re.search(r"\b2 +1 +0 +may be stopped", shown)
    assert "r 2" in shown
    system = text_of(await site.browser.page("/ns/shop/system"))
    assert "1 run in flight is pinned to version 1, and no live runtime has it" in system


async def test_states_without_a_runtime_are_marked_on_every_page(site: Site) -> None:
    flow = await Flow.start(site.api, place("work"))
    run = f"/ns/shop/runs/{flow.run_id}"
    state = re.findall(r"/ns/shop/states/([0-9a-f]{24})", await site.browser.fragments(run, "states"))[0]
    looks = {run: "graph", f"/ns/shop/states/{state}": "state", "/ns/shop/nodes": "list"}
    for path, fragment in looks.items():
        assert "no runtime offers" in await site.browser.fragments(path, fragment), path
    assert "no runtime claims" in await site.browser.fragments("/ns/shop", "now")
    request = PageRequest(
        service=site.service, namespace="shop", params={"run_id": flow.run_id}, query={}, caller=Caller()
    )
    before = (await site.service.store.read(run_pages.PAGE.versions, request))["graph"]
    ok(await site.api.native_claim({"Node_work": 0}, worker_id="w-1"))
    after = (await site.service.store.read(run_pages.PAGE.versions, request))["graph"]
    assert before != after, "an open page hears of it"
    for path, fragment in looks.items():
        assert "no runtime offers" not in await site.browser.fragments(path, fragment), path
    assert "no runtime claims" not in await site.browser.fragments("/ns/shop", "now")


async def test_a_runtime_that_works_on_one_run_is_missing_only_for_states_of_other_runs(site: Site) -> None:
    flow = await Flow.start(site.api, place("work"), runs=2)
    first, _ = (run["run_id"] for run in ok(await site.api.find_runs())["runs"])

    async def shows(path: str, fragment: str) -> str:
        return re.sub("<[^>]*>", "", text_of(await site.browser.fragments(path, fragment)))

    async def look(run_id: str) -> list[bool]:
        """Return what the pages say that lacks a runtime: the run, its node in the list, the overview."""
        run = f"/ns/shop/runs/{run_id}"
        others = "the runtimes that offer Node_work only work on other runs"
        graph = "only runtimes of other runs offer this" in await site.browser.fragments(run, "graph")
        return [
            others in await shows(run, "summary"),
            graph,
            "no runtime for 1 waiting of other runs" in await shows("/ns/shop/nodes", "list"),
            "no runtime for 1 waiting of other runs" in await shows("/ns/shop/nodes/Node_work", "now"),
            "no runtime claims those of Node_work" in await shows("/ns/shop", "now"),
        ]

    ok(await site.api.native_claim({"Node_work": 0}, worker_id="w-1", run_id=first))
    ok(await site.api.heartbeat("w-1", runtime="r", phase="running", workers=1))
    assert await look(first) == [False, False, True, True, True]
    assert await look(flow.run_id if flow.run_id != first else _) == [True] * 5
    assert f"Node_work only for run {first[:8]}" in await shows("/ns/shop/runtimes", "list")
    assert f"r (only for run {first[:8]})" in await shows("/ns/shop/nodes", "list")
    ok(await site.api.native("POST", f"run/{_}/cancel"))
    assert await look(first) == [False] * 5


async def test_a_run_and_its_states_say_what_they_wait_for(site: Site, clock: SettableClock) -> None:
    flow = await Flow.start(
        site.api, place("work"), retry_policy={"max_retries": 1, "backoff_factor": 90_000}
    )
    run, said = f"/ns/shop/runs/{flow.run_id}", []

    def words_of(html: str) -> str:
        return re.sub("<[^>]*>", "", text_of(html)).strip()

    async def look() -> None:
        shown = await site.browser.fragments(run, "summary")
        said.append(words_of((re.findall(r">(waits[^\n]*)", shown) or [""])[0]))
        waits = (await flow.states("work"))[-1]["id"]
        assert said[-1] in words_of(await site.browser.page(f"/ns/shop/states/{waits}"))

    await look()
    ok(await site.api.heartbeat("w-1", runtime="r", phase="running", workers=2))
    ok(await site.api.native_claim({"Node_work": 0}, worker_id="w-1"))
    await look()
    await Flow.start(site.api, place("busy"), graph="busy", runs=2)
    busy = ok(await site.api.native_claim({"Node_busy": 2}, limit=2, worker_id="w-1"))["states"]
    states = [item_for(state, running=True) for state in busy]
    ok(await site.api.native_claim({"Node_work": 0}, worker_id="w-1"))
    ok(await site.api.heartbeat("w-1", runtime="r", phase="running", workers=2, states=states))
    await look()
    ok(await site.api.heartbeat("w-1", runtime="r", phase="draining", workers=2, states=states))
    await look()
    (state,) = ok(await site.api.native_claim({"Node_work": 1}, worker_id="w-2"))["states"]
    await report(site.api, item_for(state, outcome="errored", error="it broke"))
    await look()
    assert said == [
        "waits: no runtime offers Node_work; start one that has it",
        "",
        "waits for a free worker: all 2 that can run Node_work are busy",
        "waits: all runtimes that offer Node_work drain",
        "waits: Node_work is due in 1 min",
    ]


async def test_a_cancelled_state_does_not_look_like_an_error(site: Site, clock: SettableClock) -> None:
    flow = await fan_out(site, 30, retry_policy=NO_RETRY)
    (leaf,) = ok(await site.api.claim(["Node_leaf"], 1))["states"]
    ok(await site.api.errored(leaf["state_id"], "it broke"))
    clock.advance(1_000)
    path = f"/ns/shop/runs/{flow.run_id}"
    html = await site.browser.do(f"{path}/cancel")
    assert "30 errored or cancelled" in html
    listed = "".join(await matches_in(site, f"{path}?status=errored", "(?s)<tbody.*</tbody>", "states"))
    assert listed.count('<span class="chip c-pruned">cancelled</span>') == 29
    assert listed.count('<span class="chip c-errored">errored</span>') == 1
    timeline = await site.browser.fragments(path, "timeline")
    assert timeline.count(": cancelled, ") == 29
    assert timeline.count(": errored, ") == 1
    assert "s-errored" not in await site.browser.fragments(path, "graph")
    assert "s-errored" not in await site.browser.fragments("/ns/shop/runs", "list")
    cancelled = re.findall(r'states/([0-9a-f]{24})" title', listed)[-1]
    state = await site.browser.page(f"/ns/shop/states/{cancelled}")
    assert '<span class="chip c-pruned">cancelled</span>' in state
    assert 'class="trace"' not in state
    events = await site.browser.fragments(path, "events")
    assert events.count("<li ") == 1, "what happened to many at once is one line"
    assert "and 28 more" in events


async def test_the_page_of_a_run_shows_its_inputs_and_results(site: Site, clock: SettableClock) -> None:
    flow = await Flow.deploy(
        site.api,
        place("work", "end", inputs={"note": "of the graph"}),
        place("end", inputs={"v": "${{ work.outputs.v }}"}),
        store_config={"default_values": {"a": "default", "b": "replaced"}},
        triggers=[{"type": "CRON", "value": {"expression": "* * * * *"}}],
    )

    async def section(run_id: str, name: str) -> str:
        html = await site.browser.page(f"/ns/shop/runs/{run_id}")
        return text_of(html.partition(f'id="h-{name}"')[2].partition("</section>")[0])

    await flow.trigger(inputs={"note": SCRIPT}, store={"b": "given"})
    beginning = await section(flow.run_id, "beginning")
    assert re.findall(r"<pre>(.*)</pre>", beginning) == [SCRIPT, "default", "given"]
    assert "through the API" in beginning
    assert "Nothing yet" in await section(flow.run_id, "result")
    await flow.run("work", *({"v": str(number), "w": ""} for number in range(5)))
    for number, state in enumerate(await flow.take("end", 5)):
        ok(await site.api.executed(state["state_id"], {"v": str(number) * 300, "w": "short"}))
    result = await section(flow.run_id, "result")
    assert re.findall(r'<pre tabindex="0">(\d*)</pre>', result) == ["2" * 300, "3" * 300, "4" * 300]
    assert result.count("<details") == 3, "long values are folded"
    assert f'href="/ns/shop/runs/{flow.run_id}?node=end&status=success#states">2 more' in result
    assert 'id="h-events"' not in await site.browser.page(f"/ns/shop/runs/{flow.run_id}")

    await site.browser.post(f"/ns/shop/runs/{flow.run_id}/again")
    clock.advance(60_000)
    await site.service.store.write(fire_schedules)
    runs = ok(await site.api.find_runs(graph="graph"))["runs"]
    shown = [await section(run["run_id"], "beginning") for run in runs]
    assert ["schedule" in each for each in shown] == [True, False, False]
    assert ["by hand" in each for each in shown] == [False, True, False]


async def test_the_time_of_a_held_state_says_that_it_is_since_its_claim_until_the_begin_is_known(
    site: Site,
) -> None:
    await Flow.start(site.api, place("work"))
    beat = {"worker_id": "w-1", "runtime": "R", "phase": "running", "workers": 1}
    ok(await site.api.native("POST", "heartbeat", json=beat))
    ok(await site.api.native_claim({"Node_work": 1}, worker_id="w-1"))
    held = (await site.browser.page("/ns/shop/runtimes")).partition('id="h-held"')[2]
    assert re.search(r' ms <span class="quiet">since its claim</span></td>', held)


async def test_a_silent_runtime_is_still_shown() -> None:
    monotonic = SettableClock()
    async with open_site(monotonic=monotonic) as site:
        ok(
            await site.api.native(
                "POST", "heartbeat", json={"worker_id": "w-1", "runtime": "R", "phase": "running"}
            )
        )
        assert "silent" not in await site.browser.fragments("/ns/shop", "runtimes")
        monotonic.advance(90_000)
        assert "last seen 1 min ago" in await site.browser.fragments("/ns/shop", "runtimes")
        html = await site.browser.page("/ns/shop/runtimes")
        assert '<span class="chip c-errored">silent</span>' in html
        assert "other runtimes got its states" in html
        assert "Drain this runtime" not in html


async def test_the_timeline_of_a_large_run_shows_its_first_and_last_states(site: Site) -> None:
    flow = await Flow.start(
        site.api,
        place("begin", "fan"),
        place("fan", "leaf", inputs={"v": "${{ begin.outputs.v }}"}),
        place("leaf", inputs={"v": "${{ fan.outputs.v }}"}),
    )
    await flow.run("begin")
    for _ in range(2):
        (fan,) = ok(await site.api.claim(["Node_fan"], 1))["states"] or [None]
        if fan is not None:
            ok(await site.api.executed(fan["state_id"], *({"v": "", "w": ""} for _ in range(6_000))))
    timeline = await site.browser.fragments(f"/ns/shop/runs/{flow.run_id}", "timeline")
    assert "one state in 2 is drawn" in timeline
    begin = timeline.partition(">begin<")[2].partition(">fan<")[0]
    assert begin.count("<title>") == 1


async def test_a_united_node_that_has_no_state_yet_says_what_it_waits_for(site: Site) -> None:
    """Also for x, which is of the group of v only: v may still become a member of the group of u."""
    flow = await Flow.start(
        site.api,
        place("s", "t", "m"),
        place("t", "a"),
        place("a", "v", "x"),
        place("m", "o"),
        place("o", "x", unites="s"),
        place("x"),
        place("v", "u", unites="t"),
        place("u", unites="s"),
    )
    for identifier in ("s", "m", "t", "a"):
        await flow.run(identifier)
    page = text_of(await site.browser.page(f"/ns/shop/runs/{flow.run_id}?node=u"))
    assert "unites s, and 1 of its group did not end yet (x)" in page


async def test_runtimes_that_were_lost_are_not_in_the_history_of_a_state_that_succeeded(site: Site) -> None:
    flow = await Flow.start(site.api, place("a"))
    state = (await flow.states("a"))[0]["id"]
    lost = "UPDATE states SET deliveries = 1"
    await site.service.store.write(lambda tx: tx.execute(lost).rowcount)
    assert "Runtimes lost" in await site.browser.page(f"/ns/shop/states/{state}")
    overview = await site.browser.page("/ns/shop")
    assert '<span class="label">running states</span>' in overview
    assert ">runs in progress</a>" in overview
    await flow.run("a")
    await site.service.store.write(lambda tx: tx.execute(lost).rowcount)
    assert "Runtimes lost" not in await site.browser.page(f"/ns/shop/states/{state}")


async def test_the_runtimes_page_lists_how_runtimes_stopped_and_what_that_cost(
    site: Site, clock: SettableClock
) -> None:
    assert "No runtime stopped within 24 hours." in await site.browser.page("/ns/shop/runtimes")
    for worker in ("w1", "w2"):
        ok(await site.api.heartbeat(worker, runtime="words", phase="running"))
    await site.browser.do("/ns/shop/runtimes/drain", {"worker": "w1"})
    report = {
        "why": "the state manager",
        "shortened_by": SCRIPT,
        "took_ms": 5_300,
        "drain_ms": 1_100,
        "clean_up_ms": 4_200,
        "finished": 3,
        "cut": 1,
        "work_lost_ms": 41_000,
        "unknown": 1,
        "exit_code": 75,
    }
    ok(await site.api.heartbeat("w1", runtime="words", phase="stopped", stop=report))
    clock.advance(90_000)
    ok(await site.api.heartbeat("w2", runtime="words", phase="stopped"))
    html = await site.browser.fragments("/ns/shop/runtimes", "stops")
    assert SCRIPT not in html
    text = text_of(html)
    assert f"a drain from the dashboard, then {SCRIPT}" in text
    assert ">drain 1.1 s, clean-up 4.2 s<" in text
    assert "2 stops: 5.3 s in all, 5.3 s at most; 3 nodes finished, 0 handed over, 1 cut" in text
    assert text.index("w2") < text.index("w1"), "the last one is first"
    assert "after its last heartbeat" not in text
    ok(await site.api.heartbeat("w3", runtime="words", phase="running"))
    out_of_process = "UPDATE workers SET manager = NULL, lease_until = 1 WHERE worker_id = 'w3'"
    await site.service.store.write(lambda tx: tx.execute(out_of_process).rowcount)
    clock.advance(61_000)
    await site.service.store.write(expire, 10**15, Terms(lease_ttl_ms=60_000))
    assert "after its last heartbeat" in await site.browser.fragments("/ns/shop/runtimes", "stops")
    (vanished, _, _) = ok(await site.api.native("GET", "stops"))["receipts"]
    row = stop_row(StopReceipt.model_validate(vanished), from_unix_ms(clock()))
    assert row[0] == "heartbeat 1 min ago", "when it ended is not known"
    clock.advance(86_400_001)
    assert "No runtime stopped" in await site.browser.fragments("/ns/shop/runtimes", "stops")


async def test_a_key_has_no_room_if_its_starts_are_used_up(site: Site) -> None:
    node, limits = place("a", limits=[{"name": "api"}]), [{"name": "api", "at_most": 5, "starts": 3}]
    limits[0]["period_ms"] = 3_600_000
    await site.api.register_for([node])
    flow = await Flow.put(site.api, "graph", site.api.body([node], limits=limits))
    rooms = []
    for _ in range(3):
        await flow.trigger()
        await flow.run("a")
        page = await site.browser.page("/ns/shop/limits/api")
        rooms += re.findall(r'data-label="Room" class="num">(\d+)', page)
    assert rooms == ["2", "1", "0"], "although no state holds it"
