"""Graphs in files: reading, checking offline, and declaring them.

``draft`` reads a ``Draft`` from JSON or Python, and declares it at a state manager; ``check`` applies the
state manager's own rules (``manager.rules``) to the drafts of several files; ``limits`` says which limits
a stored graph changed.
"""
