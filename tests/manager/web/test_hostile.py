"""What users and workers may fill in, full of markup, on every page: all of it is text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

import exotrio.manager.web
from exotrio.manager.web.page import templates
from tests.contract.api import Api
from tests.support.helpers import NO_RETRY, UNKNOWN_RUN, SettableClock, declare, ok
from tests.support.manager import tallied
from tests.support.web import Site, open_site

TEMPLATES = Path(exotrio.manager.web.__file__).parent / "templates"


def hostile(field: str) -> str:
    """Return a text that is markup wherever it is not escaped, and tells which field it is from."""
    return f"<hostile-{field} a=\"'>`{{{{7*7}}}}&amp;"


NAMESPACE, GRAPH, ROOT, LEAF = (hostile(field) for field in ("namespace", "graph", "root", "leaf"))
NODE, OTHER, RUNTIME, WORKER = (hostile(field) for field in ("node", "other", "runtime", "worker"))
INPUT, OUTPUT, KEY, SECRET = (hostile(field) for field in ("input", "output", "key", "secret"))
PHASE = "<hostile-phase a=\"'>"
"""At most 32 characters."""


def schema(name: str, kind: str) -> dict[str, object]:
    about = {"type": kind, "description": hostile("about"), "title": hostile("title")}
    return {"type": "object", "title": hostile("schema"), "properties": {name: about}}


async def fill(site: Site, clock: SettableClock) -> dict[str, str]:
    """Fill in all there is; return path to HTML of every page about it."""
    api = Api(site.api.client, NAMESPACE)
    nodes = [
        {
            **declare(name, secrets=[SECRET]),
            "inputs_schema": schema(INPUT, "string"),
            "outputs_schema": schema(OUTPUT, hostile("type")),
        }
        for name in (NODE, OTHER, hostile("unoffered"), hostile("asked"))
    ]
    ok(await api.register(nodes, RUNTIME))
    places: list[dict[str, Any]] = [
        {"node_name": NODE, "identifier": ROOT, "inputs": {INPUT: hostile("default")}, "next_nodes": [LEAF]},
        {"node_name": OTHER, "identifier": LEAF, "inputs": {INPUT: hostile("constant")}, "next_nodes": []},
    ]
    for place in places:
        place |= {"namespace": NAMESPACE, "unites": None}
    body = {
        "nodes": places,
        "secrets": {SECRET: "a secret value"},
        "retry_policy": NO_RETRY,
        "store_config": {
            "required_keys": [KEY],
            "default_values": {hostile("spare"): hostile("spare-value")},
        },
        "triggers": [{"type": "CRON", "value": {"expression": "0 0 1 1 *"}}],
    }
    assert ok(await api.put_graph(GRAPH, body), 201)["validation_status"] == "VALID"
    broken = {**body, "nodes": [{**places[1], "node_name": hostile("missing")}]}
    assert ok(await api.put_graph(hostile("broken"), broken), 201)["validation_status"] == "INVALID"

    async def start() -> str:
        request = {"inputs": {INPUT: hostile("input-value")}, "store": {KEY: hostile("key-value")}}
        return str(ok(await api.trigger(GRAPH, **request))["run_id"])

    async def take(node: str) -> dict[str, object]:
        (state,) = ok(await api.native_claim({node: 1}, worker_id=WORKER))["states"]
        return dict(state)

    async def end(state: dict[str, object], **outcome: object) -> str:
        item = {"state_id": state["state_id"], "token": state["lease"]["token"], **outcome}  # type: ignore[index]
        (reply,) = ok(await api.outcomes(item))["items"]
        assert reply["result"] == "ok", reply
        return str(state["state_id"])

    failed = await start()
    done = await end(await take(NODE), outcome="executed", outputs=[{OUTPUT: hostile("output-value")}] * 2)
    text = 'Traceback (most recent call last):\n  File "{}", line 1, in execute\n{}: {}'
    error = text.format(hostile("file"), hostile("kind"), hostile("message"))
    bad = await end(await take(OTHER), outcome="errored", error=error)
    await end(await take(OTHER), outcome="errored", error=error.replace("-message", "-like"))
    pruned_run = await start()
    pruned = await end(await take(NODE), outcome="pruned", data={hostile("data"): hostile("data-value")})
    held_run = await start()
    released = await take(NODE)
    held = {"state_id": released["state_id"], "token": released["lease"]["token"]}  # type: ignore[index]
    ok(await api.release(states=[held]))
    held = await take(NODE)
    holds = {"state_id": held["state_id"], "token": held["lease"]["token"], "running": True}  # type: ignore[index]
    beat = {
        "runtime": RUNTIME,
        "phase": PHASE,
        "busy": 1,
        "workers": 2,
        "states": [{**holds, "progress": {"fraction": 0.5, "text": hostile("progress")}}],
        "shows_tasks": True,
        "tasks": hostile("tasks"),
    }
    ok(await api.heartbeat(WORKER, **beat))
    await api.heartbeat(hostile("at-work"), runtime=RUNTIME, phase="running", workers=1)
    cancelled = await start()
    ok(await api.native("POST", f"run/{cancelled}/cancel"))
    alone = {**body, "nodes": [{**places[1], "node_name": hostile("unoffered")}], "triggers": []}
    ok(await api.put_graph("alone", alone), 201)
    waiting = ok(await api.trigger("alone", store={KEY: ""}))["run_id"]
    (unoffered,) = (node["id"] for node in ok(await api.run_graph(waiting))["nodes"])
    ok(await api.claim([hostile("asked")], 1))
    await tallied(site.service, clock)
    browser, here = site.browser, f"/ns/{quote(NAMESPACE, safe='')}"
    pages = {
        "": 200,
        "/runs": 200,
        f"/runs?text={quote(hostile('filter'))}&since={quote(hostile('since'))}&graph={quote(GRAPH)}": None,
        "/graphs": 200,
        "/nodes": 200,
        "/runtimes": 200,
        **{f"/runs/{run}": 200 for run in (failed, pruned_run, held_run, cancelled)},
        f"/runs/{failed}?node={quote(ROOT)}": 200,
        f"/runs/{failed}/export": 200,
        f"/runs/{pruned_run}/export": 200,
        f"/runs/{held_run}/export": 200,
        f"/runs/{UNKNOWN_RUN}": 404,
        **{f"/states/{state}": 200 for state in (done, bad, pruned, str(held["state_id"]), unoffered)},
        f"/graphs/{quote(GRAPH)}": 200,
        f"/graphs/{quote(hostile('broken'))}": 200,
        f"/graphs/{quote(hostile('absent'))}": 404,
        f"/nodes/{quote(NODE)}": 200,
        f"/nodes/{quote(OTHER)}": 200,
        f"/nodes/{quote(hostile('absent'))}": 404,
    }
    html = {}
    for path, status in pages.items():
        response = await browser.get(here + path)
        assert status in (None, response.status_code), (path, response.status_code, response.text)
        html[path] = response.text
    html["without values"] = (
        await api.native("GET", f"run/{failed}/export", params={"values": "false"})
    ).text
    await site.service.store.write(lambda tx: tx.execute("UPDATE secrets SET value = 'unreadable'"))
    html["unreadable secrets"] = (await api.native("GET", f"run/{failed}/export")).text
    # What a form says is shown by the page that follows it.
    form = {"worker": WORKER}
    html["drain"] = await browser.do(f"{here}/runtimes/drain", form)
    html["retry"] = await browser.do(f"{here}/runs/{failed}/retry")
    html["change"] = await browser.do(f"{here}/runs/change", {"run": hostile("run"), "do": "retry"})
    html["pause"] = await browser.do(f"{here}/nodes/{quote(NODE, safe='')}/pause")
    html["changes"] = await browser.page(f"{here}/audit")
    html["changed"] = await browser.page(f"{here}/audit?target={quote(hostile('target'))}")
    to = quote(f"/x{hostile('to')}".replace(" ", ""), safe="")
    html["sign in"] = (await site.anonymous.get(f"/sign-in?to={to}")).text
    html["welcome"] = (await browser.get(f"/sign-in?link=x&to={to}")).text
    return html


SHOWN = (
    *("at-work", "like", "unoffered"),
    *("namespace", "graph", "root", "leaf", "node", "other", "runtime", "worker", "input", "output", "key"),
    *("secret", "phase", "type", "about", "schema", "default", "spare", "spare-value", "broken", "missing"),
    *(
        "input-value",
        "key-value",
        "output-value",
        "file",
        "kind",
        "message",
        "data",
        "data-value",
        "progress",
    ),
    *("tasks", "asked", "filter", "constant", "absent", "target", "to"),
)


async def test_texts_of_users_and_workers_are_escaped_on_every_page() -> None:
    clock = SettableClock()
    async with open_site(clock=clock) as site:
        pages = await fill(site, clock)
    for path, html in pages.items():
        assert not re.search("<hostile", html), f"{path}: {html[html.index('<hostile') - 200 :][:500]}"
        assert not re.search(r"&amp;amp;amp;", html), f"{path}: escaped twice"
    everything = "".join(pages.values())
    assert [field for field in SHOWN if f"&lt;hostile-{field}" not in everything] == []


def test_no_template_disables_escaping() -> None:
    assert templates.autoescape is True
    for name in templates.list_templates():
        source = (TEMPLATES / name).read_text("utf-8")
        tree = templates.parse(source)
        filters = {node.name for node in tree.find_all(jinja2.nodes.Filter)}
        assert not filters & {"safe", "tojson", "xmlattr"}, name
        assert not list(tree.find_all(jinja2.nodes.ScopedEvalContextModifier)), f"{name}: autoescape"
