"""The pages of the dashboard: each reads its data by queries and gives it to its templates."""

from exotrio.manager.web.page import Page
from exotrio.manager.web.pages import (
    audit,
    graphs,
    limits,
    nodes,
    overview,
    run,
    runs,
    runtimes,
    search,
    state,
    system,
)

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    runs.PAGE,
    run.PAGE,
    state.PAGE,
    graphs.LIST,
    graphs.PAGE,
    limits.LIST,
    limits.PAGE,
    nodes.LIST,
    nodes.PAGE,
    runtimes.PAGE,
    search.PAGE,
    system.PAGE,
    audit.PAGE,
)
