"""The terminal: results, messages and logs, progress, the browser. Every room may import from here.

* ``output``: results go to standard output, messages to standard error; what a name or an error contains is
  shown and never sent to the terminal as it is. A reader that went away is not an error.
* ``logs``: log lines on standard error, as text or (``json_logs``) as JSON.
* ``progress``: bars or lines while a run is followed. ``browser``: opening the dashboard, signed in.
"""
