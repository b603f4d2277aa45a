"""A day at a shop, as its state manager remembers it: what the pictures show.

Everything is made through the API by runtimes that are played (``crew``), in a time that is set, so a
day takes seconds: runs that succeed, fail, are retried and cancelled, large fan-outs, schedules, a graph
that cannot run, and runtimes that work, drain and are silent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import trio

from exotrio._httpd import loopback_names, open_listeners, serve_http, urls
from exotrio.manager import Service, create_app, open_service
from exotrio.manager.engine import runs as runs_engine
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.runs import fire_schedules
from exotrio.manager.store.sqlite.database import MEMORY
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.web import Dashboard
from tests.browser.crew import Crew, Hand, Inputs, Part
from tests.contract.api import Api
from tests.support.helpers import SettableClock, declare, ok, open_client
from tests.support.manager import NO_SETTINGS
from tests.support.processes import KEY, PATIENCE, Process

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMESPACE = "shop"
LONG = "reconciliation_of_the_previous_quarter" * 6
"""A word as long as names may be."""
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
NOW = 1_789_569_440_000
"""2026-09-16 14:37:20 UTC."""
SALT = 30
"""Another one makes another day."""

GATEWAY = """\
Traceback (most recent call last):
  File "/srv/shop/orders.py", line 88, in execute
    receipt = await gateway.charge(self.inputs.order, amount, token=self.secrets.gateway_token)
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/gateway.py", line 41, in charge
    response.raise_for_status()
  File "/srv/venv/lib/python3.13/site-packages/httpx/_models.py", line 829, in raise_for_status
    raise HTTPStatusError(message, request=request, response=self)
httpx.HTTPStatusError: Server error '502 Bad Gateway' for url 'https://pay.example/v2/charges'"""
BROKEN_IMAGE = """\
Traceback (most recent call last):
  File "/srv/shop/thumbnails.py", line 33, in execute
    image = Image.open(BytesIO(await storage.read(self.inputs.key)))
  File "/srv/venv/lib/python3.13/site-packages/PIL/Image.py", line 3498, in open
    raise UnidentifiedImageError(msg)
PIL.UnidentifiedImageError: cannot identify image file <_io.BytesIO object at 0x7f3c5c0d2f20>"""
UNREADABLE = """\
Traceback (most recent call last):
  File "/srv/shop/examples/audit.py", line 97, in execute
    with open(self.inputs.path, "rb") as file:
         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
PermissionError: [Errno 13] Permission denied: '/usr/lib/python3.13/lib2to3/Grammar.pickle'"""
TASKS = """\
<audit-2: 6 tasks>
exotrio._runtime.engine.run
  File "exotrio/_runtime/engine.py", line 142, in run
├─ exotrio._runtime.poller.poll
│    File "exotrio/_runtime/poller.py", line 118, in poll
├─ exotrio._runtime.worker.work
│    File "exotrio/_execution/executor.py", line 77, in execute
│    File "audit.py", line 97, in execute
│    File "anyio/to_thread.py", line 63, in run_sync
├─ exotrio._runtime.worker.work
│    File "exotrio/_runtime/worker.py", line 61, in work
│    File "trio/_channel.py", line 382, in receive
└─ exotrio._runtime.reporter.report
     File "exotrio/_runtime/reporter.py", line 95, in report"""


# -- what the nodes do


def done(*outputs: dict[str, str]) -> dict[str, Any]:
    return {"outcome": "executed", "outputs": list(outputs or ({},))}


def failed(error: str) -> dict[str, Any]:
    return {"outcome": "errored", "error": error}


def said(at: str, level: str, logger: str | None, text: str) -> dict[str, Any]:
    return {"at": f"2026-09-16T{at}Z", "level": level, "logger": logger, "text": text}


def plan(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done({"root": inputs["root"], "algorithm": inputs["algorithm"]})


def scan(inputs: Inputs, random: Random) -> dict[str, Any]:
    names = sorted({*sys.stdlib_module_names, "lib2to3"})
    paths = [f"{inputs['root']}/{name.strip('_')}/part{index}.py" for name in names for index in range(8)]
    return done(*({"path": path} for path in paths[:2_400]))


def digest(inputs: Inputs, random: Random) -> dict[str, Any]:
    if random.random() < 0.004 or "/lib2to3/" in inputs["path"]:
        return failed(UNREADABLE)
    if random.random() < 0.01:
        return {"outcome": "pruned", "data": {"empty": inputs["path"]}}
    line = f"{random.getrandbits(256):064x}  {inputs['path']}"
    return done({"line": line, "size": str(random.randrange(400, 90_000))})


def report(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done({"files": "2371", "bytes": "102814477", "duplicates": "47 files", "written": "SHA256SUMS"})


def list_images(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done(*({"key": f"products/{index:05d}.jpg"} for index in range(5_000)))


def resize(inputs: Inputs, random: Random) -> dict[str, Any]:
    broken = random.random() < 0.003
    return failed(BROKEN_IMAGE) if broken else done({"thumbnail": inputs["key"].replace(".jpg", "@320.webp")})


def publish(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done({"manifest": "thumbnails/manifest-2026-09-16.json"})


def fetch(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done(*({"order": f"A-{random.randrange(20_000, 99_999)}"} for _ in range(random.randrange(3, 9))))


def validate(inputs: Inputs, random: Random) -> dict[str, Any]:
    if random.random() < 0.08:
        return {"outcome": "pruned", "data": {"reason": "paid before", "order": inputs["order"]}}
    address = {"street": "Lange Straße 7", "postcode": "04103", "city": "Leipzig", "country": "DE"}
    return done({"order": inputs["order"], "amount": f"{random.randrange(900, 25_000) / 100:.2f}", **address})


def charge(inputs: Inputs, random: Random) -> dict[str, Any]:
    never = int(inputs["order"].removeprefix("A-")) % 37 == 0
    if random.random() < 0.2 or never:
        lines = [
            said("14:37:18.604", "INFO", "shop.gateway", f"charging {inputs['amount']} EUR"),
            said("14:37:18.777", "stdout", None, f"POST /v2/charges for {inputs['order']}"),
            said("14:37:19.211", "WARNING", "shop.gateway", "502, once more"),
            said("14:37:19.598", "ERROR", "shop.gateway", f"no receipt for {inputs['order']}"),
        ]
        return failed(GATEWAY) | {"logs": lines}
    return done({"receipt": f"rcp_{random.getrandbits(48):012x}", "order": inputs["order"]})


def plain(inputs: Inputs, random: Random) -> dict[str, Any]:
    return done({"v": "done"})


def watch(inputs: Inputs, random: Random) -> dict[str, Any]:
    return {"outcome": "requeued", "delay_ms": 20 * MINUTE}


PARTS = {
    "Plan": Part(0.02, plan),
    "Scan": Part(0.6, scan),
    "Digest": Part(0.055, digest),
    "Report": Part(0.3, report),
    "Begin": Part(0.1, plain),
    "ListImages": Part(1.8, list_images),
    "Resize": Part(0.34, resize),
    "Publish": Part(2.2, publish),
    "FetchOrders": Part(0.9, fetch),
    "ValidateOrder": Part(0.12, validate),
    "ChargeCard": Part(1.4, charge),
    "ShipParcel": Part(0.7, plain),
    "SendMail": Part(0.4, plain),
    "CloseBatch": Part(0.2, plain),
    "Backup": Part(900, plain),
    "WatchExport": Part(0.3, watch),
}


# -- what is registered


def text(about: str, **values: Any) -> dict[str, Any]:
    """Return how an input is registered; ``values`` is the JSON schema of its values, if it is typed."""
    return {"type": "string", "description": about, **({"contentSchema": values} if values else {})}


NODES = [
    declare("Plan", ["root", "algorithm"], ["root", "algorithm"]),
    declare("Scan", ["root"], ["path"]),
    declare("Digest", ["path", "algorithm"], ["line", "size"]),
    declare("Report", ["algorithm", "lines", "sizes"], ["files", "bytes", "duplicates", "written"]),
    declare("Begin", ["campaign"], ["v"]),
    declare("ListImages", {"prefix": text("Folder of the bucket to look at")}, ["key"]),
    declare("Resize", ["key", "width"], ["thumbnail"]),
    declare("Publish", ["thumbnails"], ["manifest"]),
    declare(
        "FetchOrders",
        {
            "since": text("Orders placed at or after this time", type="string", format="date-time"),
            "region": text("Two letters, such as DE; all if empty"),
        },
        ["order"],
        ["erp_password"],
    ),
    declare("ValidateOrder", ["order"], ["order", "amount", "street", "postcode", "city", "country"]),
    declare(
        "ChargeCard",
        {"order": text(""), "amount": text(""), "currency": text("Of the card", enum=["EUR", "CHF", "GBP"])},
        ["receipt", "order"],
        ["gateway_token"],
    ),
    declare("ShipParcel", ["order", "street", "postcode", "city"], ["v"]),
    declare("SendMail", ["order", "receipt"], ["v"], ["smtp_password"]),
    declare("CloseBatch", ["receipts"], ["v"]),
    declare("Backup", ["target"], ["v"]),
    declare("WatchExport", ["export"], ["v"]),
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
        ["text"],
    ),
]


def place(node: str, identifier: str, *following: str, unites: str = "", **inputs: str) -> dict[str, Any]:
    return {
        "node_name": node,
        "identifier": identifier,
        "inputs": inputs,
        "next_nodes": list(following),
        "unites": {"identifier": unites, "strategy": "ALL_DONE"} if unites else None,
    }


def outputs_of(identifier: str, *names: str) -> dict[str, str]:
    """Return inputs that take the outputs of the same names of another node."""
    return {name: f"${{{{ {identifier}.outputs.{name} }}}}" for name in names}


ORDERS = [
    place("FetchOrders", "fetch", "validate", since="${{ store.since }}", region=""),
    place("ValidateOrder", "validate", "charge", **outputs_of("fetch", "order")),
    place(
        "ChargeCard",
        "charge",
        "ship",
        "mail",
        **outputs_of("validate", "order", "amount"),
        currency="${{ store.currency }}",
    ),
    place(
        "ShipParcel",
        "ship",
        "close",
        **outputs_of("charge", "order"),
        **outputs_of("validate", "street", "postcode", "city"),
    ),
    place("SendMail", "mail", "close", **outputs_of("charge", "order", "receipt")),
    place("CloseBatch", "close", unites="fetch", receipts="${{ charge.outputs.receipt }}"),
]
THUMBNAILS = [
    place("Begin", "begin", "list", campaign="${{ store.campaign }}"),
    place("ListImages", "list", "resize", prefix="products/"),
    place("Resize", "resize", "publish", **outputs_of("list", "key"), width="320"),
    place("Publish", "publish", unites="begin", thumbnails="${{ resize.outputs.thumbnail }}"),
]
AUDIT = [
    place("Plan", "plan", "scan", root="${{ store.root }}", algorithm="${{ store.algorithm }}"),
    place("Scan", "scan", "digest", **outputs_of("plan", "root")),
    place("Digest", "digest", "report", **outputs_of("scan", "path"), **outputs_of("plan", "algorithm")),
    place(
        "Report",
        "report",
        unites="plan",
        **outputs_of("plan", "algorithm"),
        lines="${{ digest.outputs.line }}",
        sizes="${{ digest.outputs.size }}",
    ),
]
TRANSLATION = {
    "text": "Willkommen",
    "language": "en",
    "due": "2026-09-30",
    "pages": "10",
    "terms": '{"Konto": "account"}',
    "formal": "true",
}
RETRIES = {"max_retries": 2, "strategy": "EXPONENTIAL", "backoff_factor": 800}


async def _put_graphs(api: Api) -> None:
    def cron(*expressions: str) -> list[dict[str, Any]]:
        return [{"type": "CRON", "value": {"expression": expression}} for expression in expressions]

    ok(await api.register(NODES, runtime_name="shop"))
    graphs = {
        "audit": api.body(
            AUDIT,
            retry_policy={"max_retries": 2, "strategy": "FIXED", "backoff_factor": 200},
            store_config={"default_values": {"root": "/usr/lib/python3.13", "algorithm": "sha256"}},
        ),
        "orders": api.body(
            ORDERS,
            retry_policy=RETRIES,
            secrets={"gateway_token": "x", "erp_password": "x", "smtp_password": "x"},
            store_config={"required_keys": ["since"], "default_values": {"currency": "EUR"}},
        ),
        "thumbnails": api.body(
            THUMBNAILS,
            retry_policy={**RETRIES, "max_retries": 1},
            store_config={"default_values": {"campaign": "autumn"}},
        ),
        "backup": api.body(
            [place("Backup", "backup", target="s3://shop-backups")],
            triggers=cron("0 3 * * *", "30 14 * * MON-FRI"),
        ),
        "translate": api.body([place("Translate", "translate", **TRANSLATION)]),
        "watch-export": api.body([place("WatchExport", "watch", export="erp-2026-09")]),
        "statements": api.body(
            [
                place("ListAccounts", "accounts", "render"),
                place("RenderStatement", "render", "mail", account="${{ accounts.outputs.id }}"),
                place("SendMail", "mail", order="${{ render.outputs.id }}", receipt="-"),
            ],
            secrets={"smtp_password": "x"},
        ),
    }
    for name, body in graphs.items():
        ok(await api.put_graph(name, body), 201)
    await _elsewhere(api.elsewhere("billing"))


async def _elsewhere(api: Api) -> None:
    ok(await api.register([declare("Invoice", ["customer"])], runtime_name="billing"))


async def _say_long_words(api: Api) -> dict[str, str]:
    """Leave a run behind, whose names, keys, values and errors are long words, and return its paths."""
    about = {"type": "string", "description": LONG}
    ok(await api.register([declare(LONG, {LONG: about}, [LONG])], runtime_name=LONG))
    body = api.body(
        [place(LONG, LONG, "next", **{LONG: LONG}), place(LONG, "next", **{LONG: "-"})],
        retry_policy={"max_retries": 0},
        store_config={"default_values": {LONG: LONG}},
    )
    ok(await api.put_graph(LONG, body), 201)
    inputs = {LONG: json.dumps({LONG: [LONG] * 9})}
    started = await api.native("POST", f"graph/{LONG}/trigger", json={"key": LONG, "inputs": inputs})
    run_id = ok(started)["run_id"]
    paths = {}
    for outcome in (done({LONG: LONG * 9}, {LONG: LONG}), failed(f"Traceback\n{LONG}: {LONG * 9}")):
        claimed = ok(await api.native_claim({LONG: 1}, worker_id=LONG, limit=1))["states"][0]
        held = {"state_id": claimed["state_id"], "token": claimed["lease"]["token"]}
        paths[f"long-state-{outcome['outcome']}"] = f"/states/{held['state_id']}"
        if outcome["outcome"] == "errored":
            running = {**held, "running": True, "progress": {"fraction": 0.5, "text": LONG[:200]}}
            beat = {"runtime": LONG, "phase": "running", "states": [running]}
            ok(await api.heartbeat(LONG, **beat, shows_tasks=True, tasks=LONG))
        ok(await api.outcomes({**held, **outcome}))
    paths |= {"long-overview": "", "long-runs": "/runs", "long-graphs": "/graphs", "long-nodes": "/nodes"}
    paths |= {"long-graph": f"/graphs/{LONG}", "long-node": f"/nodes/{LONG}", "long-runtimes": "/runtimes"}
    paths |= {"long-run": f"/runs/{run_id}", "long-export": f"/runs/{run_id}/export"}
    return {name: f"/ns/{LONG}{path}" for name, path in paths.items()}


def _hands() -> list[Hand]:
    orders = ("FetchOrders", "ValidateOrder", "ChargeCard", "ShipParcel", "SendMail", "CloseBatch")
    media = ("Begin", "ListImages", "Resize", "Publish")
    audit = ("Plan", "Scan", "Digest", "Report")
    images = {"Resize": (0.4, "12 of 30 tiles")}
    return [
        Hand("shop-7d9f-x2k8q/31", "shop", (*orders, "WatchExport"), 8),
        Hand("shop-7d9f-lq4mz/31", "shop", (*orders, "WatchExport"), 8),
        Hand("media-0/1", "media", media, 16, progress=images),
        Hand("media-1/1", "media", media, 16, leaves_at=NOW - 8 * MINUTE),
        Hand("build-2.internal/90412", "audit", audit, 4, tasks=TASKS),
        Hand("build-1.internal/88112", "audit", audit, 4),
        Hand("db-1/204", "backup", ("Backup",), 1, progress={"Backup": (0.62, "table order_lines")}),
    ]


# -- the day


@dataclass(frozen=True)
class World:
    """What the pictures are taken of.

    Attributes:
        url: Where it is served.
        links: Name to path of what is worth a look.
    """

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


class _Day:
    def __init__(self, service: Service, api: Api, clock: SettableClock, monotonic: SettableClock) -> None:
        self.service = service
        self.api = api
        self.clock = clock
        self.monotonic = monotonic
        self.crew = Crew(service, api, clock, PARTS, _hands())
        self.runs: dict[str, str] = {}

    def trigger(self, when_ms: int, graph: str, name: str = "", **body: Any) -> None:
        run_id = str(UUID(int=Random(f"{SALT} {graph} {when_ms}").getrandbits(128), version=4))
        if name:
            self.runs[name] = run_id

        async def do() -> None:
            ok(await self.api.native_trigger(graph, run_id, **body))

        self.crew.at(when_ms, do)

    def plan(self) -> None:
        since: dict[str, Any] = {"store": {"since": "2026-09-16T00:00:00Z"}}
        for hour in range(20, 1, -1):
            self.trigger(NOW - hour * HOUR - hour * 97 * SECOND, "orders", **since)
        for minute in range(58, 0, -1):
            if minute % 7 != 3:
                self.trigger(NOW - minute * MINUTE - minute * 337, "orders", **since)
        self.trigger(NOW - 3 * HOUR, "watch-export", "requeued")
        self.trigger(NOW - 47 * MINUTE, "audit", "audit before")
        self.trigger(NOW - 23 * MINUTE, "translate", "stuck")
        self.trigger(NOW - 21 * MINUTE, "translate")
        self.trigger(NOW - 510 * SECOND, "thumbnails", "thumbnails")
        self.trigger(NOW - 7 * SECOND - 60, "orders", "orders now", **since)
        self.trigger(NOW - 15 * SECOND, "audit", "audit")

    async def pass_by(self) -> None:
        self.plan()
        await self.crew.play(NOW - 31 * MINUTE)
        await self.service.store.write(fire_schedules)
        self.trigger(NOW - 30 * MINUTE, "audit", "cancelled")
        await self.crew.play(NOW - 30 * MINUTE + 9 * SECOND)
        await self.service.store.write(_cancel, self.runs["cancelled"])
        await self.crew.play(NOW - 6 * MINUTE)
        await self.service.store.write(fire_schedules)
        await self.service.store.write(_lose_leases, "media-1/1")
        await self.crew.play(NOW - 25 * SECOND)
        self.crew.quantum = 20
        await self.crew.play(NOW - 6 * SECOND)
        self.crew.hands[5].phase = "draining"
        await self.crew.play(NOW)
        await self._last_beats()

    async def _last_beats(self) -> None:
        began = self.monotonic.now_ms
        for ago, hand in ((9, 6), (7, 1), (5, 5), (4, 2), (3, 4), (2, 0)):
            self.monotonic.now_ms = began + (10 - ago) * SECOND
            await self.crew.last_beat(self.crew.hands[hand])
        ok(await self.api.claim(["Legacy"], 1))
        self.monotonic.now_ms = began + 12 * SECOND
        await self.service.store.write(_fell_silent, "media-1/1", self.monotonic.now_ms - 8 * MINUTE)
        # What ended is counted with a commit of another second.
        await self.service.store.write(lambda tx: None)


def _lose_leases(tx: Transaction, worker_id: str) -> None:
    """End the leases of a runtime that was killed."""
    tx.execute("UPDATE states SET lease_until = 0 WHERE status = 'QUEUED' AND worker = ?", (worker_id,))
    expire(tx, 0, Terms())


def _fell_silent(tx: Transaction, worker_id: str, at: int) -> None:
    tx.execute("UPDATE workers SET seen_at = ?, polled_at = ? WHERE worker_id = ?", (at, at, worker_id))


def _cancel(tx: Transaction, run_id: str) -> None:
    runs_engine.cancel(tx, NAMESPACE, run_id)


async def serve_world() -> None:
    """Let the day pass, then serve what it left behind, at the minute it ended. Never returns."""
    clock, monotonic = SettableClock(NOW - 22 * HOUR), SettableClock(HOUR)
    async with open_service(MEMORY, clock=clock, monotonic=monotonic, settings=NO_SETTINGS) as service:
        dashboard = Dashboard(service, key=KEY)
        app = create_app(service, key=KEY, allowed_hosts=loopback_names("127.0.0.1"), dashboard=dashboard)
        outside = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with open_client(transport=outside, url="http://localhost", key=KEY) as client:
            api = Api(client, NAMESPACE)
            await _put_graphs(api)
            day = _Day(service, api, clock, monotonic)
            await day.pass_by()
            links = await service.store.read(_links, day.runs)
            links |= await _say_long_words(api.elsewhere(LONG))
        listeners = await open_listeners("127.0.0.1", 0)
        (url,) = urls(listeners)
        print("world", json.dumps({"url": url, "links": links}), flush=True)
        await serve_http(app, listeners, stopping=trio.Event())


@contextmanager
def world(folder: Path) -> Iterator[World]:
    """Serve the world from a process of its own, for as long as the block lasts."""
    with Process([sys.executable, "-m", "tests.browser.world"], cwd=folder) as process:
        yield World(**json.loads(process.line("^world (.*)", patience=4 * PATIENCE)[1]))


def _links(view: View, runs: dict[str, str]) -> dict[str, str]:
    def state(name: str, condition: str) -> str:
        row = view.row(
            f"SELECT seq FROM states JOIN nodes ON nodes.id = node_id WHERE name = ? AND {condition}"
            " ORDER BY seq DESC LIMIT 1",
            (name,),
        )
        assert row is not None, f"the day left no {name} with {condition}"
        return f"/states/{view.state_id(row['seq'])}"

    def run(name: str, query: str = "") -> str:
        return f"/runs/{runs[name]}{query}"

    paths = {
        "overview": "",
        "runs": "/runs",
        "runs-filtered": "/runs?graph=orders&status=failed&since=1h&text=Bad+Gateway",
        "runs-none": "/runs?text=nothing-has-this",
        "run-audit": run("audit"),
        "run-audit-errored": run("audit before", "?status=errored"),
        "run-orders": run("orders now"),
        "run-thumbnails": run("thumbnails"),
        "run-thumbnails-node": run("thumbnails", "?node=resize"),
        "run-cancelled": run("cancelled"),
        "run-stuck": run("stuck"),
        "export-audit": f"{run('audit before')}/export",
        "state-failed": state("ChargeCard", "status = 'ERRORED' AND retry_count = 2"),
        "state-success": state("ValidateOrder", "status = 'SUCCESS'"),
        "state-pruned": state("ValidateOrder", "status = 'PRUNED'"),
        "state-running": state("Digest", "status = 'QUEUED'"),
        "state-requeued": state("WatchExport", "status = 'CREATED'"),
        "state-lease-lost": state("Resize", "deliveries > 0"),
        "state-united": state("Publish", "TRUE"),
        "graphs": "/graphs",
        "graph-audit": "/graphs/audit",
        "graph-orders": "/graphs/orders",
        "graph-backup": "/graphs/backup",
        "graph-translate": "/graphs/translate",
        "graph-rejected": "/graphs/orders",
        "graph-from": f"/graphs/orders?from={runs['orders now']}",
        "graph-invalid": "/graphs/statements",
        "nodes": "/nodes",
        "node": "/nodes/ChargeCard",
        "node-unknown": "/nodes/Translate",
        "runtimes": "/runtimes",
        "system": "/system",
        "search": "/search?q=order",
    }
    links = {name: f"/ns/{NAMESPACE}{path}" for name, path in paths.items()}
    empty = {
        f"empty-{path or 'overview'}": f"/ns/billing/{path}".rstrip("/") for path in ("", "runs", "graphs")
    }
    return {
        **links,
        **empty,
        "no-namespace": "/ns/nobody/nodes",
        "empty-runtimes": "/ns/billing/runtimes",
        "not-found": f"/ns/{NAMESPACE}/runs/absent",
        "guide": "/guide",
        "guide-proof": "/guide/proof",
        "api": "/docs",
    }


if __name__ == "__main__":
    trio.run(serve_world)
