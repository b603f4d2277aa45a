"""The record of changes of all namespaces: filters, and a row for each change."""

from __future__ import annotations

from collections.abc import Collection

from exotrio._wire.audit import AuditQuery, ChangePage
from exotrio.manager.queries.audit import list_audit
from exotrio.manager.rules.access import Permission
from exotrio.manager.store.view import View
from exotrio.manager.web.page import MAX_TEXT, Data, Fragment, Page, PageRequest

ROWS = 100
FILTERS = ("who", "action", "target")


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    filters = {name: request.query.get(name, "")[:MAX_TEXT] for name in FILTERS}
    data: dict[str, Data] = {"page": {"title": "Changes", "filters": filters}}
    if "list" in parts:
        given = {name: text for name, text in filters.items() if text}
        before = request.query.get("before", "")[:MAX_TEXT] or None
        query = AuditQuery.model_validate({**given, "limit": ROWS})
        query.before = before
        page = ChangePage.model_validate(list_audit(view, query))
        data["list"] = {
            "changes": page.changes,
            "next": page.next and request.link("audit", **filters, before=page.next),
            "back": request.link("audit", **filters) if query.before else None,
            "searched": None,
        }
    return data


PAGE = Page(
    path="/ns/{namespace}/audit",
    folder="audit",
    fragments={"list": Fragment(ages=10, pace=2.0)},
    load=load,
    needs=Permission.ADMIN,
    searches=FILTERS,
)
