"""What people come to the dashboard for, each from its beginning to its end."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote as quoted
from uuid import uuid4

from tests.browser.chromium import expect
from tests.browser.nodes import GRAPH, NAMESPACE, let
from tests.browser.office import Office, open_office
from tests.browser.visitors import Visitors
from tests.support.processes import EXAMPLES, KEY, Processes, link_in

# -- signing in


def test_the_key_signs_in_and_leads_to_where_somebody_wanted_to_go(
    visitors: Visitors, office: Office
) -> None:
    page = visitors.stranger(office.url)
    page.goto(office.path("runs?status=failed"))
    expect(page).to_have_title(re.compile("Sign in"))
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("not the key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("That is not the key.")
    expect(page.get_by_label("API key")).to_have_value("")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(office.url + office.path("runs?status=failed"))
    expect(page.get_by_label("Status")).to_have_value("failed")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_link_signs_in_once(visitors: Visitors, processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from tests.browser.nodes import *\n" + RUNTIME, "utf-8")
    run = processes.start("run", "app.py", "--serve", "--store", "waits=yes", cwd=tmp_path)
    link = link_in(run.line(r"dashboard.*: (/\S+)")[1])
    url = link.partition("/sign-in")[0]
    page = visitors.stranger(url)
    page.goto(link)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator(".live")).to_have_text("Live")
    other = visitors.stranger(url)
    other.goto(link)
    expect(other.get_by_role("alert")).to_have_text("This link was used before, or is too old.")
    expect(other.get_by_label("API key")).to_be_visible()
    let(tmp_path, "open")
    assert run.wait().code == 0


RUNTIME = "from exotrio import Runtime\nruntime = Runtime(namespace=NAMESPACE, name='r', nodes=NODES)\n"


# -- keeping


def test_a_run_is_downloaded_as_a_page_that_asks_nobody_for_anything(
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
    asked = len(visitors.requests)
    reader = visitors.stranger(tmp_path.as_uri(), offline=True, color_scheme="dark")
    reader.goto(file.as_uri())
    expect(reader.get_by_role("heading", name="What failed")).to_be_visible()
    ground = reader.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground not in ("rgba(0, 0, 0, 0)", "rgb(255, 255, 255)"), "its own style is let in by its policy"
    expect(reader.locator(".state .trace").first).not_to_be_visible()
    reader.locator(".fault a").first.click()
    expect(reader.locator(":target .trace")).to_be_visible()
    assert visitors.requests[asked:] == [file.as_uri()]


# -- looking


def test_a_run_of_the_audit_is_seen_to_move_without_a_reload(
    visitors: Visitors, processes: Processes, tmp_path: Path
) -> None:
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


def test_runs_and_states_are_filtered_in_the_address(visitors: Visitors, office: Office) -> None:
    failed = office.ended(bad="1")
    fine = office.ended()
    page = visitors.signed_in(office.url, office.path("runs"))
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(2)
    page.get_by_label("Status").select_option("failed")
    page.get_by_label("Graph").select_option(GRAPH)
    page.get_by_label(re.compile("Text")).fill("cannot work")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile(r"graph=journey&status=failed&since=&text=cannot\+work"))
    expect(rows).to_have_count(1)
    page.reload()
    expect(page.get_by_label("Status")).to_have_value("failed")
    expect(rows).to_have_count(1)
    rows.get_by_role("link", name=failed[:8]).click()
    page.get_by_role("link", name=re.compile("^work: ")).click()
    expect(page).to_have_url(re.compile("node=work"))
    states = page.locator("table.states tbody tr")
    expect(states).to_have_count(3)
    page.get_by_role("link", name=re.compile("^errored 1")).click()
    expect(page).to_have_url(re.compile("node=work&status=errored"))
    expect(states).to_have_count(1)
    page.go_back()
    expect(states).to_have_count(3)
    page.keyboard.press("/")
    expect(page.get_by_label("Search", exact=True)).to_be_focused()
    page.keyboard.type(fine[:8])
    page.keyboard.press("Enter")
    expect(page).to_have_url(office.url + office.path("runs", fine))
    expect(page.locator(".summary .chip")).to_have_text("success")
    page.get_by_label("Search", exact=True).fill("work")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"search\?q=work"))
    expect(page.get_by_role("link", name="Work", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name=re.compile(failed[:8]))).to_be_visible()


def test_a_traceback_is_three_clicks_from_the_start_and_its_state_is_retried(
    visitors: Visitors, office: Office
) -> None:
    run_id = office.ended(bad="1")
    page = visitors.signed_in(office.url)
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator("#h-failing ~ *")).to_contain_text("cannot work on 1")
    page.get_by_role("link", name=re.compile(run_id[:8])).click()
    fault = page.locator(".fault")
    expect(fault).to_contain_text("ValueError: cannot work on 1")
    fault.locator("summary").click()
    expect(fault.locator(".trace")).to_contain_text("Traceback")
    fault.get_by_role("link", name="show all").click()
    states = page.locator("table.states tbody tr")
    expect(states).to_have_count(1)
    page.get_by_role("link", name=re.compile("^all ")).click()
    expect(states.first).to_contain_text("cannot work on 1")
    page.get_by_role("link", name="slowest").click()
    expect(page).to_have_url(re.compile("sort=slowest"))
    page.locator("#first-failed").click()
    trace = page.locator("pre.trace")
    expect(trace).to_contain_text("Traceback (most recent call last)")
    expect(trace).to_contain_text("ValueError: cannot work on 1")
    let(office.folder, "repaired")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status").filter(has_text="This is its new attempt")).to_be_visible()
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.get_by_text("worked on 1")).to_be_visible()
    expect(page.locator("section", has_text="Attempts").get_by_text("retried by hand")).to_be_visible()


def test_failed_states_of_ticked_runs_are_retried_at_once(visitors: Visitors, office: Office) -> None:
    for _ in range(2):
        office.ended(bad="1")
    page = visitors.signed_in(office.url, office.path("runs"))
    chips = page.locator("td .chip")
    expect(chips).to_have_text(["failed", "failed"])
    let(office.folder, "repaired")
    page.get_by_label("Tick all").check()
    page.get_by_role("button", name=re.compile("^Retry failed")).click()
    expect(page.get_by_role("status").filter(has_text="2 runs retried.")).to_be_visible()
    expect(chips).to_have_text(["success", "success"])


def test_what_an_operator_watches_is_in_their_time_and_theme(visitors: Visitors, office: Office) -> None:
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
    local = re.compile(r"^\S+ \S+ UTC ·\s(\S+ )?\S+\slocal$")
    expect(page.locator("time.at", has_text=local)).to_have_count(2)
    let(office.folder, "open")
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.locator("time.at", has_text=local)).to_have_count(3)


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
    expect(page.locator("#box-split .count")).to_have_text("2")
    page.get_by_role("link", name="Edit and start").click()
    expect(page.get_by_role("link", name=page.url.partition("from=")[2].partition("#")[0])).to_be_visible()
    expect(page.get_by_label("note")).to_have_value("intwo lines\nof text")
    expect(count).to_have_value("2")
    count.fill("1")
    page.get_by_role("button", name="Start a run").click()
    expect(page.locator(".summary .chip")).to_have_text("success")
    expect(page.locator("#box-split .count")).to_have_text("1")
    page.locator("table.states").get_by_role("link").first.click()
    expect(page.locator("section", has_text="Inputs").first).to_contain_text("two lines\nof text")


def test_a_node_that_was_not_reached_says_why(visitors: Visitors, office: Office) -> None:
    page = visitors.signed_in(office.url, office.path("runs", office.ended(count="many")))
    expect(page.locator(".unreached")).to_have_text(
        "work was not reached: it follows split, of which 1 errored."
    )
    page.get_by_role("link", name=re.compile("^work: ")).click()
    expect(page.locator("[data-fragment=states]")).to_contain_text("it follows split, of which 1 errored")


def test_a_run_is_cancelled_and_a_graph_deleted_with_one(visitors: Visitors, office: Office) -> None:
    run_id = office.trigger(waits="yes")
    page = visitors.signed_in(office.url, office.path("runs", run_id))
    expect(page.get_by_role("link", name=re.compile("^work: .*running"))).to_be_visible()
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel this run").click()
    message = page.get_by_role("status").filter(has_text="The run was cancelled.")
    expect(message).to_be_visible()
    page.get_by_role("button", name="Close this message").click()
    expect(message).to_have_count(0)
    expect(page.locator(".summary .chip")).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Cancel this run")).to_have_count(0)
    # What is refused leads back with the reason, and a namespace that is not there to those there are.
    office.trigger(waits="yes")
    page.goto(office.path("graphs", GRAPH))
    page.get_by_text("Delete…").click()
    page.get_by_role("button", name="Delete this graph").click()
    expect(page.get_by_role("status").filter(has_text="Nothing changed: ")).to_contain_text("have not ended")
    expect(page).to_have_url(office.url + office.path("graphs", GRAPH))
    page.get_by_text("Delete…").click()
    page.get_by_label("cancel its runs").check()
    page.get_by_role("button", name="Delete this graph").click()
    expect(page.get_by_role("status").filter(has_text="was deleted with 2 runs")).to_be_visible()
    page.goto("/ns/nobody/graphs")
    expect(page.get_by_role("heading", name="There is no namespace nobody")).to_be_visible()
    page.get_by_role("link", name=NAMESPACE, exact=True).click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_a_runtime_is_drained_and_its_work_is_finished(
    visitors: Visitors, processes: Processes, tmp_path: Path
) -> None:
    # What is asked of a runtime it hears with its next heartbeat: a third of the lease.
    office = open_office(processes, tmp_path, "--lease-ttl", "3")
    run_id = office.trigger(waits="yes")
    page = visitors.signed_in(office.url, office.path("runtimes"))
    expect(page.get_by_text("12 of 30 pages of 1")).to_be_visible()
    page.get_by_text("Drain…").click()
    page.get_by_role("button", name="Drain this runtime").click()
    expect(page.locator("main .chip")).to_have_text("draining")
    let(office.folder, "open")
    assert office.worker.wait().code == 0
    expect(page.locator("td[data-label=Held]")).to_have_text("0")
    expect(page.get_by_text("No runtime holds a state now")).to_be_visible()
    page.goto(office.path("runs", run_id))
    expect(page.locator("#box-work .count")).to_have_text("3")
    expect(page.get_by_role("link", name=re.compile("^work: 3 success"))).to_be_visible()


# -- what is large, and what is hostile


def test_a_fan_out_of_thousands_stays_usable(visitors: Visitors, office: Office) -> None:
    page = visitors.signed_in(office.url, office.path("runs", office.trigger(count="5000", bad="4321")))
    expect(page.locator(".summary .chip")).to_have_text("failed")
    expect(page.locator(".graph .box")).to_have_count(4)
    expect(page.locator("#box-work .count")).to_have_text("5,000")
    assert page.locator("*").count() < 4_000, "no page grows with the run"
    page.get_by_role("link", name=re.compile("^errored 1")).click()
    page.locator("table.states").get_by_role("link").first.click()
    expect(page.locator("pre.trace")).to_contain_text("cannot work on 4321")


HOSTILE = "<script>alert(1)</script>"
HOSTILE_NAME = "<img src=x onerror=alert(1)>\"'&"
"""Names hold no slash, so this does it without."""


def test_nothing_that_users_name_or_say_becomes_markup(
    visitors: Visitors, processes: Processes, tmp_path: Path
) -> None:
    server = processes.server(tmp_path)
    space = f"/v0/namespace/{quote(HOSTILE_NAME)}"
    native = f"/exotrio/v1/namespace/{quote(HOSTILE_NAME)}"
    text = {"type": "string", "description": HOSTILE}
    schema = {"type": "object", "title": HOSTILE, "properties": {HOSTILE: text}, "required": [HOSTILE]}
    node = {"name": HOSTILE_NAME, "inputs_schema": schema, "outputs_schema": schema, "secrets": ["s"]}
    server.ask("PUT", f"{space}/nodes/", {"runtime_name": HOSTILE_NAME, "nodes": [node]})
    place = {
        "node_name": HOSTILE_NAME,
        "namespace": HOSTILE_NAME,
        "identifier": "a" + HOSTILE_NAME.replace(".", ""),
        "inputs": {HOSTILE: HOSTILE},
        "next_nodes": [],
    }
    graph = {
        "nodes": [place],
        "secrets": {"s": HOSTILE},
        "retry_policy": {"max_retries": 0},
        "store_config": {"default_values": {"k": HOSTILE}},
    }
    put = server.ask("PUT", f"{space}/graph/{quote(HOSTILE_NAME)}", graph)
    assert put["validation_status"] == "VALID", put["validation_errors"]
    runs = []
    for outcome in (
        {"outcome": "errored", "error": f"Traceback\nValueError: {HOSTILE}"},
        {"outcome": "executed", "outputs": [{HOSTILE: HOSTILE}]},
        {"outcome": "pruned", "data": {HOSTILE: HOSTILE}},
        None,
    ):
        runs.append(str(uuid4()))
        trigger = {"run_id": runs[-1], "inputs": {HOSTILE: HOSTILE}, "store": {"k": HOSTILE}}
        server.ask("POST", f"{native}/graph/{quote(HOSTILE_NAME)}/trigger", trigger)
        claim = {
            "worker_id": HOSTILE,
            "limits": {HOSTILE_NAME: 1},
            "limit": 1,
            "claim_id": str(uuid4()),
        }
        (state,) = server.ask("POST", f"{native}/claim", claim)["states"]
        held = {"state_id": state["state_id"], "token": state["lease"]["token"]}
        if outcome is not None:
            server.ask("POST", f"{native}/outcomes", [{**held, **outcome}])
    progress = {"fraction": 0.5, "text": HOSTILE}
    beat = {
        "worker_id": HOSTILE,
        "runtime": HOSTILE,
        "phase": "running",
        "states": [{**held, "running": True, "progress": progress}],
        "shows_tasks": True,
        "tasks": HOSTILE,
    }
    server.ask("POST", f"{native}/heartbeat", beat)
    page = visitors.signed_in(server.uri, f"/ns/{quote(HOSTILE_NAME)}/runs?text={quote(HOSTILE)}")
    seen: set[str] = set()
    waiting = [page.url]
    while waiting:
        page.goto(waiting.pop())
        expect(page.locator("script")).to_have_count(1)
        expect(page.locator("img")).to_have_count(0)
        assert HOSTILE_NAME in page.inner_text("body")
        links = page.evaluate(
            """() => [...document.querySelectorAll("a:not([download], footer a)")].map(
                (each) => new URL(each.href.baseVal ?? each.href, location).href.replace(/#.*/, ""))"""
        )
        for link in links:
            # One page of each kind and of each run is enough.
            if link not in seen:
                seen.add(link)
                waiting.append(link)
    kinds = {
        kind
        for kind in ("graphs/", "nodes/", "states/", "runs/", "runtimes")
        for link in seen
        if kind in link
    }
    assert len(kinds) == 5
    for run_id in runs:
        assert any(run_id in link for link in seen)
        answer = page.request.get(f"/ns/{quote(HOSTILE_NAME)}/runs/{run_id}/export")
        (tmp_path / f"{run_id}.html").write_bytes(answer.body())
    page.goto("about:blank")
    reader = visitors.stranger(tmp_path.as_uri())
    for run_id in runs:
        reader.goto((tmp_path / f"{run_id}.html").as_uri())
        expect(reader.locator("script, img")).to_have_count(0)
        assert HOSTILE_NAME in reader.inner_text("body")


def quote(text: str) -> str:
    return quoted(text, safe="")
