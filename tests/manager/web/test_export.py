"""A run as one page that stands alone: what it shows, what it never holds, and how it stays small."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exotrio.manager.queries import run_detail as chosen
from exotrio.manager.web import export as exported
from exotrio.manager.web.faults import MAX_MESSAGES, signature
from exotrio.manager.web.texts import MAX_VALUE, MAX_VALUES, ShownTexts
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, claim_one, item_for, report
from tests.support.helpers import NO_RETRY, UNKNOWN_RUN, SettableClock, ok, place, refused
from tests.support.manager import Manager, open_manager
from tests.support.web import NAMESPACE, SCRIPT, Site, failed_run, text_of

SECRET = 'pass"word\\of-none'
TRACE = """Traceback (most recent call last):
  File "/app/nodes.py", line 7, in execute
    raise ValueError(text)
ValueError: {}"""


async def export(api: Api, run_id: str, **query: str) -> str:
    response = await api.native("GET", f"run/{run_id}/export", params=query)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return response.text


async def fanned(api: Api, count: int, *, failing: int = 0) -> Flow:
    """Return a run with a store and with a fan-out of ``count``, of which the last ones failed."""
    flow = await Flow.deploy(
        api,
        place("fan", "leaf"),
        place("leaf", inputs={"v": "${{ fan.outputs.v }}"}),
        retry_policy=NO_RETRY,
        store_config={"required_keys": ["color"], "default_values": {}},
    )
    await flow.trigger(store={"color": "greenish"})
    await flow.run("fan", *({"v": f"number {n}", "w": ""} for n in range(count)))
    taken = ok(await api.claim(["Node_leaf"], count))["states"] if count else []
    for n, state in enumerate(taken):
        if n < count - failing:
            ok(await api.executed(state["state_id"], {"v": f"done {n}", "w": ""}))
        else:
            ok(await api.errored(state["state_id"], TRACE.format(f"row {n}")))
    return flow


async def test_the_file_shows_values_tracebacks_store_and_events(manager: Manager) -> None:
    flow = await fanned(manager.api, 3, failing=1)
    html = text_of(await export(manager.api, flow.run_id))
    for part in (
        flow.run_id,
        "graph",
        '<svg class="graph"',
        '<svg class="timeline"',
        "number 0",
        "done 1",
        'File "/app/nodes.py", line 7, in execute',
        "ValueError: row 2",
        "color",
        "greenish",
        "No events: no lost lease",
    ):
        assert part in html, part
    assert "left out" not in html
    assert html.index("What failed") < html.index(">States<")


async def test_the_file_loads_nothing_and_its_policy_forbids_it(manager: Manager) -> None:
    flow, _ = await failed_run(manager.api, error=f"see http://example.org {SCRIPT}")
    html = await export(manager.api, flow.run_id)
    assert "<script>" not in html
    assert not re.search(
        r"<(?:script|link|img|iframe|object|embed|form|base|video|audio|source|use|image)\b", html
    )
    assert not re.search(r"\son\w+=|\sstyle=|javascript:|@import|url\(", html)
    for target in re.findall(r'\s(?:href|src|action|data|xlink:href)="([^"]*)"', html):
        assert target.startswith("#"), target
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in re.findall(r'href="(#[^"]+)"', html)} <= set(ids), "a link leads nowhere"
    (sheet,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert text_of(policy[1]) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert html.index("Content-Security-Policy") < html.index("<style>")


async def test_secrets_are_masked_everywhere(manager: Manager, tmp_path: Path) -> None:
    flow = await Flow.deploy(
        manager.api,
        place("a", "b", inputs={"v": "x"}),
        place("b", inputs={"v": "${{ a.outputs.v }}"}),
        retry_policy=NO_RETRY,
        secrets={"token": SECRET},
        store_config={"required_keys": ["s"], "default_values": {}},
    )
    await flow.trigger(store={"s": f"it is {SECRET}"})
    long = "x" * (MAX_VALUE - 5)
    await flow.run("a", {"v": SECRET, "w": f"{long}{SECRET}"})
    await flow.fail("b", times=1, error=f"Traceback\nKeyError: {SECRET!r}")
    html = text_of(await export(manager.api, flow.run_id))
    for form in (
        SECRET,
        repr(SECRET)[1:-1],
        SECRET.replace("\\", "\\\\").replace('"', '\\"'),
        SECRET[:9],
    ):
        assert form not in html
    assert "it is ***" in html
    assert "KeyError: '***'" in html
    assert "secret is masked" in html


async def test_the_names_that_runtimes_give_themselves_are_cleaned_and_masked(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"), secrets={"token": SECRET})
    for name in (f"first\x1b[1m\u202e {SECRET}", f"second\x1b[1m\u202e {SECRET}"):
        state = await claim_one(manager.api, worker_id=name)
        if name.startswith("first"):
            ok(await manager.api.release(states=[item_for(state)]))
    assert await report(manager.api, item_for(state, outcome="executed", outputs=[])) == ["ok"]
    html = await export(manager.api, flow.run_id)
    assert not {"\x1b", "\u202e"} & set(html)
    html = text_of(html)
    assert SECRET not in html
    assert "first" in html
    assert "second" in html
    assert html.count("[1m") == html.count(" ***") == 2


async def test_no_part_of_a_secret_is_left_at_the_ends_of_a_cut_text(
    manager: Manager,
) -> None:
    secret = "SESAME-" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 3
    assert chosen.MAX_PARSED // len(secret) > 2 * MAX_VALUE // len(secret) > 10
    flow = await Flow.deploy(
        manager.api,
        place("a", "b", inputs={"v": "x"}),
        place("b", inputs={"v": "${{ a.outputs.v }}"}),
        retry_policy=NO_RETRY,
    )
    await flow.trigger()
    await flow.run("a", {"v": secret * 1_000, "w": "w"})
    await flow.fail("b", times=1, error=secret * 1_000)
    # Known to be secret only since then, or the error would have been masked when it was stored.
    body = manager.api.body([place("a")], secrets={"token": secret})
    ok(await manager.api.put_graph("graph", body), 201)
    html = text_of(await export(manager.api, flow.run_id))
    assert "***" in html
    assert not re.findall(r"[A-Z]{5,}", html[html.index("<body") :])


async def test_secrets_that_cannot_be_decrypted_are_named(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    async with open_manager(db) as manager:
        flow = await Flow.start(manager.api, place("a"), secrets={"token": SECRET})
    (tmp_path / "state.db.secrets-key").unlink()
    async with open_manager(db) as manager:
        html = await export(manager.api, flow.run_id)
    assert "Not masked, because the state manager cannot decrypt it: token." in html


async def test_failed_states_are_shown_with_their_log(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY, secrets={"token": "old-s3cret"})
    (state,) = await claim(manager.api)
    text = f"charged with {SECRET}\x1b[1m"
    logs = [{"at": "2026-01-31T12:00:00.123Z", "level": "WARNING", "logger": "shop", "text": text}]
    item = item_for(state, outcome="errored", error="it failed", logs=logs)
    assert await report(manager.api, item) == ["ok"]
    # Masked once more: it may be a secret by now.
    body = manager.api.body([place("a")], secrets={"token": SECRET})
    ok(await manager.api.put_graph("graph", body), 201)
    html = text_of(await export(manager.api, flow.run_id))
    assert "WARNING</span><pre>charged with ***\\x1b[1m</pre>" in html
    assert "charged with" not in await export(manager.api, flow.run_id, values="false")


async def test_values_can_be_left_out_and_errors_stay(manager: Manager) -> None:
    flow = await fanned(manager.api, 2, failing=1)
    html = await export(manager.api, flow.run_id, values="false")
    assert "number 0" not in html
    assert "done 0" not in html
    assert "greenish" not in html
    assert "color" in html
    assert "ValueError: row 1" in html


async def test_a_large_run_shows_what_failed_first_and_says_what_is_left_out(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "MAX_BARS", 20)
    monkeypatch.setattr(chosen, "SLOWEST", 3)
    flow = await fanned(manager.api, 40, failing=6)
    html = text_of(await export(manager.api, flow.run_id))
    leaves = html[html.index('id="n1"') :]
    assert re.findall(r"ValueError: (row \d+)</code></summary>", leaves) == [
        f"row {n}" for n in range(34, 40)
    ]
    assert html.count('<details class="state entry"') == 3 + 6 + 3
    assert "This page shows <strong>12</strong> of 80 states" in html
    assert "<strong>68 are left out.</strong>" in html
    assert "9 of 40" in html
    faults = html[html.index(">What failed<") : html.index(">Started with<")]
    assert faults.count("<a href=") == 6, "five of them, and the first of all"


async def test_the_slowest_successful_states_of_a_large_run_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chosen, "MAX_BARS", 4)
    monkeypatch.setattr(chosen, "SLOWEST", 2)
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        flow = await Flow.start(manager.api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
        await flow.run("a", *({"v": str(n), "w": ""} for n in range(5)))
        for n, state in enumerate(await flow.take("b", 5)):
            clock.advance(1_000 if n == 2 else 2_000 if n == 3 else 0)
            ok(await manager.api.executed(state["state_id"]))
        html = await export(manager.api, flow.run_id)
    shown = html[html.index('id="n1"') :]
    assert re.findall(r"from claim to end ([\d.]+ m?s)", shown) == ["3.0 s", "3.0 s"]


async def test_similar_failures_are_one_entry_with_one_traceback(manager: Manager) -> None:
    flow = await fanned(manager.api, 8, failing=7)
    html = text_of(await export(manager.api, flow.run_id))
    faults = html[html.index(">What failed<") : html.index(">Started with<")]
    assert faults.count("Traceback") == 1
    assert re.search(r">7.</strong>", faults)
    assert "and 2 more" in faults
    assert faults.count("<li>") == MAX_MESSAGES


async def test_values_are_left_out_when_the_file_gets_too_long(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exported, "MAX_TEXT", 60)
    flow = await fanned(manager.api, 5)
    html = await export(manager.api, flow.run_id)
    assert "4 of them are shown without their values" in html
    shown = html[html.index('id="h-states"') :]
    assert "number 0" in shown
    assert "done 4" not in shown


async def test_a_huge_value_is_cut_without_being_parsed(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"))
    await flow.run("a", {"v": "x" * 200_000, "w": ""})
    html = await export(manager.api, flow.run_id)
    assert len(html) < 60_000
    assert "characters of JSON in all" in html


async def test_an_unfinished_run_is_marked(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a", "b"), place("b"))
    assert "</strong> was not reached" not in await export(manager.api, flow.run_id), "it still may be"
    assert "had not ended when this page was created" in await export(manager.api, flow.run_id)
    await flow.run("a")
    await flow.run("b")
    assert "had not ended" not in await export(manager.api, flow.run_id)


async def test_cancelled_states_are_not_shown_as_failures(manager: Manager) -> None:
    flow = await fanned(manager.api, 3, failing=1)
    await flow.trigger(store={"color": "x"})
    await flow.run("fan", {"v": "1", "w": ""}, {"v": "2", "w": ""})
    (bad,) = ok(await manager.api.claim(["Node_leaf"], 1))["states"]
    ok(await manager.api.errored(bad["state_id"], TRACE.format("really")))
    ok(await manager.api.native("POST", f"run/{flow.run_id}/cancel"))
    html = text_of(await export(manager.api, flow.run_id))
    faults = html[html.index(">What failed<") : html.index(">Started with<")]
    assert re.findall(r"(\d+).</strong>", faults) == ["1"]
    assert "ValueError: really" in faults
    assert "errored or cancelled" in html
    assert html.count(">cancelled</span>") == 2, "the run, and the state that waited"


async def test_an_unknown_run_cannot_be_exported(manager: Manager) -> None:
    flow = await Flow.start(manager.api, place("a"))
    refused(await manager.api.native("GET", f"run/{UNKNOWN_RUN}/export"), 404)
    refused(await manager.api.elsewhere().native("GET", f"run/{flow.run_id}/export"), 404)
    refused(await manager.api.native("GET", f"run/{flow.run_id}/export?values=perhaps"), 422)


async def test_the_page_of_a_run_offers_the_file(site: Site) -> None:
    flow, _ = await failed_run(site.api)
    path = f"/ns/{NAMESPACE}/runs/{flow.run_id}/export"
    assert f'href="{path}" download' in await site.browser.page(f"/ns/{NAMESPACE}/runs/{flow.run_id}")
    response = await site.browser.get(path)
    assert response.status_code == 200
    assert response.headers["content-disposition"] == f'attachment; filename="run-{flow.run_id[:8]}.html"'
    assert "What failed" in response.text
    anonymous = await site.anonymous.get(path)
    assert (anonymous.status_code, anonymous.headers["location"].partition("?")[0]) == (303, "/sign-in")
    await site.browser.page(f"/ns/{NAMESPACE}/runs/{UNKNOWN_RUN}/export", 404)


# -- which errors are alike


def test_errors_are_grouped_by_frames_not_by_messages() -> None:
    one, other = TRACE.format("row 1"), TRACE.format("row 2\nof two lines")
    assert signature(one) == signature(other)
    assert signature(one) != signature(one.replace("line 7", "line 8"))
    assert signature(one) != signature(one.replace("ValueError:", "KeyError:"))
    assert signature("poison: 5 workers in a row") == signature("poison: 6 workers in a row")
    assert signature("one thing") != signature("another")
    assert signature("") == ""


def test_an_error_of_line_ends_alone_is_compared_in_linear_time() -> None:
    # In a separate process: a search that takes hours cannot be interrupted.
    program = (
        "from exotrio.manager.web.faults import signature\n"
        "signature('\\n' * 2_000_000); signature(' |\\n' * 500_000)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_marks_below_a_line_of_code_are_not_taken_for_a_name() -> None:
    marked = TRACE.replace(
        "    raise ValueError(text)", "    raise ValueError(text)\n    ^^^^^^^^^^^^^^^^^^^^^^"
    )
    assert signature(marked.format("a")).endswith("in execute\nValueError")
    bare = 'Traceback\n  File "a.py", line 1, in f\n    g()\nasyncio.TimeoutError'
    assert signature(bare).endswith("\nasyncio.TimeoutError")


# -- texts


def test_a_text_is_masked_before_it_is_cut_and_has_no_control_characters() -> None:
    texts = ShownTexts(["the-password"])
    assert texts.begin("aaaa the-password", 8) == "aaaa ***"
    assert texts.begin("x" * 10, 4) == "xxxx… (6 more characters)"
    assert texts.end("x" * 6 + "the end", 7) == "(6 characters before) …the end"
    dropped = 2 * len("the-password") - 1  # as many as could belong to it in hex
    shown = texts.end("x" * (6 + dropped) + "the end", 7, before=4)
    assert shown == f"({10 + dropped} characters before) …the end"
    assert texts.begin("a\x1b[31m\tb\nc\x9b") == "a\\x1b[31m\tb\nc\\x9b"
    assert texts.begin("\ud800") == "\\ud800"


def test_other_values_are_shown_as_json_and_many_are_counted() -> None:
    texts = ShownTexts([])
    assert texts.pairs([("a", {"b": [1, None]}), ("c", "d")]) == [
        ("a", '{\n  "b": [\n    1,\n    null\n  ]\n}'),
        ("c", "d"),
    ]
    many = texts.pairs((str(n), "") for n in range(MAX_VALUES + 3))
    assert len(many) == MAX_VALUES + 1
    assert many[-1] == ("", "… and 3 more")
