"""What was tried with the leaked key of a runtime when there was one key for everything (issue 29).

Then all of it worked. Each attempt is made with the key of a runtime of another namespace, and with that of
another runtime of the same one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from exotrio._wire.vocabulary import LEASE_HEADER
from exotrio.graph import pinned_name
from exotrio.manager.engine import nodes as nodes_engine
from exotrio.manager.rules.access import IN_NAMESPACE
from exotrio.manager.security import sessions
from exotrio.manager.web.pages import PAGES
from tests.contract.native import item_for
from tests.support.due import CHILDREN, handle_due
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, declare, place
from tests.support.keyed import ROOT, Site, open_keyed

V0, NATIVE = "/v0/namespace", "/exotrio/v1/namespace"
ENGINES = ["SQLite", "PostgreSQL"]


@dataclass
class Shop:
    """A namespace with a graph that has secrets, one of which no node declares, and a runtime with a key."""

    site: Site
    runtime: str
    run_id: str

    async def claim(self) -> dict[str, Any]:
        """Have the runtime claim a state natively."""
        body = {"claim_id": str(uuid4()), "worker_id": "w", "limit": 1, "limits": {"Charge": 1}}
        (state,) = (await self.site.call(self.runtime, "POST", f"{NATIVE}/shop/claim", body))["states"]
        return {**state, "claim_id": body["claim_id"]}

    async def claim_v0(self) -> str:
        body = {"nodes": ["Charge"], "batch_size": 1}
        (state,) = (await self.site.call(self.runtime, "POST", f"{V0}/shop/states/enqueue", body))["states"]
        return str(state["state_id"])

    async def status(self, state_id: str) -> str:
        shown = await self.site.call(ROOT, "GET", f"{NATIVE}/shop/state/{state_id}")
        return str(shown["status"])


@asynccontextmanager
async def open_shop(db: str = ":memory:") -> AsyncIterator[Shop]:
    async with open_keyed(db) as site:
        runtime = await site.key("runtime:shop")
        nodes = {"runtime_name": "r", "nodes": [declare("Charge", secrets=["CARD"])]}
        await site.call(runtime, "PUT", f"{V0}/shop/nodes/", nodes)
        graph = {
            "nodes": [place("charge", node_name="Charge", namespace="shop")],
            "secrets": {"CARD": "the card", "UNUSED": "that no node declares"},
            "retry_policy": NO_RETRY,
        }
        await site.call(ROOT, "PUT", f"{V0}/shop/graph/orders", graph, status=201)
        started = await site.call(ROOT, "POST", f"{V0}/shop/graph/orders/trigger", {"inputs": {}})
        yield Shop(site, runtime, started["run_id"])


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as opened:
        yield opened


@pytest.fixture
def leaked(shop: Shop) -> Any:
    return shop.site.key("runtime:bank")


@pytest.mark.parametrize("scope", ["runtime:shop", "runtime:bank"])
async def test_another_runtime_neither_reports_nor_releases_nor_reads_secrets_of_a_state(
    scope: str, db: str
) -> None:
    async with open_shop(db) as shop:
        site, leaked = shop.site, await shop.site.key(scope)
        spaces = ["shop", "bank"] if scope == "runtime:bank" else ["shop"]
        state = await shop.claim()
        state_id, token = state["state_id"], state["lease"]["token"]
        for space in spaces:
            # It even knows the token, as from a log of a proxy.
            refused = 403 if space != scope.partition(":")[2] else 200
            held = {"state_id": state_id, "token": token}
            outcomes = [{**held, "outcome": "executed", "outputs": [{"v": "false"}]}]
            reply = await site.call(leaked, "POST", f"{NATIVE}/{space}/outcomes", outcomes, status=refused)
            assert refused == 403 or [item["result"] for item in reply["items"]] in (["stale"], ["unknown"])
            reply = await site.call(
                leaked, "POST", f"{NATIVE}/{space}/release", {"states": [held]}, status=refused
            )
            assert refused == 403 or [item["result"] for item in reply["items"]] in (["stale"], ["unknown"])
            reply = await site.call(
                leaked, "POST", f"{NATIVE}/{space}/release", {"claim_id": state["claim_id"]}, status=refused
            )
            assert refused == 403 or reply["items"] == []
            beat = {"worker_id": "w", "states": [{**held, "checkpoint": {"number": 1, "value": "{}"}}]}
            reply = await site.call(leaked, "POST", f"{NATIVE}/{space}/heartbeat", beat, status=refused)
            assert refused == 403 or [item["result"] for item in reply["items"]] == ["lost"]
            path = f"{V0}/{space}/state/{state_id}/secrets"
            lost = 404 if refused == 200 and space == "bank" else 403
            await site.call(leaked, "GET", path, status=lost, **{LEASE_HEADER: token})
        assert await shop.status(state_id) == "QUEUED"
        secrets = await site.call(
            shop.runtime, "GET", f"{V0}/shop/state/{state_id}/secrets", **{LEASE_HEADER: token}
        )
        assert secrets == {"secrets": {"CARD": "the card"}}
        outcomes = [{"state_id": state_id, "token": token, "outcome": "executed", "outputs": [{"v": "true"}]}]
        reply = await site.call(shop.runtime, "POST", f"{NATIVE}/shop/outcomes", outcomes)
        assert [item["result"] for item in reply["items"]] == ["ok"]


@pytest.mark.parametrize("scope", ["runtime:shop", "runtime:bank"])
async def test_the_same_holds_through_v0_which_has_no_tokens(scope: str, shop: Shop) -> None:
    site, leaked = shop.site, await shop.site.key(scope)
    state_id = await shop.claim_v0()
    for space in ("shop", "bank"):
        is_in_scope = scope == f"runtime:{space}"
        status = 403 if not is_in_scope else 400 if space == "shop" else 404
        path = f"{V0}/{space}/state/{state_id}"
        await site.call(leaked, "POST", f"{path}/executed", {"outputs": [{"v": "false"}]}, status=status)
        await site.call(leaked, "POST", f"{path}/errored", {"error": "false"}, status=status)
        await site.call(leaked, "POST", f"{path}/prune", {"data": {}}, status=status)
        again = {"enqueue_after": 1000}
        await site.call(leaked, "POST", f"{path}/re-enqueue-after", again, status=status)
        await site.call(leaked, "GET", f"{path}/secrets", status=403 if status == 400 else status)
    assert await shop.status(state_id) == "QUEUED"
    path = f"{V0}/shop/state/{state_id}"
    assert (await site.call(shop.runtime, "GET", f"{path}/secrets"))["secrets"] == {"CARD": "the card"}
    await site.call(shop.runtime, "POST", f"{path}/executed", {"outputs": [{"v": "true"}]})


async def test_registering_a_node_again_never_widens_the_secrets_that_a_graph_hands_out(db: str) -> None:
    async with open_shop(db) as shop:
        site = shop.site
        wider = {"runtime_name": "r", "nodes": [declare("Charge", secrets=["CARD", "UNUSED"])]}
        refusal = await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", wider, status=403)
        assert "'UNUSED'" in refusal["detail"]
        assert "lacks the scope graphs:shop;" in refusal["detail"]
        # Nor does a detour: first without, or under another name that the graph has.
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", {**wider, "nodes": [declare("Charge")]})
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", wider, status=403)
        other = [declare("Other", secrets=["UNUSED"])]
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", {**wider, "nodes": other})
        state = await shop.claim()
        path = f"{V0}/shop/state/{state['state_id']}/secrets"
        shown = await site.call(shop.runtime, "GET", path, **{LEASE_HEADER: state["lease"]["token"]})
        assert shown["secrets"] == {"CARD": "the card"}
        both = await site.key("runtime:shop", "graphs:shop")
        await site.call(both, "PUT", f"{V0}/shop/nodes/", wider)


async def test_a_node_that_no_longer_declares_a_secret_is_given_it_but_needs_it_no_more(db: str) -> None:
    # During an update, an earlier version of a runtime registers after a later one.
    async with open_shop(db) as shop:
        site, nodes = shop.site, {"runtime_name": "r", "nodes": [declare("Charge", secrets=["NEW"])]}
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes)
        old = {**nodes, "nodes": [declare("Charge", secrets=["CARD"])]}
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", old)
        graph = {"nodes": [place("charge", node_name="Charge", namespace="shop")], "retry_policy": NO_RETRY}
        path = f"{V0}/shop/graph/orders"
        # A graph without the secret that only the later one declared is valid, and one with it gives it.
        for secrets in ({"CARD": "old"}, {"CARD": "old", "NEW": "new"}):
            stored = await site.call(ROOT, "PUT", path, {**graph, "secrets": secrets}, status=201)
            assert stored["validation_status"] == "VALID", stored["validation_errors"]
        state = await shop.claim()
        path = f"{V0}/shop/state/{state['state_id']}/secrets"
        shown = await site.call(shop.runtime, "GET", path, **{LEASE_HEADER: state["lease"]["token"]})
        assert shown["secrets"] == {"CARD": "old", "NEW": "new"}
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes)


async def test_a_node_gets_no_more_secrets_if_there_are_too_many_graphs_to_check(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_engine, "MAX_CHECKED", 0)
    site, nodes = shop.site, {"runtime_name": "r", "nodes": [declare("Charge", secrets=["CARD", "UNUSED"])]}
    refusal = await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes, status=403)
    assert "(UNUSED)" in refusal["detail"]
    assert "lacks the scope graphs:*;" in refusal["detail"]
    # What no graph has is not to be checked.
    unknown = {**nodes, "nodes": [declare("Charge", secrets=["CARD", "OTHER"])]}
    await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", unknown)
    await site.call(await site.key("runtime:shop", "graphs:*"), "PUT", f"{V0}/shop/nodes/", nodes)


async def test_a_graph_of_another_namespace_hands_out_no_more_either(shop: Shop) -> None:
    # A graph of the bank has a place with the shop's node: only a key for the bank's graphs may widen that.
    site = shop.site
    graph = {"nodes": [place("charge", node_name="Charge", namespace="shop")], "secrets": {"SAFE": "1"}}
    await site.call(ROOT, "PUT", f"{V0}/bank/graph/loans", graph, status=201)
    wider = {"runtime_name": "r", "nodes": [declare("Charge", secrets=["CARD", "SAFE"])]}
    for key in (shop.runtime, await site.key("runtime:shop", "graphs:shop")):
        refusal = await site.call(key, "PUT", f"{V0}/shop/nodes/", wider, status=403)
        assert "graphs:bank" in refusal["detail"]


async def test_a_graph_with_places_in_another_namespace_needs_the_scope_there_too(shop: Shop) -> None:
    site = shop.site
    graph = {"nodes": [place("charge", node_name="Charge", namespace="shop")], "secrets": {}}
    key = await site.key("graphs:bank", "trigger:bank")
    refusal = await site.call(key, "PUT", f"{V0}/bank/graph/theft", graph, status=403)
    assert "lacks the scope graphs:shop;" in refusal["detail"]
    key = await site.key("graphs:bank", "graphs:shop")
    await site.call(key, "PUT", f"{V0}/bank/graph/loans", graph, status=201)


async def test_the_ids_of_another_namespace_lead_nowhere(shop: Shop) -> None:
    # With every scope for the bank: what is of the shop is not found by its id either.
    site = shop.site
    state_id = await shop.claim_v0()
    await site.call(
        shop.runtime, "POST", f"{V0}/shop/state/{state_id}/errored", {"error": "so it can be retried"}
    )
    scopes = [f"{each}:bank" for each in ("runtime", "trigger", "read", "graphs")]
    key = await site.key(*scopes)
    cookie = await site.sign_in(key)
    values = {
        "namespace": "bank",
        "run_id": shop.run_id,
        "state_id": state_id,
        "graph": "orders",
        "node": "Charge",
        "limit": "l",
        "worker_id": "w",
        "version": "2",
        "page": "1",
        "size": "10",
    }
    bodies = {"/trigger": {"inputs": {}}, "/manual-retry": {"fanout_id": str(uuid4())}}
    before = await site.call(ROOT, "GET", f"{NATIVE}/shop/run/{shop.run_id}")
    for route in site.table:
        if "{namespace}" not in route.path:
            continue
        path = route.path.replace(":path}", "}").format(**values)
        body = next((body for end, body in bodies.items() if path.endswith(end)), None)
        status, _, text = await site.ask(route.method, path, key, json=body)
        assert shop.run_id not in text.decode() or status == 404, route
        assert b"the card" not in text, route
    for path in ("/ns/bank/runs/{run_id}", "/ns/bank/states/{state_id}", "/ns/bank/runs/{run_id}/export"):
        status, *_ = await site.ask("GET", path.format(**values), cookie=cookie)
        assert status == 404, path
    for path in ("runs/{run_id}/cancel", "runs/{run_id}/again", "states/{state_id}/retry"):
        await site.ask("POST", f"/ns/bank/{path}".format(**values), cookie=cookie, form={})
    assert await site.call(ROOT, "GET", f"{NATIVE}/shop/run/{shop.run_id}") == before


async def test_an_id_that_a_run_elsewhere_has_is_refused_and_who_may_read_that_run_learns_where(
    db: str,
) -> None:
    async with open_shop(db) as shop:
        site = shop.site
        await site.call(ROOT, "PUT", f"{V0}/bank/nodes/", {"runtime_name": "r", "nodes": [declare("Pay")]})
        graph = {"nodes": [place("pay", node_name="Pay", namespace="bank")], "secrets": {}}
        await site.call(ROOT, "PUT", f"{V0}/bank/graph/orders", graph, status=201)
        both = await site.key("trigger:bank", "read:shop")
        for key in (await site.key("trigger:bank"), both, ROOT):
            path, learns = f"{NATIVE}/bank/graph/orders/trigger", key in (both, ROOT)
            refusal = (await site.call(key, "POST", path, {"run_id": shop.run_id}, status=409))["detail"]
            assert ("exists and belongs to a graph of namespace 'shop'" in refusal) == learns, refusal
            assert ("exists" in refusal or "shop" in refusal) == learns, refusal
        assert (await site.call(ROOT, "GET", f"{NATIVE}/bank/runs"))["runs"] == []


async def test_where_a_node_is_nothing_is_shown_of_runs_that_its_states_started_elsewhere(db: str) -> None:
    async with open_keyed(db) as site:
        for namespace, node, graph in (("shop", "Pack", "zebra"), ("bank", "Pay", "orders")):
            nodes = {"runtime_name": "r", "nodes": [declare(node)]}
            await site.call(ROOT, "PUT", f"{V0}/{namespace}/nodes/", nodes)
            body = {"nodes": [place("a", node_name=node, namespace=namespace)], "secrets": {}}
            await site.call(ROOT, "PUT", f"{V0}/shop/graph/{graph}", body, status=201)
        await site.call(ROOT, "POST", f"{V0}/shop/graph/orders/trigger", {"inputs": {}})
        claim = {"claim_id": str(uuid4()), "worker_id": "w", "limit": 1, "limits": {"Pay": 1}}
        (state,) = (await site.call(ROOT, "POST", f"{NATIVE}/bank/claim", claim))["states"]
        item = item_for(state, outcome="calling", calls=[{"id": "c", "graph": "zebra", "inputs": {}}])
        await site.call(ROOT, "POST", f"{NATIVE}/bank/outcomes", [item])
        await handle_due(site.service, *CHILDREN)
        runs = (await site.call(ROOT, "GET", f"{NATIVE}/shop/runs"))["runs"]
        (child,) = [run["run_id"] for run in runs if run["graph_name"] == "zebra"]
        shown = await site.call(ROOT, "GET", f"{NATIVE}/bank/state/{state['state_id']}")
        # Its own run is named to it, as in a claim.
        assert (shown["graph_name"], shown["children"], shown["waits_for"]["runs"]) == ("orders", [], 1)
        assert "waits for runs of another namespace since" in shown["waits_for"]["text"]
        path = f"states/{state['state_id']}"
        pages = {
            each: await site.ask("GET", f"/ns/{each}/{path}", cookie=await site.sign_in(key))
            for each in ("bank", "shop")
            for key in [await site.key(f"read:{each}")]
        }
        listed = await site.call(ROOT, "GET", f"{NATIVE}/bank/states")
        assert state["state_id"] in str(listed)
        for text in (str(shown), str(listed), pages["bank"][2].decode()):
            assert child[:8] not in text
            assert "zebra" not in text
        assert child in pages["shop"][2].decode()
        assert "of graph zebra" in pages["shop"][2].decode()


async def test_where_a_run_is_nothing_is_shown_of_a_node_elsewhere_but_the_states_of_that_run(
    shop: Shop,
) -> None:
    site = shop.site

    async def fail() -> object:
        item = item_for(await shop.claim(), outcome="errored", error="e")
        await site.call(shop.runtime, "POST", f"{NATIVE}/shop/outcomes", [item])
        return item["state_id"]

    elsewhere = await fail()
    graph = {"nodes": [place("charge", node_name="Charge", namespace="shop")], "retry_policy": NO_RETRY}
    await site.call(ROOT, "PUT", f"{V0}/bank/graph/loans", {**graph, "secrets": {"CARD": "c"}}, status=201)
    await site.call(ROOT, "POST", f"{V0}/bank/graph/loans/trigger", {})
    failed = await fail()
    await site.call(ROOT, "POST", f"{V0}/bank/graph/loans/trigger", {})
    beat = {"worker_id": "w", "runtime": "r", "states": [], "phase": "draining"}
    await site.call(shop.runtime, "POST", f"{NATIVE}/shop/heartbeat", beat)
    bank, of_shop = [
        (await site.call(await site.key(f"read:{each}"), "GET", f"{NATIVE}/{each}/states"))["states"]
        for each in ("bank", "shop")
    ]
    assert [each["id"] for each in of_shop] == [each["id"] for each in bank] + [elsewhere]
    assert bank[1]["id"] == failed
    # What the runtimes of the shop do is shown there only, as is where else its node failed.
    assert bank[0]["waits_for"] is None
    assert of_shop[0]["waits_for"]["kind"] == "draining"
    for each, is_shown in (("bank", False), ("shop", True)):
        cookie = await site.sign_in(await site.key(f"read:{each}"))
        page = (await site.ask("GET", f"/ns/{each}/states/{failed}", cookie=cookie))[2]
        assert (b"The same error elsewhere" in page) == is_shown


async def test_no_route_and_no_page_shows_a_name_of_another_namespace() -> None:
    async with open_keyed() as site:
        nodes = {"runtime_name": "zebra", "nodes": [declare("zebraNode", secrets=["zebraSecret"])]}
        await site.call(ROOT, "PUT", f"{V0}/zebra/nodes/", nodes)
        graph = {
            "nodes": [place("zebraPlace", node_name="zebraNode", namespace="zebra")],
            "secrets": {"zebraSecret": "zebraValue"},
            "triggers": [{"type": "CRON", "value": {"expression": "0 0 1 1 *"}}],
        }
        await site.call(ROOT, "PUT", f"{V0}/zebra/graph/zebraGraph", graph, status=201)
        await site.call(ROOT, "PUT", f"{NATIVE}/zebra/limit/zebraLimit", {"at_most": 1})
        for _ in range(2):
            await site.call(ROOT, "POST", f"{V0}/zebra/graph/zebraGraph/trigger", {"inputs": {}})
        for phase in ("running", "stopped"):
            beat = {"worker_id": f"zebra-{phase}", "runtime": "zebra", "states": [], "phase": phase}
            await site.call(ROOT, "POST", f"{NATIVE}/zebra/heartbeat", beat)
        claim = {
            "claim_id": str(uuid4()),
            "worker_id": "zebra-running",
            "limit": 1,
            "limits": {"zebraNode": 1},
        }
        await site.call(ROOT, "POST", f"{NATIVE}/zebra/claim", claim)
        for path in ("node/zebraNode", "graph/zebraGraph"):
            await site.call(ROOT, "POST", f"{NATIVE}/zebra/{path}/pause")
        await site.call(ROOT, "PUT", f"{V0}/bank/nodes/", {"runtime_name": "r", "nodes": [declare("Pay")]})
        graph = {"nodes": [place("pay", node_name="Pay", namespace="bank")], "secrets": {}}
        await site.call(ROOT, "PUT", f"{V0}/bank/graph/loans", graph, status=201)
        started = await site.call(ROOT, "POST", f"{V0}/bank/graph/loans/trigger", {"inputs": {}})
        key = await site.key(*(f"{each}:bank" for each in IN_NAMESPACE))
        cookie = await site.sign_in(key)
        values = {
            "namespace": "bank",
            "run_id": started["run_id"],
            "graph": "loans",
            "node": "Pay",
            "page": "1",
            "size": "9",
            "limit": "l",
            "worker_id": "w",
            "state_id": UNKNOWN_ID,
            "key": "k",
        }
        for route in site.table:
            if route.method == "GET":
                path = route.path.replace(":path}", "}").format(**values)
                assert b"zebra" not in (await site.ask("GET", path, key))[2], path
        for page in PAGES:
            path = page.path.format(**values)
            assert b"zebra" not in (await site.ask("GET", path, cookie=cookie))[2], path


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_state_of_a_run_of_another_namespace_is_not_retried(db: str) -> None:
    # A node of the shop is in a graph of the bank: the shop sees its states, and the run is the bank's.
    async with open_shop(db) as shop:
        site = shop.site
        graph = {"nodes": [place("charge", node_name="Charge", namespace="shop")], "retry_policy": NO_RETRY}
        await site.call(ROOT, "POST", f"{NATIVE}/shop/run/{shop.run_id}/cancel")
        await site.call(
            ROOT, "PUT", f"{V0}/bank/graph/loans", {**graph, "secrets": {"CARD": "c"}}, status=201
        )
        run_id = (await site.call(ROOT, "POST", f"{V0}/bank/graph/loans/trigger", {}))["run_id"]
        state_id = await shop.claim_v0()
        path = f"{V0}/shop/state/{state_id}"
        await site.call(shop.runtime, "POST", f"{path}/errored", {"error": "e"})
        key, fanout = await site.key("graphs:shop", "read:shop"), {"fanout_id": "once"}
        refusal = await site.call(key, "POST", f"{path}/manual-retry", fanout, status=403)
        assert "lacks the scope graphs:bank;" in refusal["detail"]
        cookie, page = await site.sign_in(key), f"/ns/shop/states/{state_id}"
        assert b"/retry" not in (await site.ask("GET", page, cookie=cookie))[2]
        assert (await site.ask("POST", f"{page}/retry", cookie=cookie, form={}))[0] == 303
        assert (await site.call(ROOT, "GET", f"{NATIVE}/bank/run/{run_id}"))["total_count"] == 1
        both = await site.key("graphs:shop", "graphs:bank")
        await site.call(both, "POST", f"{path}/manual-retry", fanout)


async def test_lists_of_namespaces_show_those_that_the_key_may_read(shop: Shop) -> None:
    site = shop.site
    for scope, names in (("read:shop", ["shop"]), ("read:*", ["shop"]), ("read:bank", []), ("admin", [])):
        reply = await site.call(await site.key(scope), "GET", "/v0/namespaces")
        assert reply["namespaces"] == names, scope
        page = await site.ask("GET", "/", cookie=await site.sign_in(await site.key(scope)))
        assert page[1]["location"] == ("/ns/shop" if names else "/ns/default")


async def test_a_claim_id_of_another_key_returns_nothing(shop: Shop) -> None:
    site, state = shop.site, await shop.claim()
    other = await site.key("runtime:shop")
    body = {"claim_id": state["claim_id"], "worker_id": "w", "limit": 1, "limits": {"Charge": 1}}
    assert (await site.call(other, "POST", f"{NATIVE}/shop/claim", body))["states"] == []
    assert len((await site.call(shop.runtime, "POST", f"{NATIVE}/shop/claim", body))["states"]) == 1


async def test_an_admin_key_gets_nothing_but_what_it_is_for(shop: Shop) -> None:
    site, admin = shop.site, await shop.site.key("admin")
    await site.call(admin, "GET", f"{NATIVE}/shop/run/{shop.run_id}", status=403)
    await site.call(admin, "GET", f"{V0}/shop/state/{UNKNOWN_ID}/secrets", status=403)
    link = await site.call(admin, "POST", "/exotrio/v1/sign-in-link")
    _, headers, _ = await site.ask("GET", "/sign-in", headers={}, query=link["path"].partition("?")[2])
    cookie = headers["set-cookie"].partition(";")[0]
    status, *_ = await site.ask("GET", "/ns/shop", cookie=cookie)
    assert status == 403


async def test_a_rejected_form_shows_a_page_only_to_a_key_that_may_read_it(shop: Shop) -> None:
    site = shop.site
    forms = {
        "/ns/shop/graphs/orders": ("trigger:shop", {"delay": "not a number"}),
        f"/ns/shop/runs/{shop.run_id}": ("graphs:shop", {"event": "e", "value": "{"}),
    }
    for path, (scope, form) in forms.items():
        status, _, body = await site.ask(
            "POST", path, cookie=await site.sign_in(await site.key(scope)), form=form
        )
        assert status != 422, path
        assert b"Charge" not in body, path
        both = await site.sign_in(await site.key(scope, "read:shop"))
        assert (await site.ask("POST", path, cookie=both, form=form))[0] in (303, 422), path


@pytest.mark.parametrize("engine", ENGINES)
async def test_the_sessions_of_one_key_end_none_of_another(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 10)
    monkeypatch.setattr(sessions, "MAX_SESSIONS_OF_KEY", 2)
    async with open_keyed(db) as site:
        other = await site.sign_in(await site.key("read:shop"))
        root = await site.sign_in(ROOT)
        leaked = await site.key("runtime:bank")
        cookies = [await site.sign_in(leaked) for _ in range(12)]
        for cookie in (root, other, cookies[-1]):
            assert (await site.ask("GET", "/guide", cookie=cookie))[0] == 200
        opened = await site.service.store.read(lambda view: view.one("SELECT count(*) FROM sessions")[0])
        assert opened == 4


async def test_a_runtime_of_another_namespace_with_the_same_worker_id_disturbs_nothing(db: str) -> None:
    # The id is in no key: it is what the runtime calls itself.
    async with open_shop(db) as shop:
        site, leaked = shop.site, await shop.site.key("runtime:bank", "graphs:bank")
        beat = {"worker_id": "w", "runtime": "charger", "phase": "running", "version": "1"}
        await site.call(shop.runtime, "POST", f"{NATIVE}/shop/heartbeat", beat)
        state = await shop.claim()
        held = {"state_id": state["state_id"], "token": state["lease"]["token"]}
        for phase in ("running", "stopped"):
            false = {**beat, "runtime": "false", "phase": phase, "version": "2", "states": [held]}
            await site.call(leaked, "POST", f"{NATIVE}/bank/heartbeat", false)
        await site.call(leaked, "POST", f"{NATIVE}/bank/worker/w/drain")
        claim = {"claim_id": state["claim_id"], "worker_id": "w", "limit": 1, "limits": {"Charge": 1}}
        assert (await site.call(leaked, "POST", f"{NATIVE}/bank/claim", claim))["states"] == []
        shown = await site.call(ROOT, "GET", f"{NATIVE}/shop/workers")
        (runtime,) = shown["workers"]
        assert (runtime["runtime"], runtime["phase"], runtime["version"]) == ("charger", "running", "1")
        reply = await site.call(shop.runtime, "POST", f"{NATIVE}/shop/heartbeat", {**beat, "states": [held]})
        assert [item["result"] for item in reply["items"]] == ["ok"]
        assert reply["commands"] == []


async def test_a_version_of_a_node_gets_no_secrets_that_a_graph_has_for_the_node_alone(db: str) -> None:
    async with open_shop(db) as shop:
        site = shop.site

        def nodes(version: str, *secrets: str) -> dict[str, Any]:
            return {"runtime_name": "r", "nodes": [declare(pinned_name("Charge", version), secrets=secrets)]}

        # The names of versions are of the namespace, as all nodes are.
        other = await site.key("runtime:bank", "graphs:bank")
        await site.call(other, "PUT", f"{V0}/shop/nodes/", nodes("1", "CARD"), status=403)
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes("1", "CARD"))
        graph = {
            "nodes": [place("charge", node_name="Charge", namespace="shop")],
            "secrets": {"CARD": "the card", "UNUSED": "that no node declares"},
            "version": "1",
        }
        await site.call(ROOT, "PUT", f"{V0}/shop/graph/orders", graph, status=201)
        refusal = await site.call(
            shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes("1", "CARD", "UNUSED"), status=403
        )
        assert "lacks the scope graphs:shop;" in refusal["detail"]
        # No graph runs on version 2: to move a run there, or to store a graph for it, needs graphs:shop.
        await site.call(shop.runtime, "PUT", f"{V0}/shop/nodes/", nodes("2", "CARD", "UNUSED"))
        path = f"{NATIVE}/shop/run/{shop.run_id}/repin"
        await site.call(shop.runtime, "POST", path, {"version": "2"}, status=403)
        await site.call(shop.runtime, "PUT", f"{V0}/shop/graph/orders", {**graph, "version": "2"}, status=403)


async def test_a_key_is_told_of_no_runs_in_flight_that_it_may_not_read(shop: Shop) -> None:
    # It may know those of its namespace: it claims their states.
    site = shop.site
    graph = {"nodes": [place("lent", node_name="Charge", namespace="shop")], "secrets": {"CARD": "other"}}
    await site.call(ROOT, "PUT", f"{V0}/bank/graph/loans", graph, status=201)
    run = (await site.call(ROOT, "POST", f"{V0}/bank/graph/loans/trigger", {"inputs": {}}))["run_id"]
    keys = [shop.runtime, await site.key("runtime:shop", "read:bank")]
    for key, field, is_shown in zip(keys, ("x", "y"), (False, True), strict=True):
        nodes = {"runtime_name": "r", "nodes": [declare("Charge", [field], secrets=["CARD"])]}
        reply = await site.call(key, "PUT", f"{V0}/shop/nodes/", {**nodes, "wants_broken_runs": True})
        assert shop.run_id in reply["broken_runs"]
        assert (run in reply["broken_runs"]) == is_shown
        assert reply["broken_runs"].startswith("2 runs in flight" if is_shown else "runs in flight")


async def test_a_scope_is_for_a_namespace_and_not_for_a_node(shop: Shop) -> None:
    # A name of a namespace may have a colon: then it is a scope for that namespace, and nothing here.
    key = await shop.site.key("runtime:shop:Charge", "runtime:sho", "runtime:shop*")
    nodes = {"runtime_name": "r", "nodes": [declare("Charge@2")]}
    await shop.site.call(key, "PUT", f"{V0}/shop/nodes/", nodes, status=403)
    await shop.site.call(key, "POST", f"{V0}/shop/states/enqueue", {"nodes": ["Charge"]}, status=403)
