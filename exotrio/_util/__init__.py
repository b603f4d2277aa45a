"""Small tools that know nothing of states, claims or HTTP. Each is used by at least two rooms.

- Time: ``backoff`` (pauses between attempts), ``cron``, ``durations`` (``30d``, ``4 min 10 s``), ``times``
  (ISO 8601, Unix milliseconds).
- Text: ``words`` (counts, shares, validation errors), ``terminal_text`` (nothing in a text is obeyed),
  ``error_message`` (the line of a traceback that says what happened), ``redaction`` (no secret in a text).
- Data: ``json`` (what cannot be said in JSON is an error), ``new_file`` (a file appears whole or not at all),
  ``settings`` (the only reader of the environment and ``.env``, besides the command line).
- Events: ``events`` (what observers and metrics are called with; public in ``exotrio.monitoring``),
  ``crossing`` (from a thread to the Trio loop of another).
"""
