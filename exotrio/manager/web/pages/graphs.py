"""The graphs of a namespace: whether each can run, and when its schedule runs it next."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.graphs import show_graphs
from exotrio.manager.store.port import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest


def load(view: View, request: PageRequest, wanted: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Graphs"}}
    if "list" in wanted:
        data["list"] = {"graphs": show_graphs(view, request.namespace)}
    return data


PAGE = Page(path="/ns/{namespace}/graphs", folder="graphs", fragments={"list": Fragment(pace=1.0)}, load=load)
