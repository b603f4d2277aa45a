"""The limits of a namespace: what holds them, and what waits for them. One limit: also by key and state."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest


def load_list(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    data: dict[str, Data] = {"page": {"title": "Limits"}}
    if "list" in parts:
        data["list"] = {"limits": list_limits(view, request.namespace)}
    return data


LIST = Page(
    path="/ns/{namespace}/limits", folder="limits", fragments={"list": Fragment(pace=2.0)}, load=load_list
)


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    limit = show_limit(view, request.namespace, request.params["limit"])
    return {
        "page": {
            "title": f"Limit {limit.name}",
            "limit": limit,
            "changes": last_changes(view, request.namespace, limit.name, "limit"),
        },
        "now": {},
    }


PAGE = Page(
    path="/ns/{namespace}/limits/{limit}", folder="limit", fragments={"now": Fragment(pace=2.0)}, load=load
)
