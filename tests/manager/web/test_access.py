"""Who gets in, and what is refused: keys, sessions, links, origins, hosts."""

from __future__ import annotations

import http.cookies
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from exotrio.manager.security import sessions as session_module
from exotrio.manager.security.keys import Keys
from exotrio.manager.security.refusals import MAX_DELAY, TRIES
from exotrio.manager.security.sessions import IDLE_MS, LINK_LASTS_MS, MAX_AGE_MS, TRUSTED_FOR, Sessions
from exotrio.manager.store.clock import wall_clock
from exotrio.manager.store.opening import open_store
from exotrio.manager.store.view import View
from exotrio.manager.web.guard import FORM_TIME, MAX_COOKIES, MAX_SIGN_IN_FORM, local_path
from tests.support.helpers import virtual_ms
from tests.support.manager import ENGINES, gate, open_two
from tests.support.statements import noted
from tests.support.web import HOST, KEY, ORIGIN, Site, failed_run, open_second, open_site

IDLE, MAX_AGE = IDLE_MS / 1000, MAX_AGE_MS / 1000

FORM = {"origin": ORIGIN, "content-type": "application/x-www-form-urlencoded"}
PAGES = (
    "/",
    "/ns/shop",
    "/ns/shop/runs",
    "/ns/shop/graphs",
    "/ns/shop/nodes",
    "/ns/shop/runtimes",
    "/ns/shop/system",
)


# -- signing in


async def test_the_key_opens_a_session_whose_cookie_is_not_the_key(site: Site) -> None:
    answer = await site.anonymous.sign_in()
    cookie = answer.headers["set-cookie"]
    assert answer.headers["location"] == "/"
    assert KEY not in cookie
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    assert "Secure" not in cookie
    await site.anonymous.page("/ns/shop")


async def test_over_https_the_cookie_is_secure(site: Site) -> None:
    answer = await site.anonymous.post("/sign-in", {"key": KEY}, origin=f"https://{HOST}")
    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize("proto", ["https", "HTTPS", "https, http"])
async def test_behind_an_https_proxy_cookies_are_secure(site: Site, proto: str) -> None:
    path = (await site.dashboard.sign_in_link(ORIGIN)).removeprefix(ORIGIN)
    answer = await site.anonymous.get(path, headers={"x-forwarded-proto": proto})
    assert "Secure" in answer.headers["set-cookie"]


async def test_over_http_the_cookie_is_not_secure(site: Site) -> None:
    path = (await site.dashboard.sign_in_link(ORIGIN)).removeprefix(ORIGIN)
    answer = await site.anonymous.get(path, headers={"x-forwarded-proto": "http"})
    assert "Secure" not in answer.headers["set-cookie"]


@pytest.mark.parametrize("path", ["/sign-in", "/", "/static/0/style.css", "/live/ns/shop"])
async def test_no_cookie_of_an_unauthenticated_client_is_read_by_http_cookies(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    # Before Python 3.11.10 and 3.12.6, one of 31 KB took more than a second there (CVE-2024-7592).
    unquoted: list[str] = []
    monkeypatch.setattr(http.cookies, "_unquote", unquoted.append)
    cookie = r'exotrio_8000="\"\"\""; exotrio_theme="\"\"\""'
    answer = await site.anonymous.get(path, headers={"cookie": cookie})
    assert answer.status_code in (200, 303, 401)
    assert unquoted == []


@pytest.mark.parametrize(
    ("before", "after", "signed_in"),
    [
        ("", "", True),
        ("other=1; exotrio_theme=dark;", "; more=2", True),
        ("exotrio_8001=x; xexotrio_8000=y; =;;", "", True),
        ("x" * MAX_COOKIES + ";", "", False),
    ],
)
async def test_the_cookie_of_a_session_is_found_among_others_within_a_limit(
    site: Site, before: str, after: str, signed_in: bool
) -> None:
    own = "; ".join(f"{name}={value}" for name, value in site.browser.client.cookies.items())
    answer = await site.anonymous.get("/ns/shop", headers={"cookie": f"{before}{own}{after}"})
    assert answer.status_code == (200 if signed_in else 303)
    if signed_in and "theme" in before:
        assert 'data-theme="dark"' in answer.text


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "x", KEY.upper(), "ümläut\ud7ff"])
async def test_a_wrong_key_opens_nothing(site: Site, key: str) -> None:
    answer = await site.anonymous.sign_in(key)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "Wrong key." in answer.text


async def test_the_sign_in_returns_to_the_requested_page(site: Site) -> None:
    for path in PAGES:
        answer = await site.anonymous.get(path)
        assert (answer.status_code, answer.text) == (303, "")
        assert answer.headers["location"].startswith("/sign-in")
    target = "/ns/shop/runs?status=failed&text=a%26b"
    answer = await site.anonymous.get(target)
    form = await site.anonymous.page(answer.headers["location"])
    assert 'name="to" value="/ns/shop/runs?status=failed&amp;text=a%26b"' in form
    assert (await site.anonymous.sign_in(to=target)).headers["location"] == target


async def test_unauthenticated_clients_do_not_learn_what_exists(site: Site) -> None:
    flow, state = await failed_run(site.api)
    known = await site.anonymous.get(f"/ns/shop/runs/{flow.run_id}")
    unknown = await site.anonymous.get("/ns/shop/nothing")
    assert known.status_code == unknown.status_code == 303
    for path in (f"/live/ns/shop/runs/{flow.run_id}", "/live/ns/shop"):
        assert (await site.anonymous.get(path)).status_code == 401
    fragment = await site.anonymous.get(f"/ns/shop/states/{state}", headers={"x-fragments": "state"})
    assert (fragment.status_code, fragment.text) == (401, "signed out")
    assert fragment.headers["content-type"] == "text/plain; charset=utf-8"


async def test_signing_out_ends_the_session_on_the_server(site: Site) -> None:
    kept = "; ".join(f"{name}={value}" for name, value in site.browser.client.cookies.items())
    answer = await site.browser.post("/sign-out")
    assert answer.headers["location"] == "/sign-in"
    again = await site.browser.get("/ns/shop", headers={"cookie": kept})
    assert again.status_code == 303


async def test_the_cookie_opens_the_dashboard_only_and_the_key_the_api_only(site: Site) -> None:
    for path in ("/v0/namespaces", "/exotrio/v1"):
        assert (await site.browser.get(path)).status_code == 401
    answer = await site.anonymous.get("/ns/shop", headers={"x-api-key": KEY})
    assert answer.status_code == 303


async def test_two_state_managers_on_one_machine_do_not_share_a_cookie(site: Site) -> None:
    answer = await site.anonymous.client.post(
        "/sign-in", data={"key": KEY}, headers={"origin": "http://localhost:9000", "host": "localhost:9000"}
    )
    assert answer.headers["set-cookie"].startswith("exotrio_9000=")


@pytest.mark.parametrize(
    ("to", "led_to"),
    [
        ("/ns/shop?x=1#states", "/ns/shop?x=1#states"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("ns/shop", "/"),
        (" /ns", "/"),
        ("", "/"),
        ("/[", "/["),
        ("//[", "/"),
        ("http://]/", "/"),
    ],
)
def test_the_sign_in_redirects_to_local_paths_only(to: str, led_to: str) -> None:
    assert local_path(to) == led_to


# -- sessions


@asynccontextmanager
async def opened_sessions(
    db: str | Path = ":memory:", *, key: str = KEY, clock: Callable[[], int] = virtual_ms
) -> AsyncIterator[Sessions]:
    # Without a service, which would sweep every few seconds of a week that passes in no time.
    async with open_store(db, clock=clock) as store:
        yield Sessions(store, key, Keys(store))


async def test_a_session_ends_when_it_is_unused_or_a_week_old(autojump_clock: Any) -> None:
    async with opened_sessions() as sessions:
        used = await sessions.sign_in(KEY)
        unused = await sessions.sign_in(KEY)
        assert used
        assert unused
        began = trio.current_time()
        while trio.current_time() - began < MAX_AGE:
            session = await sessions.find(used)
            assert session
            sessions.use(session)
            await trio.sleep(IDLE / 2)
            if trio.current_time() - began <= IDLE:
                assert await sessions.find(unused), "a page that refreshes itself is no use"
        assert not await sessions.find(unused)
        await trio.sleep(1)
        assert not await sessions.find(used)


async def test_a_link_opens_one_session_within_some_minutes(autojump_clock: Any) -> None:
    async with opened_sessions() as sessions:
        token, late = await sessions.make_link(), await sessions.make_link()
        session_id = await sessions.redeem(token)
        assert session_id
        assert await sessions.find(session_id)
        assert await sessions.redeem(token) is None
        assert await sessions.redeem("guessed") is None
        await trio.sleep(LINK_LASTS_MS / 1000 + 1)
        assert await sessions.redeem(late) is None


async def test_a_session_outlasts_a_restart_but_not_another_key(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    async with opened_sessions(db, clock=wall_clock) as sessions:
        session_id, link = await sessions.sign_in(KEY), await sessions.make_link()
    assert session_id
    async with opened_sessions(db, key="another key", clock=wall_clock) as sessions:
        assert await sessions.find(session_id) is None
        assert await sessions.redeem(link) is None
    async with opened_sessions(db, clock=wall_clock) as sessions:
        assert await sessions.find(session_id)
        assert await sessions.redeem(link)
    async with await trio.open_file(db, "rb") as file:
        stored = await file.read()
    assert session_id.encode() not in stored
    assert link.encode() not in stored


async def test_the_number_of_sessions_and_links_is_limited(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 3)
    monkeypatch.setattr(session_module, "MAX_LINKS", 3)
    async with opened_sessions() as sessions:
        ids, links = [], []
        for _ in range(5):
            await trio.sleep(1)
            ids.append(await sessions.sign_in(KEY) or "")
            links.append(await sessions.make_link())
        await trio.sleep(TRUSTED_FOR)
        assert [await sessions.find(session_id) is not None for session_id in ids] == [False] * 2 + [True] * 3
        assert [await sessions.redeem(link) is not None for link in links] == [False] * 2 + [True] * 3


async def test_a_session_is_open_at_all_state_managers_until_it_is_ended_at_one(
    autojump_clock: Any,
) -> None:
    async with open_site(clock=virtual_ms) as site, open_second(site) as second:
        flow, _ = await failed_run(site.api)
        done = await site.browser.post(f"/ns/shop/runs/{flow.run_id}/retry")
        assert "will run again." in await second.browser.page(done.headers["location"])
        assert "will run again." not in await site.browser.page(done.headers["location"]), "told once"
        kept = {"cookie": "; ".join(f"{name}={value}" for name, value in site.browser.client.cookies.items())}
        await second.browser.post("/sign-out")
        assert (await second.anonymous.get("/ns/shop", headers=kept)).status_code == 303
        await trio.sleep(TRUSTED_FOR)
        assert (await site.anonymous.get("/ns/shop", headers=kept)).status_code == 303


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_session_and_a_link_are_known_to_every_state_manager(engine: str) -> None:
    async with open_two(engine) as (manager, second):
        services = (manager.service, second.service, manager.service)
        here, there, later = (Sessions(each.store, KEY, each.keys) for each in services)
        session_id = await here.sign_in(KEY) or ""
        session = await there.find(session_id) or ""
        there.use(session)
        await manager.service.store.write(session_module.add_flash, session, "done")
        for each, flashes in ((second, ["done"]), (manager, [])):
            assert await each.service.store.write(session_module.take_flashes, session) == flashes
        await there.end(session_id)
        assert await there.find(session_id) is None
        assert await later.find(session_id) is None
        link = await here.make_link()
        opened = []

        async def redeem(sessions: Sessions) -> None:
            opened.append(await sessions.redeem(link))

        async with trio.open_nursery() as nursery:
            for sessions in (here, there, here, there):
                nursery.start_soon(redeem, sessions)
        assert opened.count(None) == 3, "it opens one session"


async def test_unauthenticated_clients_cause_no_writes_by_signing_out_or_guessing_links(site: Site) -> None:
    with noted(site.service.store) as statements:
        assert (await site.anonymous.get("/sign-in?link=guess")).status_code == 401
        guess = {"cookie": f"exotrio_8000={'x' * 43}", "origin": ORIGIN}
        assert (await site.anonymous.client.post("/sign-out", headers=guess)).status_code == 303
        assert statements == []
        await site.browser.post("/sign-out")
        assert statements, "those of who is signed in are noted"


async def test_a_page_that_refreshes_itself_reads_its_session_every_few_seconds_only(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    is_open = session_module.is_session_open

    def counted(view: View, session: str) -> bool:
        nonlocal reads
        reads += 1
        return is_open(view, session)

    monkeypatch.setattr(session_module, "is_session_open", counted)
    async with open_site(clock=virtual_ms) as site:
        began = trio.current_time()
        for _ in range(100):
            await site.browser.fragments("/ns/shop", "now")
            await trio.sleep(0.25)
        assert 0 < reads <= (trio.current_time() - began) / TRUSTED_FOR + 1


async def test_a_page_that_only_refreshes_itself_does_not_keep_its_session_open(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "IDLE_MS", 300_000)  # as 12 h, but with less sweeps in between
    async with open_site(clock=virtual_ms) as site:
        for _ in range(20):
            await trio.sleep(30)
            await site.browser.page("/ns/shop")
        statuses = []
        for _ in range(20):
            await trio.sleep(30)
            refreshed = await site.browser.get("/ns/shop", headers={"x-fragments": "now"})
            statuses.append(refreshed.status_code)
        assert statuses[0] == 200
        assert statuses[-1] == 401


async def test_a_session_that_is_ended_during_its_query_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_sessions(tmp_path / "state.db", clock=wall_clock) as sessions:
        session_id = await sessions.sign_in(KEY) or ""
        is_open = session_module.is_session_open
        with gate() as held:

            def query_then_hold(view: View, session: str) -> bool:
                result = is_open(view, session)
                held.hold()
                return result

            with monkeypatch.context() as patch:
                patch.setattr(session_module, "is_session_open", query_then_hold)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sessions.find, session_id)
                    await trio.to_thread.run_sync(held.wait_entered)
                    await sessions.end(session_id)
                    held.open()
        assert await sessions.find(session_id) is None


async def test_a_link_signs_a_browser_in(site: Site) -> None:
    link = await site.dashboard.sign_in_link(ORIGIN)
    path = link.removeprefix(ORIGIN)
    looked = await site.anonymous.client.head(path)
    assert "set-cookie" not in looked.headers, "who only looks at a link does not use it up"
    answer = await site.anonymous.get(path)
    assert 'http-equiv="refresh" content="0; url=/"' in answer.text
    await site.anonymous.page("/ns/shop")
    site.anonymous.client.cookies.clear()
    assert (await site.anonymous.get(path)).status_code == 401


async def test_guesses_are_delayed_and_the_right_key_is_not(site: Site, autojump_clock: Any) -> None:
    for number in range(TRIES):
        assert (await site.anonymous.sign_in(f"guess {number}")).status_code == 401
    began = trio.current_time()
    answer = await site.anonymous.sign_in("guess")
    assert trio.current_time() - began == pytest.approx(MAX_DELAY)
    assert answer.status_code == 401
    assert "Many wrong keys came from your address" in answer.text
    assert "delayed by 5 s. Try again at any time" in answer.text
    began = trio.current_time()
    assert (await site.anonymous.sign_in(KEY)).status_code == 303
    assert trio.current_time() == began


@pytest.mark.parametrize("announced", ["1000000", "00000000000001000000", ""])
async def test_the_form_of_an_unauthenticated_client_has_a_maximum_size(site: Site, announced: str) -> None:
    read, statuses = 0, []

    async def receive() -> MutableMapping[str, Any]:
        nonlocal read
        read += 1_000
        more = read < 10 * MAX_SIGN_IN_FORM  # so that the test ends whatever the limit is
        return {"type": "http.request", "body": b"x" * 1_000, "more_body": more}

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.append(message.get("status"))

    headers = {**FORM, "host": HOST, **({"content-length": announced} if announced else {})}
    scope = {"type": "http", "method": "POST", "path": "/sign-in", "query_string": b"", "root_path": ""}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await site.app({**scope, "headers": raw}, receive, send)
    assert statuses[0] == 413
    assert read <= (0 if announced else MAX_SIGN_IN_FORM + 1_000)


async def test_a_form_that_trickles_is_refused(site: Site, autojump_clock: Any) -> None:

    async def trickling() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await trio.sleep(1)

    for browser, path in ((site.anonymous, "/sign-in"), (site.browser, "/ns/shop/runs/change")):
        began = trio.current_time()
        answer = await browser.client.post(path, content=trickling(), headers=FORM)
        assert answer.status_code == 408
        assert trio.current_time() - began == pytest.approx(FORM_TIME)


# -- where requests come from


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "http://evil.example",
        "http://localhost:9000",
        "http://localhost",
        "http://localhost:80000",
        "http://[",
    ],
)
async def test_a_form_of_another_origin_changes_nothing(site: Site, origin: str | None) -> None:
    flow, state = await failed_run(site.api)
    for path in (
        f"/ns/shop/runs/{flow.run_id}/retry",
        f"/ns/shop/runs/{flow.run_id}/again",
        f"/ns/shop/states/{state}/retry",
        "/ns/shop/graphs/orders",
        "/ns/shop/runs/change",
        "/ns/shop/runtimes/drain",
        "/ns/shop/nodes/Node_work/pause",
        "/ns/shop/graphs/orders/pause",
        "/sign-out",
        "/sign-in",
        "/theme",
    ):
        answer = await site.browser.post(path, {"key": KEY}, origin=origin)
        assert answer.status_code == 403, path
    await site.browser.page("/ns/shop")
    assert await flow.status(state) == "ERRORED"


async def test_a_form_without_a_session_changes_nothing(site: Site) -> None:
    _, state = await failed_run(site.api)
    for path, page in ((f"states/{state}/retry", f"states/{state}"), ("graphs/orders", "graphs/orders")):
        answer = await site.anonymous.post(f"/ns/shop/{path}")
        # To the page, since the address of a form alone shows nothing.
        assert answer.headers["location"] == f"/sign-in?to={quote(f'/ns/shop/{page}', safe='')}"


@pytest.mark.parametrize("path", ["/", "/sign-in", "/ns/shop", "/live/ns/shop", "/static/x/style.css"])
async def test_a_host_that_is_not_served_gets_nothing(site: Site, path: str) -> None:
    assert (await site.browser.get(path, headers={"host": "evil.example"})).status_code == 421


async def test_links_change_nothing(site: Site) -> None:
    flow, _ = await failed_run(site.api)
    assert (await site.browser.get(f"/ns/shop/runs/{flow.run_id}/retry")).status_code == 405
    assert (await site.browser.get("/sign-out")).status_code == 405


async def test_origins_that_may_call_the_api_cannot_read_the_dashboard() -> None:
    other = "http://localhost:3000"
    async with open_site(cors_origins=(other,)) as site:
        api = await site.browser.get("/health", headers={"origin": other})
        assert api.headers["access-control-allow-origin"] == other
        page = await site.browser.get("/ns/shop", headers={"origin": other})
        assert page.status_code == 200
        assert "access-control-allow-origin" not in page.headers


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/ns/shop/absent", "/sign-out"])
async def test_every_response_has_the_strict_policy_and_is_not_cached(site: Site, path: str) -> None:
    headers = (await site.browser.get(path)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


async def test_files_need_no_session_and_are_cached_under_versioned_names(site: Site) -> None:
    form = await site.anonymous.page("/sign-in")
    path = form.partition('rel="stylesheet" href="')[2].partition('"')[0]
    answer = await site.anonymous.get(path)
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    old = await site.anonymous.get("/static/0/live.js")
    assert old.headers["cache-control"] == "no-cache"
    assert KEY not in old.text + answer.text
    for name in ("absent.css", "..%2f_guard.py", ".."):
        assert (await site.anonymous.get(f"/static/0/{name}")).status_code in (303, 404)
