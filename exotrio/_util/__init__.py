"""Small tools that know nothing of exotrio: they would serve any other program as well.

- Time: ``times`` (ISO 8601, Unix milliseconds, durations such as ``30d`` and ``4 min 10 s``), ``backoff``
  (pauses between attempts; one line in the log when something begins to fail, one when it works again),
  ``cron``.
- Text: ``words`` (counts, lists, validation errors; control characters escaped), ``error_message`` (the line
  of a traceback that says what happened), ``redaction`` (secrets masked).
- Data: ``json`` (a value without a JSON form is an error), ``new_file`` (a file appears complete or not at
  all), ``database_url`` (a URL of PostgreSQL, and the part of it that may be shown).
- Threads: ``crossing`` (calls from one thread to the Trio loop of another).
- Libraries: ``exceptions`` (what is inside exception groups), ``slim_httpx`` (httpx without its command
  line), ``tracing`` (spans of OpenTelemetry, if the program traces).
"""
