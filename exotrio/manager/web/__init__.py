"""The dashboard: HTML rendered on the server, pictures as SVG, and a small script that keeps pages current.

Other packages use ``Dashboard``, an ASGI app that authenticates its requests itself; the API also uses
``export`` and the templates of ``page``. Sessions are in ``security.sessions``.

- ``app``: the routes, and errors.
- ``sign_in``: signing in and out, and the session of each request. ``guard``: cookies, forms and their
  origin, and the headers of every response.
- ``event_page``: the page of a link that sends an event, for people without a key.
- ``page``: a page: its template, fragments that can be rendered alone, and the files it refers to.
- ``pages/``: the pages. ``actions``: what their forms do. ``start_form``: the form that starts a run.
  ``event_form``: those that send what a run waits for.
- ``guide``: the documentation of this version, from ``docs``.
- ``live``: events that tell the script which fragments changed; the script then requests these.
- ``faults``: the failed states of a run, grouped. ``results``: its inputs and results.
- ``texts``: masks secrets in values and errors, and bounds their length.
- ``export``: a run as one HTML file, for people without access to the dashboard.
- ``svg/``: the pictures. ``format``: statuses, times and values as text. Both are pure.
- ``static/``, ``templates/``: the files.

Rules that hold:

1. Nothing here holds SQL: pages get their data from ``manager.queries``, and forms act through
   ``manager.engine``.
2. Every page works without the script. Nothing is loaded from another host, and the policy in
   ``guard.HEADERS`` forbids it. Templates escape everything; what users wrote never becomes markup.
3. Each change is a POST from a page of this dashboard (``guard.check_origin``), or of a link that permits
   nothing else (``event_page``).
4. A page that refreshes itself does not keep its session alive.
"""

from __future__ import annotations

from exotrio.manager.web.app import Dashboard

__all__ = ["Dashboard"]
