"""All pages."""

from __future__ import annotations

from exotrio.manager.web import _page_overview, _page_run, _page_runs
from exotrio.manager.web._page import Page

PAGES: tuple[Page, ...] = (_page_overview.PAGE, _page_runs.PAGE, _page_run.PAGE)
