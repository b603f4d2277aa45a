"""Links by which a person without a key sends one event to one run, and attacks on them."""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from exotrio.manager.engine.event_links import MAX_DAYS, MAX_LENGTH
from exotrio.manager.security.encryption import cipher_from_text
from exotrio.manager.store.cipher import KEY_BYTES, Cipher
from exotrio.manager.web import event_page
from tests.contract.flow import Flow
from tests.support.helpers import SettableClock, node_name, ok, place, refused
from tests.support.manager import NO_SETTINGS
from tests.support.web import KEY, SCRIPT, Site, open_site

VALUE = {"ok": "true", "by": SCRIPT}
DEAD = "This link does not work"
WAIT: dict[str, Any] = {
    "node_name": "wait for event",
    "identifier": "approved",
    "inputs": {},
    "wait": {
        "event": "approved",
        "outputs": {
            "ok": {"type": "string", "contentSchema": {"type": "boolean"}},
            "by": {"type": "string"},
            "why": {"type": "string", "default": "no reason"},
        },
        "timeout_ms": 86_400_000,
        "on_timeout": "error",
    },
}
OLD, NEW = (base64.b64encode(bytes([fill]) * 32).decode() for fill in b"ab")


def until(clock: SettableClock, **later: float) -> str:
    return (datetime.fromtimestamp(clock() / 1000, UTC) + timedelta(**later)).isoformat()


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def site(clock: SettableClock) -> AsyncIterator[Site]:
    async with open_site(clock=clock) as opened:
        yield opened


async def waiting_run(site: Site) -> str:
    """Return a run that waits for the event ``approved``."""
    flow = await Flow.deploy(
        site.api, {**WAIT, "namespace": site.api.namespace, "next_nodes": ["then"]}, place("then")
    )
    return await flow.trigger()


async def ask_for_link(
    site: Site, run: str, clock: SettableClock, value: Any = None, **fields: Any
) -> httpx.Response:
    body = {"name": "approved", "value": value or VALUE, "until": until(clock, days=3), **fields}
    return await site.api.native("POST", f"run/{run}/event-link", json=body)


async def link_to(site: Site, run: str, clock: SettableClock, value: Any = None, **fields: Any) -> str:
    path: str = ok(await ask_for_link(site, run, clock, value, **fields))["path"]
    return path


async def sent(site: Site, run: str) -> dict[str, dict[str, str]]:
    events = ok(await site.api.native("GET", f"run/{run}/events"))["sent"]
    return {event["name"]: event["value"] for event in events}


async def press(site: Site, link: str) -> httpx.Response:
    """Press the button, as a browser without a session does: with no origin, by the policy of the page."""
    return await site.anonymous.post(link, origin="null")


async def test_a_person_without_a_key_sees_what_a_link_sends_and_sends_it_by_a_button(
    site: Site, clock: SettableClock
) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock)
    page = await site.anonymous.page(link)
    assert SCRIPT not in page
    assert "approved" in page
    assert '<form method="post">' in page
    assert "<script" not in page
    assert await sent(site, run) == {}, "a program that scans mails has opened the link"
    assert "This was sent" in (await press(site, link)).text
    assert await sent(site, run) == {"approved": VALUE}
    assert "This was sent" in (await press(site, link)).text, "pressed twice"
    assert "<form" not in await site.anonymous.page(link)


async def test_of_two_links_the_first_counts(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    yes, no = [await link_to(site, run, clock, VALUE | {"ok": ok}) for ok in ("true", "false")]
    await press(site, no)
    answer = await press(site, yes)
    assert answer.status_code == 409
    assert "Another answer was sent before" in answer.text
    assert await sent(site, run) == {"approved": VALUE | {"ok": "false"}}
    assert "<form" not in await site.anonymous.page(yes)


async def test_a_link_that_leaves_out_a_default_was_sent_by_one_who_gave_it(
    site: Site, clock: SettableClock
) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock)
    body = {"name": "approved", "value": VALUE | {"why": "no reason"}}
    ok(await site.api.native("POST", f"run/{run}/events", json=body))
    assert "This was sent" in (await press(site, link)).text


async def dead(site: Site, link: str) -> None:
    """Check that a link neither shows nor sends anything, and that the answer does not tell why."""
    reference = await site.anonymous.get("/event?link=x")
    for answer in (await site.anonymous.get(link), await press(site, link)):
        assert answer.status_code == 404
        assert answer.text == reference.text
        different = {name for name in answer.headers if answer.headers[name] != reference.headers.get(name)}
        assert different <= {"x-exosphere-request-id"}
    assert DEAD in reference.text


async def test_a_link_ends_at_its_time(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock, until=until(clock, hours=1))
    clock.advance(3_600_000 - 1)
    assert "<form" in await site.anonymous.page(link)
    clock.advance(1)
    await dead(site, link)
    assert await sent(site, run) == {}


async def test_a_link_ends_with_its_run(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock)
    ok(await site.api.native("POST", f"run/{run}/cancel"))
    await dead(site, link)
    assert refused(await ask_for_link(site, run, clock), 409)


async def test_a_link_ends_with_the_deletion_of_its_run_also_if_another_gets_its_id(
    site: Site, clock: SettableClock
) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock)
    (graph,) = [each["name"] for each in ok(await site.api.native("GET", "graphs"))["graphs"]]
    ok(await site.api.native("DELETE", f"graph/{graph}", params={"cancel_runs": "true"}))
    await dead(site, link)
    clock.advance(1_000)
    flow = await Flow.deploy(site.api, {**WAIT, "namespace": site.api.namespace}, graph=graph)
    assert flow.graph == graph
    ok(await site.api.native_trigger(graph, run))
    await dead(site, link)
    assert await sent(site, run) == {}


async def test_a_link_that_was_changed_at_any_character_is_dead(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock, {"ok": "true", "by": "ada"})
    path, _, token = link.partition("=")
    assert re.fullmatch("[A-Za-z0-9_-]+", token)
    for at in range(len(token)):
        other = "A" if token[at] != "A" else "B"
        changed = f"{path}={token[:at]}{other}{token[at + 1 :]}"
        assert (await press(site, changed)).status_code == 404, at
    for changed in (
        token[:-1],
        f"{token}A",
        f"{token}=",
        token[4:],
        "",
        token * 20,
        f"{token}%00",
        f" {token}",
    ):
        await dead(site, f"{path}={changed}")
    await dead(site, path)
    assert await sent(site, run) == {}


async def test_clients_without_a_link_do_not_reach_the_database(
    site: Site, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await link_to(site, await waiting_run(site), clock)

    def reached(*arguments: object) -> None:
        raise AssertionError("the database is used for a link that was not made here")

    for use_case in ("link_state", "send_by_link"):
        monkeypatch.setattr(event_page, use_case, reached)
    await dead(site, f"{link}A")
    assert (await press(site, link)).status_code == 500, "the test would see it"


async def test_a_link_tells_nothing_that_its_page_does_not_say(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    link = await link_to(site, run, clock, {"ok": "true", "by": "ada-in-particular"})
    raw = base64.urlsafe_b64decode(link.partition("=")[2] + "==")
    answer = await site.anonymous.get(link)
    for private in (run, site.api.namespace, KEY):
        assert private.encode() not in raw
        assert private not in answer.text
    assert b"ada-in" not in raw
    assert link != await link_to(site, run, clock, {"ok": "true", "by": "ada-in-particular"})


async def test_no_other_site_gets_a_link_and_no_cache_keeps_it(site: Site, clock: SettableClock) -> None:
    link = await link_to(site, await waiting_run(site), clock)
    for headers in ((await site.anonymous.get(link)).headers, (await press(site, link)).headers):
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy


async def test_a_link_opens_nothing_else(site: Site, clock: SettableClock) -> None:
    link = await link_to(site, await waiting_run(site), clock)
    answer = await press(site, link)
    assert "set-cookie" not in answer.headers
    assert (await site.anonymous.get("/ns/shop")).status_code == 303
    token = link.partition("=")[2]
    assert (await site.anonymous.get(f"/sign-in?link={token}")).status_code == 401


@pytest.mark.parametrize(
    ("value", "later", "status"),
    [
        pytest.param({"ok": "maybe", "by": "a"}, {"days": 1}, 400, id="of another type"),
        pytest.param({"ok": "true"}, {"days": 1}, 400, id="incomplete"),
        pytest.param({"ok": "true", "by": "x" * MAX_LENGTH}, {"days": 1}, 400, id="too long"),
        pytest.param({"ok": "true", "by": "\0"}, {"days": 1}, 400, id="not storable"),
        pytest.param(VALUE, {"days": -1}, 400, id="over"),
        pytest.param(VALUE, {"days": MAX_DAYS + 1}, 400, id="too late"),
        pytest.param({"ok": True}, {"days": 1}, 422, id="not texts"),
    ],
)
async def test_no_link_is_made_that_would_not_work(
    site: Site, clock: SettableClock, value: Any, later: dict[str, float], status: int
) -> None:
    run = await waiting_run(site)
    answer = await ask_for_link(site, run, clock, value, until=until(clock, **later))
    assert answer.status_code == status, answer.text


async def test_only_who_has_the_key_makes_links(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    path = f"/exotrio/v1/namespace/{site.api.namespace}/run/{run}/event-link"
    body = {"name": "approved", "value": VALUE, "until": until(clock, days=1)}
    assert (await site.anonymous.client.post(path, json=body)).status_code == 401
    assert (await site.api.native("POST", f"run/{'0' * 8}/event-link", json=body)).status_code == 404


async def test_links_work_as_long_as_their_key_is_given_and_at_other_state_managers(
    tmp_path: Path, clock: SettableClock
) -> None:
    settings = [
        dataclasses.replace(NO_SETTINGS, secrets_encryption_key=keys) for keys in (OLD, f"{NEW},{OLD}", NEW)
    ]
    db = tmp_path / "state.db"
    async with open_site(db, clock=clock, settings=settings[0]) as site:
        link = await link_to(site, await waiting_run(site), clock)
        assert cipher_from_text(OLD, source="a test").newest not in link
    async with open_site(db, clock=clock, settings=settings[1]) as site:
        assert "<form" in await site.anonymous.page(link)
    async with open_site(db, clock=clock, settings=settings[2]) as site:
        await dead(site, link)


def test_the_key_of_links_is_not_that_of_secrets() -> None:
    key = b"k" * KEY_BYTES
    sealed = Cipher(key).seal(b"text", purpose="links that send events")
    raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    with pytest.raises(InvalidTag):
        AESGCM(key).decrypt(raw[:12], raw[12:], None)
    assert Cipher(key).unseal(sealed, purpose="something else") is None
    assert Cipher(key).unseal(sealed, purpose="links that send events") == b"text"


async def test_a_link_lets_what_waits_for_its_event_go_on(site: Site, clock: SettableClock) -> None:
    run = await waiting_run(site)
    await press(site, await link_to(site, run, clock))
    claimed = ok(await site.api.native_claim({node_name("then"): 1}))["states"]
    assert [state["run_id"] for state in claimed] == [run]
