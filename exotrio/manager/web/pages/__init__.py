"""The pages of the dashboard, a module each: which queries it needs, and what its templates get of them."""

from exotrio.manager.web.page import Page
from exotrio.manager.web.pages import graph, graphs, node, nodes, overview, run, runs, runtimes, state

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    runs.PAGE,
    run.PAGE,
    state.PAGE,
    graphs.PAGE,
    graph.PAGE,
    nodes.PAGE,
    node.PAGE,
    runtimes.PAGE,
)
