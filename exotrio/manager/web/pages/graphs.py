"""The graphs of a namespace: whether each can run, and when it runs next by itself."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from pydantic_core import from_json

from exotrio.manager.engine.runs import RUNS
from exotrio.manager.queries.runs import run_row
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page

LOOKED_AT = 1_000
"""Newest runs that are searched for the last one of each graph."""


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Graphs", "now": view.now_ms}}
    if "list" in wanted:
        last: dict[str, Data] = {}
        for row in view.execute(
            RUNS + " WHERE runs.namespace = ? ORDER BY runs.created_at DESC, runs.id DESC LIMIT ?",
            (asked.namespace, LOOKED_AT),
        ):
            last.setdefault(row["graph_name"], run_row(row, view.now_ms))
        data["list"] = {
            "graphs": [
                {
                    "name": row["name"],
                    "valid": row["validation_status"] == "VALID",
                    "problems": from_json(row["validation_errors"]),
                    "nodes": len(view.template(row["template"]).places),
                    "updated_at": row["updated_at"],
                    "next_at": row["next_at"],
                    "last": last.get(row["name"]),
                }
                for row in view.execute(
                    "SELECT name, template, graphs.updated_at, validation_status, validation_errors,"
                    " (SELECT min(next_at) FROM schedules WHERE graph = graphs.id) AS next_at"
                    " FROM graphs JOIN templates ON templates.id = template WHERE namespace = ?"
                    " ORDER BY name",
                    (asked.namespace,),
                )
            ]
        }
    return data


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    return {"list": (asked.service.store.written, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/graphs",
    folder="graphs",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 1.0},
)
