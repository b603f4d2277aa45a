"""All pages."""

from __future__ import annotations

from exotrio.manager.web import (
    _page_graph,
    _page_graphs,
    _page_node,
    _page_nodes,
    _page_overview,
    _page_run,
    _page_runs,
    _page_runtimes,
    _page_state,
)
from exotrio.manager.web._page import Page

PAGES: tuple[Page, ...] = (
    _page_overview.PAGE,
    _page_runs.PAGE,
    _page_run.PAGE,
    _page_state.PAGE,
    _page_graphs.PAGE,
    _page_graph.PAGE,
    _page_nodes.PAGE,
    _page_node.PAGE,
    _page_runtimes.PAGE,
)
