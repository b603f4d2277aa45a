"""One registered node."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any

from pydantic_core import from_json

from exotrio._util.error_message import message_line
from exotrio.manager.queries.load import DAY, FAILED, HOUR, backlog, performance
from exotrio.manager.queries.workers import offered
from exotrio.manager.rules.errors import not_found
from exotrio.manager.store.driver import Row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page

FAILURES_SHOWN = 10


def _find(view: View, asked: Asked) -> Row:
    name = asked.params["node"]
    row = view.row("SELECT * FROM nodes WHERE namespace = ? AND name = ?", (asked.namespace, name))
    if row is None:
        raise not_found(f"There is no node {name!r} registered in namespace {asked.namespace!r}.")
    return row


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    row = _find(view, asked)
    data: dict[str, Data] = {
        "page": {
            "title": f"Node {row['name']}",
            "now": view.now_ms,
            "node": row["name"],
            "runtime_name": row["runtime_name"],
            "schemas": [
                (title, _fields(row[column]), from_json(row[column]))
                for title, column in (("Inputs", "inputs_schema"), ("Outputs", "outputs_schema"))
            ],
            "secrets": from_json(row["secrets"]),
            "updated_at": row["updated_at"],
            "graphs": _graphs(view, asked, row["name"]),
        }
    }
    if "now" in wanted:
        (waiting,) = backlog(view, namespace=asked.namespace, node=row["name"])
        data["now"] = {
            "offered": offered(asked.workers, asked.anonymous, asked.monotonic).get(row["name"], ()),
            "backlog": waiting,
            "spans": [
                ("last hour", performance(view, row["id"], HOUR)),
                ("last day", performance(view, row["id"], DAY)),
            ],
        }
    if "failures" in wanted:
        failures = view.execute(
            f"SELECT seq, error, finished_at FROM states WHERE node_id = ? AND {FAILED}"
            " ORDER BY finished_at DESC LIMIT ?",
            (row["id"], FAILURES_SHOWN),
        )
        data["failures"] = {
            "failures": [
                {
                    "id": view.state_id(each["seq"]),
                    "at": each["finished_at"],
                    "error": message_line(each["error"]),
                }
                for each in failures
            ]
        }
    return data


def _fields(schema: str) -> list[tuple[str, str, str]]:
    """Return name, type and description of each property, as far as the schema says."""
    properties = from_json(schema).get("properties")
    found = []
    for name, each in (properties if isinstance(properties, dict) else {}).items():
        about: dict[str, Any] = each if isinstance(each, dict) else {}
        found.append((name, str(about.get("type", "any")), str(about.get("description", ""))))
    return found


def _graphs(view: View, asked: Asked, node: str) -> list[str]:
    """Return the graphs of this namespace that use a node. Templates are kept parsed, so this is cheap."""
    return [
        row["name"]
        for row in view.execute(
            "SELECT name, template FROM graphs WHERE namespace = ? ORDER BY name", (asked.namespace,)
        ).fetchall()
        if any(
            place.node_name == node and place.namespace == asked.namespace
            for place in view.template(row["template"]).places
        )
    ]


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    _find(view, asked)
    service = asked.service
    return {
        "now": (service.store.written, service.workers.heard, view.now_ms // 5_000),
        "failures": (service.store.written, view.now_ms // 5_000),
    }


PAGE = Page(
    path="/ns/{namespace}/nodes/{node}",
    folder="node",
    fragments=("now", "failures"),
    load=load,
    versions=versions,
    pace={"now": 2.0, "failures": 2.0},
)
