"""The dashboard: HTML rendered on the server, pictures as SVG, one small script that keeps them current.

Who asks is known by a session (``_sessions``), which the API key opens; whatever changes something must
come from a page of our own (``_guard``). A page (``_page``) is a template and its fragments: parts that
can be rendered alone. ``_live`` tells the script which fragments changed, and it asks for these again.

``_page_*`` are the pages, ``_actions`` what their forms do. ``_graph_svg``, ``_timeline_svg`` and
``_chart_svg`` draw; they are pure, and so is ``_format``.
"""

from __future__ import annotations

from exotrio.manager.web.app import Dashboard

__all__ = ["Dashboard"]
