"""The registered nodes: who offers them, how long they take, how often they fail."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.load import HOUR, backlog, nodes_of, performance
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest


def load(view: View, request: PageRequest, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Nodes"}}
    if "list" in wanted:
        backlogs = {each.node: each for each in backlog(view, namespace=request.namespace)}
        offers = request.offers()
        data["list"] = {
            "nodes": [
                {
                    "name": name,
                    "offered": offers.get(name, ()),
                    "backlog": backlogs[name],
                    **performance(view, node_id, HOUR),
                }
                for node_id, name in nodes_of(view, request.namespace).items()
            ]
        }
    return data


PAGE = Page(
    path="/ns/{namespace}/nodes",
    folder="nodes",
    fragments={"list": Fragment(heartbeats=True, pace=2.0)},
    load=load,
)
