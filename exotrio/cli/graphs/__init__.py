"""Graphs in files: reading them, checking them offline, declaring them.

``file`` reads a ``Draft`` from JSON or Python, and declares it at a state manager; ``check`` applies the
state manager's own rules (``manager.rules``) to drafts, and says what several files have wrong.
``problems`` finds the line of a problem.
"""
