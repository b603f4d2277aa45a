"""Graphs in files: reading, checking offline, declaring them, showing them.

``file`` reads a ``Draft`` from JSON (``json_source`` knows its lines) or Python; ``check`` applies the state
manager's own rules (``manager.rules``) to drafts and ``report`` prints what several files have wrong, each
``problems.Problem`` with its line; ``apply`` sends a draft; ``view`` shows what a state manager has.
"""
