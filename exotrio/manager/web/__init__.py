"""The dashboard: HTML rendered on the server, pictures as SVG, one small script that keeps pages current.

From outside ``Dashboard`` is used, an ASGI app that authenticates its requests itself; and by the API
``report`` and the templates of ``page``. Sessions are ``security.sessions``.

- ``app``: the routes, and errors.
- ``sign_in``: signing in and out, and the session of each request. ``guard``: cookies, forms and where they
  come from, and the headers of every response.
- ``page``: what a page is: a template, fragments that can be rendered alone, and the files it refers to.
- ``pages/``: the pages, a module each. ``actions``: what their forms do. ``start_form``: the fields of that
  which starts a run.
- ``guide``: the documentation of this version, from ``docs``.
- ``live``: tells the script which fragments changed; the script then requests these.
- ``faults``: what failed in a run, grouped. ``results``: what it began with and what came out.
- ``texts``: masks secrets in values and errors, and bounds their length.
- ``report``: a run as one HTML file, for people without access to the dashboard.
- ``svg/``: the pictures. ``format``: statuses, times and values as text. Both are pure.
- ``static/``, ``templates/``: the files.

Rules that hold:

1. Nothing here holds SQL: pages get their data from ``manager.queries``, and forms act through
   ``manager.engine``.
2. Every page works without the script. Nothing is loaded from another host, and the policy in
   ``guard.HEADERS`` forbids it. Templates escape everything; what users wrote never becomes markup.
3. Whatever changes something is a POST from one of our own pages (``guard.check_origin``).
4. A page that refreshes itself does not keep its session alive.
"""

from __future__ import annotations

from exotrio.manager.web.app import Dashboard

__all__ = ["Dashboard"]
