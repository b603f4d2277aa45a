"""The registered nodes: who offers them, how long they take, how often they fail."""

from __future__ import annotations

from collections.abc import Collection, Hashable

from exotrio.manager.queries.load import HOUR, backlog, performance
from exotrio.manager.queries.workers import offered
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Asked, Data, Page


def load(view: View, asked: Asked, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Nodes", "now": view.now_ms}}
    if "list" in wanted:
        backlogs = {each.node: each for each in backlog(view, namespace=asked.namespace)}
        offers = offered(asked.workers, asked.anonymous, asked.monotonic)
        rows = view.execute(
            "SELECT id, name FROM nodes WHERE namespace = ? ORDER BY name", (asked.namespace,)
        ).fetchall()
        data["list"] = {
            "nodes": [
                {
                    "name": row["name"],
                    "offered": offers.get(row["name"], ()),
                    "backlog": backlogs[row["name"]],
                    **performance(view, row["id"], HOUR),
                }
                for row in rows
            ]
        }
    return data


def versions(view: View, asked: Asked) -> dict[str, Hashable]:
    service = asked.service
    return {"list": (service.store.written, service.workers.heard, view.now_ms // 5_000)}


PAGE = Page(
    path="/ns/{namespace}/nodes",
    folder="nodes",
    fragments=("list",),
    load=load,
    versions=versions,
    pace={"list": 2.0},
)
