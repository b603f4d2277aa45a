"""Small tools that decide nothing about states, claims or HTTP.

- Time: ``backoff`` (pauses between attempts), ``deadlines`` (of a stop), ``durations`` (``30d``,
  ``4 min 10 s``), ``times`` (ISO 8601, Unix milliseconds), ``cron``.
- Text: ``words`` (counts, lists, validation errors), ``terminal_text`` (control characters escaped),
  ``error_message`` (the line of a traceback that says what happened), ``redaction`` (secrets masked).
- Data: ``json`` (a value without a JSON form is an error), ``new_file`` (a file appears complete or not at
  all), ``settings`` (the only reader of settings in the environment and ``.env``, besides the command line),
  ``database_url`` (of PostgreSQL, and what of it may be shown), ``own_files`` (opening files in folders that
  others may write to), ``lock_file`` (who has a SQLite database open), ``cores`` (that this process may use).
- Logging: ``outage`` (one line when something begins to fail, one when it works again).
- Libraries: ``slim_httpx`` (httpx without its command line), ``tracing`` (spans of OpenTelemetry, if the
  program traces).
- ``exceptions`` (what is inside exception groups), ``crossing`` (from a thread to the Trio loop of another),
  ``at_exit`` (threads that the end of the process waits for), ``events`` (what observers and metrics are
  called with; public in ``exotrio.monitoring``).
"""
