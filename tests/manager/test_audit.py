"""The record of changes: who did what, in the commit of the change; and the log lines about refusals."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from exotrio._util.times import timestamp
from exotrio._wire.audit import DONE
from exotrio._wire.keys import NewKey, make_key
from exotrio.manager import create_app
from exotrio.manager.app import create_api
from exotrio.manager.engine import pausing, retention
from exotrio.manager.engine.keys import add_key
from exotrio.manager.engine.triggers import trigger
from exotrio.manager.rules.access import IN_PROCESS
from exotrio.manager.security import refusals
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.web.actions import ACTIONS
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item, report
from tests.support.helpers import (
    NO_RETRY,
    SettableClock,
    node_name,
    ok,
    open_client,
    place,
    refused,
    virtual_ms,
)
from tests.support.manager import ENGINES, KEY, Manager, open_manager
from tests.support.statements import noted
from tests.support.web import failed_run as failed_run_there
from tests.support.web import open_site

NS = "/exotrio/v1/namespace/{namespace}"
V0 = "/v0/namespace/{namespace}"
OF_RUNTIMES = {
    f"PUT {V0}/nodes",
    f"POST {V0}/states/enqueue",
    *(
        f"POST {V0}/state/{{state_id}}/{what}"
        for what in ("executed", "errored", "prune", "re-enqueue-after")
    ),
    *(f"POST {NS}/{what}" for what in ("claim", "outcomes", "release", "heartbeat")),
}
"""Routes that runtimes call: nothing is recorded of them."""
BY_THE_RUN = {f"POST {path}/graph/{{graph}}/trigger" for path in (V0, NS)}
"""Those that start one run: it has who started it in its row."""
CHANGES_NOTHING = {f"POST {NS}/worker/{{worker_id:path}}/tasks", f"POST {NS}/run/{{run_id}}/event-link"}


async def changes(api: Api, **query: Any) -> list[dict[str, Any]]:
    return ok(await api.request("GET", "/exotrio/v1/audit", params=query))["changes"]


async def recorded(api: Api, **query: Any) -> list[tuple[str, str, str]]:
    """Return action, target and result of the recorded changes, oldest first."""
    newest_first = await changes(api, **query)
    return [(each["action"], each["target"], each["result"]) for each in reversed(newest_first)]


async def named_key(manager: Manager, name: str, *scopes: str) -> tuple[str, str]:
    """Add a named key, and return its id and its text."""
    made = make_key()
    await manager.service.store.write(
        add_key, made.id, NewKey(name=name, digest=made.digest, scopes=list(scopes))
    )
    await manager.service.keys.read_again()
    return made.id, made.text


def client_with(manager: Manager, key: str) -> httpx.AsyncClient:
    app = create_app(manager.service, key=KEY)
    return open_client(transport=httpx.ASGITransport(app, raise_app_exceptions=False), key=key)


async def failed_run(api: Api) -> Flow:
    flow = await Flow.deploy(api, place("a"), graph="orders", retry_policy=NO_RETRY)
    await flow.trigger()
    await flow.fail("a", times=1)
    return flow


# -- what is recorded


@pytest.mark.parametrize("engine", ENGINES)
async def test_each_change_is_recorded_once_with_its_target_and_result(db: str) -> None:
    async with open_manager(db) as manager:
        api = manager.remote
        flow = await failed_run(api)
        run = flow.run_id
        (failed,) = [state["id"] for state in await flow.states("a", "ERRORED")]
        ok(await api.put_graph("unregistered", api.body([place("nowhere")])), 201)
        ok(await api.retry_run(run))
        ok(await api.native("POST", f"run/{run}/priority", json={"priority": "high"}))
        await flow.fail("a", times=1)
        (failed,) = [state["id"] for state in await flow.states("a", "ERRORED")]
        ok(await api.manual_retry(failed, str(uuid.uuid4())))
        event = {"name": "approved", "value": {"ok": "yes"}}
        for _ in range(2):  # the second one changes nothing
            ok(await api.native("POST", f"run/{run}/events", json=event))
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        ok(await api.native("POST", f"run/{run}/event-link", json={**event, "until": until}))
        for _ in range(2):
            ok(await api.native("POST", f"run/{run}/cancel"))
        ok(await api.trigger_many("orders", *({"run_id": str(uuid.uuid4())} for _ in range(3))))
        for what in (f"node/{node_name('a')}", "graph/orders"):
            for do in ("pause", "resume"):
                ok(await api.native("POST", f"{what}/{do}"))
        ok(await api.native("PUT", "limit/db", json={"at_most": 5}))
        ok(await api.native("DELETE", "limit/db"))
        ok(await api.heartbeat("worker-1"))
        ok(await api.worker("POST", "worker-1", "drain"))
        made = make_key()
        body = {"name": "ci", "digest": made.digest, "scopes": ["read:tests"]}
        ok(await api.request("PUT", f"/exotrio/v1/keys/{made.id}", json=body))
        ok(await api.request("PUT", f"/exotrio/v1/keys/{made.id}", json=body))  # is there already
        ok(await api.request("DELETE", "/exotrio/v1/keys/ci"))
        ok(await api.delete_graph("orders", cancel_runs="true"))
        expected = [
            ("graph.store", "orders", "new version, 0 secrets"),
            ("graph.store", "unregistered", "new version, invalid, 0 secrets"),
            ("run.retry", run, "1 state to run again"),
            ("run.priority", run, "high"),
            ("run.retry", run, f"1 state ({failed}) to run again"),
            ("run.send", run, "approved"),
            ("run.link", run, "approved"),
            ("run.cancel", run, "1 state cancelled"),
            ("run.trigger", "orders", "3 runs"),
            ("node.pause", node_name("a"), ""),
            ("node.resume", node_name("a"), ""),
            ("schedule.pause", "orders", ""),
            ("schedule.resume", "orders", ""),
            ("limit.set", "db", "5 at once"),
            ("limit.delete", "db", ""),
            ("runtime.drain", "worker-1", ""),
            ("key.add", "ci", f"{made.id}: read:tests"),
            ("key.revoke", "ci", made.id),
        ]
        done = await recorded(api)
        assert done[: len(expected)] == expected
        *cancels, deletion = done[len(expected) :]
        assert {action for action, *_ in cancels} == {"run.cancel"}
        assert (len(cancels), deletion) == (3, ("graph.delete", "orders", "with 4 runs"))
        assert {action for action, *_ in done} <= DONE.keys(), "some have no words"


async def test_every_route_that_changes_something_is_recorded(manager: Manager) -> None:
    changing = {
        f"{route.method} {route.path}": route
        for route in create_api(manager.service).table
        if route.method != "GET"
    }
    unrecorded = OF_RUNTIMES | BY_THE_RUN | CHANGES_NOTHING
    assert unrecorded <= changing.keys()
    for name in sorted(changing.keys() - unrecorded):
        assert "caller" in changing[name].takes, f"{name} does not say who calls it"


def test_every_action_of_the_dashboard_says_who_does_it() -> None:
    for path, (_, action) in ACTIONS.items():
        is_exempt = path.endswith("/tasks")  # changes nothing
        assert is_exempt or {"caller", "write"}.intersection(action.__code__.co_names), path


async def test_pages_say_by_whom_something_was_changed() -> None:
    async with open_site() as site:
        flow, _ = await failed_run_there(site.api)
        here, browser = "/ns/shop", site.browser
        page = await browser.do(f"{here}/runs/{flow.run_id}/retry")
        assert "retried (1 state to run again) by dashboard of root" in page
        assert "through the API" in page
        assert "by in process" in page, "who started it"
        event = {"name": "approved", "value": {"ok": "yes"}}
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        ok(await site.api.native("POST", f"run/{flow.run_id}/event-link", json={**event, "until": until}))
        assert "link made (approved) by in process" in await browser.page(f"{here}/runs/{flow.run_id}")
        page = await browser.do(f"{here}/graphs/orders/pause")
        assert "schedule paused by dashboard of root" in page
        assert "stored (new version, 0 secrets) by in process" in page
        page = await browser.do(f"{here}/nodes/{node_name('first')}/pause")
        assert "paused by dashboard of root" in page
        page = await browser.do(f"{here}/limits", {"name": "db", "at_most": "3"})
        assert "set (3 at once) by dashboard of root" in page
        ok(await site.api.heartbeat("worker-1", phase="running", workers=1))
        page = await browser.do(f"{here}/runtimes/drain", {"worker": "worker-1"})
        assert "asked to drain by dashboard of root" in page
        assert f'href="{here}/audit"' in await browser.page(f"{here}/system")
        page = await browser.page(f"{here}/audit?who=root&action=session")
        assert page.count("session.open") == 1
        assert "No change was recorded that matches" in await browser.page(f"{here}/audit?who=absent")
        assert (await browser.get(f"{here}/audit?before=x")).status_code == 422


async def test_a_change_names_the_key_the_address_and_the_request(manager: Manager) -> None:
    key_id, text = await named_key(manager, "ci", "graphs:tests")
    await failed_run(manager.api)
    request_id = str(uuid.uuid4())
    async with client_with(manager, text) as client:
        api = Api(client, "tests")
        ok(await api.native("POST", "graph/orders/pause", headers={"x-exosphere-request-id": request_id}))
    change, stored = await changes(manager.remote)
    assert (change["who"], change["key_id"], change["address"]) == ("ci", key_id, "127.0.0.1")
    assert (change["request_id"], change["action"]) == (request_id, "schedule.pause")
    assert (change["namespace"], change["target"], change["result"]) == ("tests", "orders", "")
    assert (stored["who"], stored["key_id"], stored["address"]) == ("in process", None, "")
    ok(await manager.remote.native("POST", "graph/orders/resume"))
    assert (await changes(manager.remote))[0]["who"] == "root"
    # By its readers the namespace is seen without where the requests came from.
    seen = ok(await manager.remote.native("GET", "changes"))["changes"]
    assert [each["who"] for each in seen] == ["root", "ci", "in process"]
    assert {each.get(name) for each in seen for name in ("address", "key_id", "request_id")} == {None}


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_record_is_part_of_the_commit_of_the_change(db: str) -> None:
    def fails(tx: Transaction) -> None:
        tx.record("run.cancel", "tests", "a run")
        raise LookupError

    async with open_manager(db) as manager:
        with pytest.raises(LookupError):
            await manager.service.store.write_as(IN_PROCESS, fails)
        refused(await manager.remote.native("POST", "node/unknown/pause"), 404)
        flow = await failed_run(manager.api)
        refused(await manager.remote.native("POST", f"run/{flow.run_id}/cancel"), 409)
        assert await recorded(manager.remote) == [("graph.store", "orders", "new version, 0 secrets")]
        with noted(manager.service.store) as statements:
            ok(await manager.remote.native("POST", "graph/orders/pause"))
        written = [each for each in statements if not each.startswith("SELECT")]
        assert [each.split()[:3] for each in written] == [
            ["UPDATE", "graphs", "SET"],
            ["INSERT", "INTO", "audit"],
        ]


async def test_work_of_runtimes_and_of_the_state_manager_itself_is_not_recorded(manager: Manager) -> None:
    flow = await Flow.deploy(manager.remote, place("a"))
    await flow.trigger()
    (state,) = await claim(manager.remote, {node_name("a"): 1})
    ok(await manager.remote.heartbeat("worker-1"))
    assert await report(manager.remote, executed_item(state, {"v": "1"})) == ["ok"]
    await manager.service.store.write(pausing.pause_node, "tests", node_name("a"))
    assert [action for action, *_ in await recorded(manager.remote)] == ["graph.store"]


async def test_a_run_says_who_started_it_without_a_further_statement(manager: Manager) -> None:
    flow = await Flow.deploy(manager.api, place("a"))
    with noted(manager.service.store) as statements:
        await flow.trigger()
    assert not [each for each in statements if "audit" in each]
    ok(await manager.remote.trigger_many(flow.graph, *({"run_id": str(uuid.uuid4())} for _ in range(2))))
    await manager.service.store.write(trigger, "tests", flow.graph, _scheduled())
    started = await manager.service.store.read(
        lambda view: [tuple(row) for row in view.execute("SELECT started_by FROM runs ORDER BY id")]
    )
    assert started == [("in process",), ("root",), ("root",), (None,)]


def _scheduled() -> Any:
    from exotrio.manager.engine.triggers import SCHEDULE, NewRun

    return NewRun(origin=SCHEDULE)


# -- the list


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_list_has_pages_and_filters(db: str) -> None:
    clock = SettableClock()
    async with open_manager(db, clock=clock) as manager:
        key_id, text = await named_key(manager, "ci", "graphs:tests", "graphs:other")
        api = manager.remote
        for name in ("orders", "orders-eu", "stock"):
            await Flow.deploy(manager.api, place("a"), graph=name)
        middle = clock()
        clock.advance(1_000)
        async with client_with(manager, text) as client:
            ok(await Api(client, "tests").native("POST", "graph/orders/pause"))
            ok(await Api(client, "other").native("PUT", "limit/100%", json={"at_most": 1}))
        first = ok(await api.request("GET", "/exotrio/v1/audit", params={"limit": 2}))
        rest = ok(await api.request("GET", "/exotrio/v1/audit", params={"limit": 3, "before": first["next"]}))
        targets = [each["target"] for page in (first, rest) for each in page["changes"]]
        assert targets == ["100%", "orders", "stock", "orders-eu", "orders"]
        assert rest["next"] is None

        async def found(**query: Any) -> list[str]:
            return [target for _, target, _ in await recorded(api, **query)]

        assert await found(who="ci") == await found(who=key_id) == ["orders", "100%"]
        assert await found(who="in process", target="orders") == ["orders", "orders-eu"]
        assert await found(action="graph") == ["orders", "orders-eu", "stock"]
        assert await found(action="graph.delete") == []
        assert await found(target="100%") == await found(namespace="other") == ["100%"]
        assert await found(target="%") == await found(target="\0") == []
        since = timestamp(middle + 1)
        assert await found(since=since) == ["orders", "100%"]
        assert await found(until=since) == ["orders", "orders-eu", "stock"]
        for cursor in ("x", "-1", "9" * 19):
            refused(await api.request("GET", "/exotrio/v1/audit", params={"before": cursor}), 422)


async def test_rows_are_kept_as_long_as_runs_and_up_to_a_number(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(retention, "MAX_AUDIT", 7)
    async with open_manager(clock=virtual_ms, keep_ms=60_000) as manager:

        async def store(*names: str) -> None:
            for name in names:
                await Flow.deploy(manager.api, place("a"), graph=name)

        await store(*(f"first-{number}" for number in range(9)))
        await trio.sleep(8)
        kept = [target for _, target, _ in await recorded(manager.api)]
        assert kept == [f"first-{number}" for number in range(2, 9)], "of too many the oldest are deleted"
        await store("second")
        await trio.sleep(58)
        assert [target for _, target, _ in await recorded(manager.api)] == ["second"]


async def test_without_a_limit_of_time_only_the_number_counts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MAX_AUDIT", 1)
    async with open_manager(clock=virtual_ms) as manager:
        for name in ("first", "second"):
            await Flow.deploy(manager.api, place("a"), graph=name)
        await trio.sleep(610)
        assert [target for _, target, _ in await recorded(manager.api)] == ["second"]


# -- refusals


def lines(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    return [record.getMessage() for record in caplog.records if "refused: " in record.getMessage()]


async def test_a_refusal_is_a_line_in_the_log_with_key_and_address_but_not_its_text(
    manager: Manager, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    key_id, text = await named_key(manager, "ci", "read:other")
    gone = make_key()
    with caplog.at_level(logging.WARNING):
        for key, status in (("a-wrong-key-of-an-attacker", 401), (gone.text, 401), (text, 403)):
            async with client_with(manager, key) as client:
                refused(await Api(client, "tests").native("POST", "node/a%0Ab/pause"), status)
    path = "POST /exotrio/v1/namespace/tests/node/a\\nb/pause"
    assert lines(caplog) == [
        f"refused: a wrong key from 127.0.0.1: {path}",
        f"refused: an unknown, revoked or expired key ({gone.id}) from 127.0.0.1: {path}",
        f"refused: the key 'ci' ({key_id}) from 127.0.0.1: {path}",
    ]
    for secret in ("attacker", gone.text[-43:], text[-43:]):
        assert secret not in caplog.text


async def test_sessions_of_a_named_key_are_recorded_and_refused_under_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_site() as site:
        await failed_run_there(site.api)
        made = make_key()
        new = NewKey(name="ci", digest=made.digest, scopes=["read:shop"])
        await site.service.store.write(add_key, made.id, new)
        await site.service.keys.read_again()
        with caplog.at_level(logging.WARNING):
            await site.anonymous.sign_in("a-wrong-key-of-an-attacker")
            assert (await site.anonymous.sign_in(made.text)).status_code == 303
            assert (await site.anonymous.post("/ns/shop/graphs/orders/pause")).status_code == 403
        (opened, *_) = await changes(site.api, action="session")
        assert (opened["who"], opened["key_id"], opened["address"]) == (
            "dashboard of ci",
            made.id,
            "127.0.0.1",
        )
        assert lines(caplog) == [
            "refused: a wrong key from 127.0.0.1: POST /sign-in",
            f"refused: the key 'ci' ({made.id}) from 127.0.0.1: POST /ns/shop/graphs/orders/pause",
        ]
        assert not await changes(site.api, action="schedule")


async def test_many_refusals_are_few_lines(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MAX_LINES", 3)
    log = refusals.Refusals()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            log.log("a wrong key", "10.0.0.1", "GET", "/metrics")
        for number in range(5):
            log.log("a wrong key", f"10.0.1.{number}", "GET", "/metrics")
        assert len(lines(caplog)) == 3
        await trio.sleep(refusals.AGAIN_AFTER)
        log.log("a wrong key", "10.0.0.1", "GET", "/metrics")
    more = "refused: a wrong key from 10.0.0.1: GET /metrics; 4 more since the last such line"
    assert lines(caplog)[3:] == [more]


async def test_wrong_keys_hide_no_refusal_of_a_named_key(
    manager: Manager, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "MAX_LINES", 3)
    key_id, text = await named_key(manager, "ci", "read:other")
    with caplog.at_level(logging.WARNING):
        for key in (*(make_key().text for _ in range(5)), text):
            async with client_with(manager, key) as client:
                await Api(client, "tests").native("POST", "node/a/pause")
    said = lines(caplog)
    assert len(said) == 4
    assert said[-1].startswith(f"refused: the key 'ci' ({key_id}) from 127.0.0.1: ")
