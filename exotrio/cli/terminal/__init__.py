"""The terminal: results, messages and logs, progress, the browser. Every package of ``cli`` may use it.

* ``output``: results go to standard output, messages to standard error. Control characters in names and
  errors are shown, and never sent to the terminal as they are. A reader that went away is not an error.
* ``logs``: log lines on standard error, as text or (``json_logs``) as JSON.
* ``progress``: bars or lines while a run is followed. ``browser``: opening the dashboard, signed in.
"""
