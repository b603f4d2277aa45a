"""Pages that keep themselves current: how they hear of changes, when they must not, what they leave alone."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import expect
from tests.browser.nodes import GRAPH, let
from tests.browser.office import Office
from tests.browser.visitors import Visitors
from tests.support.processes import KEY, Processes

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route


# -- what is watched for


def test_forbidden_requests_and_dialogs_are_noticed(visitors: Visitors, office: Office) -> None:
    page = visitors.signed_in(office.url)
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "alert(1)";
            document.body.append(script);
            new Image().src = "http://127.0.0.1:9/x.png";
            setTimeout(() => { throw new Error("mine"); });
        }"""
    )
    page.evaluate("alert(2)")
    page.context.new_page().goto("data:text/html,<img src='http://localhost:9/y.png'>")
    for what in (
        "script-src-elem",
        "img-src",
        "uncaught: mine",
        "a dialog was opened: 2",
        "localhost:9/y.png",
    ):
        assert [problem for problem in visitors.problems if what in problem], what
    assert "alert(1)" not in str([problem for problem in visitors.problems if "dialog" in problem])
    visitors.problems.clear()


# -- hearing of changes


def test_a_paused_page_does_not_change_until_it_is_resumed(visitors: Visitors, office: Office) -> None:
    still = visitors.signed_in(office.url, office.path("runs"))
    other = visitors.signed_in(office.url, office.path("runs"))
    expect(still.locator(".live")).to_have_text("Live")
    still.get_by_role("button", name="Pause").click()
    expect(still.locator(".live")).to_have_text("Paused")
    urls: list[str] = []
    still.on("request", lambda request: urls.append(request.url))
    office.ended()
    expect(other.locator("td .chip")).to_have_text("success")
    still.evaluate("0")  # and what it asked for until now is heard of
    assert urls == []
    expect(still.locator("tbody tr")).to_have_count(0)
    still.get_by_role("button", name="Resume").click()
    expect(still.locator("td .chip")).to_have_text("success")
    expect(still.locator(".live")).to_have_text("Live")


def test_a_tab_that_is_hidden_ends_its_stream_and_catches_up_when_it_is_shown(
    visitors: Visitors, office: Office
) -> None:
    page = visitors.signed_in(office.url, office.path("runs"))
    expect(page.locator(".live")).to_have_text("Live")
    is_stream = re.compile("/live/")
    with page.expect_event("requestfailed", lambda request: is_stream.search(request.url) is not None):
        _show(page, False)
    office.ended()
    expect(page.locator("tbody tr")).to_have_count(0)
    with page.expect_request(is_stream):
        _show(page, True)
    expect(page.locator("td .chip")).to_have_text("success")


def _show(page: Page, shown: bool) -> None:
    """Hide a tab or show it again, as far as it can tell itself: Playwright keeps all its tabs awake."""
    page.evaluate(
        """(shown) => {
            Object.defineProperty(document, "hidden", { configurable: true, get: () => !shown });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        shown,
    )


@pytest.mark.parametrize("blocked", ["refused", "cut"])
def test_without_events_a_page_polls_every_two_seconds(
    visitors: Visitors, office: Office, blocked: str
) -> None:
    page = visitors.signed_in(office.url, office.path("runs"))

    def block(route: Route) -> None:
        if blocked == "refused":
            route.fulfill(status=404, body="a proxy that knows better")
        else:
            route.abort()

    page.context.route("**/live/**", block)
    page.reload()
    expect(page.locator(".live")).to_have_text("Every 2 s")
    office.ended()
    expect(page.locator("td .chip")).to_have_text("success")
    if blocked == "cut":
        page.context.unroute("**/live/**")
        expect(page.locator(".live")).to_have_text("Live")


def test_an_open_page_does_not_delay_the_stop_of_the_server(
    visitors: Visitors, processes: Processes, tmp_path: Path
) -> None:
    server = processes.server(tmp_path, "--grace", "600")
    page = visitors.signed_in(server.uri)
    expect(page.locator(".live")).to_have_text("Live")
    server.process.signal(signal.SIGTERM)
    assert server.process.wait().code == 0
    expect(page.locator(".live")).to_have_text("Not reached")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    # A page that was left open finds the next server by itself, which knows its session.
    port = server.uri.rpartition(":")[2]
    processes.start("server", "--port", port, "--key", KEY, cwd=tmp_path).line("serving")
    expect(page.locator(".live")).to_have_text("Live")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_an_open_page_redirects_to_the_sign_in_after_the_session_ended(
    visitors: Visitors, office: Office
) -> None:
    page = visitors.signed_in(office.url, office.path("runs"))
    expect(page.locator(".live")).to_have_text("Live")
    page.context.clear_cookies()
    office.ended()
    expect(page.get_by_label("API key")).to_be_visible()


# -- what is left alone


def test_focus_and_ticks_survive_a_refresh(visitors: Visitors, office: Office) -> None:
    office.ended()
    run_id = office.trigger(waits="yes")
    page = visitors.signed_in(office.url, office.path("runs"))
    box = page.get_by_label(re.compile(f"Tick run {run_id[:8]}"))
    box.check()
    link = page.get_by_role("link", name=run_id[:8])
    link.focus()
    for count in (3, 4):
        office.ended()
        expect(page.locator("tbody tr")).to_have_count(count)
    expect(box).to_be_checked()
    assert page.locator("tbody input:checked").count() == 1
    expect(link).to_be_focused()
    page.goto(office.path("runs", run_id))
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this run").focus()
    before = page.locator(".summary").inner_text()
    page.wait_for_function("(old) => document.querySelector('.summary').innerText !== old", arg=before)
    expect(page.get_by_role("button", name="Cancel this run")).to_be_focused()
    let(office.folder, "open")
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.get_by_role("button", name="Cancel this run")).to_have_count(0)


# -- without a mouse, and without the script


def _tab_to(page: Page, name: str) -> None:
    """Press Tab until something with this text or label has the focus, and shows it."""
    for _ in range(80):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
                const at = document.activeElement;
                const ring = getComputedStyle(at);
                const face = at.querySelector(".face");
                return {
                    text: (at.ariaLabel || at.labels?.[0]?.textContent || at.textContent).trim(),
                    shown: ring.outlineStyle !== "none" || face !== null,
                };
            }"""
        )
        if re.search(name, focused["text"]):
            assert focused["shown"], f"{name}: the focus is not visible"
            return
    raise AssertionError(f"no Tab leads to {name}")


def test_everything_can_be_done_by_keyboard(visitors: Visitors, office: Office) -> None:
    run_id = office.ended(bad="1")
    page = visitors.anonymous(office.url)
    page.goto("/")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    _tab_to(page, "Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    _tab_to(page, run_id[:8])
    page.keyboard.press("Enter")
    expect(page.locator(".summary .chip")).to_have_text("failed")
    _tab_to(page, "^work: ")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("node=work"))
    _tab_to(page, "^errored 1")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("status=errored"))
    state = page.locator("table.states").get_by_role("link").first.inner_text()
    _tab_to(page, state)
    page.keyboard.press("Enter")
    expect(page.locator("pre.trace")).to_contain_text("cannot work on 1")
    let(office.folder, "repaired")
    _tab_to(page, "^Retry$")
    page.keyboard.press("Enter")
    expect(page.locator(".summary .chip")).to_have_text("success")
    _tab_to(page, "Graphs")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Graphs")).to_be_visible()
    _tab_to(page, f"^{GRAPH}$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Start a run")).to_be_visible()
    _tab_to(page, "^waits")
    page.keyboard.type("yes")
    _tab_to(page, "^Start a run")
    page.keyboard.press("Enter")
    expect(page.locator(".summary .chip")).to_have_text("running")
    _tab_to(page, "^Cancel…")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Cancel this run")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Cancel this run")).to_be_hidden()
    page.keyboard.press("Enter")
    _tab_to(page, "^Cancel this run")
    page.keyboard.press("Enter")
    expect(page.locator(".summary .chip")).to_have_text("cancelled")


def test_everything_works_without_the_script(visitors: Visitors, office: Office) -> None:
    run_id = office.ended(bad="1")
    page = visitors.signed_in(office.url, office.path("runs", run_id), java_script_enabled=False)
    page.get_by_role("link", name=re.compile("^errored 1")).click()
    page.locator("table.states").get_by_role("link").first.click()
    expect(page.locator("pre.trace")).to_contain_text("cannot work on 1")
    let(office.folder, "repaired")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("This is its new attempt")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
