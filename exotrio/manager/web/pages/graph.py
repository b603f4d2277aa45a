"""One graph: what it looks like, what is wrong with it, its policy, its schedule, and a form to start it."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Hashable, Sequence

from pydantic_core import from_json

from exotrio._util.cron import next_occurrence_ms
from exotrio.manager.engine.graphs import find_graph
from exotrio.manager.queries.runs import search
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page
from exotrio.manager.web.svg.graph import Box, draw_graph

FIRINGS = 5
RUNS_SHOWN = 10


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    name = asked.params["graph"]
    graph = find_graph(view, asked.namespace, name)
    template = view.template(graph["template"])
    problems = from_json(graph["validation_errors"])
    secrets = view.execute("SELECT name FROM secrets WHERE graph = ? ORDER BY name", (graph["id"],))
    store = template.body.store_config
    data: dict[str, Data] = {
        "page": {
            "title": f"Graph {name}",
            "now": view.now_ms,
            "graph": name,
            "valid": graph["validation_status"] == "VALID",
            "problems": problems,
            "picture": draw_graph(_boxes(asked, template, problems), title=f"Graph {name}"),
            "policy": template.body.retry_policy,
            "store": [
                *((key, None) for key in store.required_keys),
                *store.default_values.items(),
            ],
            "secrets": [row["name"] for row in secrets],
            "crons": _crons(view, graph, template),
            "fields": _fields(view, template),
            "root": template.root.identifier,
            "request_id": str(uuid.uuid4()),
            "updated_at": graph["updated_at"],
        }
    }
    if "runs" in wanted:
        found = search(view, asked.namespace, graph=name)
        data["runs"] = {"runs": found.runs[:RUNS_SHOWN], "looked_at": found.looked_at, "of_graph": name}
    return data


def _boxes(asked: Asked, template: Template, problems: Sequence[str]) -> list[Box]:
    def note(identifier: str) -> str | None:
        about = f"node {identifier!r}"
        found = [problem for problem in problems if problem.startswith((f"{about}:", f"{about},"))]
        return found[0].partition(": ")[2] if found else None

    return [
        Box(
            name=place.identifier,
            node=place.node_name,
            followers=declared.next_nodes or (),
            unites=declared.unites.identifier if declared.unites else None,
            href=asked.link("nodes", place.node_name) if place.namespace == asked.namespace else None,
            note=note(place.identifier),
        )
        for place, declared in zip(template.places, template.body.nodes, strict=True)
    ]


def _crons(view: View, graph: Row, template: Template) -> list[tuple[str, list[int]]]:
    scheduled = {
        row["expression"]: row["next_at"]
        for row in view.execute("SELECT expression, next_at FROM schedules WHERE graph = ?", (graph["id"],))
    }
    found = []
    for expression in dict.fromkeys(trigger.value.expression for trigger in template.body.triggers):
        at: int | None = scheduled.get(expression)
        firings: list[int] = []
        while at is not None and len(firings) < FIRINGS:
            firings.append(at)
            at = next_occurrence_ms(expression, at)
        found.append((expression, firings))
    return found


def _fields(view: View, template: Template) -> list[dict[str, str | None]]:
    """Return the inputs of the root: name, what the graph says, and what the node says about it."""
    root = template.root
    row = view.row(
        "SELECT inputs_schema FROM nodes WHERE namespace = ? AND name = ?", (root.namespace, root.node_name)
    )
    properties = from_json(row["inputs_schema"]).get("properties") if row else None
    described = properties if isinstance(properties, dict) else {}
    fields = []
    for name, text in root.raw_inputs.items():
        schema = described.get(name)
        about = schema.get("description") if isinstance(schema, dict) else None
        fields.append({"name": name, "default": text, "about": about if isinstance(about, str) else None})
    return fields


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    return {"runs": (asked.service.store.written, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/graphs/{graph}",
    folder="graph",
    fragments=("runs",),
    load=load,
    versions=versions,
    pace={"runs": 1.0},
)
