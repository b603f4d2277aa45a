"""The list of registered nodes: which runtimes offer them, how long they take, how often they fail. One node:
also its trend, last failures and fields."""

from __future__ import annotations

from collections.abc import Collection

from pydantic_core import from_json

from exotrio.graph import WITHOUT_RUNTIME
from exotrio.manager.engine.nodes import given_secrets
from exotrio.manager.engine.states import find_state
from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.graphs import fields_of, find_node, graphs_using, last_failures
from exotrio.manager.queries.load import DAY, HOUR, backlog, performance
from exotrio.manager.queries.runtimes import offer_texts, unserved
from exotrio.manager.queries.trends import trend
from exotrio.manager.queries.versions import list_versions, without_ended
from exotrio.manager.store.view import View
from exotrio.manager.web.faults import same_failures
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest, list_page
from exotrio.manager.web.pages.trends import TREND, show_trend, span_of

FAILURES_SHOWN = 10


def _list(view: View, request: PageRequest) -> Data:
    backlogs = backlog(view, namespace=request.namespace)
    if any("@" in each.name for each in backlogs):
        listed = list_versions(view, request.namespace)
        backlogs = without_ended(backlogs, {(request.namespace, each.version) for each in listed})
    offers = request.offers(view)
    return {
        "nodes": [
            {
                "name": each.name,
                "offered": offer_texts(offers.get(each.name, ())),
                "unserved": unserved(view, each, offers),
                "backlog": each,
                "hour": performance(view, each.node_id, HOUR),
            }
            for each in backlogs
            if each.name not in WITHOUT_RUNTIME
        ]
    }


LIST = list_page("nodes", "Nodes", _list, pace=2.0)


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    node = find_node(view, request.namespace, request.params["node"])
    name: str = node["name"]
    data: dict[str, Data] = {"page": {"title": f"Node {name}", **span_of(request), "node": name}}
    if "page" in parts:
        data["page"] |= {
            "runtime_name": node["runtime_name"],
            "schemas": [
                (title, fields_of(node[column]), from_json(node[column]))
                for title, column in (("Inputs", "inputs_schema"), ("Outputs", "outputs_schema"))
            ],
            "secrets": given_secrets(node),
            "updated_at": node["updated_at"],
            "changes": last_changes(view, request.namespace, name, "node"),
            "graphs": graphs_using(view, request.namespace, name),
        }
    if "now" in parts:
        (waiting,) = backlog(view, namespace=request.namespace, node=name)
        offers = request.offers(view)
        is_wait = name in WITHOUT_RUNTIME
        data["now"] = {
            "is_wait": is_wait,
            "offered": offer_texts(offers.get(name, ())),
            "unserved": unserved(view, waiting, offers),
            "backlog": waiting,
            "spans": [
                ("last hour", performance(view, node["id"], HOUR, is_wait=is_wait)),
                ("last day", performance(view, node["id"], DAY, is_wait=is_wait)),
            ],
        }
    if "trend" in parts:
        data["trend"] = show_trend(trend(view, span_of(request)["span"], nodes=(node["id"],)))
    if "failures" in parts:
        data["failures"] = _failures(view, request, node["id"])
    return data


def _failures(view: View, request: PageRequest, node_id: int) -> Data:
    """Return the last failures; with the id of a state as ``like`` those with the same error."""
    like = request.query.get("like", "")
    state = find_state(view, request.namespace, like)
    if state is None or state["node_id"] != node_id or not state["error"]:
        return {"failures": last_failures(view, node_id, FAILURES_SHOWN), "like": None}
    return {"failures": same_failures(view, node_id, state["error"])[0], "like": like}


PAGE = Page(
    path="/ns/{namespace}/nodes/{node}",
    folder="node",
    fragments={"now": Fragment(pace=2.0), "trend": TREND, "failures": Fragment(pace=2.0)},
    load=load,
)
