"""What people come to the dashboard for, each from its beginning to its end."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.browser.chromium import expect
from tests.browser.nodes import GRAPH, NAMESPACE, let
from tests.browser.office import Office
from tests.browser.visitors import Visitors
from tests.support.helpers import NO_RETRY, declare, node_name, place
from tests.support.processes import EXAMPLES, KEY, Processes

# -- signing in


def test_the_key_signs_in_and_the_requested_page_is_shown(visitors: Visitors, office: Office) -> None:
    page = visitors.anonymous(office.url)
    page.goto(office.path("runs?status=failed"))
    expect(page).to_have_title(re.compile("Sign in"))
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("not the key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Wrong key.")
    expect(page.get_by_label("API key")).to_have_value("")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(office.url + office.path("runs?status=failed"))
    expect(page.get_by_label("Status")).to_have_value("failed")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("API key")).to_be_visible()


# -- keeping


def test_a_run_is_downloaded_as_a_page_that_loads_nothing(
    visitors: Visitors, office: Office, tmp_path: Path
) -> None:
    run_id = office.ended(bad="1")
    page = visitors.signed_in(office.url, office.path("runs", run_id))
    with page.expect_download() as begun:
        page.get_by_role("link", name="Download").click()
    file = tmp_path / begun.value.suggested_filename
    assert file.name == f"run-{run_id[:8]}.html"
    begun.value.save_as(file)
    page.goto("about:blank")
    before = len(visitors.requests)
    reader = visitors.anonymous(tmp_path.as_uri(), offline=True, color_scheme="dark")
    reader.goto(file.as_uri())
    expect(reader.get_by_role("heading", name="What failed")).to_be_visible()
    ground = reader.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"), "its own style is let in by its policy"
    expect(reader.locator(".state .trace").first).not_to_be_visible()
    reader.locator(".fault a").first.click()
    expect(reader.locator(":target .trace")).to_be_visible()
    assert visitors.requests[before:] == [file.as_uri()]


# -- answering


def test_a_person_answers_by_a_link_and_another_by_the_form_of_the_run(
    visitors: Visitors, processes: Processes, tmp_path: Path
) -> None:
    server = processes.server(tmp_path)
    outputs = {"ok": {"type": "string", "contentSchema": {"type": "boolean"}}, "by": {"type": "string"}}
    wait = {"node_name": "wait for event", "namespace": "shop", "identifier": "wait", "inputs": {}}
    nodes = [{**wait, "wait": {"event": "approved", "outputs": outputs}}]
    server.ask("PUT", "/v0/namespace/shop/graph/orders", {"secrets": {}, "nodes": nodes})
    asked, filled_in = (
        server.ask("POST", "/v0/namespace/shop/graph/orders/trigger", {})["run_id"] for _ in range(2)
    )
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"name": "approved", "value": {"ok": "true", "by": "ada"}, "until": until}
    path = f"/exotrio/v1/namespace/shop/run/{asked}/event-link"
    link = server.uri + server.ask("POST", path, body)["path"]

    watched = visitors.signed_in(server.uri, f"/ns/shop/runs/{asked}")
    expect(watched.get_by_role("heading", name="Waits for")).to_be_visible()
    page = visitors.anonymous(server.uri)
    page.goto(link)
    expect(page.get_by_text("ada")).to_be_visible()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_contain_text("This was sent.")
    expect(watched.get_by_role("heading", name="Waits for")).to_have_count(0)
    expect(watched.locator("[data-fragment=summary]")).to_contain_text("success")

    page = visitors.signed_in(server.uri, f"/ns/shop/runs/{filled_in}")
    page.get_by_label("ok").select_option("false")
    page.get_by_role("button", name="Send approved").click()
    expect(page.get_by_text("by is required")).to_be_visible()
    expect(page.get_by_label("ok")).to_have_value("false")
    page.get_by_label("by").fill("alan")
    page.get_by_role("button", name="Send approved").click()
    expect(page.get_by_role("status").filter(has_text="The event approved was sent.")).to_be_visible()


# -- looking


def test_a_run_progresses_without_a_reload(visitors: Visitors, processes: Processes, tmp_path: Path) -> None:
    server = processes.server(tmp_path)
    worker = processes.start("worker", EXAMPLES / "audit.py", cwd=tmp_path, env=server.env)
    worker.line(": running")
    applied = processes.start(
        "graph", "apply", EXAMPLES / "audit.py", "-n", "examples", cwd=tmp_path, env=server.env
    )
    assert applied.wait().code == 0
    page = visitors.signed_in(server.uri, "/ns/examples/graphs/audit")
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("status").filter(has_text="The run was started.")).to_be_visible()
    page.evaluate(
        """() => {
            window.seen = new Set();
            const part = document.querySelector("[data-fragment=summary]");
            const look = () => seen.add(part.querySelector(".progress .num").textContent);
            look();
            new MutationObserver(look).observe(part, { childList: true, characterData: true, subtree: true });
        }"""
    )
    expect(page.locator(".summary .chip")).to_have_text("success")
    assert page.evaluate("seen.size") > 2, "it moved on the way"
    expect(page.locator("#box-digest .count")).not_to_have_text("0")
    expect(page.get_by_role("link", name=re.compile("^report: 1 success"))).to_be_visible()
    gaps = page.evaluate(
        """() => {
            const times = performance.getEntriesByType("resource")
                .filter((each) => each.initiatorType === "fetch").map((each) => each.startTime);
            return times.slice(1).map((time, index) => time - times[index]);
        }"""
    )
    assert min(gaps) > 240, "at most four requests a second"


def test_pages_use_the_time_zone_and_theme_of_the_browser(visitors: Visitors, office: Office) -> None:
    office.ended(bad="1")
    office.ended()
    page = visitors.signed_in(office.url, timezone_id="Asia/Kolkata", color_scheme="light")
    page.get_by_role("link", name="7 days").click()
    expect(page).to_have_url(re.compile("range=7d$"))
    expect(page.locator(".trends")).to_contain_text(re.compile(r"[1-9] runs? ended"))
    expect(page.locator(".chart .median").first).to_be_visible()
    page.get_by_role("link", name="System").click()
    expect(page.get_by_role("row", name="this one")).to_be_visible()
    expect(page.locator("section", has_text="Database")).to_contain_text("SQLite 3")
    page.get_by_role("button", name="Dark").click()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("heading", name="System")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 26)"
    page.goto(office.path("runs", office.trigger(waits="yes")) + "?node=work")
    page.locator("table.states").get_by_role("link").first.click()
    local = re.compile(r"^\S+ \S+ UTC \((\S+ )?\S+\slocal\)$")
    expect(page.locator("time.at", has_text=local).nth(1)).to_be_visible()
    let(office.folder, "open")
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.locator("time.at", has_text=local)).to_have_count(4)


# -- doing


def test_a_run_is_started_from_the_form_and_started_again_with_other_values(
    visitors: Visitors, office: Office
) -> None:
    page = visitors.signed_in(office.url, office.path("graphs", GRAPH))
    expect(page.get_by_text("What the run is for")).to_be_visible()
    page.get_by_label("note").fill("in")
    page.get_by_label("note").evaluate(
        """(field) => {
            const clipboardData = new DataTransfer();
            clipboardData.setData("text", " two lines\\nof text");
            const options = { clipboardData, bubbles: true, cancelable: true };
            field.dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    count = page.get_by_label("count", exact=True)
    expect(count).to_have_attribute("type", "number")
    count.fill("-2")
    page.get_by_label("waits").select_option("no")
    page.get_by_role("button", name="Start a run").evaluate("(each) => each.form.noValidate = true")
    page.get_by_role("button", name="Start a run").click()
    expect(page.get_by_role("alert").get_by_role("link", name="count")).to_be_visible()
    expect(count).to_be_focused()
    expect(count).to_have_value("-2")
    expect(count).to_have_accessible_description(
        "How many items; a whole number, at least 0 count must be a whole number, at least 0."
    )
    expect(page.get_by_label("note")).to_have_value("intwo lines\nof text")
    expect(page.get_by_label("waits")).to_have_value("no")
    expect(page.locator(".live")).to_have_text("Live")
    count.fill("2")
    count.press("Enter")
    expect(page.locator(".summary .chip")).to_have_text("success")
    first = page.url
    expect(page.locator("section", has_text="Started with")).to_contain_text("by hand")
    expect(page.locator("section", has_text="Result").last).to_contain_text("count")
    page.get_by_role("button", name="Trigger again").click()
    expect(page).not_to_have_url(first)
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.locator("#box-work .count")).to_have_text("2")
    page.get_by_role("link", name="Edit and start").click()
    expect(page.get_by_role("link", name=page.url.partition("from=")[2].partition("#")[0])).to_be_visible()
    expect(page.get_by_label("note")).to_have_value("intwo lines\nof text")
    expect(count).to_have_value("2")
    count.fill("1")
    page.get_by_role("button", name="Start a run").click()
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.locator("#box-work .count")).to_have_text("1")
    page.locator("table.states").get_by_role("link").first.click()
    expect(page.locator("section", has_text="Inputs").first).to_contain_text("two lines\nof text")


# -- runs that start others


def test_a_failure_leads_to_the_run_that_it_started_and_back(visitors: Visitors, office: Office) -> None:
    def stored(name: str, place: dict[str, Any], **fields: Any) -> None:
        nodes = [declare(place["node_name"], [])]
        office.server.ask("PUT", f"/v0/namespace/{NAMESPACE}/nodes/", {"runtime_name": "r", "nodes": nodes})
        body = {"nodes": [{"namespace": NAMESPACE, **place}], "secrets": {}, "retry_policy": NO_RETRY}
        office.server.ask("PUT", f"/v0/namespace/{NAMESPACE}/graph/{name}", {**body, **fields})

    stored("alert", place("tell"))
    stored("billing", place("bill"), on_failure="alert")
    path = f"/v0/namespace/{NAMESPACE}"
    run = office.server.ask("POST", f"{path}/graph/billing/trigger", {"inputs": {}, "store": {}})["run_id"]
    claim = {"nodes": [node_name("bill")], "batch_size": 1}
    (state,) = office.server.ask("POST", f"{path}/states/enqueue", claim)["states"]
    page = visitors.signed_in(office.url, office.path("runs", run))
    expect(page.get_by_role("heading", name="Runs that it started")).to_have_count(0)
    office.server.ask("POST", f"{path}/state/{state['state_id']}/errored", {"error": "no address"})
    expect(page.get_by_role("heading", name="Runs that it started")).to_be_visible()
    page.locator("section:has(#h-children) tbody th a").click()
    expect(page.get_by_text("since this run failed:")).to_be_visible()
    page.get_by_role("link", name=run[:8]).first.click()
    expect(page).to_have_url(office.url + office.path("runs", run))
