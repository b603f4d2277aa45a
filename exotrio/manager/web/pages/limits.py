"""The limits of a namespace: what holds them, and what waits for them. One limit: also by key and state."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.audit import last_changes
from exotrio.manager.queries.limits import list_limits, show_limit
from exotrio.manager.store.view import View
from exotrio.manager.web.page import Data, Fragment, Page, PageRequest, list_page

LIST = list_page(
    "limits", "Limits", lambda view, request: {"limits": list_limits(view, request.namespace)}, pace=2.0
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
