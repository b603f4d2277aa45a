"""The search in a namespace. If there is only one hit, the browser is redirected to its page."""

from __future__ import annotations

from collections.abc import Collection

from exotrio.manager.queries.search import MIN_PREFIX, Hits, find
from exotrio.manager.store.view import View
from exotrio.manager.web.page import MAX_TEXT, Data, Page, PageRequest


def load(view: View, request: PageRequest, parts: Collection[str]) -> dict[str, Data]:
    # Texts in PostgreSQL have no NUL, so a search for one finds nothing.
    text = request.query.get("q", "").replace("\0", "").strip()[:MAX_TEXT]
    page: Data = {"title": "Search", "q": text, "hits": None, "min_prefix": MIN_PREFIX}
    if text:
        hits = find(view, request.namespace, text)
        page |= {"hits": hits, "leads_to": _only(hits, request)}
    return {"page": page}


def _only(hits: Hits, request: PageRequest) -> str | None:
    links = [
        *(request.link("runs", run.run_id) for run in hits.runs),
        *(request.link("runs", hit.run.run_id) for hit in hits.texts.rows),
        *(request.link("states", state.id) for state in hits.states),
        *(request.link("graphs", name) for name in hits.graphs),
        *(request.link("nodes", name) for name in hits.nodes),
    ]
    return links[0] if len(links) == 1 and hits.texts.next is None else None


PAGE = Page(path="/ns/{namespace}/search", folder="search", fragments={}, load=load)
