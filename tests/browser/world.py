"""A busy state manager: runs that succeeded, failed, go on, wait or were cancelled, a fan-out of hundreds,
runtimes that work, drain and are lost, and words as long as names may be. For tests of every page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trio

from exotrio._httpd import loopback_names, open_listeners, serve_http, urls
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.store.sqlite.database import MEMORY
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.web import Dashboard
from tests.contract.api import Api
from tests.contract.native import claim, claim_one, item_for, report
from tests.support.helpers import NO_RETRY, declare, ok, open_client, place
from tests.support.manager import NO_SETTINGS
from tests.support.processes import KEY, TEST_TIMEOUT, Process

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMESPACE = "shop"
LONG = "reconciliation_of_the_previous_quarter" * 6
"""A word as long as names may be."""
ITEMS = 300
TRACEBACK = """\
Traceback (most recent call last):
  File "/srv/shop/orders.py", line 88, in execute
    receipt = await gateway.charge(self.inputs.order, amount, token=self.secrets.gateway_token)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/gateway.py", line 41, in charge
    response.raise_for_status()
  File "/srv/venv/lib/python3.13/site-packages/httpx/_models.py", line 829, in raise_for_status
    raise HTTPStatusError(message, request=request, response=self)
httpx.HTTPStatusError: Server error '502 Bad Gateway' for url 'https://pay.example/v2/charges'"""


@dataclass(frozen=True)
class World:
    """What is served at ``url``; ``links`` is name to path of each page."""

    url: str
    links: dict[str, str]

    def show(self, page: Page, name: str) -> None:
        """Show what is behind a link; what is for download, too."""
        url = self.url + self.links[name]
        if url.endswith("/export"):
            page.goto("about:blank")
            page.set_content(page.request.get(url).text())
        else:
            page.goto(url)
        if name == "graph-rejected":
            page.get_by_role("button", name="Start a run").click()
            page.get_by_role("alert").wait_for()


def text(about: str, **values: Any) -> dict[str, Any]:
    """Return how an input is registered; ``values`` is the JSON schema of its values, if it is typed."""
    return {"type": "string", "description": about, **({"contentSchema": values} if values else {})}


NODES = [
    declare(
        "Split", {"since": text("Placed at or after this time", type="string", format="date-time")}, ["item"]
    ),
    declare("Work", {"item": text(""), "currency": text("", enum=["EUR", "CHF"])}, ["line"], ["token"]),
    declare("Close", ["lines"], ["count"]),
    declare("Backup", ["target"]),
    declare(
        "Translate",
        {
            "text": text("What to translate", type="string", maxLength=5_000),
            "language": text("Into which language", enum=["en", "fr", "pl"]),
            "due": text("Until when it is needed", type="string", format="date"),
            "pages": text("How many at most", type="integer", minimum=1),
            "terms": text("Words that have a fixed translation", type="object"),
            "formal": text("", type="boolean"),
        },
    ),
]
ORDERS = [
    place("split", "work", node_name="Split", inputs={"since": "${{ store.since }}"}),
    place(
        "work",
        "close",
        node_name="Work",
        inputs={"item": "${{ split.outputs.item }}", "currency": "${{ store.currency }}"},
        limits=[{"name": "bank", "key": "${{ store.currency }}"}],
    ),
    place("close", node_name="Close", inputs={"lines": "${{ work.outputs.line }}"}, unites="split"),
]
MONTHS = [*pairwise(["january", "february", "march", "april", "may", "june"]), ("june",)]
SCHEDULES = [
    {"expression": "15 3 1 * *", "timezone": "America/Argentina/Buenos_Aires", "priority": "low"},
    {"expression": "*/30 * * * *"},
]
TRANSLATION = {
    "text": "Willkommen",
    "language": "en",
    "due": "2026-09-30",
    "pages": "10",
    "terms": '{"Konto": "account"}',
    "formal": "true",
}


async def _put_graphs(api: Api) -> None:
    ok(await api.register(NODES, runtime_name="shop"))
    triggers = [{"type": "CRON", "value": {"expression": "0 3 * * *"}}]
    graphs = {
        "orders": api.body(
            ORDERS,
            retry_policy=NO_RETRY,
            secrets={"token": "x"},
            store_config={"required_keys": ["since"], "default_values": {"currency": "EUR"}},
            limits=[{"name": "bank", "starts": 5_000, "period_ms": 3_600_000}],
        ),
        "backup": api.body(
            [place("backup", node_name="Backup", inputs={"target": "s3://shop"})], triggers=triggers
        ),
        "translate": api.body([place("translate", node_name="Translate", inputs=TRANSLATION)]),
        "monthly": api.body(
            [
                place(name, *after, node_name="Backup", inputs={"target": "s3://shop"})
                for name, *after in MONTHS
            ],
            triggers=[{"type": "CRON", "value": value} for value in SCHEDULES],
        ),
        "statements": api.body([place("accounts", "mail"), place("mail", inputs={"order": "-"})]),
    }
    for name, body in graphs.items():
        ok(await api.put_graph(name, body), 201)
    ok(await api.elsewhere("billing").register([declare("Invoice", ["customer"])], runtime_name="billing"))


async def _start(api: Api, graph: str = "orders") -> str:
    started = await api.trigger(graph, store={"since": "2026-09-16T00:00:00Z"} if graph == "orders" else {})
    return str(ok(started)["run_id"])


async def _split(api: Api, items: int) -> None:
    state = await claim_one(api, limits={"Split": 1})
    outputs = [{"item": f"orders/{number:05d}"} for number in range(items)]
    await report(api, item_for(state, outcome="executed", outputs=outputs))


async def _work(api: Api, count: int) -> None:
    for state in await claim(api, {"Work": count}, limit=count, worker_id="build-1/1"):
        await report(api, item_for(state, outcome="executed", outputs=[{"line": "47 files"}]))


async def _fill(api: Api) -> dict[str, str]:
    """Leave runs in each condition; return the paths of all pages."""
    done, failed, cancelled = [
        await _run_to_its_end(api, outcome) for outcome in ("done", "failed", "cancelled")
    ]
    stuck = await _start(api, "translate")
    going_on = await _start(api)
    await _split(api, ITEMS)
    await _work(api, ITEMS // 2)
    held = await claim(api, {"Work": 6}, limit=6, worker_id="build-1/1")
    (bad, pruned, requeued, *running) = held
    await report(
        api,
        item_for(bad, outcome="errored", error=TRACEBACK),
        item_for(pruned, outcome="pruned", data={"reason": "paid before"}),
        item_for(requeued, outcome="requeued", delay_ms=1_200_000),
    )
    progress = {"fraction": 0.4, "text": "12 of 30 tiles"}
    beat = {"runtime": "shop", "workers": 4, "shows_tasks": True}
    states = [item_for(state, running=True, buffered_ms=0, progress=progress) for state in running]
    ok(await api.heartbeat("build-1/1", **beat, phase="running", states=states, tasks="<tasks>\n├─ poll"))
    ok(await api.heartbeat("build-2/1", **beat, phase="draining", states=[]))
    ok(await api.claim(["Legacy"], 1))
    ok(await api.native("PUT", "limit/translations", json={"at_most": 0}))
    ok(await api.native("PUT", "limit/bank", json={"at_most": 2}))
    assert await claim(api, {"Work": 1}) == []
    (limited, *_) = ok(await api.states(node="Work", status="CREATED"))["states"]
    paths = {
        "overview": "",
        "runs": "/runs",
        "runs-filtered": "/runs?graph=orders&status=failed&since=1h&text=Bad+Gateway",
        "runs-none": "/runs?text=nothing-has-this",
        "run-audit": f"/runs/{going_on}",
        "run-errored": f"/runs/{failed}?status=errored",
        "run-done": f"/runs/{done}",
        "run-node": f"/runs/{going_on}?node=work",
        "run-cancelled": f"/runs/{cancelled}",
        "run-stuck": f"/runs/{stuck}",
        "export-failed": f"/runs/{failed}/export",
        "state-failed": f"/states/{bad['state_id']}",
        "state-pruned": f"/states/{pruned['state_id']}",
        "state-running": f"/states/{running[0]['state_id']}",
        "state-requeued": f"/states/{requeued['state_id']}",
        "graphs": "/graphs",
        "graph-backup": "/graphs/backup",
        "graph-translate": "/graphs/translate",
        "graph-scheduled": "/graphs/monthly",
        "graph-runs": "/graphs/orders",
        "graph-rejected": "/graphs/orders",
        "graph-from": f"/graphs/orders?from={done}",
        "graph-invalid": "/graphs/statements",
        "nodes": "/nodes",
        "node": "/nodes/Work",
        "node-unknown": "/nodes/Translate",
        "limits": "/limits",
        "limit": "/limits/bank",
        "limit-stopped": "/limits/translations",
        "state-limited": f"/states/{limited['id']}",
        "runtimes": "/runtimes",
        "system": "/system",
        "audit": "/audit",
        "search": "/search?q=order",
        "not-found": "/runs/absent",
    }
    empty = {
        f"empty-{name or 'overview'}": f"/ns/billing/{name}"
        for name in ("", "runs", "graphs", "limits", "runtimes")
    }
    return {
        **{name: f"/ns/{NAMESPACE}{path}" for name, path in paths.items()},
        **{name: path.rstrip("/") for name, path in empty.items()},
        "no-namespace": "/ns/unknown/nodes",
        "guide": "/guide",
        "guide-proof": "/guide/proof",
        "api": "/docs",
    }


async def _run_to_its_end(api: Api, outcome: str) -> str:
    run_id = await _start(api)
    await _split(api, 3)
    if outcome == "cancelled":
        ok(await api.native("POST", f"run/{run_id}/cancel"))
        return run_id
    await _work(api, 2)
    state = await claim_one(api, limits={"Work": 1})
    if outcome == "failed":
        line = {"at": "2026-09-16T14:37:18Z", "level": "ERROR", "logger": "shop", "text": "no receipt"}
        await report(api, item_for(state, outcome="errored", error=TRACEBACK, logs=[line]))
    else:
        await report(api, item_for(state, outcome="executed", outputs=[{"line": "47 files"}]))
        state = await claim_one(api, limits={"Close": 1})
        await report(api, item_for(state, outcome="executed", outputs=[{"count": "3"}]))
    return run_id


async def _say_long_words(api: Api) -> dict[str, str]:
    """Leave a run behind, whose names, keys, values and errors are long words, and return its paths."""
    about = {"type": "string", "description": LONG}
    ok(await api.register([declare(LONG, {LONG: about}, [LONG])], runtime_name=LONG))
    body = api.body(
        [
            place(LONG, "next", node_name=LONG, inputs={LONG: LONG}),
            place(
                "next", node_name=LONG, inputs={LONG: "-"}, limits=[{"name": LONG[:256], "key": LONG[:256]}]
            ),
        ],
        limits=[{"name": LONG[:256], "at_most": 1}],
        retry_policy={"max_retries": 0},
        store_config={"default_values": {LONG: LONG}},
    )
    ok(await api.put_graph(LONG, body), 201)
    inputs = {LONG: json.dumps({LONG: [LONG] * 9})}
    in_order = {"priority": "high", "weight": 2.5, "fair_key": LONG[:256]}
    body = {"key": LONG, "inputs": inputs, **in_order}
    started = await api.native("POST", f"graph/{LONG}/trigger", json=body)
    run_id = ok(started)["run_id"]
    # So that the words for its times are long.
    given_back = ok(await api.native_claim({LONG: 1}, worker_id=LONG, limit=1))["states"][0]
    ok(await api.release(states=[item_for(given_back)]))
    paths = {}
    outcomes: list[dict[str, Any]] = [
        {"outcome": "executed", "outputs": [{LONG: LONG * 9}, {LONG: LONG}]},
        {"outcome": "errored", "error": f"Traceback\n{LONG}: {LONG * 9}"},
    ]
    for outcome in outcomes:
        claimed = ok(await api.native_claim({LONG: 1}, worker_id=LONG, limit=1))["states"][0]
        held = {"state_id": claimed["state_id"], "token": claimed["lease"]["token"]}
        paths[f"long-state-{outcome['outcome']}"] = f"/states/{held['state_id']}"
        if outcome["outcome"] == "errored":
            progress = {"fraction": 0.5, "text": LONG[:200]}
            running = {**held, "running": True, "buffered_ms": 0, "progress": progress}
            beat = {"runtime": LONG, "phase": "running", "states": [running]}
            ok(await api.heartbeat(LONG, **beat, shows_tasks=True, tasks=LONG))
        ok(await api.outcomes({**held, **outcome}))
    claimed = ok(await api.native_claim({LONG: 9}, worker_id=LONG, limit=9))["states"]
    paths["long-state-limited"] = f"/states/{claimed[0]['state_id']}"
    paths |= {"long-limits": "/limits", "long-limit": f"/limits/{LONG[:256]}"}
    paths |= {"long-overview": "", "long-runs": "/runs", "long-graphs": "/graphs", "long-nodes": "/nodes"}
    paths |= {"long-graph": f"/graphs/{LONG}", "long-node": f"/nodes/{LONG}", "long-runtimes": "/runtimes"}
    paths |= {"long-graph-from": f"/graphs/{LONG}?from={run_id}"}
    paths |= {"long-run": f"/runs/{run_id}", "long-export": f"/runs/{run_id}/export"}
    return {name: f"/ns/{LONG}{path}" for name, path in paths.items()}


def _lose_leases(tx: Transaction) -> None:
    """Lose the runtime of one of the states that run."""
    tx.execute(
        "UPDATE states SET lease_until = 0 WHERE seq = (SELECT max(seq) FROM states WHERE status = 'QUEUED')"
    )
    expire(tx, 0, Terms())


async def serve_world() -> None:
    """Fill a database, then serve it. Never returns."""
    async with open_service(MEMORY, settings=NO_SETTINGS) as service:
        dashboard = Dashboard(service, key=KEY)
        app = create_app(service, key=KEY, allowed_hosts=loopback_names("127.0.0.1"), dashboard=dashboard)
        outside = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with open_client(transport=outside, url="http://localhost", key=KEY) as client:
            api = Api(client, NAMESPACE)
            await _put_graphs(api)
            links = await _fill(api)
            await service.store.write(_lose_leases)
            links |= await _say_long_words(api.elsewhere(LONG))
        listeners = await open_listeners("127.0.0.1", 0)
        (url,) = urls(listeners)
        print("world", json.dumps({"url": url, "links": links}), flush=True)
        await serve_http(app, listeners, stopping=trio.Event())


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Serve the world from a separate process, for as long as the block lasts."""
    with Process([sys.executable, "-m", "tests.browser.world"], cwd=folder) as process:
        yield World(**json.loads(process.line("^world (.*)", timeout=4 * TEST_TIMEOUT)[1]))


if __name__ == "__main__":
    trio.run(serve_world)
