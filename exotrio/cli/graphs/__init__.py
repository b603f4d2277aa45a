"""Graphs in files: reading them, checking them offline, declaring them.

``file`` reads a ``Draft`` from JSON (``json_source`` knows its lines) or Python; ``check`` applies the state
manager's own rules (``manager.rules``) to drafts and says what several files have wrong, each a
``problems.FileProblem`` with its line; ``apply`` declares a draft at a state manager.
"""
